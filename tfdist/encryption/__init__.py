"""How is a model kept so that only who holds a key can read it?  Files of age (age-encryption.org).

Synopsis:

    >>> import keras, os, tempfile, tfdist
    >>> folder = tempfile.mkdtemp()
    >>> public_key = tfdist.encryption.new_identity(f"{folder}/identity")
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> tfdist.encryption.save_model(model, f"{folder}/model.keras.age", encrypt_to=public_key)
    >>> read = tfdist.encryption.load_model(
    ...     f"{folder}/model.keras.age", identity_file=f"{folder}/identity"
    ... )
    >>> (read.get_weights()[0] == model.get_weights()[0]).all().item()
    True

Checkpoints are encrypted by `fit(..., checkpoint_dir=..., encrypt_to=...)`, see checkpoint/.

Read in this order; each file imports from those above it only:

1. keys.py: to whom is it encrypted, and with what is it read?
2. streams.py: how do bytes become an encrypted file, and come back whole or not at all?
3. files.py: how is a file on a disk encrypted, decrypted, and given to others?
4. memory.py: where do temporary files lie, if on no disk?
5. models.py: how is a model saved and loaded, encrypted?
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfdist.encryption.files import decrypt_file, encrypt_file, rotate_file
    from tfdist.encryption.keys import new_identity
    from tfdist.encryption.models import load_model, save_model

__all__ = [
    "decrypt_file",
    "encrypt_file",
    "load_model",
    "new_identity",
    "rotate_file",
    "save_model",
]

_MODULE_OF_NAME = {
    "decrypt_file": "tfdist.encryption.files",
    "encrypt_file": "tfdist.encryption.files",
    "load_model": "tfdist.encryption.models",
    "new_identity": "tfdist.encryption.keys",
    "rotate_file": "tfdist.encryption.files",
    "save_model": "tfdist.encryption.models",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")
    return getattr(importlib.import_module(_MODULE_OF_NAME[name]), name)
