"""Do the parts of a step add up, and does advice say what the numbers say?"""

from __future__ import annotations

import dataclasses

import pytest

from tfdist.training.time_split import Split, advice, batch_factor, steps_per_execution


def split(input=0.0, compute=0.0, communication=0.0, host=0.0, **options):
    return Split(input, compute, communication, host, **options)


def test_parts_add_up():
    parts = split(1.0, 2.0, 3.0, 4.0)
    assert parts.secs == 10.0
    assert [parts.share(p) for p in ("input", "compute", "communication", "host")] == [
        0.1, 0.2, 0.3, 0.4
    ]
    shares = "10 % input, 20 % compute, 30 % communication, 40 % host"
    assert str(parts) == f"10000.0 ms a step: {shares}"


def test_no_time_has_no_shares():
    assert split().share("input") == 0.0
    assert advice(split()) == []


def test_negative_time():
    with pytest.raises(ValueError, match=r"compute_secs=-1.0 must be 0 or more"):
        split(compute=-1.0)
    with pytest.raises(ValueError, match="input_secs=nan"):
        split(input=float("nan"))


@pytest.mark.parametrize(
    ("parts", "word"),
    [({"input": 0.5}, "Input"), ({"host": 0.5}, "callbacks"), ({"communication": 0.5}, "Summing")],
)
def test_advice_names_the_part_that_stands_out(parts, word):
    [line] = advice(split(compute=0.5, **parts))
    assert word in line


def test_a_step_of_compute_needs_no_advice():
    assert advice(split(0.09, 0.7, 0.1, 0.09)) == []


def test_steps_per_execution_brings_the_host_to_two_percent():
    parts = split(compute=0.001, host=0.0005, steps_per_call=4)
    steps = steps_per_execution(parts)
    assert steps == 98  # 2 ms a call, over 98 steps of 1 ms: 2 %
    after = dataclasses.replace(parts, host_secs=0.0005 * 4 / steps)
    assert after.share("host") == pytest.approx(0.02, abs=1e-3)


def test_batch_factor_brings_communication_to_its_share():
    parts = split(0.01, 0.04, 0.05, 0.002)
    factor = batch_factor(parts, share=0.2)
    after = split(0.01 * factor, 0.04 * factor, 0.05, 0.002)
    assert after.share("communication") == pytest.approx(0.2)
    assert batch_factor(split(compute=1.0, communication=0.01)) == 1.0
