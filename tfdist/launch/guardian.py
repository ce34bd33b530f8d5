"""Ends the workers when their launcher has gone without doing so (killed with SIGKILL, say).

The launcher starts this file as a process of its own and writes one process group a line to its
standard input. It holds the other end open as long as it lives, and ends this process itself when
its workers have ended.
"""

import contextlib
import os
import signal
import sys


def main() -> None:
    """Waits until the launcher has gone, then ends what it has left."""
    groups = [int(line) for line in sys.stdin]
    for group in groups:
        with contextlib.suppress(OSError):  # it may have ended by itself
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
