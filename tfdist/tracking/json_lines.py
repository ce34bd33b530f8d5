"""How is a run told in a file that every program reads?  A line of JSON for each thing.

    {"event": "start", "time": 1767225600.0, "config": {"replicas": 2, ...}}
    {"event": "log", "time": 1767225605.1, "step": 40, "values": {"loss": 0.7, ...}}
    {"event": "finish", "time": 1767225605.2, "status": "finished"}

Each line is in the file when the call returns. A resumed run appends to it. Steps that it does anew
are told anew, with the same numbers: of two lines of a step the later one counts.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from tfdist.tracking.tracker import Value


class JsonLines:
    """A tracker that appends lines of JSON to a file.

    Args:
        path: The file; it is made, with its folder, where it is not there.
    """

    def __init__(self, path: str | os.PathLike[str] = "tracking.jsonl") -> None:
        self.path = pathlib.Path(path).expanduser().absolute()

    def start(self, config: Mapping[str, Any]) -> None:
        """Tells what the run is made of; see `Tracker`."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._append(event="start", config=config)

    def log(self, values: Mapping[str, Value], step: int) -> None:
        """Tells numbers and texts; see `Tracker`."""
        self._append(event="log", step=step, values=values)

    def finish(self, status: str) -> None:
        """Tells how the run ended; see `Tracker`."""
        self._append(event="finish", status=status)

    def _append(self, *, event: str, **fields: Any) -> None:
        line = json.dumps(_strict({"event": event, "time": time.time(), **fields}), default=repr)
        with open(self.path, "a+b") as file:
            # A kill may have left half of a line.
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            begin = b"\n" if end and file.read(1) != b"\n" else b""
            file.write(begin + line.encode() + b"\n")

    @staticmethod
    def read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
        """Returns the lines of such a file, without the halves that a kill has left."""
        found = []
        for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found


def _strict(value: Any) -> Any:
    """Returns a value in which numbers that JSON does not know are texts, which `float` reads."""
    if isinstance(value, Mapping):
        return {str(key): _strict(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
