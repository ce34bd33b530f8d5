"""How long would a step take on more workers? Arithmetic on a measured step, bytes and link.

Synopsis:

    >>> link = Link(bytes_per_sec=1.25e9, latency_secs=50e-6)
    >>> alone = Split(input_secs=0.0, compute_secs=0.1, communication_secs=0.0, host_secs=0.0)
    >>> found = Forecast(alone, num_bytes=100_000_000, link=link)
    >>> round(found.secs(8), 4), round(found.efficiency(8), 2)
    (0.2407, 0.42)
    >>> found.most_workers(efficiency=0.8)
    1
    >>> print(found.limit(8))
    8 workers: 240.7 ms a step, efficiency 0.42; most of what is lost: bytes of gradients (140.0 ms)

Standard library only.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

from tfdist.training.time_split import Split, advice

_MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Link:
    """What connects two neighbours of the ring.

    Attributes:
        bytes_per_sec: What a worker can send while it receives as much.
        latency_secs: Latency of one message, whatever its size.
    """

    bytes_per_sec: float
    latency_secs: float = 0.0

    def __post_init__(self) -> None:
        if not self.bytes_per_sec > 0 or not self.latency_secs >= 0:
            raise ValueError(
                f"{self} is no link: bytes_per_sec must be above 0, latency_secs 0 or more. "
                "Measure one with `fit_link`."
            )

    def all_reduce_secs(self, workers: int, num_bytes: int, *, packs: int = 1) -> float:
        """Returns the seconds of a ring all-reduce.

        `2 (n - 1) / n * bytes / bandwidth + 2 (n - 1) * latency`, the latency once a pack.

        Args:
            workers: Workers of the ring.
            num_bytes: Bytes that each worker holds.
            packs: Messages that the bytes are cut into, one all-reduce after the other.
        """
        hops = 2 * (workers - 1)
        return hops / workers * num_bytes / self.bytes_per_sec + packs * hops * self.latency_secs

    def bucket_bytes(self, workers: int, *, latency_share: float = 0.1) -> int:
        """Returns the smallest bucket, in whole MiB, for which latency takes at most that share."""
        least = (1 / latency_share - 1) * workers * self.latency_secs * self.bytes_per_sec
        return max(1, -int(-least // _MIB)) * _MIB


def fit_link(points: Sequence[tuple[int, int, float]]) -> Link:
    """Finds the link that explains measured all-reduces best, by least squares.

    Args:
        points: Workers, bytes and seconds of each; at least two sizes are needed for latency.

    Raises:
        ValueError: No point has several workers and takes time that grows with its bytes.
    """
    rows = [(2 * (n - 1) / n * size, 2.0 * (n - 1), secs) for n, size, secs in points if n > 1]
    aa, ab, bb = (sum(r[i] * r[j] for r in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    ay, by = (sum(r[i] * r[2] for r in rows) for i in (0, 1))
    determinant = aa * bb - ab * ab
    # If all sizes are the same, all of the time is attributed to the bytes.
    if determinant > 1e-12 * aa * bb:
        per_byte, latency = (ay * bb - by * ab) / determinant, (by * aa - ay * ab) / determinant
    else:
        per_byte, latency = 0.0, -1.0
    if latency < 0 or per_byte <= 0:
        per_byte, latency = ay / aa if aa else 0.0, 0.0
    if per_byte <= 0:
        raise ValueError(
            f"points={list(points)} hold no all-reduce over several workers that takes time. "
            "Measure one with 2 workers or more and some bytes."
        )
    return Link(1 / per_byte, latency)


@dataclasses.dataclass(frozen=True)
class Forecast:
    """A step's time on n workers, from one measured step.

    Assumes that all workers are alike, and late only by chance; that all links of the ring are
    alike, and nobody else uses them; that no part of the sum overlaps the backward pass; and that
    the input and host time of a worker do not change. In weak scaling each worker keeps its batch;
    in strong scaling the global batch stays, so compute and input are divided by the workers, which
    overrates small batches.

    Attributes:
        alone: The split of a step on one worker; its communication, between replicas of one
            worker, is there on any number.
        num_bytes: Bytes of all gradients, of one replica.
        link: Between two workers.
        packs: Messages that the gradients are cut into.
        is_strong: Whether the global batch stays as it is.
        measured: Measured seconds of a step by number of workers, to tell the error.
        spread_secs: Standard deviation of a step of one worker: all wait for the slowest.
        cores: Cores that the workers share, where all run on one machine; None where each has its
            own. Sums over loopback are copies, and take cores as well. More workers than cores make
            everything as many times longer as the fullest core has workers, for which all wait.
            That is rough: others may take cores too, and one worker alone may have shared its own.
    """

    alone: Split
    num_bytes: int
    link: Link
    packs: int = 1
    is_strong: bool = False
    measured: Mapping[int, float] = dataclasses.field(default_factory=dict)
    spread_secs: float = 0.0
    cores: int | None = None

    def split(self, workers: int) -> Split:
        """Returns the parts of a step on a number of workers."""
        if workers < 1:
            raise ValueError(f"workers={workers!r} must be 1 or more. Ask for 1 to 1,024.")
        parts = workers if self.is_strong else 1
        crowd = self._crowd(workers)
        reduction = self.link.all_reduce_secs(workers, self.num_bytes, packs=self.packs)
        return dataclasses.replace(
            self.alone,
            input_secs=self.alone.input_secs * crowd / parts,
            # Waiting for a slower worker counts as compute, as where it is measured.
            compute_secs=self.alone.compute_secs * crowd / parts + self.wait_secs(workers),
            communication_secs=self.alone.communication_secs + reduction * crowd,
        )

    def wait_secs(self, workers: int) -> float:
        """Returns for how long a worker waits for the slowest of all, on average.

        The mean of the largest of n normal numbers (G. Blom, Statistical Estimates and Transformed
        Beta-Variables, 1958), times the standard deviation.
        """
        if workers < 2 or not self.spread_secs:
            return 0.0
        place = (workers - 0.375) / (workers + 0.25)
        return self.spread_secs * statistics.NormalDist().inv_cdf(place)

    def lost(self, workers: int) -> dict[str, float]:
        """Returns the seconds of a step that an ideal number of workers would not take, by cause.

        Ideal are one worker's own parts, divided by the workers in strong scaling.
        """
        crowd = self._crowd(workers)
        bytes_alone = dataclasses.replace(self.link, latency_secs=0.0)
        of_bytes = bytes_alone.all_reduce_secs(workers, self.num_bytes)
        whole = self.link.all_reduce_secs(workers, self.num_bytes, packs=self.packs)
        shared = (self.alone.input_secs + self.alone.compute_secs) * (crowd - 1)
        undivided = self.alone.host_secs + self.alone.communication_secs
        return {
            "bytes of gradients": of_bytes * crowd,
            "latency of messages": (whole - of_bytes) * crowd,
            "waiting for the slowest": self.wait_secs(workers),
            "cores that workers share": shared / (workers if self.is_strong else 1),
            "what no number of workers divides": undivided * (1 - 1 / workers) * self.is_strong,
        }

    def limit(self, workers: int) -> str:
        """Says how long a step takes on a number of workers, and what keeps it from being ideal."""
        lost = self.lost(workers)
        most = max(lost, key=lambda cause: lost[cause])
        cause = f"most of what is lost: {most} ({1000 * lost[most]:.1f} ms)"
        return (
            f"{workers:,} workers: {1000 * self.secs(workers):.1f} ms a step, efficiency "
            f"{self.efficiency(workers):.2f}; {cause if lost[most] > 0 else 'nothing is lost'}"
            f"{self._crowded(workers)}"
        )

    def _crowded(self, workers: int) -> str:
        """Says how far the forecast can be trusted where workers share cores; "" where not."""
        if self.cores is None or workers <= self.cores:
            return ""
        alone = dataclasses.replace(self, cores=None).secs(workers)
        return (
            f"; {workers:,} workers share {self.cores} cores, so this is rough; with a core for "
            f"each it is {1000 * alone:.1f} ms"
        )

    def _crowd(self, workers: int) -> float:
        return float(math.ceil(workers / self.cores)) if self.cores else 1.0

    def secs(self, workers: int) -> float:
        """Returns the seconds of a step on a number of workers."""
        return self.split(workers).secs

    def speed_up(self, workers: int) -> float:
        """Returns the examples per second over those of one worker."""
        work = 1 if self.is_strong else workers
        return work * self.secs(1) / self.secs(workers)

    def efficiency(self, workers: int) -> float:
        """Returns the speed-up divided by the workers."""
        return self.speed_up(workers) / workers

    def most_workers(self, *, efficiency: float = 0.8, limit: int = 1024) -> int:
        """Returns the largest number of workers up to which an efficiency is kept throughout."""
        number = 1
        while number < limit and self.efficiency(number + 1) >= efficiency:
            number += 1
        return number

    @property
    def errors(self) -> dict[int, float]:
        """Relative errors at the measured points: `predicted / measured - 1`."""
        return {n: self.secs(n) / secs - 1 for n, secs in sorted(self.measured.items())}

    @property
    def worst_error(self) -> float | None:
        """The largest of them, without its sign; None where nothing was measured."""
        return max((abs(error) for error in self.errors.values()), default=None)

    def advice(self, workers: int) -> list[str]:
        """Returns advice for a number of workers, in sentences."""
        most = self.most_workers()
        kind = "strong" if self.is_strong else "weak"
        error = self.worst_error
        sure = "not checked on any" if error is None else f"wrong by {100 * error:.0f} % at most"
        bucket = self.link.bucket_bytes(max(workers, 2)) // _MIB
        return [
            *advice(self.split(workers)),
            *([f"Run on {workers} cores or more: {self.limit(workers)}."]
              if self._crowded(workers) else []),
            f"Buckets of {bucket} MiB or more keep latency below 10 % of their time on {workers} "
            "workers.",
            f"Efficiency ({kind} scaling) is {100 * self.efficiency(workers):.0f} % on {workers} "
            f"workers, and at least 80 % up to {most}; the prediction is {sure} of the "
            f"{len(self.measured)} measured points.",
        ]
