"""Are the other workers alive?  A separate connection between them, served by a daemon thread.

A collective whose peer has gone, or was stopped, waits for ever, and the main thread with it. So
each second every worker sends a line to the chief, and the chief sends one to each worker, whatever
the main threads do. A closed connection means a dead peer; silence, a stopped or unreachable one.
Workers in a run that such a peer has not left normally end, with an error that names the peer. So
do those who wait where a peer that has left the run never came, and all who wait for each other at
different places (places.py). In one file, since all of it is one thread.

Synopsis (a world of one has no peers):

    >>> with Heart({}, rank=0, silence_secs=5.0, on_loss=print) as heart:
    ...     with heart.run():
    ...         pass
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tfdist.cluster import messages
from tfdist.cluster.places import Place, Whereabouts, parted, parted_sentence
from tfdist.cluster.wording import name_workers

_LOG = logging.getLogger("tfdist")
_BEAT_SECS = 1.0
_TICK_SECS = 0.25
_TELL_SECS = 1.0  # how long a worker waits for its last message to be sent
_PATIENCE_SECS = 30.0  # until it is said for whom this worker waits
_FOREVER = 10**9


@dataclasses.dataclass(frozen=True)
class State:
    """What a worker says of itself. Runs are numbered from 1, alike on all workers.

    Attributes:
        entered: The run that it is in, or was in last.
        left: The last run that it has left normally.
        failed: The last run that it has left with an error.
    """

    entered: int = 0
    left: int = 0
    failed: int = 0

    @property
    def is_in_run(self) -> bool:
        """Whether it is in a run now."""
        return self.entered not in (self.left, self.failed)


@dataclasses.dataclass(frozen=True)
class Loss:
    """A peer that cannot take part in the runs from `first` to `last` any more."""

    rank: int
    first: int
    last: int
    why: str
    is_of_all: bool = False  # `why` is the whole sentence, of workers that wait for each other

    def concerns(self, state: State) -> bool:
        """Tells whether a worker in this state waits for the peer in vain."""
        return state.is_in_run and self.first <= state.entered <= self.last


def _numbers(values: Any) -> list[int]:
    if not all(type(value) is int for value in values):
        raise ValueError(f"These are no whole numbers: {values!r}.")
    return list(values)


def _loss_of(entry: Any) -> Loss:
    *numbers, why, is_of_all = entry
    rank, first, last = _numbers(numbers)
    return Loss(rank, first, last, str(why), bool(is_of_all))


@dataclasses.dataclass(frozen=True)
class Stay:
    """Since when a worker has been at a place, as its heart saw it."""

    place: Place
    since: float


class Peer:
    """The other end of a connection."""

    def __init__(self, rank: int, connection: socket.socket) -> None:
        self.rank, self.connection = rank, connection
        self.state, self.place = State(), Place()
        self.reported: list[Loss] = []  # the losses that it reports
        self.heard_at = time.monotonic()
        self.failed_at = 0.0
        self.is_closed = False
        self._rest = b""
        connection.setblocking(False)

    def hear(self, *, now: float) -> None:
        """Reads what has come."""
        try:
            while piece := self.connection.recv(65536):
                *lines, self._rest = (self._rest + piece).split(b"\n")
                for line in lines:
                    self._take(messages.decode(line), now=now)
                if len(self._rest) > messages.MAX_BYTES:
                    break
        except BlockingIOError:
            return  # that was all for now
        except (OSError, ValueError, TypeError, KeyError):
            pass  # closed, or sending nonsense
        self.is_closed = True

    def _take(self, message: Mapping[str, Any], *, now: float) -> None:
        before, self.heard_at = self.state.failed, now
        self.state = State(*_numbers(message["state"]))
        if self.state.failed != before:
            self.failed_at = now
        count, doing = message.get("place", (0, ""))
        self.place = Place(_numbers([count])[0], str(doing))
        self.reported = [_loss_of(entry) for entry in message["losses"]]

    def tell(self, line: bytes) -> None:
        """Sends a line; drops it if a stopped peer has no room for it."""
        with contextlib.suppress(OSError):  # `hear` notices a loss
            self.connection.send(line)

    def loss(self, silence_secs: float, *, now: float) -> Loss | None:
        """Returns the runs from which this peer is missing, or None."""
        state = self.state
        if self.is_closed:
            return Loss(self.rank, state.left + 1, _FOREVER, "has ended")
        if now - self.heard_at > silence_secs:
            why = f"was not heard for {silence_secs:g} s: it is stopped, or cannot be reached"
            return Loss(self.rank, state.left + 1, _FOREVER, why)
        if state.failed and now - self.failed_at > silence_secs:
            return Loss(self.rank, state.failed, state.failed, "has left with an error")
        return None

    def missed(self, state: State, stay: Stay, silence_secs: float, *, now: float) -> Loss | None:
        """Returns the run that this peer has left, and has not come to where this worker is.

        Args:
            state: This worker's.
            stay: Where it is.
            silence_secs: How long it has to be there, for the peer's word to come.
            now: By the monotonic clock.
        """
        is_behind = self.place.count < stay.place.count
        has_left = state.is_in_run and self.state.left == self.state.entered == state.entered
        if not (has_left and is_behind and now - stay.since > silence_secs):
            return None
        why = f"has left after {self.place.doing}" if self.place.doing else "has left"
        return Loss(self.rank, state.entered, state.entered, why)


class Heart:
    """This worker's part: tells its peers that it is alive, and checks whether they are.

    Args:
        peers: Connections by rank: on the chief to all others, elsewhere only to the chief.
        rank: This worker's rank, over all workers.
        silence_secs: Time without a line after which a peer counts as lost, in seconds.
        on_loss: Called in the thread, once, when this worker waits for a peer in vain.
        whereabouts: Keeps this worker's place.
    """

    def __init__(
        self,
        peers: Mapping[int, socket.socket],
        *,
        rank: int,
        silence_secs: float,
        on_loss: Callable[[Loss], None],
        whereabouts: Whereabouts | None = None,
    ) -> None:
        self._whereabouts = whereabouts or Whereabouts()
        self._stay, self._parting = Stay(Place(), 0.0), ("", 0.0)
        self._has_told_of = -1
        self._peers = {rank: Peer(rank, connection) for rank, connection in peers.items()}
        self._rank, self._silence_secs, self._on_loss = rank, silence_secs, on_loss
        self._state = State()
        self._depth = 0
        self._told, self._is_closing = threading.Event(), False
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        # Not select.select, which fails where this process has a thousand files open.
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._woken, selectors.EVENT_READ)
        for peer in self._peers.values():
            self._selector.register(peer.connection, selectors.EVENT_READ, peer)
        self._thread = threading.Thread(target=self._beat, name="tfdist-heartbeat", daemon=True)
        self._thread.start()

    def __enter__(self) -> Heart:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def run(self) -> Iterator[None]:
        """Marks a run of all workers together; a run inside another one is part of that."""
        if self._depth:
            yield
            return
        number, is_well = self._state.entered + 1, False
        self._depth, self._state = 1, dataclasses.replace(self._state, entered=number)
        try:
            yield
            is_well = True
        except (SystemExit, GeneratorExit):
            is_well = True  # all workers leave, or a loop over the data was left early
            raise
        finally:
            self._leave(number, is_well=is_well)

    def leave(self, *, is_well: bool) -> None:
        """Ends the run that this worker is in, if any: its process ends."""
        if self._depth:
            self._leave(self._state.entered, is_well=is_well)

    def _leave(self, number: int, *, is_well: bool) -> None:
        if self._is_closing or not self._depth:
            return  # already left
        change = {"left": number} if is_well else {"failed": number}
        self._depth, self._state = 0, dataclasses.replace(self._state, **change)
        self._tell_now()

    def await_loss(self) -> None:
        """Waits, inside a run, until `on_loss` was called, or for as long as that may take.

        For callers that know of a broken connection between the workers from elsewhere.
        """
        if self._depth:
            # The thread ends after it has called `on_loss`.
            self._thread.join(self._silence_secs + _BEAT_SECS + 2 * _TICK_SECS)

    def close(self) -> None:
        """Ends the thread and its connections."""
        self._is_closing = True
        self._tell_now()
        self._thread.join()
        self._selector.close()
        for end in (self._wake, self._woken, *(peer.connection for peer in self._peers.values())):
            end.close()

    def _tell_now(self) -> None:
        """Waits until the peers were told: this process may end right afterwards."""
        self._told.clear()
        with contextlib.suppress(OSError):
            self._wake.send(b"x")
        self._told.wait(_TELL_SECS)

    def _beat(self) -> None:
        beaten_at = looked_at = float("-inf")
        while True:
            is_woken = self._listen(looked_at)
            looked_at = time.monotonic()
            losses = self._losses(now=looked_at)
            concerning = self._concerning(losses)
            if is_woken or concerning or looked_at - beaten_at >= _BEAT_SECS:
                beaten_at = looked_at
                self._tell(losses)
            if is_woken:
                self._told.set()
            if self._is_closing:
                return
            if concerning:
                self._on_loss(concerning)
                return

    def _listen(self, looked_at: float) -> bool:
        """Reads what comes within a tick; tells whether the main thread has news to be sent.

        A tick is waited for to its end, unless somebody has ended: of a thousand peers some line
        comes each millisecond, and all peers are looked at after each tick.
        """
        awake_at, has_ended = looked_at, False
        until = time.monotonic() + _TICK_SECS
        while True:
            now = time.monotonic()
            if now - awake_at > _BEAT_SECS + _TICK_SECS:
                for peer in self._peers.values():
                    peer.heard_at = now  # this process slept, and their lines may be on their way
            if has_ended or now >= until:
                return False
            awake_at = now
            for key, _ in self._selector.select(until - now):
                peer = key.data
                if peer is None:
                    self._woken.recv(4096)
                    return True
                peer.hear(now=time.monotonic())
                if peer.is_closed:
                    has_ended = True
                    self._selector.unregister(peer.connection)

    def _losses(self, *, now: float) -> list[Loss]:
        state, place = self._state, self._whereabouts.place
        if place.count != self._stay.place.count:
            self._stay = Stay(place, now)
        found = [peer.loss(self._silence_secs, now=now) for peer in self._peers.values()]
        found += [
            peer.missed(state, self._stay, self._silence_secs, now=now)
            for peer in self._peers.values()
        ]
        if self._rank == 0:
            found.append(self._of_parting(now=now))
        self._tell_of_waiting(now=now)
        return [loss for loss in found if loss]

    def _of_parting(self, *, now: float) -> Loss | None:
        """Returns the loss of workers that wait at different places, for each other."""
        of_peers = {rank: peer.place for rank, peer in self._peers.items() if not peer.is_closed}
        text = parted(places := {0: self._stay.place, **of_peers})
        if text != self._parting[0]:
            self._parting = (text, now)  # a moment ago they agreed, or will have an error of it
        if not text or now - self._parting[1] < 2 * _BEAT_SECS:
            return None
        return Loss(0, 1, _FOREVER, parted_sentence(places), True)

    def _tell_of_waiting(self, *, now: float) -> None:
        """Says, once at each place, for whom this worker waits."""
        place, since = self._stay.place, self._stay.since
        if not self._state.is_in_run or now - since < _PATIENCE_SECS:
            return
        behind = {r: p.place for r, p in self._peers.items() if p.place.count < place.count}
        if behind and self._has_told_of != place.count:
            self._has_told_of = place.count
            first = min(behind)
            _LOG.warning(
                "Worker %d has waited %.0f s at %s for %s, which %s alive and last came to %s.",
                self._rank, now - since, place.doing, name_workers(sorted(behind)),
                "is" if len(behind) == 1 else "are", behind[first].doing or "no call yet",
            )

    def _tell(self, losses: list[Loss]) -> None:
        content = {
            "state": dataclasses.astuple(self._state),
            "losses": [dataclasses.astuple(loss) for loss in losses],
            "place": [(place := self._whereabouts.place).count, place.doing],
        }
        line = messages.encode(content)
        for peer in self._peers.values():
            peer.tell(line)

    def _concerning(self, losses: list[Loss]) -> Loss | None:
        """Returns a loss that makes this worker wait in vain; the chief's word comes first."""
        reported = [loss for peer in self._peers.values() for loss in peer.reported]
        known = (self._rank, *self._peers)
        others = [loss for loss in reported if loss.is_of_all or loss.rank not in known]
        state = self._state
        return next((loss for loss in others + losses if loss.concerns(state)), None)
