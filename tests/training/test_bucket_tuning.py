"""Are the sizes of pieces and buckets chosen once, by the chief, and kept?"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import keras
import numpy as np
import pytest

import tfdist
from tfdist import testing
from tfdist.communication.compression import EXACT, Reduction, parse_reduction
from tfdist.training import bucket_tuning

_OPEN = parse_reduction("auto")


class NoRun:
    """A run that has noted something, or nothing."""

    def __init__(self, **facts: Any) -> None:
        self.facts = facts

    def noted(self, name: str) -> Any:
        return self.facts.get(name)

    def note(self, **facts: Any) -> None:
        self.facts |= facts


class Chief:
    """Workers of which the chief has measured something else."""

    strategy = None

    def __init__(self, choice: int) -> None:
        self._choice = choice

    def gather(self, *values: int) -> Any:
        return np.array([[self._choice], list(values)])


def settled(monkeypatch: Any, secs: list[float], *, chief: int | None = None, **facts: Any) -> Any:
    monkeypatch.setattr(bucket_tuning, "sum_secs", lambda strategy, variables, reductions: secs)
    run = NoRun(**facts)
    best = min(range(len(secs)), key=secs.__getitem__)
    workers: Any = Chief(best if chief is None else chief)
    reduction = bucket_tuning.settled(_OPEN, [], workers, run)  # type: ignore[arg-type]
    assert run.facts["reduction_sizes"] == [reduction.piece_bytes, reduction.bucket_bytes]
    return reduction


def test_the_quickest_is_taken(monkeypatch):
    for number, (piece, bucket) in enumerate(bucket_tuning._SIZES):
        secs = [0.1] * len(bucket_tuning._SIZES)
        secs[number] = 0.05
        reduction = settled(monkeypatch, secs)
        assert (reduction.piece_bytes, reduction.bucket_bytes) == (piece, bucket)


def test_noise_changes_nothing(monkeypatch):
    sent = []

    class Same:
        strategy = None

        def gather(self, *values: int) -> Any:
            sent.extend(values)
            return np.array([list(values)])

    secs = [0.1, 0.099, *[0.2] * (len(bucket_tuning._SIZES) - 2)]
    monkeypatch.setattr(bucket_tuning, "sum_secs", lambda strategy, variables, reductions: secs)
    reduction = bucket_tuning.settled(_OPEN, [], Same(), NoRun())  # type: ignore[arg-type]
    assert reduction.piece_bytes == EXACT.piece_bytes
    assert reduction.bucket_bytes == EXACT.bucket_bytes
    assert sent == [0]


def test_the_chief_decides(monkeypatch):
    secs = [0.1, 0.05, *[0.2] * (len(bucket_tuning._SIZES) - 2)]
    assert settled(monkeypatch, secs, chief=2).piece_bytes == bucket_tuning._SIZES[2][0]


def test_a_run_keeps_what_it_began_with(monkeypatch):
    def refuse(*_: Any) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(bucket_tuning, "_measured", refuse)
    run = NoRun(reduction_sizes=[64, 32])
    reduction = bucket_tuning.settled(_OPEN, [], None, run)  # type: ignore[arg-type]
    assert (reduction.piece_bytes, reduction.bucket_bytes) == (64, 32)


def test_sizes_that_were_given_stay(monkeypatch):
    reduction = Reduction(piece_bytes=64, bucket_bytes=32)
    settled_again = bucket_tuning.settled(reduction, [], None, NoRun())  # type: ignore[arg-type]
    assert settled_again is reduction


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"piece_bytes": "auto"}, "chosen together"),
        ({"piece_bytes": "fast"}, "must be 'auto' or a whole number"),
        ({"error_feedback": True}, "without a wire_dtype"),
    ],
)
def test_what_cannot_be_is_refused(options, match):
    with pytest.raises(ValueError, match=match):
        Reduction(**options)


def _on_a_worker(folder: str) -> Any:
    strategy = tfdist.get_strategy("cpu")
    assert strategy.num_replicas_in_sync == 2
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("tfdist").addHandler(handler)
    logging.getLogger("tfdist").setLevel(logging.INFO)
    narrow = dataclasses.replace(_OPEN, wire_dtype="bfloat16")
    weights = []
    for reduction in (narrow, narrow, "bfloat16"):
        keras.utils.set_random_seed(1)
        with strategy.scope():
            model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(300)])
            model.compile("adam", "mse")
        saved = {} if reduction == "bfloat16" else {"checkpoint_dir": folder}
        tfdist.fit(
            model, np.ones((8, 6)), np.ones((8, 300)), epochs=2, reduction=reduction, verbose=0,
            **saved,
        )
        weights.append([np.asarray(weight).tobytes() for weight in model.weights])
    return weights, [text for text in told if text.startswith("Gradients travel")]


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_two_workers_measure_once_and_train_to_the_same(tmp_path):
    found = testing.run_workers(_on_a_worker, args=(str(tmp_path),), timeout_secs=150)
    for weights, told in found:
        assert len(told) == 1  # the second run goes on from the first one's checkpoint
        assert weights[0] == weights[1] == weights[2] == found[0][0][0]
