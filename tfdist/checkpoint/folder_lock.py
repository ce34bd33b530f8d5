"""Who may write into this folder?  One job at a time; the system forgets the claim of a dead one.

A second job with the same checkpoint folder would mix its checkpoints with the first one's. The
claim is a lock of the operating system on a file, so there is nothing to clean up after a kill.
"""

from __future__ import annotations

import errno
import os
import pathlib
import socket
import threading
import time
import weakref
from typing import IO

_FILE = ".claim"
# A killed worker may take a moment to go, while its successor has already started.
_PATIENCE_SECS = 10.0


# What this process has claimed, by its number (a forked process has nothing) and the folder: the
# system would let it claim a folder twice, and forget both claims when the file is closed once.
_CLAIMED: weakref.WeakValueDictionary[tuple[int, int, int], IO[str]] = weakref.WeakValueDictionary()
_ONE_AT_A_TIME = threading.Lock()


def claim(folder: pathlib.Path, *, patience_secs: float = _PATIENCE_SECS) -> IO[str]:
    """Claims a folder for this process until the returned file is closed, or the process ends.

    Args:
        folder: A folder that exists.
        patience_secs: How long to wait for another process to end.

    Raises:
        OSError: Nothing can be written into the folder.
        RuntimeError: Another process has it, or this one has claimed it before.
    """
    deadline = time.monotonic() + patience_secs
    while True:
        with _ONE_AT_A_TIME:
            file, owner = _try_to_claim(folder)
        if file is not None:
            return file
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"checkpoint_dir={str(folder)!r} is in use by {owner}. End that job, or give this "
                "one a folder of its own."
            )
        time.sleep(0.1)


def _try_to_claim(folder: pathlib.Path) -> tuple[IO[str] | None, str]:
    """Returns the claimed file, or who has claimed it."""
    import fcntl

    found = folder.stat()
    key = (os.getpid(), found.st_dev, found.st_ino)
    known = _CLAIMED.get(key)
    if known is not None and not known.closed:
        raise RuntimeError(
            f"checkpoint_dir={str(folder)!r} is in use by another Checkpointer of this process. "
            "Close that one first, or give this one a folder of its own."
        )
    file = open(folder / _FILE, "a+", encoding="utf-8")  # noqa: SIM115 (held by the caller)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            with file:
                file.seek(0)
                return None, file.read().strip() or "another process"
        # Else a file system without locks: a second job cannot be detected.
    else:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
    _CLAIMED[key] = file
    return file, ""
