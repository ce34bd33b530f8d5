"""What does tfdist note on objects that are not its own?  The full list, by name.

A trainer belongs to its model, and a heartbeat to its strategy: they live equally long. So each is
kept in the other object's own dictionary, bypassing Keras's tracking of attributes, under one
prefix. This file lists all such notes.
"""

from __future__ import annotations

from typing import Any

_PREFIX = "_tfdist_"

# What each note is, by name. The first ones are on models, "order" is on datasets, and those from
# "heart" on are on strategies.
NOTES = {
    "trainer": "the Trainer behind fit, evaluate and predict, which keeps the traced loops",
    "paces": "how many steps to run per call, by phase, as learnt in earlier epochs",
    "attached": "variables of a run besides model and optimizer, by name: see step/variables.py",
    "residuals": "rounding errors, one variable per gradient: see step/error_feedback.py",
    "outer_optimizer": "the outer optimizer that was given, and its copy made in the scope",
    "warned_of_statistics": "whether a warning said that normalizations see one replica's rows",
    "checked": "by step: what the check of the first one has found, see first_step/found.py",
    "described": "the text of its configuration, and the objects that it was compiled with",
    "is_recorded": "whether its weights are compared with one device's, so that fit need not",
    "has_parted": "whether a warning said that replicas hold different states of layers",
    "shared_lookups": "which gradients are of lookups that happen once: see step/lookups.py",
    "draws": "what private steps draw, which the traced loops keep: see privacy/draws.py",
    "spent": "what private trainings of it have spent: see privacy/ledger.py",
    "told_of_privacy": "whether it was said what of private training has no noise",
    "shards": "of an optimizer: what it was built for, see sharding/shards.py; None for weights",
    "order": "the order of a dataset's elements, by pass: see data/files/record_files.py",
    "heart": "the heartbeat between the workers, or None where they are not connected",
    "whereabouts": "how far this worker has come among what all workers do together",
    "exchanges": "the traced functions by which the workers exchange numbers",
    "has_checked_links": "whether the links between the replicas were checked",
    "checked_steps": "what the checks of its models' first steps have found, by step and model",
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
