"""How many workers has the next attempt of an elastic job?  The time is an argument everywhere.

A job of MIN:MAX workers begins with those for which there is a place, from MIN on. After one was
lost, it waits for its place to come back, for `wait_secs`, and goes on with those that are left.
Where there are places for more or for fewer, it saves and begins anew with as many.

Not every engine can say for how many workers it has places. There the next attempt asks for all of
them, and one that does not get them, again and again for `wait_secs`, is followed by a smaller one.
"""

from __future__ import annotations

import dataclasses

STEADY_SECS = 3.0  # for which places have to be there, or not to be, before a run is ended for them


@dataclasses.dataclass(frozen=True)
class Attempt:
    """What the number of workers depends on, of an attempt that has ended."""

    size: int  # its workers
    was_started: bool  # whether all of them had joined the roll call
    num_absent: int  # those of them that did not come
    was_asked: bool  # whether it has saved and ended since the number of its places had changed


class TooFew(RuntimeError):
    """There are too few places for the job, for too long."""


class Sizing:
    """How many workers each attempt has.

    Args:
        fewest: The smallest number of them.
        most: The largest one.
        wait_secs: How long a lost place is waited for, in seconds.
    """

    def __init__(self, *, fewest: int, most: int, wait_secs: float) -> None:
        self._fewest, self._most, self._wait_secs = fewest, most, wait_secs
        self._goal = fewest  # with so many places the next attempt begins at once
        self._since: float | None = None  # when the wait has begun
        self._cap = most  # what could be had, if more were asked for in vain
        self._places: int | None = None  # of which the cap is known
        self._steady = (0, 0.0)  # the size for which there are places now, and since when

    def next_size(self, places: int | None, *, now: float) -> int:
        """Returns the number of workers of the next attempt; 0 while others may still come.

        Args:
            places: For how many workers there are places; None where nobody can say.
            now: Seconds, of a monotonic clock.

        Raises:
            TooFew: There were not enough for the whole of the wait.
        """
        self._since = now if self._since is None else self._since
        room, is_late = self._room(places), now >= self._since + self._wait_secs
        if room >= (self._fewest if is_late or places is None else self._goal):
            self._steady = (room, now)
            return room
        if is_late or places is None:
            raise TooFew(
                f"there are places for {room} workers, and the job needs {self._fewest} at least"
                f" (waited for wait_secs={self._wait_secs:g}); give it places, and the same command"
                " goes on"
            )
        return 0

    def change(self, size: int, places: int | None, *, now: float) -> str:
        """Says why a running attempt should save and begin anew; "" if it should not.

        Args:
            size: Its workers.
            places: For how many workers there are places; None where nobody can say.
            now: Seconds, of a monotonic clock.
        """
        room = size if places is None else self._room(places)
        if room != self._steady[0]:
            self._steady = (room, now)
        if room == size or now < self._steady[1] + STEADY_SECS:
            return ""
        return f"there are places for {room} workers now, and {size} are at work"

    def take(self, ended: Attempt, places: int | None, *, now: float) -> bool:
        """Takes how an attempt has ended; tells whether this costs the job one of its restarts.

        One that did not start had workers that did not come; else another would not help.

        Args:
            ended: The attempt.
            places: For how many workers there are places now; None where nobody can say.
            now: Seconds, of a monotonic clock.
        """
        if ended.was_started:
            self._goal = self._fewest if ended.was_asked else ended.size
            self._since, self._cap = None, self._most if places is None else self._cap
            return not ended.was_asked and (places is None or self._room(places) >= ended.size)
        since = now if self._since is None else self._since
        if now >= since + self._wait_secs:
            came = ended.size - ended.num_absent
            self._cap = came if came >= self._fewest else ended.size - 1
            self._places, self._since = places, None
        return False

    def _room(self, places: int | None) -> int:
        if places is None:
            return self._cap
        if self._places is not None and places != self._places:
            self._cap, self._places = self._most, None  # what was not there may be there now
        return min(places, self._cap, self._most)
