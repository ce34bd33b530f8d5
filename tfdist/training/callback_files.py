"""Which worker's callbacks write files?

Every worker runs every callback, since some of what callbacks read is a collective (saving a model
reads sums that each replica holds a part of). Only the chief's files are kept: the callbacks of the
other workers write to a temporary folder.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import keras

_ABSENT = object()
# The attribute that says where Keras's own callbacks write.
_PATH_ATTRIBUTES = {
    keras.callbacks.ModelCheckpoint: "filepath",
    keras.callbacks.BackupAndRestore: "backup_dir",
    keras.callbacks.CSVLogger: "filename",
    keras.callbacks.TensorBoard: "log_dir",
}


@contextlib.contextmanager
def files_of_chief_alone(callbacks: Any, *, is_chief: bool) -> Iterator[None]:
    """Redirects the files of Keras's own callbacks on every worker but the chief.

    The callbacks still run, into a temporary folder: what they read may be a collective.

    Args:
        callbacks: As given to `fit`.
        is_chief: Whether this worker is the chief, whose callbacks stay as they are.

    Raises:
        ValueError: A callback cannot be told where to write.
    """
    with contextlib.ExitStack() as stack:
        for callback in [] if is_chief else _flat(callbacks):
            for name, value in _redirected(callback, stack).items():
                stack.callback(_put_back, callback, name, vars(callback).get(name, _ABSENT))
                setattr(callback, name, value)
        yield


def refuse_unable(callbacks: Any) -> None:
    """Raises a ValueError for a Keras callback that cannot run on several workers."""
    for callback in _flat(callbacks):
        if type(callback).__name__ == "OrbaxCheckpoint":
            raise ValueError(
                "keras.callbacks.OrbaxCheckpoint opens its folder when it is made, on every worker "
                "at once. On several workers use keras.callbacks.ModelCheckpoint, or "
                "tfdist.fit(..., checkpoint_dir=...)."
            )


def refuse_readable(callbacks: Any) -> None:
    """Raises a ValueError for a callback of Keras that writes the model as it is."""
    for callback in _flat(callbacks):
        kinds = (keras.callbacks.ModelCheckpoint, keras.callbacks.BackupAndRestore)
        is_orbax = type(callback).__name__ == "OrbaxCheckpoint"
        if isinstance(callback, kinds) or is_orbax or getattr(callback, "embeddings_freq", False):
            raise ValueError(
                f"keras.callbacks.{type(callback).__name__} writes the model for everybody to "
                "read, and the checkpoints are to be encrypted. Leave it out: "
                "tfdist.Checkpointer(..., best=..., encrypt_to=...) keeps the best."
            )


def _redirected(callback: Any, stack: contextlib.ExitStack) -> dict[str, Any]:
    """Returns the attributes to replace, by name."""
    if isinstance(callback, keras.callbacks.RemoteMonitor):
        return {"on_epoch_end": lambda epoch, logs=None: None}
    kinds = _PATH_ATTRIBUTES.items()
    attribute = next((name for kind, name in kinds if isinstance(callback, kind)), None)
    if attribute is None:
        return {}
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tfdist-"))
    real = getattr(callback, attribute)
    private = os.path.join(folder, os.path.basename(os.path.normpath(real)))
    paths = {name: value for name, value in vars(callback).items() if _is_under(value, real)}
    redirected = {name: private + value[len(real) :] for name, value in paths.items()}
    return redirected | ({"verbose": 0} if hasattr(callback, "verbose") else {})


def _is_under(value: Any, path: str) -> bool:
    return isinstance(value, str) and (value == path or value.startswith(path.rstrip("/") + "/"))


def _put_back(callback: Any, name: str, value: Any) -> None:
    if value is _ABSENT:
        delattr(callback, name)
    else:
        setattr(callback, name, value)


def _flat(callbacks: Any) -> Sequence[Any]:
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return callbacks.callbacks
    return keras.tree.flatten(callbacks) if callbacks else []
