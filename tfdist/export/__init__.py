"""How is a trained model written for others, and does the file give the model's outputs?

Synopsis:

    >>> import keras, numpy as np, tempfile
    >>> from tfdist import export
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> path = f"{tempfile.mkdtemp()}/model.keras"
    >>> export.export_model(model, path, np.ones((3, 4))).format
    'keras'

Read in this order; each file imports from those above it only:

1. formats.py: which formats there are, how each is written, and how it computes without Keras.
2. exporting.py: how the chief writes one, and checks it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfdist.export.exporting import Exported, export_model

__all__ = ["Exported", "export_model"]

_MODULE_OF_NAME = {
    "Exported": "tfdist.export.exporting",
    "export_model": "tfdist.export.exporting",
}


def __getattr__(name: str) -> Any:
    """Imports what a name stands for when it is first used."""
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")
    return getattr(importlib.import_module(_MODULE_OF_NAME[name]), name)
