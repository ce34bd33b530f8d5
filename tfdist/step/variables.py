"""What is a run?  One list of all its variables, and of what each replica holds of them.

Synopsis:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="out")])
    >>> [entry.name.rpartition("/")[2] for entry in entries_of(model)]
    ['kernel', 'bias']

Most variables are the same on every replica. Two kinds are not: sums that are added up when they
are read (metrics), and variables that replicas write by themselves while they train (the moving
averages of a BatchNormalization that is not synchronized). Of these, every replica's value is part
of the run: a sum of floats that is split in another way differs in its last bits.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.communication.workers import Workers
from tfdist.compat import keras_internals, tf_internals
from tfdist.compat.notes import note_of, set_note
from tfdist.sharding import shards
from tfdist.sharding.sliced_state import PARTS, HeldState

# After the name of a variable: the values of all replicas, along a new first axis.
OF_REPLICAS = "@replicas"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A variable of a run.

    Attributes:
        name: Its number in the run and its path; the same in every process that builds the run.
        variable: Keras's or TensorFlow's.
        per_replica: "" where all replicas hold the same value; "sum" where the value is the sum of
            theirs; "own" where each may have its own value, and the first replica's stands for all;
            "parts" where each holds a part of it alone, which is a `HeldState`.
    """

    name: str
    variable: Any
    per_replica: str = ""


def entries_of(*objects: Any) -> list[Entry]:
    """Lists the variables of models, with their optimizers and metrics, and of other objects.

    Args:
        *objects: Keras models, anything else with `variables`, or variables. No variable is listed
            twice.
    """
    entries: list[Entry] = []
    seen: set[int] = set()
    for number, owner in enumerate(objects):
        prefix = "" if len(objects) == 1 else f"{number}/"
        for group, variables in _groups(owner).items():
            new = [variable for variable in variables if id(variable) not in seen]
            seen |= {id(variable) for variable in new}
            entries += [
                Entry(f"{prefix}{group}/{i}/{plain_name(_path(v))}", v, _per_replica(v, group))
                for i, v in enumerate(new)
            ]
    return entries


def plain_name(path: str) -> str:
    """Removes the numbers by which Keras tells apart the objects that one process has made.

    >>> plain_name("adam/sequential_3_dense_12_kernel_momentum")
    'adam/sequential_dense_kernel_momentum'
    """
    return re.sub(r"_\d+(?=[_/]|$)", "", path)


def snapshot(entries: Sequence[Entry], workers: Workers) -> dict[str, Any]:
    """Copies all variables to the host's memory; every worker has to call it.

    On a CPU nothing is copied: TensorFlow gives a variable new memory when it is written to while
    its old value is still held.

    Returns:
        Tensors by name. If the replicas differ, all their values, by name and `OF_REPLICAS`. What
        they hold in parts is whole, and the chief's alone.
    """
    tensors: dict[str, Any] = _of_replicas(entries, workers)
    with tf.device("/cpu:0"):
        for entry in entries:
            if isinstance(entry.variable, HeldState):
                whole = entry.variable.numpy()
                if workers.is_chief:  # who writes; nobody else needs the memory for it
                    tensors[entry.name] = whole
            elif entry.name + OF_REPLICAS not in tensors:
                first = components(workers.strategy, entry.variable)[0]
                tensors[entry.name] = tf.identity(first.read_value())
    return tensors


def restore(
    entries: Sequence[Entry], tensors: Mapping[str, np.ndarray], workers: Workers
) -> None:
    """Gives all variables the values that `snapshot` took, on any number of replicas."""
    share = workers.share
    for entry in entries:
        rows = tensors.get(entry.name + OF_REPLICAS)
        if rows is None and entry.per_replica != "sum":
            with tf_internals.default_replica_mode():
                entry.variable.assign(tensors[entry.name])
            continue
        if rows is None:
            rows = np.asarray(tensors[entry.name])[np.newaxis]
        if len(rows) != share.num_replicas:
            rows = _dealt_out(rows, entry.per_replica, share.num_replicas)
        own = components(workers.strategy, entry.variable)
        for component, replica in zip(own, share.replicas, strict=True):
            component.assign(rows[replica])


def differences(entries: Sequence[Entry], tensors: Mapping[str, np.ndarray]) -> list[str]:
    """Says which variables of a run do not fit a snapshot; [] if all of them do.

    Args:
        entries: The run's variables.
        tensors: The snapshot's tensors, and no others.
    """
    saved = {
        name.removesuffix(OF_REPLICAS): _kind_of_saved(name, value)
        for name, value in tensors.items()
    }
    found = {entry.name: _kind(entry.variable.shape, entry.variable.dtype) for entry in entries}
    return [
        f"{name}: {saved.get(name, 'absent')} in the checkpoint, {found.get(name, 'absent')} here"
        for name in [*found, *(saved.keys() - found.keys())]
        if saved.get(name) != found.get(name)
    ]


def _kind_of_saved(name: str, value: np.ndarray) -> str:
    return _kind(value.shape[1:] if name.endswith(OF_REPLICAS) else value.shape, value.dtype)


def _kind(shape: Any, dtype: Any) -> str:
    return f"{tf.as_dtype(dtype).name}{list(shape)}"


