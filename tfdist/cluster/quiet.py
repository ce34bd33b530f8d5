"""Which of the workers' lines are informational log, which belongs into log files alone?

TensorFlow's C++ parts and absl begin a line with the kind of its message: I for information, W for
warnings, E and F for errors. What is I is hidden from the terminal, unless TF_CPP_MIN_LOG_LEVEL=0
asks for it. A higher level alone is not enough: what is written before absl is ready heeds none.

Synopsis:

    >>> is_information(b"I0000 00:00:1796003156.53   24508 port.cc:153] oneDNN custom ...")
    True
    >>> is_information(b"W1130 01:45:59.165483 140347445808000 ports.py:42] TensorFlow's servers")
    False
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping

LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
WITHOUT_INFORMATION = "1"  # its value without information, and with warnings
_REST_SECS = 2.0  # for what was written at the end of a block

_INFORMATION = re.compile(
    rb"I\d{4} \d\d:\d\d:[\d.]+ +\d+ [^\s:]+:\d+\] "  # absl, in C++ and in Python
    rb"|\d{4}-\d\d-\d\d \d\d:\d\d:[\d.]+: I [^\s:]+:\d+\] "  # TensorFlow up to 2.18
)
# What follows such a line without a beginning of its own.
_CONTINUED = (
    b"WARNING: All log messages before absl::InitializeLog() is called are written to",
    b"To enable the following instructions: ",
    b"Example stragglers:",
    b"/job:worker/replica:",
)


def hides_information(environ: Mapping[str, str]) -> bool:
    """Tells whether the terminal is spared informational log: unless the user asks for it.

    Args:
        environ: The environment.

    >>> [hides_information(given) for given in ({}, {LOG_LEVEL: "2"}, {LOG_LEVEL: "0"})]
    [True, True, False]
    """
    level = environ.get(LOG_LEVEL, WITHOUT_INFORMATION)
    return level.isdigit() and int(level) > 0  # TensorFlow takes anything else for 0


def is_information(line: bytes) -> bool:
    """Tells whether a line is informational log."""
    return bool(_INFORMATION.match(line)) or line.startswith(_CONTINUED)


@contextlib.contextmanager
def without_information() -> Iterator[None]:
    """Spares this process's standard error informational log inside of a `with` block.

    What TensorFlow writes as it is loaded heeds no level. A process of its own reads along, so that
    what a crash says last is shown too.
    """
    try:
        saved = os.dup(2)
    except OSError:  # this process began without one
        yield
        return
    reader = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__], stdin=subprocess.PIPE, stdout=saved
    )
    if reader.stdin is not None:  # always: it is a pipe
        os.dup2(reader.stdin.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        # A process that was started meanwhile may go on to write there; nobody waits for its end.
        with contextlib.suppress(subprocess.TimeoutExpired):
            reader.communicate(timeout=_REST_SECS)


def _main() -> None:
    for line in sys.stdin.buffer:
        if not is_information(line):
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    _main()
