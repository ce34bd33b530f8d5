"""How does Keras save a model into memory, and load it from there?

`keras.saving.save_model` takes a path alone; what it calls takes an open file too.
"""

from __future__ import annotations

import io
from typing import Any

import keras

from tfdist.compat.keras_internals import module


def save(model: keras.Model, file: io.IOBase) -> None:
    """Writes what a .keras file holds. Vocabularies of layers go through temporary files."""
    module("keras.src.saving.saving_lib").save_model(model, file)


def load(file: io.IOBase, **options: Any) -> keras.Model:
    """Reads what `save` wrote; `options` are those of `keras.models.load_model`."""
    return module("keras.src.saving.saving_lib").load_model(file, **options)
