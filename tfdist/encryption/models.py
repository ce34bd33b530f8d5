"""How is a model saved and loaded, encrypted, so that no disk sees it as it is?

Keras writes into memory, and that is encrypted into the file.
"""

from __future__ import annotations

import io
import os
import pathlib
from typing import Any

import keras

from tfdist.communication.together import written_together
from tfdist.communication.workers import Workers
from tfdist.compat import keras_internals, model_files
from tfdist.encryption import files, keys, memory, streams


def save_model(model: keras.Model, path: str | os.PathLike[str], *, encrypt_to: Any) -> None:
    """Saves a model as `model.save("....keras")` does, encrypted; every worker has to call it.

    The chief writes. The file replaces one of its name once it is whole. The whole model is in the
    memory of each worker once more meanwhile.

    Args:
        model: A model that is built.
        path: The file; its name ends in ".keras.age".
        encrypt_to: Public keys of age, "age1...", or paths of files of them, one a line.

    Raises:
        ValueError: A key is none, or the name ends otherwise.
        RuntimeError: No folder is known to be memory; see `TFDIST_MEMORY_FOLDER`.
        ImportError: `pyrage` is not installed.
    """
    path = os.fspath(path)
    if not path.endswith(".keras.age"):
        raise ValueError(f"{path!r} does not end in '.keras.age'. Give a name that does.")
    recipients = keys.recipients(encrypt_to)

    def write(target: str) -> None:
        content = io.BytesIO()
        with memory.temporary_files_in_memory():
            model_files.save(model, content)
        content.seek(0)
        files.write_encrypted(content, pathlib.Path(target), recipients)

    strategy = keras_internals.made_under(model)
    workers = None if strategy is None else Workers(strategy)
    if workers is None or not workers.has_others:
        write(path)
    else:
        written_together(write, path, workers)


def load_model(
    path: str | os.PathLike[str],
    *,
    identity_file: str | os.PathLike[str] | None = None,
    custom_objects: dict[str, Any] | None = None,
    compile: bool = True,  # noqa: A002 (as Keras calls it)
    safe_mode: bool = True,
) -> keras.Model:
    """Loads a model that `save_model` has saved, or a .keras file that age has encrypted.

    Each worker that calls it reads the file and needs the identity. To train on several replicas,
    call it inside of `strategy.scope()`.

    Args:
        path: The encrypted file.
        identity_file: A file of identities; by default what TFDIST_IDENTITY_FILE names.
        custom_objects: As in `keras.models.load_model`.
        compile: As there.
        safe_mode: As there. An encrypted file can be from anybody who has the public key.

    Raises:
        ValueError: The file is none of age, was changed or cut short, or is for others.
        RuntimeError: No folder is known to be memory; see `TFDIST_MEMORY_FOLDER`.
        ImportError: `pyrage` is not installed.
    """
    content = io.BytesIO()
    streams.decrypt(pathlib.Path(path), content, keys.identities(identity_file))
    content.seek(0)
    with memory.temporary_files_in_memory():
        return model_files.load(
            content, custom_objects=custom_objects, compile=compile, safe_mode=safe_mode
        )
