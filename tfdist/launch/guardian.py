"""What ends the workers when their launcher has died without doing so (by SIGKILL, say)?

The launcher starts this file as a separate process and writes process groups, one per line, to its
standard input. It keeps its end open as long as it lives, and ends this process itself when its
workers have ended.
"""

import contextlib
import os
import signal
import sys


def main() -> None:
    """Waits until the launcher has died, then ends the workers that it has left."""
    groups = [int(line) for line in sys.stdin]
    for group in groups:
        with contextlib.suppress(OSError):  # it may have ended by itself
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
