"""What does a tracker find again when its run is resumed?  A few words in the run's own folder.

A run that is resumed from its checkpoints goes on in the same run of MLflow, say, whose number has
to be known. It lies in the folder of the checkpoints from the first step on, not in a checkpoint:
a run that was killed before its first one goes on as well.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping

_FILE = "trackers.json"


def kept(folder: str | None, name: str) -> dict[str, str]:
    """Returns what was kept for a tracker; nothing without a folder, or in a new one.

    Args:
        folder: Of the run's checkpoints, or None.
        name: Of the tracker.

    Raises:
        ValueError: The file is there, but cannot be read.
    """
    if folder is None:
        return {}
    return _read(pathlib.Path(folder, _FILE)).get(name, {})


def keep(folder: str | None, name: str, values: Mapping[str, str]) -> None:
    """Keeps a few words for a tracker, where there is a folder.

    Args:
        folder: Of the run's checkpoints, or None.
        name: Of the tracker.
        values: What `kept` is to return.
    """
    if folder is None:
        return
    path = pathlib.Path(folder, _FILE)
    known = {**_read(path), name: dict(values)}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(known, indent=1), encoding="utf-8")
    os.replace(part, path)  # whoever reads finds all of it, or what was there before


def _read(path: pathlib.Path) -> dict[str, dict[str, str]]:
    try:
        found: dict[str, dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(
            f"{path} should say which runs the trackers go on with, but is no JSON ({error}). "
            "Delete it: new runs are begun then."
        ) from None
    return found
