"""What does a checkpoint hold, and how is it read from disk and sent to the other workers?"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfdist.cluster.wording import shorten

_TENSORS, _PLAIN = "tensors", "state.json"
# Arrays with these prefixes are not values of variables.
OF_CALLBACKS, OF_STREAMS, OF_BUFFERS = "callbacks/", "random/", "buffers/"


@dataclasses.dataclass(frozen=True)
class Saved:
    """A checkpoint that was read.

    Attributes:
        folder: Where the chief found it.
        facts: Its manifest.
        plain: Its JSON part.
        arrays: Its arrays, by name: NumPy arrays, or tensors for types that NumPy does not have.
    """

    folder: str
    facts: dict[str, Any]
    plain: dict[str, Any]
    arrays: dict[str, Any]

    def variables(self) -> dict[str, np.ndarray]:
        """Returns the arrays that are values of variables."""
        return {
            name: value
            for name, value in self.arrays.items()
            if not name.startswith((OF_CALLBACKS, OF_STREAMS, OF_BUFFERS))
        }

    def refuse(self, differences: Sequence[str]) -> None:
        """Raises a ValueError that names the differences to the current run, if there are any."""
        if differences:
            rest = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
            raise ValueError(
                f"The checkpoint {self.folder} is of another run: "
                f"{'; '.join(differences[:3])}{rest}. Start the command that made it, or give "
                "another checkpoint_dir."
            )


def write_files(folder: pathlib.Path | str, tensors: Mapping[str, Any], plain: str) -> None:
    """Writes a checkpoint's files: tensors in TensorFlow's format, the rest in JSON.

    Args:
        folder: The folder to write into, one of TensorFlow's "ram://" too.
        tensors: Tensors on the host, by name.
        plain: JSON text.
    """
    with tf.io.gfile.GFile(f"{folder}/{_PLAIN}", "w") as file:
        file.write(plain)
    names = sorted(tensors)
    with tf.device("/cpu:0"):
        tf.raw_ops.SaveV2(
            prefix=f"{folder}/{_TENSORS}",
            tensor_names=names,
            shape_and_slices=[""] * len(names),
            tensors=[tensors[name] for name in names],
        )


def read_files(folder: pathlib.Path | str, facts: dict[str, Any]) -> Saved:
    """Reads the files of a checkpoint that was found undamaged.

    Raises:
        ValueError: They are not what `write_files` writes; the message begins with a lower-case
            letter.
    """
    try:
        with tf.io.gfile.GFile(f"{folder}/{_PLAIN}", "rb") as file:
            plain = json.loads(file.read())
    except (tf.errors.OpError, ValueError, RecursionError) as error:
        raise ValueError(f"{_PLAIN} is no JSON ({shorten(str(error))})") from error
    if not isinstance(plain, dict):
        raise ValueError(f"{_PLAIN} holds {shorten(plain)}")
    prefix = f"{folder}/{_TENSORS}"
    try:
        return Saved(str(folder), facts, plain, _read_arrays(prefix))
    except (tf.errors.OpError, ValueError) as error:
        told = getattr(error, "message", None) or str(error)
        raise ValueError(f"{_TENSORS} cannot be read ({shorten(told)})") from error


def _read_arrays(prefix: str) -> dict[str, Any]:
    # That of tf.train looks for a folder of this name in "ram://", and finds one.
    reader = tf.compat.v1.train.NewCheckpointReader(prefix)
    arrays: dict[str, Any] = {}
    for name, dtype in sorted(reader.get_variable_to_dtype_map().items()):
        if dtype == tf.variant:  # not an array: only TensorFlow can look inside
            (arrays[name],) = tf.raw_ops.RestoreV2(
                prefix=prefix, tensor_names=[name], shape_and_slices=[""], dtypes=[dtype]
            )
        else:
            arrays[name] = np.asarray(reader.get_tensor(name))
    return arrays


def pack(saved: Saved | None, error: Exception | None) -> bytes:
    """Packs a checkpoint, or an error, into bytes: a line of JSON, then the arrays."""
    header: dict[str, Any] = {"error": None if error is None else str(error)}
    arrays = saved.arrays if saved else {}
    if saved is not None:
        header |= {"folder": saved.folder, "facts": saved.facts, "plain": saved.plain}
        header["arrays"] = [[n, tf.as_dtype(a.dtype).name, a.shape] for n, a in arrays.items()]
    pieces = {name: _bytes_of(array) for name, array in arrays.items()}
    header["sizes"] = [len(piece) for piece in pieces.values()]
    return b"\n".join([json.dumps(header).encode(), b"".join(pieces.values())])


def _bytes_of(array: Any) -> bytes:
    if tf.as_dtype(array.dtype) == tf.string:  # objects, whose own bytes are addresses
        return bytes(tf.io.serialize_tensor(tf.convert_to_tensor(array, tf.string)).numpy())
    return bytes(array.tobytes())


def unpack(payload: bytes) -> Saved | None:
    """Returns what was packed.

    Raises:
        RuntimeError: It was an error.
    """
    line, _, data = payload.partition(b"\n")
    header = json.loads(line)
    if header["error"] is not None:
        raise RuntimeError(header["error"])
    if "folder" not in header:
        return None
    arrays, start = {}, 0
    for (name, dtype, shape), size in zip(header["arrays"], header["sizes"], strict=True):
        if dtype == "string":
            text = tf.io.parse_tensor(data[start : start + size], tf.string)
            arrays[name] = np.asarray(text.numpy(), object).reshape(shape)
        else:
            kind = tf.as_dtype(dtype).as_numpy_dtype
            content = np.frombuffer(data, np.uint8, size, start)
            arrays[name] = content.copy().view(kind).reshape(shape)
        start += size
    return Saved(header["folder"], header["facts"], header["plain"], arrays)
