"""Where does the time of a step go? Its parts, and advice on what to do about them.

Synopsis:

    >>> split = Split(input_secs=0.03, compute_secs=0.05, communication_secs=0.01, host_secs=0.01)
    >>> print(split)
    100.0 ms a step: 30 % input, 50 % compute, 10 % communication, 10 % host
    >>> for line in advice(split):
    ...     print(line)
    Input makes a step wait for 30 % of its time: cache or prefetch the dataset, ...

Standard library only.
"""

from __future__ import annotations

import dataclasses
import math

# Smaller shares are not worth mentioning.
_INPUT_SHARE, _HOST_SHARE, _COMMUNICATION_SHARE = 0.1, 0.1, 0.2
_AIMED_HOST_SHARE = 0.02


@dataclasses.dataclass(frozen=True)
class Split:
    """The parts of a step's time, in seconds per step; they do not overlap, and add up to it.

    Attributes:
        input_secs: Waiting for the next batch after the step before it was done.
        compute_secs: Everything else: forward and backward pass, update, metrics.
        communication_secs: The sum of the gradients over all replicas, timed alone. In a step it
            begins with the last layers' gradients, and what of it is hidden counts as less compute.
        host_secs: Between two calls of the traced loop: callbacks, logs, checkpoints.
        steps_per_call: Steps of one such call, on average.
    """

    input_secs: float
    compute_secs: float
    communication_secs: float
    host_secs: float
    steps_per_call: float = 1.0

    def __post_init__(self) -> None:
        parts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name, value in parts.items():
            if not value >= 0:
                raise ValueError(f"{name}={value!r} must be 0 or more. Measure anew.")

    @property
    def secs(self) -> float:
        """Seconds of a whole step."""
        return self.input_secs + self.compute_secs + self.communication_secs + self.host_secs

    def share(self, part: str) -> float:
        """Returns a part's share of the step, from 0 to 1.

        Args:
            part: "input", "compute", "communication" or "host".
        """
        return float(getattr(self, f"{part}_secs")) / self.secs if self.secs else 0.0

    def __str__(self) -> str:
        names = ("input", "compute", "communication", "host")
        shares = ", ".join(f"{100 * self.share(name):.0f} % {name}" for name in names)
        return f"{1000 * self.secs:.1f} ms a step: {shares}"


def advice(split: Split) -> list[str]:
    """Returns advice on making a step shorter, in sentences; [] if nothing stands out."""
    found = []
    if split.share("input") >= _INPUT_SHARE:
        found.append(
            f"Input makes a step wait for {100 * split.share('input'):.0f} % of its time: cache or "
            "prefetch the dataset, map it with num_parallel_calls=tf.data.AUTOTUNE, or prepare the "
            "data once before training."
        )
    if split.share("host") >= _HOST_SHARE:
        found.append(
            f"Between two calls of the loop {100 * split.share('host'):.0f} % of the time goes by: "
            "look at what callbacks do, let them look at epochs instead of batches, or compile "
            f"with steps_per_execution={steps_per_execution(split)}."
        )
    if split.share("communication") >= _COMMUNICATION_SHARE:
        found.append(
            f"Summing gradients takes {100 * split.share('communication'):.0f} % of a step: a "
            f"batch per replica {batch_factor(split):.1f} times as large brings that to "
            f"{100 * _COMMUNICATION_SHARE:.0f} %, and so do as many gradient_accumulation_steps "
            "where they sum once an update."
        )
    return found


def steps_per_execution(split: Split) -> int:
    """Returns the steps per call that bring the host's share to 2 %, if a call costs the same."""
    rest = split.secs - split.host_secs
    if not rest:
        return 1
    a_call = split.host_secs * split.steps_per_call
    return max(1, math.ceil(a_call * (1 - _AIMED_HOST_SHARE) / (_AIMED_HOST_SHARE * rest)))


def batch_factor(split: Split, *, share: float = _COMMUNICATION_SHARE) -> float:
    """Returns by which factor a batch must grow to bring communication to a share of the step.

    It assumes that input and compute grow with the batch, and communication and host time do not.
    """
    growing = split.input_secs + split.compute_secs
    if not growing:
        return math.inf
    wanted = split.communication_secs / share - split.communication_secs - split.host_secs
    return max(1.0, wanted / growing)
