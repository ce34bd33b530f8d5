"""Is the package of an engine there?"""

from __future__ import annotations

import importlib
from typing import Any


def import_package(name: str, *, engine: str, extra: str) -> Any:
    """Imports a package.

    Raises:
        ImportError: It is not installed; the message names the extra that brings it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != name.partition(".")[0]:
            raise
        raise ImportError(
            f"engine={engine!r} needs the package {name!r}, which is not installed. Install it with"
            f" the extra {extra!r}: pip install 'tfdist[{extra}]'.",
            name=name,
        ) from error
