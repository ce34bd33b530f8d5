"""Do the helpers for tests give real workers and real logical CPUs?"""

from __future__ import annotations

import os
import time

import pytest

from tfdist import testing


def test_run_workers_returns_values_in_rank_order():
    assert testing.run_workers(_rank, workers=2, kwargs={"factor": 3}) == [0, 3]


def _rank(factor):
    return factor * int(os.environ["TFDIST_RANK"])


def test_output_of_the_workers_can_be_captured(capsys):
    testing.run_workers(print, workers=2, args=("hello",))
    assert sorted(capsys.readouterr().out.splitlines()) == ["[worker 0] hello", "[worker 1] hello"]


def test_time_limit_ends_a_hang(capsys):
    with pytest.raises(RuntimeError, match="timeout_secs=1 is over and worker 0 still ran"):
        testing.run_workers(_hang_here, workers=1, timeout_secs=1)
    assert "in _hang_here" in capsys.readouterr().err


def _hang_here():
    time.sleep(60)


def test_variables_reach_the_workers():
    [level] = testing.run_workers(
        os.getenv, workers=1, args=("TF_CPP_MIN_LOG_LEVEL",), env={"TF_CPP_MIN_LOG_LEVEL": "3"}
    )
    assert level == "3"


@pytest.mark.parametrize("n", [0, -1, True, "2", 2.0])
def test_wrong_number_of_cpus(n):
    with pytest.raises(ValueError, match="must be a whole number from 1"):
        testing.logical_cpus(n)


def test_logical_cpus():
    """In a process of its own: this one has its devices already."""
    [found] = testing.run_workers(_use_logical_cpus, workers=1)
    assert found["names"] == ["/cpu:0", "/cpu:1", "/cpu:2"]
    assert found["again"] == found["names"]
    assert found["replicas"] == 3
    assert found["error"] == (
        "2 logical CPUs were asked for, but TensorFlow has started with 3. Call logical_cpus(2)"
        " before the first TensorFlow operation of the process (in pytest: in conftest.py)."
    )


def _use_logical_cpus():
    names = testing.logical_cpus(3)
    import tensorflow as tf

    replicas = tf.distribute.MirroredStrategy(names).num_replicas_in_sync
    try:
        testing.logical_cpus(2)
    except RuntimeError as error:
        text = str(error)
    again = testing.logical_cpus(3)
    return {"names": names, "replicas": replicas, "error": text, "again": again}
