"""Does any small model, trained in any way that Keras offers, give what one device gives?

A training is one value of each axis of parity/axes.py: the data, its numbers, a layer, the loss and
how it is given, an optimizer and an option of it, the precision, and so on. Some are the smallest
set in which each two values meet, a part of which has its turn in each commit (`make parity` runs
all of it); others are drawn by Hypothesis, with other sizes and two layers. What Keras refuses on
one device has to be refused with the same kind of error.
"""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies as st
from parity import apart, axes, harness, pairs, rotation, trainings, verdicts, worlds
from parity.axes import AXES, Training

from tfdist import testing

_PAIR_PARTS = 48

_drawn = st.fixed_dictionaries(
    {axis: st.sampled_from(values) for axis, values in AXES.items()}
    | {
        "rows": st.builds("{} by {}".format, st.integers(1, 13), st.integers(1, 9)),
        "layer": st.lists(st.sampled_from(AXES["layer"]), min_size=1, max_size=2).map(" + ".join),
        "world": st.sampled_from(["2", "4"]),
    }
)


def _is_possible(training: Training) -> bool:
    single = [{**training, "layer": layer} for layer in training["layer"].split(" + ")]
    return all(map(axes.is_possible, single))


@hypothesis.settings(
    max_examples=4, deadline=None, derandomize=True, database=None,
    suppress_health_check=[hypothesis.HealthCheck.filter_too_much],
)
@hypothesis.given(training=_drawn.filter(_is_possible))
def _any_training_equals_that_of_one_device(training: Training) -> None:
    strategy = worlds.local_strategy(int(training["world"]))
    case = trainings.case_of(training)
    expected = harness.run(case, harness.stock())
    outcome = harness.run(case, harness.api_of(strategy, case, is_stock=False))
    if expected.error[0]:
        assert outcome.error[0] == expected.error[0], (outcome.error, expected.error)
    else:
        assert harness.differences(outcome, expected, case.tolerance) == []


def _check_all() -> None:
    testing.logical_cpus(verdicts.LOGICAL_CPUS)
    _any_training_equals_that_of_one_device()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_any_training_equals_that_of_one_device() -> None:
    apart.call(_check_all, timeout_secs=850)  # a process that has trained before takes longer


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_trainings_in_which_values_meet_are_right() -> None:
    chosen = pairs.part_of(rotation.turn(_PAIR_PARTS), _PAIR_PARTS)
    assert len(chosen) > 1
    print(pairs.summary(chosen))
    assert [one for one in pairs.judged(chosen) if one.result != "right"] == []


@pytest.mark.slow
def test_each_two_values_meet() -> None:
    found = {pair for training in pairs.covering() for pair in axes.pairs_of(training)}
    assert found == axes.all_pairs()
    parts = [pairs.part_of(number, _PAIR_PARTS) for number in range(_PAIR_PARTS)]
    assert sum(map(len, parts)) == len(pairs.covering()) < 200
    names = [trainings.name_of(training) for training in pairs.covering()]
    assert [trainings.name_of(trainings.training_of(name)) for name in names] == names
