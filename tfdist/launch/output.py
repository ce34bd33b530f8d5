"""What do the workers print?  Their lines, each with the worker's name before it, and log files.

Lines are never mixed. A progress bar that rewrites its line (with carriage returns) is shown about
once a second on a terminal, and once a minute elsewhere; an unfinished line is shown after a short
wait. Informational log is for the log files alone.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import sys
import threading
import time
from typing import IO, Any

from tfdist.cluster import quiet

UPDATE_SECS = 1.0  # shortest time between two states of a progress bar
UPDATE_SECS_OF_FILES = 60.0  # where nobody watches them come
IDLE_SECS = 2.0  # how long an unfinished line may keep its writer waiting for the rest
_ERASE = b"\r\x1b[K"  # the terminal's line
LONGEST_LINE = 1 << 20  # bytes; a longer one is shown in pieces


class LineSplitter:
    """Cuts a stream into lines; the time is an argument, so that tests need not wait."""

    def __init__(self, *, update_secs: float = UPDATE_SECS) -> None:
        self._update_secs = update_secs
        self._rest = b""
        self.shows_state = False  # whether the last line of `feed` will be rewritten
        self._heard = 0.0  # when the last piece came
        self._shown = -update_secs  # when a progress bar was last shown

    def feed(self, data: bytes, *, now: float) -> list[bytes]:
        """Takes a piece of the stream; returns the lines to show now, without their ends."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        self._heard = now
        lines = [_visible(line) for line in whole]
        self.shows_state = False
        # Of a rewritten line, only the newest states matter.
        state, cr, newest = self._rest.rpartition(b"\r")
        if cr and _visible(state) and now - self._shown >= self._update_secs:
            self._shown, self.shows_state = now, True
            lines.append(_visible(state))
            self._rest = cr + newest
        elif cr:
            self._rest = b"\r" + _visible(state) + cr + newest
        while len(self._rest) > LONGEST_LINE:
            cut = _character_end(self._rest, LONGEST_LINE)
            lines.append(_visible(self._rest[:cut]))
            self._rest = self._rest[cut:]
        return lines

    def wait(self, *, now: float) -> list[bytes]:
        """Returns the unfinished line, if it has waited long enough for its end."""
        return self.finish() if now - self._heard >= IDLE_SECS else []

    def finish(self) -> list[bytes]:
        """Returns what is left at the end of the stream."""
        rest, self._rest = self._rest, b""
        return [_visible(rest)] if _visible(rest) else []


def _visible(line: bytes) -> bytes:
    """Returns what a terminal shows of a line with carriage returns."""
    return line.rstrip(b"\r").rpartition(b"\r")[2]


def _character_end(data: bytes, limit: int) -> int:
    """Returns the last index up to `limit` at which no UTF-8 character is cut in two."""
    for cut in range(limit, limit - 4, -1):
        if data[cut] & 0xC0 != 0x80:
            return cut
    return limit


