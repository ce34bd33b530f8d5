"""Who may write into this folder?  One job at a time; the system forgets the claim of a dead one.

A second job with the same checkpoint folder would mix its checkpoints with the first one's. The
claim is a lock of the operating system on a file, so there is nothing to clean up after a kill.
"""

from __future__ import annotations

import errno
import os
import pathlib
import socket
import time
from typing import IO

_FILE = ".claim"
# A killed worker may take a moment to go, while its successor has already started.
_PATIENCE_SECS = 10.0


def claim(folder: pathlib.Path, *, patience_secs: float = _PATIENCE_SECS) -> IO[str]:
    """Claims a folder for this process until the returned file is closed, or the process ends.

    Args:
        folder: A folder that exists.
        patience_secs: How long to wait for another process to end.

    Raises:
        OSError: Nothing can be written into the folder.
        RuntimeError: Another process has it.
    """
    import fcntl

    file = open(folder / _FILE, "a+", encoding="utf-8")  # noqa: SIM115 (held by the caller)
    deadline = time.monotonic() + patience_secs
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                return file  # a file system without locks: a second job cannot be detected
            if time.monotonic() > deadline:
                file.seek(0)
                owner = file.read().strip() or "another process"
                file.close()
                raise RuntimeError(
                    f"checkpoint_dir={str(folder)!r} is in use by {owner}. End that job, or give "
                    "this one a folder of its own."
                ) from error
            time.sleep(0.1)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file
