"""Are trackers told what happened, when it happened, and does training stay what it is?"""

from __future__ import annotations

import contextlib
import functools
import pathlib

import keras
import numpy as np
import pytest

import tfdist
from tfdist import testing, tracking
from tfdist.cluster import contract
from tfdist.tracking import watch

_X = np.random.default_rng(0).normal(size=(23, 3))
_BATCH, _STEPS = 5, 5


class Told:
    """A tracker that keeps what it is told."""

    def __init__(self):
        self.config, self.logs, self.status = None, [], None

    def start(self, config):
        assert self.config is None
        self.config = config

    def log(self, values, step):
        assert self.status is None
        self.logs.append((step, values))

    def finish(self, status):
        assert self.status is None
        self.status = status

    def series(self, name):
        return [(step, values[name]) for step, values in self.logs if name in values]


REST = 1000.0


class Clock:
    """A clock that goes on by a second when it is looked at, and by many between two epochs."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now

    def rest(self, epoch, logs):
        self.now += REST


@pytest.fixture
def model(logical_cpus, float64):
    strategy = tfdist.get_strategy("2xcpu")
    assert strategy.num_replicas_in_sync == 2
    return _make(strategy)


def _make(strategy):
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"])
    return model


def _fit(model, **options):
    return tfdist.fit(model, _X, _X[:, :1], batch_size=_BATCH, epochs=3, verbose=0, **options)


def test_each_epoch_is_told_and_training_is_what_it_was(model, monkeypatch):
    history = _fit(model, validation_data=(_X, _X[:, :1]))
    weights = model.get_weights()
    model, told, clock = _make(model.distribute_strategy), Told(), Clock()
    monkeypatch.setattr(watch, "EVERY_SECS", 0.0)  # reads the metrics after each call of the loop
    monkeypatch.setitem(watch.Watch.__init__.__kwdefaults__, "clock", clock)
    again = _fit(
        model, validation_data=(_X, _X[:, :1]), trackers=[told], profile=True,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=clock.rest)],
    )
    assert again.history == history.history
    for one, other in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(one, other)
    for name, values in history.history.items():
        assert told.series(name) == list(zip((5, 10, 15), values, strict=True))
    assert told.series("epoch") == [(5, 1), (10, 2), (15, 3)]
    running = told.series("running/loss")
    assert {step for step, _ in running} >= {5, 10, 15}
    assert running[-1] == (15, history.history["loss"][-1])
    assert told.status == "finished"
    assert told.config["replicas"] == 2
    assert (told.config["begins_at_step"], told.config["checkpoint_dir"]) == (0, None)
    assert told.config["model"]["parameters"] == 4
    assert told.config["compiled"]["loss"] == "mse"
    speeds = dict(told.series("speed/steps_per_sec"))
    before = dict(zip(sorted(speeds), [1, *sorted(speeds)], strict=False))  # the first call traced
    for step, rows in told.series("speed/examples_per_sec"):
        wanted = (_rows_until(step) - _rows_until(before[step])) / (step - before[step])
        assert rows / speeds[step] == pytest.approx(wanted)
        assert speeds[step] > (step - before[step]) / REST, "epochs' ends do not count"
    assert max(speeds) == 15
    split = again.profile.split
    assert told.series("profile/communication_secs") == [(15, split.communication_secs)]
    assert told.series("profile/host_secs") == [(15, split.host_secs)]


def _rows_until(step):
    return step // _STEPS * len(_X) + step % _STEPS * _BATCH


def test_speed_counts_examples_of_all_workers_without_the_first_call(model):
    now = [100.0]
    told = Told()
    with watch.Watch([told], model=model, workers=_workers(model), clock=lambda: now[0]) as one:
        one.note(checkpoint=None)
        one.begin(_feed(model), step=0)
        one.begin_epoch()
        now[0] += 50  # traces
        one.ran(1, first=0, step=1)
        now[0] += 2
        one.ran(4, first=1, step=5)
        now[0] += 1000  # validates
        assert one.is_due()
        one.end_epoch(0, {"loss": 1.0})
        assert not one.is_due()
        one.begin_epoch()
        now[0] += watch.EVERY_SECS
        one.ran(2, first=0, step=7)
        assert one.is_due()
        one.within_epoch({"loss": 2.0})
    assert told.series("speed/steps_per_sec") == [(5, 4 / 2), (7, 2 / watch.EVERY_SECS)]
    assert told.series("speed/examples_per_sec") == [(5, 18 / 2), (7, 10 / watch.EVERY_SECS)]


def _workers(model):
    from tfdist.communication.workers import Workers

    return Workers(model.distribute_strategy)


def _feed(model):
    from tfdist.data.inputs import Inputs
    from tfdist.data.shapes import parse_shapes

    return Inputs(_workers(model), model).feed(
        _X, _X[:, :1], batch_size=_BATCH, steps=None, shuffle=False, already_sharded=False,
        shapes=parse_shapes(None, None, is_tpu=False), all_rows=False,
    )


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyError("planted"), "failed"),
        (KeyboardInterrupt(), "interrupted"),
        (contract.Saved(), "saved"),
    ],
)
def test_the_end_is_told_as_it_was(model, error, status):
    told = Told()

    def run():
        with watch.Watch([told], model=model, workers=_workers(model)) as one:
            one.note(checkpoint=None)
            one.begin(_feed(model), step=4)
            raise error

    with pytest.raises(type(error)):
        run()
    assert told.status == status
    assert bool(told.series("run/error")) == (status == "failed")


def test_a_resumed_run_says_where_it_begins(model, tmp_path, monkeypatch):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    first, second = Told(), Told()
    with contextlib.suppress(KeyboardInterrupt):
        _fit(model, checkpoint_dir=tmp_path, trackers=[first], callbacks=[Stop()])
    monkeypatch.setenv(contract.RESTART_COUNT, "2")
    _fit(_make(model.distribute_strategy), checkpoint_dir=tmp_path, trackers=[second])
    assert [step for step, _ in first.series("loss")] == [5]
    assert [step for step, _ in second.series("loss")] == [10, 15]
    assert (first.status, second.status) == ("interrupted", "finished")
    assert second.config["begins_at_step"] == 5
    assert second.config["checkpoint_dir"] == str(tmp_path)
    assert second.config["restarts"] == 2
    assert second.series("run/restarts") == [(10, 2), (15, 2)]


def test_what_a_check_finds_is_told_once(logical_cpus):
    class Own(keras.layers.Layer):
        def call(self, x):
            return x * 2

    strategy = tfdist.get_strategy("2xcpu")
    with strategy.scope():
        model = keras.Sequential([keras.Input((3,)), Own(), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    told = Told()
    history = _fit(model, trackers=[told])
    [(step, text)] = told.series("check/train_step")
    assert step <= _STEPS  # within the first epoch, where that takes more than some seconds
    assert text == history.checked["train_step"]


def test_a_tracker_that_fails_ends_nothing(model, caplog):
    class Bad(Told):
        def log(self, values, step):
            raise OSError("planted")

    history = _fit(model, trackers=[Bad()])
    assert len(history.epoch) == 3
    assert len([r for r in caplog.records if "The tracker Bad failed in log" in r.message]) == 1


@pytest.mark.parametrize("trackers", ["json", [3]])
def test_what_is_no_tracker_is_refused(model, trackers):
    with pytest.raises(ValueError, match="trackers="):
        _fit(model, trackers=trackers)


def _on_worker(folder: str) -> tuple[int, int, dict[str, list[float]]]:
    rank = tfdist.detect_cluster().rank
    watch.EVERY_SECS = 0.0
    strategy = tfdist.get_strategy("cpu")
    own = tracking.JsonLines(f"{folder}/of_{rank}.jsonl")
    _fit(_make(strategy), trackers=[own])
    # A program may have them on the chief alone.
    trackers = [f"json:{folder}/of_chief.jsonl"] if rank == 0 else None
    history = _fit(_make(strategy), trackers=trackers)
    return rank, strategy.num_replicas_in_sync, history.history


# 10 s on two quiet cores. Only here the metrics that the chief tells are sums over processes, which
# hang, or are of one worker, where not all of them read.
@pytest.mark.slow
def test_the_chief_tells_of_all_workers(tmp_path: pathlib.Path) -> None:
    results = testing.run_workers(functools.partial(_on_worker, str(tmp_path)), timeout_secs=100)
    assert [replicas for _, replicas, _ in results] == [2, 2]
    _, _, history = results[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["of_0.jsonl", "of_chief.jsonl"]
    for name in ("of_0", "of_chief"):
        lines = tracking.JsonLines.read(tmp_path / f"{name}.jsonl")
        assert lines[0]["config"]["workers"] == 2
        assert lines[-1]["status"] == "finished"
        values = [line["values"] for line in lines[1:-1]]
        assert [one["loss"] for one in values if "loss" in one] == history["loss"]
        assert [one for one in values if "running/mae" in one]
