"""What has the check of a model's steps found, since it was compiled?

It is noted on the model, so that a step is checked once, and on its strategy, for `describe`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

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
    """

    kind: str
    text: str
    compiled: tuple[Any, ...]


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


def is_settled(model: Any, step: str, check: str | bool) -> bool:
    """Tells whether a check of a step, with this option, would have nothing more to say."""
    kinds = {
        "raise": (ALIKE, NOTHING), "warn": (ALIKE, NOTHING, DIFFERS), "whole": (ALIKE, WHOLE),
    }  # fmt: skip
    return not check or kind_of(model, step) in kinds[str(check)]


def note(model: Any, strategy: Any, step: str, kind: str, text: str = "") -> None:
    """Notes what was found of a step.

    Args:
        model: The model.
        strategy: Its strategy.
        step: "train_step", "test_step" or "predict_step".
        kind: As in `Verdict`.
        text: As in `Verdict`.
    """
    checked = {**note_of(model, "checked", {}), step: Verdict(kind, text, _compiled(model))}
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
