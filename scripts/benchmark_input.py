"""What does input cost, and does it get cheaper with more workers?

The suite `input` of benchmark.py; see there.
"""

from __future__ import annotations

import pathlib
import statistics
import tempfile
import time
from typing import Any

import benchmark_models

from tfdist import launch
from tfdist.diagnostics import speed

_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2"}
_EXAMPLES, _BATCH = 320, 32
_SECS = 0.004  # that an example takes to be made, without a core
_RECORD_BYTES = 200_000
_TOGETHER = 4  # epochs that count together: at the end of each, some batches are read ahead
_MANY = 10_000_000  # records of a file, in the midst of which a run goes on


def slow_dataset(element: Any, steps: int, secs: float) -> Any:
    """Returns a pipeline that needs so many seconds for each of its batches, but no core.

    Args:
        element: Each of its batches.
        steps: Number of batches.
        secs: Of each of them; 0 waits for nothing.
    """
    import numpy as np
    import tensorflow as tf

    def wait(value: Any) -> Any:
        time.sleep(secs)  # as a disk would
        return value

    def waited(number: Any) -> Any:
        with tf.control_dependencies([tf.numpy_function(wait, [number], np.int64)]):
            return tuple(tf.identity(part) for part in element)

    plain = tf.data.Dataset.range(steps)
    plain = plain.map(waited) if secs else plain.map(lambda number: element)
    return plain.prefetch(tf.data.AUTOTUNE)


def time_input(rounds: int) -> list[tuple[float, float]]:
    """Returns, of each round, the seconds that `fit` took with a slow pipeline, and the least.

    The least is what the longer of the two takes alone, the steps or the pipeline, and the first
    batch besides, for which every loop has to wait.
    """
    import tfdist

    with tfdist.get_strategy("cpu").scope():
        model = benchmark_models.compiled(benchmark_models.cnn())
    element, steps = benchmark_models.zeros(model, 32), 60

    def secs_of(work: Any) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    def of_fit(dataset: Any) -> float:
        return secs_of(lambda: tfdist.fit(model, dataset, verbose=0))

    fast = slow_dataset(element, steps, 0.0)
    of_fit(fast)  # traces
    step_secs = of_fit(fast) / steps
    slow = slow_dataset(element, steps, step_secs)
    of_fit(slow)
    found = []
    for _ in range(rounds):
        steps_alone, both = of_fit(fast), of_fit(slow)
        input_alone = secs_of(lambda: [None for _ in slow])
        found.append((both, max(steps_alone, input_alone) + step_secs))
    return found


def suite_input(rounds: int) -> list[speed.Ratio | speed.Cost]:
    """Tells how much of a pipeline hides behind the step, and how workers share the rest.

    Of the pipeline that is as slow as the step, 1 means that all hides that can, 0.5 nothing.
    """
    [pairs] = launch.run(time_input, workers=1, args=(rounds,), env=_QUIET)
    ratio = speed.ratio_of("input as slow as the step: all hidden / fit", pairs, target=0.97)
    print(ratio, flush=True)
    return [ratio, *_shared_work(rounds)]


def _costly(kind: str, made: list[int]) -> Any:
    """Returns the data whose examples each take a while to be made, and are noted in a list."""
    import numpy as np
    import tensorflow as tf

    def make(number: Any) -> Any:
        time.sleep(_SECS)
        made.append(int(number))
        return np.float32(number)

    if kind == "Grain":
        return _of_grain(make)
    if kind == "RowsDataset":
        return _of_rows(make)

    def example(number: Any) -> Any:
        value = tf.ensure_shape(tf.numpy_function(make, [number], tf.float32), [])
        return tf.fill([8], value), value

    # Five seconds of work: what an epoch costs besides is some 0.1 s, with one worker and with two.
    count = 4 * _EXAMPLES
    numbers = tf.data.Dataset.range(count).shuffle(count, seed=1)
    return numbers.map(example).batch(_BATCH).prefetch(2)


def _of_grain(make: Any) -> Any:
    import grain
    import numpy as np

    def example(number: Any) -> Any:
        value = make(number)
        return np.full(8, value), value

    numbers = grain.MapDataset.range(_EXAMPLES).shuffle(seed=1)
    return numbers.map(example).batch(_BATCH).repeat()


def _of_rows(make: Any) -> Any:
    import numpy as np

    import tfdist

    class Costly(tfdist.RowsDataset):
        def get_rows(self, indices: Any) -> Any:
            values = np.array([make(number) for number in indices])
            return np.repeat(values[:, None], 8, axis=1), values

    return Costly(num_rows=_EXAMPLES, batch_size=_BATCH)


