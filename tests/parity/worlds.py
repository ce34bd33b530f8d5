"""Where does a row run, and is its outcome right there?

One device with stock Keras (the oracle), logical CPUs of one process under MirroredStrategy, and
worker processes under MultiWorkerMirroredStrategy.
"""

from __future__ import annotations

import dataclasses
import functools

import tensorflow as tf

import tfdist
from parity import harness
from parity.case import Case


@functools.cache
def local_strategy(replicas: int) -> tf.distribute.Strategy:
    """Returns a MirroredStrategy over logical CPUs of this process."""
    strategy = tfdist.get_strategy(f"{replicas}xcpu", cluster=None)
    assert isinstance(strategy, tf.distribute.MirroredStrategy)
    assert strategy.num_replicas_in_sync == replicas > 1
    return strategy


def strategy_of(world: str) -> tf.distribute.Strategy:
    """Returns the strategy of a world: of this process, or of the workers of which it is one."""
    if not world.endswith("workers"):
        return local_strategy(int(world))
    strategy = tfdist.get_strategy("cpu")
    assert isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    assert strategy.num_replicas_in_sync == int(world.split()[0]) > 1
    return strategy


def oracle(case: Case) -> harness.Outcome:
    """Returns what stock `keras.Model.fit` gives on one device."""
    return harness.run(dataclasses.replace(case, build=case.plain or case.build), harness.stock())


def problems(case: Case, outcome: harness.Outcome, expected: harness.Outcome) -> list[str]:
    """Says what is wrong with a row's outcome; an empty list where it is as it has to be.

    Args:
        case: The row.
        outcome: What came of it.
        expected: What came of it on one device, by stock Keras.
    """
    if case.refused:
        assert expected.error[0], "Keras does not refuse this row on one device"
        same = outcome.error[0] == expected.error[0]
        return [] if same else [f"error {outcome.error}, on one device {expected.error}"]
    assert expected.error == ("", ""), f"stock Keras fails on one device: {expected.error}"
    if not case.parity:
        return [] if outcome.error == ("", "") else [f"error {outcome.error}"]
    return harness.differences(outcome, expected, case.tolerance)