class Pump:
    """Copies the workers' streams to this process's own, in one thread."""

    def __init__(
        self, *, log_dir: str | None, is_restart: bool, output: str = "all", is_quiet: bool = False
    ) -> None:
        """Starts the thread.

        Args:
            log_dir: Folder for the full, unchanged output of each worker; or None. It is there.
            is_restart: Whether to append to the logs of an earlier attempt.
            output: Whose output is shown: "all" workers', each line with the worker's name before
                it, or the "chief"'s alone, as it is.
            is_quiet: Whether informational log is not shown.
        """
        self._is_quiet = is_quiet
        self._has_state = False  # whether the terminal's last line is one that will be rewritten
        self._log_dir = log_dir
        self._is_restart = is_restart
        self._output = output
        self._logs: dict[int, IO[bytes]] = {}
        self._unfinished: dict[int, int] = {}  # the descriptor whose line a log ends with
        self._selector = selectors.DefaultSelector()
        self._splitters: dict[int, LineSplitter] = {}  # by file descriptor
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._carry, name="tfdist-output", daemon=True)

    def add(self, rank: int, stream: IO[bytes], shown_at: Any) -> None:
        """Adds a stream of a worker.

        Args:
            rank: The worker.
            stream: What it writes to.
            shown_at: Where its lines are written: a text stream, or "stdout" or "stderr".
        """
        shown_at = getattr(sys, shown_at) if isinstance(shown_at, str) else shown_at
        secs = UPDATE_SECS if _is_terminal(shown_at) else UPDATE_SECS_OF_FILES
        self._splitters[stream.fileno()] = LineSplitter(update_secs=secs)
        if self._log_dir is not None and rank not in self._logs:
            path = log_path(self._log_dir, rank)
            with contextlib.suppress(OSError):  # `check_logs` could write it; others may run since
                log = open(path, "ab" if self._is_restart else "wb", buffering=0)  # noqa: SIM115
                self._logs[rank] = log
                if self._is_restart:
                    log.write(b"--- restarted ---\n")
        self._selector.register(stream, selectors.EVENT_READ, (rank, shown_at))

    def start(self) -> None:
        """Starts to copy, after all streams have been added."""
        self._thread.start()

    def close(self, *, timeout_secs: float = 5.0) -> None:
        """Waits until everything is shown, and closes the streams."""
        if self._thread.ident is not None:
            self._thread.join(timeout_secs)  # a process that left its group may hold a stream open
            self._closing.set()
            self._thread.join(timeout_secs)
        if self._thread.is_alive():
            return  # the reader of our output has stopped reading; nothing more can be shown
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()
        for log in self._logs.values():
            log.close()

    def _carry(self) -> None:
        while self._selector.get_map() and not self._closing.is_set():
            ready = {key.fd: key for key, _ in self._selector.select(0.5)}
            for key in list(self._selector.get_map().values()):
                splitter, (rank, shown_at) = self._splitters[key.fd], key.data
                if key.fd not in ready:
                    self._show(rank, splitter.wait(now=time.monotonic()), shown_at)
                elif data := os.read(key.fd, 1 << 16):
                    self._log(rank, data, key.fd)
                    lines = splitter.feed(data, now=time.monotonic())
                    self._show(rank, lines, shown_at, shows_state=splitter.shows_state)
                else:
                    self._show(rank, splitter.finish(), shown_at)
                    self._selector.unregister(key.fileobj)
                    key.fileobj.close()  # type: ignore[union-attr]

    def _log(self, rank: int, data: bytes, descriptor: int) -> None:
        if rank not in self._logs:
            return
        if self._unfinished.get(rank, descriptor) != descriptor:
            data = b"\n" + data  # a line of the other stream is not finished: keep them apart
        try:
            self._logs[rank].write(data)
        except OSError as error:  # a full disk must not stop the job
            self._logs.pop(rank).close()
            say(f"the log of worker {rank} in log_dir={self._log_dir!r} ends here: {error}")
        if data.endswith(b"\n"):
            self._unfinished.pop(rank, None)
        else:
            self._unfinished[rank] = descriptor

    def _show(
        self, rank: int, lines: list[bytes], shown_at: Any, *, shows_state: bool = False
    ) -> None:
        if self._is_quiet:
            lines = [line for line in lines if not quiet.is_information(line)]
        if self._output == "all":
            _show(lines, shown_at, prefix=b"[worker %d] " % rank)
        elif rank == 0 and lines:
            # On a terminal the chief's bar stays in its line.
            begin = _ERASE if self._has_state else b""
            self._has_state = shows_state and _is_terminal(shown_at)
            _show(lines, shown_at, begin=begin, is_open=self._has_state)


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError, OSError):  # there is none, or it is closed
        return False


def check_logs(log_dir: str | None, *, workers: int) -> None:
    """Makes a folder of logs, and sees whether each worker's can be written in it.

    Raises:
        ValueError: One cannot.
    """
    if log_dir is None:
        return
    try:
        os.makedirs(log_dir, exist_ok=True)
        for rank in range(workers):
            open(log_path(log_dir, rank), "ab").close()
    except (OSError, ValueError) as error:  # a ValueError for a name with a zero byte
        raise ValueError(
            f"log_dir={log_dir!r} cannot be written to ({error}); name a folder that can."
        ) from error


def log_path(log_dir: str, rank: int) -> str:
    """Returns the path of a worker's log."""
    return os.path.join(log_dir, f"worker_{rank}.log")


def _show(
    lines: list[bytes], shown_at: Any, *, prefix: bytes = b"", begin: bytes = b"",
    is_open: bool = False,
) -> None:
    """Writes lines in one piece, so that other threads cannot write in between."""
    if not lines:
        return
    data = begin + b"".join(prefix + line + b"\n" for line in lines)
    data = data[:-1] if is_open else data
    with contextlib.suppress(OSError, ValueError):  # a reader that has gone must not stop the job
        write(data, shown_at)


def write(data: bytes, stream: Any) -> None:
    """Writes bytes to a text stream, unchanged if it has a byte stream (not in a notebook).

    Nothing is written to None, which Python has for a stream that was closed before it started.
    """
    if stream is None:
        return
    if hasattr(stream, "buffer"):
        stream.flush()
        stream.buffer.write(data)
        stream.buffer.flush()
    else:
        stream.write(data.decode("utf-8", "replace"))
        stream.flush()


def say(text: str) -> None:
    """Writes a message of the launcher itself to its standard error."""
    data = "".join(f"tfdist.launch: {line}\n" for line in text.splitlines())
    with contextlib.suppress(OSError, ValueError):
        write(data.encode("utf-8", "backslashreplace"), sys.stderr)


def fill_closed_descriptors() -> None:
    """Opens the null device at each of the descriptors 0 to 2 that this process began without.

    Else the next file or connection would get the number, and what is printed with it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def let_go_of_broken_streams() -> None:
    """Keeps the exit code: Python would make it 120 where what it still holds cannot be written."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except OSError:  # its reader has gone, or its disk is full
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
