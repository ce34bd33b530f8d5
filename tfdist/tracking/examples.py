"""How many examples do some steps have, over all workers?  By the sizes known in advance."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tfdist.communication.workers import Workers
from tfdist.data.source import Source

_UNKNOWN = -1


@dataclasses.dataclass(frozen=True)
class Examples:
    """The examples of the batches of a pass; a batch of unknown size but the first counts as full.

    Attributes:
        sizes: Of a full batch, by worker where each has examples of its own, else one.
        totals: Of a pass, likewise; None where they are unknown.
        num_batches: Of a pass; None if unknown.
    """

    sizes: Sequence[int]
    totals: Sequence[int] | None = None
    num_batches: int | None = None

    def between(self, start: int, stop: int) -> int:
        """Returns the examples of some batches, counted over all passes from 0.

        Args:
            start: The first batch.
            stop: The batch after the last one.

        >>> Examples([4], totals=[10], num_batches=3).between(2, 5)
        10
        """
        return self._until(stop) - self._until(start)

    def _until(self, batch: int) -> int:
        if self.totals is None or not self.num_batches:
            return batch * sum(self.sizes)
        passes, batch = divmod(batch, self.num_batches)
        pairs = zip(self.totals, self.sizes, strict=True)
        return passes * sum(self.totals) + sum(min(all_, batch * size) for all_, size in pairs)


def examples_of(source: Source, workers: Workers) -> Examples | None:
    """Returns the examples of a source; every worker has to call it. None if nothing is known.

    Args:
        source: The batches.
        workers: Of the model's strategy.
    """
    size, total = source.batch_size(), source.num_examples
    own = [_UNKNOWN if number is None else int(number) for number in (size, total)]
    rows = workers.gather(*own) if source.is_share else [own]
    sizes, totals = ([int(number) for number in column] for column in zip(*rows, strict=True))
    if _UNKNOWN in sizes:
        return None
    return Examples(sizes, None if _UNKNOWN in totals else totals, source.num_batches)
