"""Is everything that tfdist notes on other objects in one list?"""

from __future__ import annotations

import pathlib
import types

import keras
import pytest

import tfdist
from tfdist.compat import notes

_PACKAGE = pathlib.Path(tfdist.__file__).parent


def test_a_note_is_kept_and_found():
    owner = types.SimpleNamespace()
    assert notes.note_of(owner, "heart") is None
    assert notes.note_of(owner, "heart", "none yet") == "none yet"
    notes.set_note(owner, "heart", None)  # None is something that can be noted
    assert notes.note_of(owner, "heart", "none yet") is None


def test_a_model_does_not_track_what_is_noted():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    before = len(model.variables)
    notes.set_note(model, "outer_optimizer", (None, keras.Sequential([keras.layers.Dense(3)])))
    assert len(model.variables) == before


def test_a_name_that_is_in_no_list_is_refused():
    with pytest.raises(KeyError):
        notes.set_note(types.SimpleNamespace(), "surprise", 1)
    with pytest.raises(KeyError):
        notes.note_of(types.SimpleNamespace(), "surprise")


def test_no_other_file_writes_hidden_attributes():
    for path in _PACKAGE.rglob("*.py"):
        assert "_tfdist_" not in path.read_text() or path.name == "notes.py", path


def test_every_note_is_used():
    text = "".join(p.read_text() for p in _PACKAGE.rglob("*.py") if p.name != "notes.py")
    for name in notes.NOTES:
        assert f'"{name}"' in text, name
