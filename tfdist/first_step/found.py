"""What has the check of a model's steps found, since it was compiled?

It is noted on the model, so that a step is checked once, and on its strategy, for `describe`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras

from tfdist.compat import keras_internals
from tfdist.compat.notes import note_of, set_note
from tfdist.loop.loop_options import LoopOptions

ALIKE, DIFFERS, WHOLE, NOTHING = "alike", "differs", "whole", "nothing"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What is known of a step.

    Attributes:
        kind: "alike": it is one device's, split or not. "differs": it is not, and goes on. "whole":
            it has to be computed whole. "nothing": nothing could be found.
        text: What was found, in a sentence.
        compiled: What `compile` makes anew, as it was when the step was checked.
        data: The kinds of data that it was checked with, see `data_of`.
    """

    kind: str
    text: str
    compiled: tuple[Any, ...]
    data: frozenset[str] = frozenset()


def verdict(model: Any, step: str) -> Verdict | None:
    """Returns what is known of a step, or None."""
    noted: Verdict | None = note_of(model, "checked", {}).get(step)
    if noted is None:
        return None
    now = _compiled(model)
    return noted if all(a is b for a, b in zip(noted.compiled, now, strict=True)) else None


def kind_of(model: Any, step: str) -> str:
    """Returns the kind of what is known of a step; "" where nothing is."""
    known = verdict(model, step)
    return known.kind if known else ""


def is_whole(model: Any, step: str) -> bool:
    """Tells whether it was found that a step has to be computed whole."""
    return kind_of(model, step) == WHOLE


def as_found(model: Any, options: LoopOptions, step: str) -> LoopOptions:
    """Returns the options of a loop, which computes a step whole if it was found to need it."""
    return dataclasses.replace(options, is_whole=options.has_all_rows and is_whole(model, step))


def data_of(spec: Any) -> str:
    """Returns which kind of data a batch is: a step may do something else where it has weights.

    Args:
        spec: Specs of a batch, such as `(x, y, None)`, which is of one kind with `(x, y)`.

    Returns:
        Its structure, with types and numbers of dimensions.
    """

    def leaf_of(leaf: Any) -> str:
        if not hasattr(leaf, "dtype"):
            return type(leaf).__name__
        return f"{type(leaf).__name__} {leaf.dtype.name} {leaf.shape.rank}"

    if isinstance(spec, tuple):
        last = next((i for i in reversed(range(len(spec))) if spec[i] is not None), 0)
        spec = spec[: last + 1] if last else spec[0]
    return str(keras.tree.map_structure(leaf_of, spec, none_is_leaf=False))


def is_settled(model: Any, step: str, check: str | bool, *, data: str) -> bool:
    """Tells whether a check of a step, with this option, would have nothing more to say.

    Args:
        model: The model.
        step: As in `note`.
        check: As in `Options`.
        data: The kind of data, see `data_of`. What is computed whole is right for any.
    """
    kinds = {"raise": (ALIKE, NOTHING), "warn": (ALIKE, NOTHING, DIFFERS), "whole": (ALIKE,)}
    if not check or (check == "whole" and is_whole(model, step)):
        return True
    known = verdict(model, step)
    return known is not None and known.kind in kinds[str(check)] and data in known.data


def note(
    model: Any, strategy: Any, step: str, kind: str, text: str = "", *, data: str = ""
) -> None:
    """Notes what was found of a step.

    Args:
        model: The model.
        strategy: Its strategy.
        step: "train_step", "test_step" or "predict_step".
        kind: As in `Verdict`.
        text: As in `Verdict`.
        data: The kind of data that it was found with.
    """
    known, kinds, passed = verdict(model, step), frozenset([data]), {ALIKE, NOTHING}
    if known is not None and (known.kind == kind or {known.kind, kind} <= passed):
        kinds |= known.data
    checked = {**note_of(model, "checked", {}), step: Verdict(kind, text, _compiled(model), kinds)}
    set_note(model, "checked", checked)
    if text:
        lines = {**note_of(strategy, "checked_steps", {}), f"{step} of {model.name!r}": text}
        set_note(strategy, "checked_steps", lines)


def texts(model: Any) -> Mapping[str, str]:
    """Returns what was found, by step: what `history.checked` is."""
    known = {step: verdict(model, step) for step in note_of(model, "checked", {})}
    return {step: one.text for step, one in known.items() if one is not None and one.text}


def _compiled(model: Any) -> tuple[Any, ...]:
    """Returns what `compile` makes anew."""
    if not getattr(model, "compiled", False):
        return None, None
    return model.optimizer, keras_internals.loss_tracker(model)
