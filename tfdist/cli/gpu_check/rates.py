"""How fast is it beside Keras's own `fit`, and what does its input cost?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.cli.gpu_check import training
from tfdist.cli.gpu_check.models import Case, timed_case
from tfdist.cli.gpu_check.rows import FOUND, Row, told_of
from tfdist.cli.gpu_check.setting import Setting, Size
from tfdist.diagnostics import speed
from tfdist.strategy import factory
from tfdist.training import fitting

_POLICIES = {"float32": False, "mixed_bfloat16": True}  # and whether XLA compiles the step
_COPIED_BYTES = {True: 2**28, False: 2**22}


def cnn_rows(setting: Setting) -> Iterator[Row]:
    """Gives the rows of the CNN, and of input."""
    yield from _rows_of("CNN", setting)
    yield from _input_rows(setting)


def transformer_rows(setting: Setting) -> Iterator[Row]:
    """Gives the rows of the transformer."""
    yield from _rows_of("transformer", setting)


def _rows_of(name: str, setting: Setting) -> Iterator[Row]:
    case = timed_case(name, setting.size)
    for policy, has_xla in _POLICIES.items():
        what = f"{name}, {policy}{', XLA' * has_xla}"
        try:
            yield _row(what, case, setting, policy=policy, has_xla=has_xla)
        except Exception as error:  # of whatever kind: the other rows are wanted too
            yield told_of(what, error)
        keras.backend.clear_session()


def _row(what: str, case: Case, setting: Setting, *, policy: str, has_xla: bool) -> Row:
    size = setting.size
    with training.typed(policy):
        theirs = _compiled(case, has_xla=has_xla)
        with factory.get_strategy(setting.one).scope():
            ours = _compiled(case, has_xla=has_xla)
    batch = len(case.x) // size.steps
    options: dict[str, Any] = {"batch_size": batch, "shuffle": False, "verbose": 0}
    count = theirs.count_params() / 1e6
    ratio = speed.compare(
        what,
        lambda: fitting.fit(ours, case.x, case.y, **options),
        lambda: theirs.fit(case.x, case.y, **options),
        rounds=size.rounds,
    )
    text = (
        f"{size.steps / ratio.ours_secs:.1f} steps/s, Keras {size.steps / ratio.theirs_secs:.1f}; "
        f"ratio {ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f}); {count:.1f} M "
        f"parameters, {batch} rows a step"
    )
    return Row(FOUND, what, text)


def _compiled(case: Case, *, has_xla: bool) -> Any:
    keras.utils.set_random_seed(0)
    model = case.make()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=has_xla)
    return model


# ------------------------------------------------------------------------------------------- input


def _input_rows(setting: Setting) -> Iterator[Row]:
    yield Row(FOUND, "copies to the device", _copies(setting))
    case = timed_case("CNN", setting.size)
    with factory.get_strategy(setting.one).scope():
        model = _compiled(case, has_xla=False)
    for name, data in _sources(case, setting.size).items():
        what = f"input from {name}"
        try:
            fitting.fit(model, data(), verbose=0)
            found = fitting.fit(model, data(), epochs=2, profile=True, verbose=0)
            yield Row(FOUND, what, str(found.profile.split))
        except Exception as error:  # of whatever kind: the other rows are wanted too
            yield told_of(what, error)


def _sources(case: Case, size: Size) -> dict[str, Callable[[], tf.data.Dataset]]:
    def kept() -> tf.data.Dataset:
        whole = tf.data.Dataset.from_tensor_slices((case.x, case.y))
        return whole.batch(size.batch).cache().prefetch(tf.data.AUTOTUNE)

    def mapped() -> tf.data.Dataset:
        draws = tf.data.Dataset.from_tensor_slices((case.x, case.y)).shuffle(1024, seed=0)
        flipped = draws.map(
            lambda x, y: (tf.image.random_flip_left_right(x), y),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        return flipped.batch(size.batch).prefetch(tf.data.AUTOTUNE)

    return {"a cached pipeline": kept, "a pipeline that shuffles and flips": mapped}


def _copies(setting: Setting) -> str:
    """Returns how fast bytes get from the host's memory to the device, through a dataset too."""
    count = _COPIED_BYTES[setting.is_gpu] // 4
    values = np.ones([count], np.float32)
    device = "/GPU:0" if setting.is_gpu else "/CPU:0"

    def copied() -> Any:
        with tf.device(device):
            return tf.identity(tf.convert_to_tensor(values))

    secs = []
    for _ in range(4):
        start = time.perf_counter()
        float(copied()[-1])  # waits until it has arrived
        secs.append(time.perf_counter() - start)
    return f"{values.nbytes / min(secs[1:]) / 1e9:.2f} GB/s, of {values.nbytes / 2**20:.0f} MiB"
