"""What happened in each step of a run?  A record of every tensor that two runs should agree on.

`record` is what `verify` runs in processes of its own: once on one device, once distributed.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.compat import replacing
from tfdist.compat.notes import set_note
from tfdist.global_batch import batch_norm
from tfdist.global_batch import position as position_lib
from tfdist.strategy import factory
from tfdist.training.trainer import Trainer, trainer_of

# What is compared, in the order in which a difference arises within a step.
GROUPS = ("loss", "gradient", "weight", "state", "metric")
Record = dict[tuple[str, str], np.ndarray]  # (group, name) to one row a local replica


def record(build_fn: Callable[[], Any], data: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Builds the model under `options["device"]` and trains it, recording every step.

    Args:
        build_fn: Returns a compiled model, or a `tfdist.Trainer`; called in the strategy's scope.
        data: `(x, y, sample_weight)`, as `fit` takes them.
        options: `device`, `seed`, `steps`, `batch_size`, `floatx`.

    Returns:
        `steps`: one `Record` per step, and a first one before training; `plain_batch_norm`: names
        of layers that use each replica's own statistics; `replicas`: the number of replicas.
    """
    keras.config.set_floatx(options["floatx"])
    made = factory.get_strategy(options["device"])
    keras.utils.set_random_seed(options["seed"])
    with made.scope():
        built = build_fn()
    trainer = built if isinstance(built, Trainer) else trainer_of(built)
    x, y, sample_weight = data
    return recorded(
        trainer, options["steps"], x=x, y=y, sample_weight=sample_weight,
        batch_size=options["batch_size"], shuffle=False, epochs=options["steps"], verbose=0,
    )


def recorded(
    trainer: Trainer, steps: int, *, callbacks: Any = None, **arguments: Any
) -> dict[str, Any]:
    """Trains for some steps, and records each of them.

    Args:
        trainer: Of the model.
        steps: Their number, at most.
        callbacks: As in `fit`.
        **arguments: Others of `fit`.

    Returns:
        As `record`.
    """
    found: list[Record] = []
    with _tapped_gradients() as gradients:
        recorder = keras.callbacks.LambdaCallback(
            on_train_begin=lambda logs: found.append(_states(trainer)),
            on_train_batch_end=lambda batch, logs: found.append(
                _step(trainer, gradients, logs, number=len(found))
            ),
        )
        own = keras.tree.flatten(callbacks) if callbacks else []
        set_note(trainer.model, "is_recorded", True)
        trainer.fit(**{**arguments, "check": False}, callbacks=[*own, recorder, _stop_after(steps)])
        set_note(trainer.model, "is_recorded", False)
    return {
        "steps": found[: steps + 1],
        "plain_batch_norm": batch_norm.plain_batch_normalizations(trainer.model),
        "replicas": trainer.strategy.num_replicas_in_sync,
    }


def _stop_after(steps: int) -> keras.callbacks.Callback:
    seen = iter(range(1, steps + 1))
    stopper = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: stop())

    def stop() -> None:
        if next(seen, steps) >= steps:
            stopper.model.stop_training = True

    return stopper


def _step(
    trainer: Trainer, gradients: dict[str, np.ndarray], logs: dict[str, Any], *, number: int
) -> Record:
    """Records the state after a step; an update's gradients are recorded with its last step."""
    scalars = {("loss" if name == "loss" else "metric", name): logs[name] for name in logs}
    taken = {}
    if number % _steps_of_an_update(trainer) == 0:
        taken = {("gradient", name): value for name, value in gradients.items()}
        gradients.clear()
    # Logs are Python floats, but only as exact as the type that they were computed in.
    scalars = {key: np.asarray(value, keras.config.floatx()) for key, value in scalars.items()}
    rows = {key: np.asarray(value)[np.newaxis] for key, value in (scalars | taken).items()}
    return rows | _states(trainer)


def _steps_of_an_update(trainer: Trainer) -> int:
    """Returns after how many steps all gradients of an update have reached the optimizer."""
    optimizer = getattr(trainer.model, "optimizer", None)
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return getattr(inner, "gradient_accumulation_steps", None) or 1


def _states(trainer: Trainer) -> Record:
    model, made = trainer.model, trainer.strategy
    trainable = {id(variable) for variable in model.trainable_variables}

    def rows(variable: Any) -> np.ndarray:
        copies = made.experimental_local_results(variable.value)
        return np.stack([np.asarray(copy) for copy in copies])

    return {
        ("weight" if id(variable) in trainable else "state", variable.path): rows(variable)
        for variable in model.variables
    }


@contextlib.contextmanager
def _tapped_gradients() -> Iterator[dict[str, np.ndarray]]:
    """Adds up gradients as they arrive at the optimizer, by variable."""
    kept: dict[str, np.ndarray] = {}
    inside = threading.local()

    def keep(gradient: Any, variable: Any) -> None:
        path = variable.path

        def add(value: np.ndarray) -> None:
            kept[path] = kept.get(path, 0) + value

        tf.numpy_function(add, [gradient], [])

    def apply(original: Any, optimizer: Any, grads: Any, trainable_variables: Any = None) -> Any:
        is_update = position_lib.current() is None and not getattr(inside, "update", False)
        if is_update and trainable_variables is not None:
            for gradient, variable in zip(grads, trainable_variables, strict=True):
                if gradient is not None:
                    keep(tf.convert_to_tensor(gradient), variable)
        before, inside.update = getattr(inside, "update", False), is_update
        try:
            return original(optimizer, grads, trainable_variables)
        finally:
            inside.update = before

    with replacing.replaced_apply(apply):
        yield kept
