"""What does tfdist note on objects that are not its own?  All of it, by name.

A trainer belongs to its model, and a heartbeat to its strategy: each lives as long as the other. So
it is kept in the object's own dictionary, past Keras's tracking of attributes, under one prefix.
Whoever wants to know what there may be finds it here.
"""

from __future__ import annotations

from typing import Any

_PREFIX = "_tfdist_"

# Name to what it is. The first ones stand on models, the last ones on strategies.
NOTES = {
    "trainer": "the Trainer behind fit, evaluate and predict, which keeps the traced loops",
    "paces": "how many steps of the model take how long, by phase: what an epoch has learnt",
    "attached": "what belongs to a run beside model and optimizer, by name: see step/variables.py",
    "residuals": "the rounding errors of gradients, a variable each: see step/error_feedback.py",
    "outer_optimizer": "the outer optimizer that was given, and its copy made in the scope",
    "warned_of_statistics": "whether it was said that normalizations see one replica's rows",
    "shared_lookups": "which gradients come of what is looked up once: see step/lookups.py",
    "heart": "the heartbeat between the workers, or None where they are not connected",
    "has_checked_links": "whether the links between the replicas were tried out",
    "changes_shapes": "whether a traced step has collectives whose shape follows the batch",
}


def note_of(owner: Any, name: str, default: Any = None) -> Any:
    """Returns what is noted on an object by this name, or `default`.

    Raises:
        KeyError: There is no such note.
    """
    NOTES[name]
    return vars(owner).get(_PREFIX + name, default)


def set_note(owner: Any, name: str, value: Any) -> None:
    """Notes a value on an object; see `note_of`."""
    NOTES[name]
    vars(owner)[_PREFIX + name] = value
