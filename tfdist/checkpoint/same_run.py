"""Is this the run that the checkpoint is of?  What must be equal, and what should be.

A run is its model, its loss and optimizer, its data and batches, and its seed. If one of them
changes, continuing would mix two different runs. The number of workers, replicas and threads, and
the versions of the software, may change; the result is then equal up to rounding.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.cluster import contract
from tfdist.cluster.wording import shorten
from tfdist.communication.share import Share

_ABSENT = "absent"
_OF_A_FEED = ("pass", "batch", "ends", "longest", "skips")
_SHOWN = 80  # characters of a value in a message
# Names of single objects, and code as bytes, which includes its file name.
_NO_PART = ("name", "shared_object_id", "__lambda__", "code")


def of_model(model: keras.Model) -> dict[str, Any]:
    """Describes a model and its training, as far as its classes tell, in plain values."""
    described: dict[str, Any] = {"class": type(model).__qualname__}
    described |= {"config": _config(model.get_config)}
    if model.compiled:
        compiled = _config(model.get_compile_config) or {}
        names = ("optimizer", "loss", "loss_weights", "metrics", "weighted_metrics")
        described |= {name: compiled.get(name) for name in names}
    return described


def config_of(value: Any) -> dict[str, Any]:
    """Describes one object, such as an optimizer or a layer, in plain values."""
    kind = getattr(value, "__qualname__", None) or type(value).__qualname__
    get = getattr(value, "get_config", None)
    return {"class": kind, "config": _config(lambda: value) if get is None else _config(get)}


def learning_rate(model: keras.Model) -> float | None:
    """Returns the current learning rate; None if a schedule, or nothing, sets it."""
    rate = getattr(model.optimizer, "learning_rate", None)
    # A schedule gives a tensor, computed for the current step.
    return float(np.asarray(rate.value)) if isinstance(rate, keras.Variable) else None


def of_world(share: Share) -> dict[str, Any]:
    """Describes the facts that the last bits of the results depend on."""
    return {
        "workers": share.num_replicas // share.local_replicas,
        "replicas": share.num_replicas,
        "threads": _num_threads(),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }


def of_number(share: Share, *, is_share: bool, local_steps: int | None) -> dict[str, int]:
    """Describes what would be another run with another number of workers, or of replicas.

    Args:
        share: Which replicas this worker feeds.
        is_share: Whether each worker passes only its own examples.
        local_steps: As in `fit`.

    Raises:
        ValueError: There is such a thing, and the launcher may change the number.
    """
    workers = share.num_replicas // share.local_replicas
    bound = {"workers with examples of their own": workers} if is_share else {}
    bound |= {"replicas with steps of their own": share.num_replicas} if local_steps else {}
    if bound and os.environ.get(contract.ELASTIC) == "1":
        given = "already_sharded=True" if is_share else f"local_steps={local_steps!r}"
        raise ValueError(
            f"{given} means something else with each number of workers, and the launcher may change"
            " it (--workers=MIN:MAX). Leave it out, or start a fixed number of workers."
        )
    return bound


def lacks(facts: Mapping[str, Any], plain: Mapping[str, Any]) -> list[str]:
    """Names what a checkpoint lacks of what `run.Run` saves; one of a Checkpointer alone has none.

    Args:
        facts: Its manifest.
        plain: Its JSON part.
    """
    run, world, place = facts.get("run"), facts.get("world"), plain.get("place")
    feeds = plain.get("feeds")
    is_there = {
        "seed": isinstance(run, dict) and _is_count(run.get("seed")),
        "world": isinstance(world, dict)
        and all(_is_count(world.get(name)) for name in ("workers", "replicas")),
        "learning rate": "learning_rate" in facts,
        "place": isinstance(place, dict)
        and place.keys() == {"epoch", "done", "step", "is_over", "logs"}
        and all(_is_count(place[name]) for name in ("epoch", "done", "step"))
        and type(place["is_over"]) is bool
        and isinstance(place["logs"], dict),
        "places in the data": isinstance(feeds, dict)
        and "train" in feeds
        and all(
            isinstance(feed, dict) and all(_is_count(feed.get(name)) for name in _OF_A_FEED)
            for feed in feeds.values()
        ),
        "callbacks": isinstance(plain.get("callbacks"), dict)
        and all(isinstance(state, dict) for state in plain["callbacks"].values()),
    }
    return [f"{name}: {_ABSENT} in the checkpoint" for name, found in is_there.items() if not found]


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def differences(before: Any, now: Any, *, path: str = "") -> list[str]:
    """Names the paths at which two plain values differ, with both values.

    >>> differences({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]})
    ['a[1].b: 2 in the checkpoint, 3 here']
    """
    return [
        f"{where or 'value'}: {shorten(old, limit=_SHOWN)} in the checkpoint,"
        f" {shorten(new, limit=_SHOWN)} here"
        for where, old, new in _differing(before, now, path)
    ]


def _differing(before: Any, now: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            inside = f"{path}.{key}" if path else str(key)
            yield from _differing(before.get(key, _ABSENT), now.get(key, _ABSENT), inside)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from _differing(old, new, f"{path}[{index}]")
    elif before != now:
        yield path, before, now


def _config(get: Any) -> Any:
    """Returns a configuration in plain values, without what differs from process to process."""
    try:
        config = keras.saving.serialize_keras_object(get())
    except Exception:  # a custom `get_config` may raise anything; the variables are compared too
        return None
    try:
        plain = json.dumps(config, default=lambda value: type(value).__name__)
    except (TypeError, ValueError):  # keys that are no strings, something that holds itself
        return None
    return _without_names(json.loads(plain))


def _without_names(value: Any) -> Any:
    if isinstance(value, dict):
        # A schedule is part of the run; a number is only the initial value of a variable.
        is_number = not isinstance(value.get("learning_rate"), dict)
        left_out = (*_NO_PART, "learning_rate") if is_number else _NO_PART
        return {key: _without_names(item) for key, item in value.items() if key not in left_out}
    if isinstance(value, list):
        return [_without_names(item) for item in value]
    # Keras numbers default names throughout the process.
    return re.sub(r"_\d+$", "", value) if isinstance(value, str) else value


def _num_threads() -> int:
    """Returns the threads among which TensorFlow divides one operation."""
    set_here = tf.config.threading.get_intra_op_parallelism_threads()
    set_outside = os.environ.get("TF_NUM_INTRAOP_THREADS", "")
    if set_here or set_outside.isdecimal():
        return set_here or int(set_outside)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
