"""Who are the clients, what data has each, and which of them take part in a round?

Synopsis:

    >>> import numpy as np
    >>> clients = named({"b": lambda: (np.ones((5, 2)), np.ones(5)), "a": (np.ones(2), np.ones(2))})
    >>> list(clients), loaded("b", clients["b"]).examples
    (['a', 'b'], 5)
    >>> chosen(["a", "b", "c", "d"], round_number=0, fraction=0.5, seed=3)
    ['c', 'd']

Everything goes by the clients' names: in whichever order they are given, they are chosen, and their
changes are added, in the order of their names.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.cluster.wording import shorten

_FILES = ("x", "y", "sample_weight")  # .npy, in the folder of a client


class Unavailable(Exception):
    """Is raised by the function of a client that takes no part in this round."""


@dataclasses.dataclass(frozen=True)
class ClientData:
    """The data of a client.

    Attributes:
        x: Inputs, or a `tf.data.Dataset` of batches.
        y: Targets, or None with a dataset.
        sample_weight: Weights of the examples, or None.
        examples: How many there are: the weight of the client in a mean.
    """

    x: Any
    y: Any
    sample_weight: Any
    examples: int

    @property
    def is_dataset(self) -> bool:
        """Whether the data comes in batches of its own."""
        return isinstance(self.x, tf.data.Dataset)


def named(clients: Any) -> dict[str, Any]:
    """Returns the clients in the order of their names.

    Args:
        clients: Data by name, or a folder that has one folder for each client.

    Raises:
        ValueError: There are none, or a name is no text.
    """
    if isinstance(clients, (str, os.PathLike)):
        root = pathlib.Path(clients)
        clients = {path.name: path for path in root.iterdir() if path.is_dir()} if (
            root.is_dir()
        ) else {}
    if not isinstance(clients, Mapping) or not clients:
        raise ValueError(
            f"clients={shorten(clients)} names no client. Give a dict of name and data, as in "
            "{'site a': (x, y)}, or a folder with one folder for each client."
        )
    if wrong := [name for name in clients if not isinstance(name, str) or not name]:
        raise ValueError(
            f"A client has the name {shorten(wrong[0])}, which is no text. Give each client a name "
            "of its own, such as 'site a'."
        )
    return {name: clients[name] for name in sorted(clients)}


def loaded(name: str, source: Any) -> ClientData:
    """Reads the data of a client.

    Args:
        name: The client.
        source: `(x, y)` or `(x, y, sample_weight)`; a `tf.data.Dataset` of batches; a folder with
            `x.npy`, `y.npy` and perhaps `sample_weight.npy`; an `.npz` file of these; or a
            function that returns one of them.

    Raises:
        ValueError: It is nothing of these, or its arrays differ in length.
    """
    if callable(source):
        source = source()
    if isinstance(source, ClientData):
        return source
    if isinstance(source, (str, os.PathLike)):
        source = _read(name, pathlib.Path(source))
    if isinstance(source, tf.data.Dataset):
        return ClientData(source, None, None, _rows_of(name, source))
    if not isinstance(source, (tuple, list)) or not 2 <= len(source) <= 3:
        raise ValueError(
            f"The client {name!r} has the data {shorten(source)}. Give (x, y), or (x, y, "
            "sample_weight), a tf.data.Dataset of batches, a folder with x.npy and y.npy, or a "
            "function that returns one of these."
        )
    x, y, weight = (*source, None)[:3]
    sizes = {len(leaf) for part in (x, y, weight) if part is not None
             for leaf in keras.tree.flatten(part)}
    if len(sizes) != 1:
        raise ValueError(
            f"The arrays of the client {name!r} have {sorted(sizes)} rows. Give all of them the "
            "same number."
        )
    return ClientData(x, y, weight, sizes.pop())


def chosen(names: Iterable[str], *, round_number: int, fraction: float, seed: int) -> list[str]:
    """Returns who takes part in a round: the same for the same seed, in the order of the names.

    The clients are drawn without replacement by a hash of the seed, the round and their names, so
    the draw depends neither on their order nor on a version of NumPy.

    Args:
        names: Of all clients.
        round_number: From 0.
        fraction: Which part of them is drawn, above 0 and up to 1; at least one client.
        seed: The seed of the run.
    """
    everybody = sorted(names)
    count = max(1, int(fraction * len(everybody) + 0.5))
    ranked = sorted(everybody, key=lambda name: digest(seed, "round", round_number, name))
    return sorted(ranked[:count])


def digest(*parts: Any) -> bytes:
    """Returns 32 bytes that stand for these values."""
    return hashlib.sha256(repr(parts).encode()).digest()


def _read(name: str, path: pathlib.Path) -> tuple[Any, ...]:
    if path.suffix == ".npz" and path.is_file():
        with np.load(path, allow_pickle=False) as file:
            found = {key: file[key] for key in _FILES if key in file.files}
    else:
        found = {
            key: np.load(path / f"{key}.npy", mmap_mode="r", allow_pickle=False)
            for key in _FILES
            if (path / f"{key}.npy").is_file()
        }
    if not {"x", "y"} <= set(found):
        raise ValueError(
            f"The client {name!r} has the path {str(path)!r}, where there is no x and y. Give a "
            "folder with x.npy and y.npy, or an .npz file with x and y."
        )
    return tuple(found[key] for key in _FILES if key in found)


def _rows_of(name: str, dataset: tf.data.Dataset) -> int:
    if int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            f"The dataset of the client {name!r} never ends, and its number of examples is the "
            "client's weight. Give it an end with .take(batches)."
        )
    rows = 0
    for batch in dataset:
        rows += len(keras.tree.flatten(batch)[0])
    return rows
