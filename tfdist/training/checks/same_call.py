"""Were all workers called alike?  The method, its arguments, and the model with all its options.

Whatever decides what a call computes is compared over the workers before the first collective that
depends on it. Data is compared in data/same_data.py, where it is made into batches, and weights in
fingerprints.py, once they are there. Callbacks may differ, as may what is only shown or written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras

from tfdist.checkpoint import same_run
from tfdist.communication.agreement import Encoded, encoded, require_alike
from tfdist.communication.compression import parse_reduction
from tfdist.communication.workers import Workers
from tfdist.compat import keras_internals
from tfdist.compat.notes import note_of, set_note
from tfdist.data import same_data

_CURE = (
    "Give every worker the same model, compiled in the same way, and the same arguments and seeds: "
    "only the chief's callbacks write files, so nothing has to differ between the workers."
)
# Each worker may have its own, or they are agreed upon later.
_OWN = ("callbacks", "verbose", "profile", "return_dict", "trackers")
# Compared as data; here counts whether they were given at all.
_DATA = ("x", "y", "sample_weight", "validation_data", "checkpoint_dir", "encrypt_to")


def require(
    name: str, arguments: Mapping[str, Any], *, model: Any, replica_step: Any, workers: Workers
) -> None:
    """Compares a call over the workers; every worker has to make one.

    Args:
        name: Of the method: "fit", say.
        arguments: All arguments by name, with their defaults.
        model: The model.
        replica_step: The user's training rule, or None.
        workers: Of the model's strategy.

    Raises:
        ValueError: The calls differ; the message names the first difference.
    """
    if not workers.has_others:
        return
    facts: dict[str, Any] = {"the call": name}
    facts |= {key: _told(key, value) for key, value in arguments.items() if key not in _OWN}
    is_one_batch = name.endswith("_on_batch")
    if is_one_batch:
        batch = [arguments.get(key) for key in ("x", "y", "sample_weight")]
        facts["the batch"] = same_data.of_batch(batch)
    facts["the seed of keras.utils.set_random_seed"] = keras_internals.random_seed()
    facts["keras.config.floatx()"] = keras.config.floatx()
    facts["replica_step"] = "absent" if replica_step is None else "given"
    facts["the model"] = described(model, is_read_again=not is_one_batch)
    require_alike(
        facts, workers, what="were called with different arguments", cure=_CURE,
        where="the beginning",
    )


def described(model: Any, *, is_read_again: bool = True) -> Encoded:
    """Returns what is compared of a model, as text.

    Args:
        model: The model.
        is_read_again: Whether its configuration is read, which takes longer than a small step;
            else only where it was compiled since.
    """
    compiled = (model.optimizer, keras_internals.loss_tracker(model)) if model.compiled else ()
    before, text = note_of(model, "described", (None, None))
    is_known = before is not None and all(
        one is other for one, other in zip(before, compiled, strict=False)
    )
    if is_read_again or not is_known or len(before) != len(compiled):
        text = encoded(_of_model(model))
        set_note(model, "described", (compiled, text))
    return text


def _of_model(model: Any) -> dict[str, Any]:
    facts = same_run.of_model(model)
    if model.compiled:
        facts |= {"jit_compile": model.jit_compile, "run_eagerly": model.run_eagerly}
        if facts["optimizer"] is None:  # what could not be told together is told apart
            facts["optimizer"] = same_run.config_of(model.optimizer)
            facts["loss"] = same_run.config_of(model.loss)
    if "layers" not in (facts["config"] or {}):
        # A class of the user's own, whose configuration need not tell of its layers.
        layers = [one for one in keras_internals.flat_layers(model) if one is not model]
        facts["layers"] = [same_run.config_of(layer) for layer in layers]
    return facts


def _told(key: str, value: Any) -> Any:
    if key in _DATA:
        return "absent" if value is None else "given"
    if key == "batch_size":
        return 32 if value is None else value
    if key == "check":
        return "raise" if value == "auto" else value
    if key == "privacy" and value is not None:
        return dataclasses.asdict(value)
    if key == "reduction":
        return parse_reduction(value).numbers
    if key == "shuffle":
        return value if isinstance(value, str) else bool(value)
    if isinstance(value, keras.optimizers.Optimizer):
        return same_run.config_of(value)
    return value
