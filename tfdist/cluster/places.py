"""Where is a worker in its program, and are the others there too?

Workers do some things together: they compare the calls that they begin, such as `fit`, run steps,
and agree on what comes next. Each of them counts these things. They come in the same order
everywhere, so workers who are at the same number have to be at the same thing: if they are not,
they wait for each other in vain.

Synopsis:

    >>> first, second = Whereabouts(), Whereabouts()
    >>> for one in (first, second):
    ...     with one.inside("fit"):
    ...         _ = one.come_to("steps")
    >>> with first.inside("predict"):
    ...     _ = first.come_to("the beginning")
    >>> first.place.count, second.place.doing
    (2, 'steps of fit')
    >>> _ = second.come_to("an agreement")
    >>> parted({0: first.place, 1: second.place})
    'worker 0 is at the beginning of predict, and worker 1 at an agreement'
"""

from __future__ import annotations

import contextlib
import dataclasses
import zlib
from collections.abc import Iterator, Mapping

from tfdist.cluster.wording import name_workers


@dataclasses.dataclass(frozen=True)
class Place:
    """How far a worker has come.

    Attributes:
        count: Things that all workers do together, of those that it has begun.
        doing: The last one of them, in words.
        kind: What it is, whatever the calls are named: those are compared when they begin.
    """

    count: int = 0
    doing: str = ""
    kind: str = ""

    @property
    def tag(self) -> int:
        """A number that differs where workers do different things together."""
        return zlib.crc32(self.kind.encode())


class Whereabouts:
    """Keeps the place of this worker."""

    def __init__(self) -> None:
        self.place = Place()
        self._calls: list[str] = []
        self._alone = 0

    def come_to(self, what: str) -> Place:
        """Notes that something is begun in which the workers wait for each other."""
        if not self._alone:
            calls = " inside of ".join(reversed(self._calls))
            doing, kind = (f"{what} of {calls}" if calls else what), f"{what} {len(self._calls)}"
            # In one assignment, since another thread reads it.
            self.place = Place(self.place.count + 1, doing, kind)
        return self.place

    @contextlib.contextmanager
    def inside(self, call: str, *, is_shared: bool = True) -> Iterator[None]:
        """Marks a call; what is done in one that is not shared, this worker does alone.

        A call without a name is none: a loop over the data may end at any time.
        """
        self._calls += [call] if call else []
        self._alone += not is_shared
        try:
            yield
        finally:
            del self._calls[len(self._calls) - bool(call) :]
            self._alone -= not is_shared


def parted(places: Mapping[int, Place]) -> str:
    """Says who is at another thing than others who have come as far; "" if nobody is.

    Args:
        places: The places of workers, by rank.
    """
    by_count: dict[int, dict[str, list[int]]] = {}
    for rank, place in sorted(places.items()):
        by_count.setdefault(place.count, {}).setdefault(place.doing, []).append(rank)
    for ranks_by_doing in by_count.values():
        if len(ranks_by_doing) > 1:
            told = [
                f"{name_workers(ranks)}{' is' * (not i)} at {doing}"
                for i, (doing, ranks) in enumerate(ranks_by_doing.items())
            ]
            return ", and ".join(told)
    return ""


def parted_sentence(places: Mapping[int, Place]) -> str:
    """Says the same in a whole sentence, with what to do."""
    return (
        f"The workers have parted: {parted(places)}, so that they would wait for each other in "
        "vain. Let every worker make the same calls, not the chief alone, and start all of them "
        "again."
    )
