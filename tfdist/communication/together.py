"""How is a file written where reading what goes into it takes all workers?

All of them write, the chief to where the file is to be, the others to a temporary folder.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any

from tfdist.communication.workers import Workers


def written_together(write: Callable[[str], Any], path: str, workers: Workers) -> Any:
    """Writes on all workers, and keeps the chief's files. Every worker has to call it.

    Args:
        write: Writes to a path, and may be a collective.
        path: Where the chief's files are to be.
        workers: Of the model's strategy.

    Raises:
        RuntimeError: The chief could not write; it raises its own error.
    """
    result, error = None, None
    with tempfile.TemporaryDirectory(prefix="tfdist-") as folder:
        try:
            name = os.path.basename(os.path.normpath(path))
            result = write(path if workers.is_chief else os.path.join(folder, name))
        except Exception as caught:
            error = caught
        has_failed = workers.gather(error is not None)[:, 0]
    if error is not None:
        raise error
    if has_failed.any():
        raise RuntimeError(
            f"Worker {int(has_failed.argmax())} could not save the model to {path!r}. Look for the "
            "error in its output."
        )
    return result
