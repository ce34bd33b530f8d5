"""Which formats can a model be written in, and what do their files compute?

Each format is written by Keras, and read by what its users run: Keras, TensorFlow alone, LiteRT's
interpreter, ONNX Runtime.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of files.

    Attributes:
        name: As `format` in `export_model`.
        ending: Of the files; "" for a folder.
        write: Writes a model to a path, with options of Keras's own method.
        outputs: Returns what a file gives for inputs, flat: `outputs(path, model, x)`; the model
            tells the names of its inputs.
        packages: What writing or reading needs besides TensorFlow and Keras.
    """

    name: str
    ending: str
    write: Callable[..., None]
    outputs: Callable[[str, Any, Any], Sequence[np.ndarray]]
    packages: tuple[str, ...] = ()

    def refuse_missing(self, *, is_checked: bool) -> None:
        """Raises an ImportError where a package is not installed.

        Args:
            is_checked: Whether the file will be read, too.
        """
        needed = self.packages if is_checked else self.packages[:-1]
        missing = [package for package in needed if importlib.util.find_spec(package) is None]
        if missing:
            raise ImportError(
                f"The format {self.name!r} needs {', '.join(map(repr, missing))}, which is not "
                "installed. Install it with: pip install 'tfdist[export]'",
                name=missing[0],
            )


def _by_keras(path: str, model: Any, x: Any) -> Sequence[np.ndarray]:
    outputs = keras.models.load_model(path).predict(x, verbose=0)
    return [np.asarray(leaf) for leaf in keras.tree.flatten(outputs)]


def _by_tensorflow(path: str, model: Any, x: Any) -> Sequence[np.ndarray]:
    loaded = tf.saved_model.load(path)
    dtypes = [tensor.dtype for tensor in model.inputs]
    leaves = [tf.cast(leaf, dtype) for leaf, dtype in zip(_leaves(x), dtypes, strict=True)]
    outputs = loaded.serve(keras.tree.pack_sequence_as(x, leaves))
    return [np.asarray(leaf) for leaf in keras.tree.flatten(outputs)]


def _by_litert(path: str, model: Any, x: Any) -> Sequence[np.ndarray]:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(path).get_signature_runner()
    details = runner.get_input_details()
    given = _named(x, model, list(details))
    found = runner(**{
        name: np.asarray(value, details[name]["dtype"]) for name, value in given.items()
    })  # fmt: skip
    # They are in the order of their names, in which 10 comes before 2.
    return [found[name] for name in sorted(found, key=lambda name: (len(name), name))]


def _by_onnx(path: str, model: Any, x: Any) -> Sequence[np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = _named(x, model, [one.name for one in session.get_inputs()])
    dtypes = {tensor.name: tensor.dtype for tensor in model.inputs}
    only = model.inputs[0].dtype if len(model.inputs) == 1 else None
    found: Sequence[np.ndarray] = session.run(None, {
        name: np.asarray(value, only or dtypes[name]) for name, value in given.items()
    })  # fmt: skip
    return found


def _leaves(x: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in keras.tree.flatten(x)]


def _named(x: Any, model: Any, names: Sequence[str]) -> Mapping[str, np.ndarray]:
    """Returns inputs by the names that a file gives them: those of the model's inputs."""
    leaves = _leaves(x)
    if len(names) == 1 and len(leaves) == 1:
        return {names[0]: leaves[0]}
    own = [tensor.name for tensor in model.inputs]
    if sorted(own) != sorted(names):
        raise ValueError(
            f"The file names its inputs {sorted(names)}, and the model {sorted(own)}, so it cannot "
            "be told which is which. Give each keras.Input the name that it has in the dict."
        )
    return dict(zip(own, leaves, strict=True))


def _saves(model: Any, path: str, **options: Any) -> None:
    model.save(path, **options)


def _exports(kind: str) -> Callable[..., None]:
    def export(model: Any, path: str, **options: Any) -> None:
        model.export(path, format=kind, **{"verbose": False, **options})

    return export


#: By name. The last package of each is what reads it.
FORMATS = {
    one.name: one
    for one in (
        Format("keras", ".keras", _saves, _by_keras),
        Format("saved_model", "", _exports("tf_saved_model"), _by_tensorflow),
        Format("litert", ".tflite", _exports("litert"), _by_litert, ("ai_edge_litert",)),
        Format("onnx", ".onnx", _exports("onnx"), _by_onnx, ("tf2onnx", "onnxruntime")),
    )
}


def format_of(path: str | os.PathLike[str], name: str | None) -> Format:
    """Returns the format of this name, or of a path's ending.

    Args:
        path: Where to write.
        name: Of the format, or None.

    Raises:
        ValueError: It is none, or the path has another ending.
    """
    ending = os.path.splitext(os.fspath(path))[1]
    if name is None:
        name = next((one.name for one in FORMATS.values() if one.ending == ending), "")
    known = FORMATS.get(name)
    if known is None or known.ending != ending:
        endings = ", ".join(f"{one.name} ({one.ending or 'a folder'})" for one in FORMATS.values())
        raise ValueError(
            f"The path {os.fspath(path)!r} with format={name or None!r} is of no known format. "
            f"The path ends as its format does: {endings}."
        )
    return known
