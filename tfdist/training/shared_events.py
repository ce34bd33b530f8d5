"""What do callbacks need when several workers run them?

Every worker runs every callback, and their decisions must be the same everywhere. So after each
event of an epoch the workers compare learning rates and weights, and the chief's values hold
(`SharedEvents`): a change that a callback made on one worker only is undone. Files are written by
the chief alone (callback_files.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfdist.communication.workers import Workers
from tfdist.compat import tf_internals
from tfdist.loop import listeners, progress_lines, throughput
from tfdist.training.callback_files import refuse_unable
from tfdist.training.checks.fingerprints import Comparison

_LOG = logging.getLogger("tfdist")
_OF_EPOCHS = (
    "on_train_begin", "on_epoch_begin", "on_test_begin", "on_test_end", "on_epoch_end",
    "on_train_end",
)
_OF_BATCHES = ("on_train_batch_begin", "on_train_batch_end")


def events_of(
    callbacks: Any,
    *,
    model: keras.Model,
    workers: Workers,
    comparison: Comparison,
    verbose: Any,
    add_history: bool = False,
    is_alone: bool = False,
    examples_of_step: float | None = None,
    **params: Any,
) -> Any:
    """Returns a list of callbacks: Keras's own, or `SharedEvents` where workers share events.

    Args:
        callbacks: As given to `fit`.
        model: The model that they act on.
        workers: The workers of the model's strategy.
        comparison: Compares the model's variables over the workers.
        verbose: As in `fit`; only the chief shows progress.
        add_history: Whether to add a `History`.
        is_alone: Whether the workers may have different events.
        examples_of_step: Examples of a global batch, in the mean, for the bar of several workers;
            None where that is unknown.
        **params: What Keras tells each callback: `epochs` and `steps`.
    """
    inner = callbacks
    if not isinstance(callbacks, keras.callbacks.CallbackList):
        verbose = verbose if workers.is_chief else 0
        inner = keras.callbacks.CallbackList(
            callbacks, add_history=add_history, add_progbar=verbose != 0, model=model,
            verbose=verbose, **params,
        )
        progress_lines.write_lines(inner.callbacks)
    if is_alone or not workers.has_others:
        return inner
    if examples_of_step is not None:
        throughput.show_examples_per_sec(inner.callbacks, examples_of_step=examples_of_step)
    refuse_unable(inner)
    return SharedEvents(inner, model=model, workers=workers, comparison=comparison)


class SharedEvents:
    """A `CallbackList` after whose events the workers hold the same learning rates and weights.

    Learning rates are compared after each event of an epoch, and after each event of a batch if a
    custom callback listens to batches. The variables are compared, by a checksum each, wherever
    there is a custom callback, or one that restores them. The chief's values hold, and a
    warning names the variables. If variables differ before the callbacks of an event have run, they
    were changed between two batches, on some workers only: the steps since then cannot be repaired,
    and the run ends.

    Args:
        inner: The callbacks.
        model: The model that they act on.
        workers: The workers of the model's strategy.
        comparison: Compares the model's variables over the workers.
    """

    def __init__(
        self,
        inner: keras.callbacks.CallbackList,
        *,
        model: keras.Model,
        workers: Workers,
        comparison: Comparison,
    ) -> None:
        self._inner, self._model, self._comparison = inner, model, comparison
        self._workers = workers
        own = [c for c in inner.callbacks if _is_own(c)]
        restores = [c for c in inner.callbacks if isinstance(c, keras.callbacks.BackupAndRestore)]
        listens = any(_listens(callback) for callback in own)
        flags = workers.gather(bool(own), bool(restores), listens)
        self._has_own, self._restores, self._has_listener = np.any(flags, axis=0).tolist()
        self._has_begun = self._told = False

    def __getattr__(self, name: str) -> Any:
        hook = getattr(self._inner, name)
        if name in _OF_EPOCHS:
            return lambda *args, **kwargs: self._of_epoch(name, hook, *args, **kwargs)
        if name in _OF_BATCHES and self._has_listener:
            return lambda *args, **kwargs: self._of_batch(name, hook, *args, **kwargs)
        return hook

    def _of_epoch(self, name: str, hook: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        is_first, self._has_begun = not self._has_begun, True
        if self._has_listener and not is_first:
            self._refuse_differing(name)
        hook(*args, **kwargs)
        self._settle_rates(name)
        if self._has_own or (is_first and self._restores):
            self._settle_variables(name, expected=is_first and self._restores)

    def _of_batch(self, name: str, hook: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        hook(*args, **kwargs)
        self._settle_rates(name)

    def _refuse_differing(self, name: str) -> None:
        differing = self._comparison.differing()
        if differing:
            raise RuntimeError(
                f"The workers' variables differ before {name}: "
                f"{', '.join(entry.name for entry in differing)}. A callback changed them between "
                "two batches, on some workers only. Let it do so on every worker, or in "
                "on_epoch_begin or on_epoch_end, where the chief's values hold."
            )

    def _settle_rates(self, name: str) -> None:
        rates = _learning_rates(self._model.optimizer)
        own = [np.float64(np.asarray(rate)) for rate in rates]
        rows = self._workers.gather(*(int(value.view(np.int64)) for value in own))
        if (rows == rows[0]).all():
            return
        values = rows.view(np.float64)
        self._warn(
            f"learning rates {values.tolist()} by worker after {name}: a callback set them on "
            "some workers only"
        )
        with tf_internals.default_replica_mode():
            for rate, value in zip(rates, values[0], strict=True):
                rate.assign(value)

    def _settle_variables(self, name: str, *, expected: bool) -> None:
        differing = self._comparison.differing()
        if differing and not expected:
            names = ", ".join(entry.name for entry in differing)
            self._warn(f"{names} after {name}: they were changed on some workers only")
        for entry in differing:
            own = np.asarray(self._comparison.local(entry).read_value())
            chief = np.frombuffer(self._workers.from_chief(own.tobytes()), own.dtype)
            with tf_internals.default_replica_mode():
                entry.variable.assign(chief.reshape(own.shape))

    def _warn(self, text: str) -> None:
        if not self._told:
            _LOG.warning("The workers differ in %s. The chief's values hold.", text)
        self._told = True


def _is_own(callback: Any) -> bool:
    """Tells whether a callback runs the user's code, which may do anything."""
    is_lambda = isinstance(callback, keras.callbacks.LambdaCallback)
    return is_lambda or not type(callback).__module__.startswith("keras.")


def _listens(callback: Any) -> bool:
    return listeners.interest_of(callback, phase="train") is listeners.Interest.EVERY


def _learning_rates(optimizer: Any) -> list[Any]:
    """Returns the variables that hold learning rates; a schedule has no such variable."""
    if optimizer is None:
        return []
    inner = getattr(optimizer, "optimizers", None) or [getattr(optimizer, "inner_optimizer", None)]
    if inner != [None]:
        return [rate for one in inner for rate in _learning_rates(one)]
    rate = getattr(optimizer, "learning_rate", None)
    return [rate] if isinstance(rate, keras.Variable) else []
