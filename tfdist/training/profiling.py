"""Where did the time of this run go? What `fit(..., profile=True)` measures.

Host time is the time between two calls of the traced loop, without validation. Input is how long
the loop waited for batches, by time stamps in its graph (`loop/waits.py`); gathering rows of arrays
inside the loop counts as compute. Communication is a sum of zeros in the shapes of the weights,
timed separately after training: an upper bound where only the touched rows of an embedding travel.
Compute is the remainder; with several workers it includes waiting for slower ones.

The first call of the loop, which traces, does not count. Calls under TensorBoard's profiler do not
count either, unless there are no others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from tfdist.communication import collectives, share
from tfdist.communication import reduction as reduction_lib
from tfdist.communication.compression import EXACT, Reduction
from tfdist.compat import tf_internals
from tfdist.loop.waits import Waits
from tfdist.loop.while_loop import Loop
from tfdist.step import tpu_step
from tfdist.training.time_split import Split, advice

_TRACED_STEPS = 10  # of TensorBoard's trace, at least
_ROUNDS = 5


@dataclasses.dataclass(frozen=True)
class Profile:
    """Where the time of a run of `fit` went; each worker has its own profile.

    Attributes:
        split: The parts of a step on this worker, in seconds.
        steps: Steps that were measured.
        replicas: Replicas of all workers together.
        gradient_bytes: Bytes of all gradients of one replica, as if all were dense.
        trace: Folder of TensorBoard's trace, or None.
    """

    split: Split
    steps: int
    replicas: int
    gradient_bytes: int
    trace: str | None

    @property
    def advice(self) -> list[str]:
        """What would make a step shorter, in sentences."""
        return advice(self.split)

    def __str__(self) -> str:
        traced = [f"tensorboard --logdir={self.trace} shows some steps."] if self.trace else []
        lines = [f"{self.split} ({self.steps} steps)", *self.advice, *traced]
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class _Call:
    """One call of the loop: its steps, and seconds."""

    steps: int
    secs: float
    host_secs: float  # before it, since the call before
    input_secs: float
    is_typical: bool


class Profiler:
    """Measures one run of `fit`, inside a `with` block.

    Args:
        waits: The waits of the measured loop.
        trace: Folder for TensorBoard's trace of some steps, or None.
        clock: Gives the time in seconds.
    """

    def __init__(
        self,
        waits: Waits,
        *,
        trace: str | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._waits, self._trace, self._clock = waits, trace, clock
        self._calls: list[_Call] = []
        self._last_end: float | None = None
        self._traced_steps: int | None = None  # None unless TensorBoard's profiler is at work

    def __enter__(self) -> Profiler:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_trace()

    def timed(self, loop: Loop) -> Loop:
        """Returns a loop whose calls are measured."""

        def run(iterator: Any, num_steps: int) -> int:
            start = self._clock()
            host_secs = 0.0 if self._last_end is None else start - self._last_end
            if self._trace and len(self._calls) == 1:
                self._begin_trace(self._trace)
            is_typical = bool(self._calls) and self._traced_steps is None
            self._waits.take()
            start = self._clock()
            ran = loop(iterator, num_steps)
            secs = self._clock() - start
            self._calls.append(_Call(ran, secs, host_secs, self._waits.take(), is_typical))
            if self._traced_steps is not None:
                self._traced_steps += ran
                if self._traced_steps >= _TRACED_STEPS:
                    self._end_trace()
            self._last_end = self._clock()
            return ran

        return run

    @contextlib.contextmanager
    def left_out(self) -> Iterator[None]:
        """Leaves out the time of a `with` block between two calls."""
        start = self._clock()
        yield
        if self._last_end is not None:
            self._last_end += self._clock() - start

    def profile(
        self,
        strategy: tf.distribute.Strategy,
        variables: Sequence[Any],
        reduction: Reduction = EXACT,
        *,
        every: int = 1,
    ) -> Profile:
        """Returns what was measured; every worker has to ask, together.

        Args:
            strategy: The strategy that trained.
            variables: The trained variables, for the shapes of their gradients.
            reduction: How the gradients travel.
            every: Steps per sum of gradients, such as the steps of a round.
        """
        [secs] = sum_secs(strategy, variables, [reduction])
        self._end_trace()
        return Profile(
            split=self._split(secs / every), steps=sum(call.steps for call in self._counted),
            replicas=strategy.num_replicas_in_sync, trace=self._trace,
            gradient_bytes=sum(tf.as_dtype(v.dtype).size * math.prod(v.shape) for v in variables),
        )

    @property
    def _counted(self) -> list[_Call]:
        typical = [call for call in self._calls if call.is_typical]
        return typical if any(call.steps for call in typical) else self._calls

    def _split(self, sum_secs: float) -> Split:
        calls = self._counted
        steps = max(1, sum(call.steps for call in calls))
        loop_secs = sum(call.secs for call in calls)
        input_secs = min(loop_secs, sum(call.input_secs for call in calls))
        communication_secs = min(loop_secs - input_secs, steps * sum_secs)
        return Split(
            input_secs=input_secs / steps,
            compute_secs=(loop_secs - input_secs - communication_secs) / steps,
            communication_secs=communication_secs / steps,
            host_secs=sum(call.host_secs for call in calls) / steps,
            steps_per_call=steps / max(1, len(calls)),
        )

    def _begin_trace(self, folder: str) -> None:
        try:
            tf.profiler.experimental.start(folder)
        except tf.errors.AlreadyExistsError as error:
            raise RuntimeError(
                f"profile={folder!r} asks for a trace, but another profiler is at work. "
                "Set profile_batch=0 in the TensorBoard callback, or profile=True here."
            ) from error
        self._traced_steps = 0

    def _end_trace(self) -> None:
        if self._traced_steps is not None:
            self._traced_steps = None
            tf.profiler.experimental.stop()


def folder_of(profile: Any) -> str | None:
    """Returns the folder of the trace that `fit(profile=...)` asks for, or None."""
    if isinstance(profile, bool):
        return None
    if not isinstance(profile, (str, os.PathLike)) or not os.fspath(profile):
        raise ValueError(
            f"profile={profile!r} is neither a bool nor a folder. Give True to measure, or the "
            "folder of a TensorBoard trace to have one as well."
        )
    return os.fspath(profile)


def sum_secs(
    strategy: tf.distribute.Strategy,
    variables: Sequence[Any],
    reductions: Sequence[Reduction],
    *,
    rounds: int = _ROUNDS,
) -> list[float]:
    """Returns the seconds that one sum of gradients takes with each of some reductions.

    They are timed in turns, and the median of each is returned. Every worker has to call it.

    Args:
        strategy: The strategy whose replicas sum.
        variables: The trained variables, for the shapes of their gradients.
        reductions: The reductions to time.
        rounds: How often each is timed.
    """
    if strategy.num_replicas_in_sync == 1 or not variables:
        return [0.0 for _ in reductions]

    @tf.function(autograph=False)
    def zeros() -> Any:
        return [tf.zeros(variable.shape, variable.dtype) for variable in variables]

    def summing(values: Any, reduction: Reduction) -> Callable[[Any], Any]:
        def in_program(values: Any) -> Any:
            return tpu_step.sum_gradients(values, collectives.for_replica(), reduction)

        def summed(values: Any) -> Any:
            if not share.is_tpu(strategy):
                return reduction_lib.sum_gradients(strategy, values, reduction)
            inside = tf.autograph.experimental.do_not_convert(in_program)
            replicas = strategy.run(inside, (values,))
            return [strategy.experimental_local_results(value)[0] for value in replicas]

        return tf.function(summed, autograph=False).get_concrete_function(values)

    secs: list[list[float]] = [[] for _ in reductions]
    with tf_internals.default_replica_mode(), strategy.scope():
        values = strategy.run(zeros)
        functions = [summing(values, reduction) for reduction in reductions]
        for _ in range(1 + rounds):
            for function, times in zip(functions, secs, strict=True):
                start = time.perf_counter()
                function(values)[-1].numpy()
                times.append(time.perf_counter() - start)
    return [statistics.median(times[1:]) for times in secs]