def _recorded(folder: str) -> Any:
    """Returns the dataset of records of one file, which is written if it is not there."""
    import tensorflow as tf

    import tfdist

    def example(record: Any) -> Any:
        size = tf.cast(tf.strings.length(record), tf.float32) / _RECORD_BYTES
        return tf.fill([8], size), size

    file = pathlib.Path(folder, "records")
    return tfdist.from_files([file], example, batch_size=_BATCH, shuffle=True)


def share_of_work(kind: str, folder: str, epochs: int) -> list[dict[str, float]]:
    """Returns what a worker spends on each epoch: secs, examples that it made, bytes it read."""
    import keras

    import tfdist

    with tfdist.get_strategy("cpu").scope():
        model = keras.Sequential([keras.Input([8]), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    made: list[int] = []
    dataset = _recorded(folder) if kind == "records" else _costly(kind, made)
    found: list[dict[str, float]] = []
    begin: dict[str, float] = {}

    def now() -> dict[str, float]:
        return {"secs": time.perf_counter(), "made": len(made), "bytes": _bytes_read()}

    def on_epoch_end(epoch: int, logs: Any) -> None:
        end = now()
        found.append({name: end[name] - begin[name] for name in end})

    watching = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: begin.update(now()), on_epoch_end=on_epoch_end
    )
    steps = _EXAMPLES // _BATCH if kind == "Grain" else None  # it is repeated without an end
    tfdist.fit(
        model, dataset, epochs=1 + epochs, steps_per_epoch=steps, verbose=0, callbacks=[watching]
    )
    return found[1:]  # the first one traces


def _bytes_read() -> int:
    lines = pathlib.Path("/proc/self/io").read_text().splitlines()
    return int(lines[0].removeprefix("rchar:"))


def secs_to_go_on(folder: str) -> float:
    """Returns how long it takes from the start of an epoch to its middle, of many records."""
    import tensorflow as tf

    import tfdist
    from tfdist.communication.share import Share
    from tfdist.data.pipelines.tf_data import dataset_source

    file = pathlib.Path(folder, "numbers")
    dataset = tfdist.from_files(
        [file], lambda line: tf.strings.to_number(line), batch_size=_BATCH, shuffle=True,
        format="text",
    )
    source = dataset_source(dataset, share=Share(0, 1, 2), goes_on=True)
    begin = time.perf_counter()
    next(iter(source.stream(0, _MANY // _BATCH // 2)))
    return time.perf_counter() - begin


def _grouped(items: list[Any], size: int) -> list[list[Any]]:
    return [items[begin : begin + size] for begin in range(0, len(items), size)]


def _shared_work(rounds: int) -> list[speed.Cost]:
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        with tf.io.TFRecordWriter(str(pathlib.Path(folder, "records"))) as writer:
            for number in range(_EXAMPLES):
                writer.write(bytes([number % 256]) * _RECORD_BYTES)
        pathlib.Path(folder, "numbers").write_text("\n".join(map(str, range(_MANY))))
        found = {
            (kind, workers): launch.run(
                share_of_work, workers=workers, env=_QUIET,
                args=(kind, folder, rounds * (1 if kind == "tf.data" else _TOGETHER)),
            )
            for kind in ("tf.data", "Grain", "RowsDataset", "records")
            for workers in ((1, 2, 4) if kind == "tf.data" else (1, 2))
        }
        goes_on = launch.run(secs_to_go_on, workers=1, args=(folder,), env=_QUIET)

    def most(kind: str, workers: int, what: str) -> list[float]:
        """Returns what the worker that spent most of it spent, of what one worker spends alone."""
        alone = statistics.median(one[what] for one in found[kind, 1][0])
        together = 1 if kind == "tf.data" else _TOGETHER
        of_workers = [
            [statistics.mean(one[what] for one in some) for some in _grouped(worker, together)]
            for worker in found[kind, workers]
        ]
        return [max(ones) / alone for ones in zip(*of_workers, strict=True)]

    costs = [
        speed.cost_of(name, most(kind, workers, what), target=target)
        for name, kind, workers, what, target in (
            ("examples made by each of 2 workers, tf.data", "tf.data", 2, "made", 0.51),
            ("examples made by each of 4 workers, tf.data", "tf.data", 4, "made", 0.26),
            ("examples made by each of 2 workers, Grain", "Grain", 2, "made", 0.51),
            ("examples made by each of 2 workers, RowsDataset", "RowsDataset", 2, "made", 0.51),
            ("time of an input-bound epoch, 2 workers / 1", "tf.data", 2, "secs", 0.55),
            ("bytes read by each of 2 workers, records", "records", 2, "bytes", 0.52),
        )
    ]
    costs.append(speed.cost_of("going on in the midst of 10 M records, s", goes_on, target=2))
    for cost in costs:
        print(cost, flush=True)
    return costs
