"""Which outcomes of stock Keras on one device are kept, so that no run has to train them anew?

`oracles/` has two files for each module of rows: the numbers (.npz) and what they are (.json). They
count for the versions of Keras, TensorFlow and NumPy, and for the source of the rows, that they
were made with; of other ones stock Keras is run, as if nothing were kept. `make oracles` makes them
anew, and a part of them is computed again in each run of the slow tests, see rotation.py.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import io
import json
import math
import pathlib
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from parity import harness, table, worlds
from parity.case import Case

FOLDER = pathlib.Path(__file__).parent / "oracles"
_STORED_TYPES = ("float64", "float32", "float16", "int64", "int32", "uint32", "uint8", "bool")


def modules() -> dict[str, types.ModuleType]:
    """Returns the modules of rows by name."""
    return {
        name: module
        for name, module in vars(table).items()
        if isinstance(module, types.ModuleType) and hasattr(module, "ROWS")
    }


def kept_rows(name: str) -> list[str]:
    """Returns the rows of a module, of each of which an outcome is kept."""
    return [row.name for row in modules()[name].ROWS]


def find(case: Case) -> harness.Outcome | None:
    """Returns what is kept of a row of the table, as it stands there; None where nothing is."""
    name, row = _rows().get(case.name, ("", None))
    return _read(name).get(case.name) if row is case else None


def oracle(case: Case) -> harness.Outcome:
    """Returns what stock Keras gives on one device: what is kept of it, or from a run now."""
    return find(case) or worlds.oracle(case)


def stale() -> list[str]:
    """Returns the rows of which an outcome could be kept, and none that counts here is."""
    return [row for name in modules() for row in kept_rows(name) if row not in _read(name)]


def write(name: str, outcomes: Mapping[str, harness.Outcome]) -> None:
    """Keeps the outcomes of all rows of a module."""
    numbers: dict[str, list[np.ndarray]] = {}
    rows = {row: _packed(_fields(outcomes[row]), numbers) for row in kept_rows(name)}
    joined = {kind: np.concatenate(arrays) for kind, arrays in numbers.items()}
    FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(FOLDER / f"{name}.npz", **joined)
    # A line a row, so that a change shows which rows it is about.
    lines = [f"{json.dumps(row)}: {json.dumps(value)}" for row, value in rows.items()]
    text = f'{{"made_of": {json.dumps(_made_of(name))},\n"rows": {{\n' + ",\n".join(lines) + "}}\n"
    (FOLDER / f"{name}.json").write_text(text)
    _read.cache_clear()


@functools.cache
def _rows() -> dict[str, tuple[str, Case]]:
    return {row.name: (name, row) for name, module in modules().items() for row in module.ROWS}


@functools.cache
def _read(name: str) -> dict[str, harness.Outcome]:
    path = FOLDER / f"{name}.json"
    if not path.exists():
        return {}
    kept = json.loads(path.read_text())
    if kept["made_of"] != _made_of(name):
        return {}
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        numbers = {kind: io.BytesIO(file[kind].tobytes()) for kind in file}
    return {row: _outcome(_unpacked(value, numbers)) for row, value in kept["rows"].items()}


def _fields(outcome: harness.Outcome) -> dict[str, Any]:
    """Returns what is kept of an outcome: of an error its type, whose text names a machine."""
    fields = dataclasses.asdict(outcome)
    return {**fields, "error": (outcome.error[0], "")}


def _outcome(fields: dict[str, Any]) -> harness.Outcome:
    variables = [tuple(pair) for pair in fields.pop("variables")]
    return harness.Outcome(variables=variables, error=tuple(fields.pop("error")), **fields)


def _made_of(name: str) -> dict[str, str]:
    """Says what the outcomes of a module's rows depend on."""
    texts = sorted(inspect.getsource(module) for module in _sources(modules()[name]))
    versions = {"keras": keras.__version__, "tensorflow": tf.__version__, "numpy": np.__version__}
    return {**versions, "source": hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]}


def _sources(module: types.ModuleType) -> set[types.ModuleType]:
    """Returns the modules of this package that a module of rows is made of, and what runs rows."""
    found, waiting = set(), [module, harness]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += _used_by(one)
    return found


def _used_by(module: types.ModuleType) -> Iterator[types.ModuleType]:
    for value in vars(module).values():
        is_module = isinstance(value, types.ModuleType)
        used = value if is_module else sys.modules.get(getattr(value, "__module__", None) or "")
        if used is not None and used.__name__.startswith(f"{__package__}."):
            yield used


def _packed(value: Any, numbers: dict[str, list[np.ndarray]]) -> Any:
    """Returns what JSON can hold: type and shape in the place of each array; adds its numbers."""
    if isinstance(value, dict):
        return {"names": [[name, _packed(one, numbers)] for name, one in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_packed(one, numbers) for one in value]
    if isinstance(value, str):
        return value
    array = np.asarray(value)
    if array.dtype.name not in _STORED_TYPES:
        array = array.astype("float64")  # bfloat16, which files do not know
    numbers.setdefault(array.dtype.name, []).append(array.ravel())
    return {"array": [array.dtype.name, list(array.shape)]}


def _unpacked(value: Any, numbers: Mapping[str, io.BytesIO]) -> Any:
    if isinstance(value, list):
        return [_unpacked(one, numbers) for one in value]
    if isinstance(value, str):
        return value
    if "names" in value:
        return {name: _unpacked(one, numbers) for name, one in value["names"]}
    kind, shape = value["array"]
    size = math.prod(shape) * np.dtype(kind).itemsize
    return np.frombuffer(numbers[kind].read(size), kind).reshape(shape)
