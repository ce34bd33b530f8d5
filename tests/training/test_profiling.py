"""Does a profile name the part of a run that is slow, and leave the run as it is?"""

from __future__ import annotations

import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist.training.profiling import Profiler

_ROWS, _BATCH = 48, 4


class Slow(keras.layers.Layer):
    """A layer that takes its time."""

    def __init__(self, secs=0.03):
        super().__init__()
        self.secs = secs

    def call(self, x):
        def sleep(value):
            time.sleep(self.secs)
            return value

        slept = tf.numpy_function(sleep, [tf.stop_gradient(x)], x.dtype)
        return x + 0 * tf.ensure_shape(slept, x.shape)


def make_model(*layers, device="2xcpu"):
    keras.utils.set_random_seed(3)
    strategy = tfdist.get_strategy(device)
    with strategy.scope():
        model = keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def make_data(secs=0.0):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(_ROWS, 3)).astype("float32"), np.ones((_ROWS, 1), "float32")

    def slowly(value):
        time.sleep(secs)
        return value

    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(_BATCH)
    if not secs:
        return data
    return data.map(lambda x, y: (tf.ensure_shape(
        tf.numpy_function(slowly, [x], x.dtype), [None, 3]), y))


def split_of(model, data, **options):
    history = tfdist.fit(model, data, epochs=3, verbose=0, profile=True, **options)
    assert history.profile.steps >= _ROWS // _BATCH
    return history.profile.split


def test_a_slow_pipeline_is_input(logical_cpus):
    model = make_model()
    split = split_of(model, make_data(secs=0.1))  # the host takes 20 ms of a busy machine
    assert split.share("input") > 0.6
    assert split.input_secs == pytest.approx(0.1, rel=0.5)


@pytest.mark.slow
def test_a_slow_step_is_compute(logical_cpus):
    split = split_of(make_model(Slow(secs=0.1)), make_data())
    assert split.share("compute") > 0.6
    assert split.share("input") < 0.2


def test_input_that_hides_behind_the_step_is_none(logical_cpus):
    split = split_of(make_model(Slow()), make_data(secs=0.01).prefetch(4))
    assert split.share("input") < 0.3  # a third of the step, were it not for the overlap


@pytest.mark.slow
def test_only_what_does_not_hide_counts(logical_cpus):
    # The host's own time hides some of the batch's too, up to 70 ms of it on a busy machine.
    split = split_of(make_model(Slow(secs=0.1)), make_data(secs=0.3).prefetch(4))
    assert 0.05 < split.input_secs < 0.25  # 0.3, were all of the time of the batch to count


def test_slow_callbacks_are_host(logical_cpus):
    slow = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: time.sleep(0.02))
    split = split_of(make_model(), make_data(), callbacks=[slow])
    assert split.share("host") > 0.5
    assert split.steps_per_call == pytest.approx(1.0, abs=0.2)


def test_validation_does_not_count(logical_cpus):
    slow, fast = make_data(secs=0.05), make_data()
    split = split_of(make_model(), fast, validation_data=slow)
    assert split.secs < 0.05 * 0.7


def test_replicas_have_communication(logical_cpus):
    model = make_model()
    assert model.distribute_strategy.num_replicas_in_sync == 2
    assert split_of(model, make_data()).communication_secs > 0
    assert split_of(make_model(device="cpu"), make_data()).communication_secs == 0


@pytest.mark.parametrize("device", ["cpu", "2xcpu"])
def test_weights_are_those_without(logical_cpus, device, capsys):
    keras.config.set_floatx("float64")
    found = []
    for profile in (False, True):
        model = make_model(keras.layers.Dropout(0.5), device=device)
        history = tfdist.fit(model, np.ones((10, 3)), np.ones(10), batch_size=3, epochs=2,
                             verbose=0, profile=profile)
        found.append([history.history["loss"], *model.get_weights()])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not hasattr(history, "profiler")
    assert capsys.readouterr().out == ""


def test_profile_is_printed_and_kept(logical_cpus, capsys):
    history = tfdist.fit(make_model(), make_data(), verbose=2, profile=True)
    printed = capsys.readouterr().out
    assert f"profile: {history.profile}" in printed
    assert history.profile.replicas == 2
    assert history.profile.gradient_bytes == 4 * 4
    assert history.profile.trace is None


def test_folder_gets_a_trace(logical_cpus, tmp_path):
    history = tfdist.fit(
        make_model(), make_data(), epochs=2, verbose=0, profile=tmp_path / "trace"
    )
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))
    assert str(tmp_path / "trace") in str(history.profile)


def test_trace_ends_with_an_error(logical_cpus, tmp_path):
    def fail(batch, logs):
        if batch > 1:
            raise RuntimeError("mine")

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=fail)
    with pytest.raises(RuntimeError, match="mine"):
        tfdist.fit(make_model(), make_data(), verbose=0, profile=tmp_path, callbacks=[callback])
    tf.profiler.experimental.start(str(tmp_path))  # raises where one is still at work
    tf.profiler.experimental.stop()


def test_another_profiler(logical_cpus, tmp_path):
    tf.profiler.experimental.start(str(tmp_path))
    try:
        with pytest.raises(RuntimeError, match="another profiler is at work"):
            tfdist.fit(make_model(), make_data(), verbose=0, profile=tmp_path)
    finally:
        tf.profiler.experimental.stop()


@pytest.mark.parametrize("profile", [3, "", None])
def test_no_folder(logical_cpus, profile):
    with pytest.raises(ValueError, match="is neither a bool nor a folder"):
        tfdist.fit(make_model(), make_data(), verbose=0, profile=profile)


def test_eager(logical_cpus):
    model = make_model()
    model.compile("sgd", "mse", run_eagerly=True)
    with pytest.raises(ValueError, match="was compiled with run_eagerly=True"):
        tfdist.fit(model, make_data(), verbose=0, profile=True)


class Waiting:
    """Stands in for `Waits`: a call waited for a second."""

    def take(self):
        return 1.0


def test_the_first_call_does_not_count(logical_cpus):
    now = iter([0.0, 0.0, 100.0, 100.0, 103.0, 103.0, 113.0, 113.0])
    with Profiler(Waiting(), clock=lambda: next(now)) as profiler:
        loop = profiler.timed(lambda iterator, num_steps: num_steps)
        assert (loop(None, 1), loop(None, 5)) == (1, 5)
        profile = profiler.profile(tf.distribute.get_strategy(), [])
    assert profile.steps == 5
    assert profile.split.host_secs == pytest.approx(3 / 5)
    assert profile.split.input_secs == pytest.approx(1 / 5)
    assert profile.split.compute_secs == pytest.approx(9 / 5)
    assert profile.split.steps_per_call == 5


def profiled(rank_that_asks: int) -> tuple[int, float]:
    strategy = tfdist.get_strategy("cpu")
    with strategy.scope():
        layers = [keras.Input((3,)), keras.layers.Dense(512), keras.layers.Dense(1)]
        model = keras.Sequential(layers)
        model.compile("sgd", "mse")
    asks = tfdist.detect_cluster().rank == rank_that_asks
    history = tfdist.fit(model, make_data(), epochs=2, verbose=0, profile=asks)
    return history.profile.replicas, history.profile.split.communication_secs


@pytest.mark.slow
def test_workers_are_measured_together():
    found = tfdist.testing.run_workers(profiled, workers=2, args=(1,))
    assert [replicas for replicas, _ in found] == [2, 2]
    assert all(secs > 0 for _, secs in found)
