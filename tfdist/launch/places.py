"""For how many workers are there places now?  Hosts that a command names, or what an engine knows.

The command is what Horovod calls a host discovery script: it prints a line for each host that can
be used, `HOST` or `HOST:SLOTS`. It is run again and again, so a host that comes or goes is seen.
"""

from __future__ import annotations

import contextlib
import functools
import platform
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterator

from tfdist.cluster.wording import shorten
from tfdist.launch.engine import load_engine
from tfdist.launch.job import Job
from tfdist.launch.output import say

_POLL_SECS = 1.0
_COMMAND_SECS = 20.0  # longest time for the command
_MOST_SLOTS = 1_000_000
_OWN_NAMES = ("localhost", "127.0.0.1", "::1")

Hosts = dict[str, int]  # how many workers each may have


def parse_hosts(text: str) -> Hosts:
    """Reads what the command prints.

    >>> parse_hosts("n1:2\\n# gone: n2:2\\n[fd00::3]:4\\nn4\\n")
    {'n1': 2, 'fd00::3': 4, 'n4': 1}

    Raises:
        ValueError: A line is something else.
    """
    found: Hosts = {}
    for line in filter(None, (line.partition("#")[0].strip() for line in text.splitlines())):
        host, colon, slots = line.rpartition(":")
        if not colon or line.endswith("]"):
            host, slots = line, "1"
        is_number = slots.isascii() and slots.isdigit() and len(slots) < 8
        if not host or any(map(str.isspace, host)) or not is_number or int(slots) > _MOST_SLOTS:
            raise ValueError(f"its line {shorten(line)} is neither HOST nor HOST:SLOTS")
        host = host.removeprefix("[").removesuffix("]")
        found[host] = found.get(host, 0) + int(slots)
    return found


class Places:
    """What a thread has last seen of them.

    Args:
        look: Returns for how many workers there are places, and on which hosts; None without a
            thread, where nobody can say.
        is_late: Whether an engine says it, which may take a while to see that a host has gone.
    """

    def __init__(
        self, look: Callable[[], tuple[int, Hosts]] | None, *, is_late: bool = False
    ) -> None:
        self._look, self.is_late = look, is_late
        self._is_over, self._told = False, ""
        self._seen = threading.Condition()
        self._begun = self._done = self._wanted = 0  # looks
        self._number: int | None = None
        self.hosts: Hosts = {}
        if look is not None:
            threading.Thread(target=self._watch, name="tfdist-places", daemon=True).start()

    def number(self) -> int | None:
        """For how many workers there were places at the last look; None where nobody can say."""
        return self._number

    def new_number(self) -> int | None:
        """The same, of a look that begins after this call."""
        with self._seen:
            if self._look is not None and not self._is_over:
                self._wanted = wanted = self._begun + 1
                self._seen.notify_all()
                self._seen.wait_for(lambda: self._done >= wanted, timeout=2 * _COMMAND_SECS)
        return self._number

    def close(self) -> None:
        """Ends the thread."""
        with self._seen:
            self._is_over = True
            self._seen.notify_all()

    def _watch(self) -> None:
        while not self._is_over and self._look is not None:
            self._begun += 1
            try:
                self._number, self.hosts = self._look()
                self._told = ""
            except Exception as error:  # as a cluster's own library may raise
                self._tell(f"for how many workers there are places cannot be seen: {error}")
            with self._seen:
                self._done = self._begun
                self._seen.notify_all()
                self._seen.wait_for(
                    lambda: self._is_over or self._wanted > self._begun, timeout=_POLL_SECS
                )

    def _tell(self, text: str) -> None:
        if text != self._told and not self._is_over:
            self._told = text
            say(text)


@contextlib.contextmanager
def watch_places(job: Job) -> Iterator[Places]:
    """Watches the places of an elastic job within the block.

    Raises:
        RuntimeError: The engine cannot be used from here, or the command names no hosts.
    """
    with contextlib.ExitStack() as stack:
        look: Callable[[], tuple[int, Hosts]] | None = None
        if job.discover_hosts is not None:
            look = functools.partial(_discover, job, shlex.split(job.discover_hosts))
        elif job.is_elastic:
            opened = getattr(load_engine(job.engine), "open_places", None)
            count = stack.enter_context(opened(job)) if opened is not None else None
            if count is not None:
                look = functools.partial(_counted, count)
        if look is not None:
            look()  # what is wrong with it is told at once
        places = Places(look, is_late=job.discover_hosts is None)
        stack.callback(places.close)
        places.new_number()
        yield places


def _counted(count: Callable[[], int | Hosts]) -> tuple[int, Hosts]:
    found = count()
    return (found, {}) if isinstance(found, int) else (sum(found.values()), found)


def _discover(job: Job, command: list[str]) -> tuple[int, Hosts]:
    """Runs the command.

    Raises:
        RuntimeError: It does not name hosts that the engine can use.
    """
    what = f"discover_hosts={job.discover_hosts!r}"
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_COMMAND_SECS, check=True,
            stdin=subprocess.DEVNULL, errors="replace",
        )
        hosts = parse_hosts(done.stdout)
    except subprocess.CalledProcessError as error:
        said = shorten(error.stderr.strip())
        raise RuntimeError(
            f"{what} ends with exit code {error.returncode}: {said}. Try it by hand."
        ) from None
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(
            f"{what} does not name the hosts that there are: {error}. Let it print a line for each"
            " of them, HOST:SLOTS."
        ) from None
    others = hosts.keys() - {*_OWN_NAMES, platform.node()}
    if job.engine == "local" and others:
        raise RuntimeError(
            f"{what} names {min(others)}, and engine='local' has workers on this host alone; let it"
            " print localhost:SLOTS, or take another engine."
        )
    return sum(hosts.values()), hosts