def _groups(owner: Any) -> dict[str, Sequence[Any]]:
    if not isinstance(owner, keras_internals.trainer_class()):
        return {"variables": owner.variables if hasattr(owner, "variables") else [owner]}
    others = optimizers_of(owner)
    compiled = others.pop("optimizer", None)
    plain = {id(v): v for _, v in _attributes(owner) if isinstance(v, tf.Variable)}
    attached = {name: _variables_of(other) for name, other in _attached(owner).items()}
    return {
        "model": owner.variables,
        "optimizer": shards.states_of(compiled) if compiled is not None else (),
        "metrics": owner.metrics_variables if owner.compiled else (),
        **{name: shards.states_of(other) for name, other in others.items()},
        "TensorFlow": list(plain.values()),
        **attached,
    }


def optimizers_of(model: Any) -> dict[str, Any]:
    """Returns the optimizers that a model and its parts have as attributes, by a name for each.

    That of `compile` is "optimizer". A model with a `train_step` of its own may have others.
    """
    found = {"optimizer": model.optimizer} if getattr(model, "optimizer", None) is not None else {}
    for name, value in _attributes(model):
        is_new = not any(value is other for other in found.values())
        if isinstance(value, keras.optimizers.Optimizer) and is_new:
            found[f"optimizer {len(found)} {name.lstrip('_')}"] = value
    return found


def _attributes(model: Any) -> Iterator[tuple[str, Any]]:
    """Yields what a model and its parts have as attributes, and in lists and dicts there."""
    for layer in keras_internals.flat_layers(model):
        for name, value in vars(layer).items():
            if isinstance(value, (list, tuple)):
                yield from ((f"{name}{i}", one) for i, one in enumerate(value))
            elif isinstance(value, dict):
                yield from ((f"{name} {key}", one) for key, one in value.items())
            else:
                yield name, value


def _variables_of(owner: Any) -> Sequence[Any]:
    return owner if isinstance(owner, (list, tuple)) else owner.variables


def attach(model: keras.Model, name: str, owner: Any) -> None:
    """Adds further variables to a model's run, and so to its checkpoints.

    Args:
        model: The model that is trained.
        name: What they are.
        owner: Variables, or anything with `variables`; None removes what has this name.
    """
    attached = {other: value for other, value in _attached(model).items() if other != name}
    set_note(model, "attached", attached if owner is None else {**attached, name: owner})


def attached(model: keras.Model, name: str) -> Any:
    """Returns what was attached to a model under this name, or None."""
    return _attached(model).get(name)


def _attached(model: keras.Model) -> dict[str, Any]:
    return note_of(model, "attached", {})


def _path(variable: Any) -> str:
    return getattr(variable, "path", None) or variable.name.partition(":")[0]


def _per_replica(variable: Any, group: str) -> str:
    if isinstance(variable, HeldState):
        return PARTS
    value = value_of(variable)
    if value.synchronization == tf.VariableSynchronization.ON_READ:
        return "sum" if value.aggregation == tf.VariableAggregation.SUM else "own"
    return "own" if group == "model" and not variable.trainable else ""


def value_of(variable: Any) -> Any:
    """Returns the TensorFlow variable of a Keras variable; any other variable unchanged."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def components(strategy: tf.distribute.Strategy, variable: Any) -> Sequence[Any]:
    """Returns TensorFlow's variables of this worker's replicas."""
    if isinstance(variable, HeldState):
        return variable.parts
    return strategy.experimental_local_results(value_of(variable))


def _of_replicas(
    entries: Sequence[Entry], workers: Workers
) -> dict[str, np.ndarray]:
    """Returns the values that differ between replicas, or that they hold parts of."""
    if workers.share.num_replicas == 1:
        return {}
    own = {
        entry.name: np.stack([p.numpy() for p in components(workers.strategy, entry.variable)])
        for entry in entries
        if entry.per_replica and entry.per_replica != PARTS
    }
    sums = {entry.name for entry in entries if entry.per_replica == "sum"}
    # Frozen layers are large and the same everywhere: only variables that differ have to travel.
    if _is_alike({name: rows for name, rows in own.items() if name not in sums}, workers):
        own = {name: rows for name, rows in own.items() if name in sums}
    if not own:
        return {}
    every = workers.rows(np.concatenate([_as_bytes(rows) for rows in own.values()], axis=1))
    gathered, start = {}, 0
    for name, rows in own.items():
        width = rows[0].nbytes
        values = np.ascontiguousarray(every[:, start : start + width]).view(rows.dtype)
        values = values.reshape(len(every), *rows.shape[1:])
        start += width
        if name in sums or (_as_bytes(values) != _as_bytes(values)[0]).any():
            gathered[name + OF_REPLICAS] = values
    return gathered


def _is_alike(own: Mapping[str, np.ndarray], workers: Workers) -> bool:
    """Tells whether all replicas hold the same values; every worker has to call it."""
    local = workers.share.local_replicas
    digests = [hashlib.sha256() for _ in range(local)]
    for rows in own.values():
        for digest, row in zip(digests, rows, strict=True):
            digest.update(row.tobytes())
    every = workers.rows(np.stack([np.frombuffer(d.digest(), np.uint8) for d in digests]))
    return bool((every == every[0]).all())


def _as_bytes(rows: np.ndarray) -> np.ndarray:
    return np.frombuffer(rows.tobytes(), np.uint8).reshape(len(rows), rows[0].nbytes)


def _dealt_out(rows: np.ndarray, rule: str, num_replicas: int) -> np.ndarray:
    """Fits the values of some replicas to another number of them."""
    dealt = np.repeat(rows[:1], num_replicas, axis=0)
    if rule == "sum":
        dealt[0], dealt[1:] = rows.sum(axis=0), 0
    return dealt
