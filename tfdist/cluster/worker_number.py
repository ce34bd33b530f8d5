"""Which worker of how many is meant, where a caller may say so?"""

from __future__ import annotations

import os

from tfdist.cluster.detection import detect_cluster


def rank_and_size(rank: int | None, size: int | None) -> tuple[int, int]:
    """Returns which worker of how many is meant: by default, as the environment says.

    Args:
        rank: The worker's number, from 0, or None.
        size: The number of workers, or None.

    Raises:
        ValueError: They name no worker, or only one of them is given.
    """
    if rank is None and size is None:
        cluster = detect_cluster(os.environ)
        return (cluster.rank, cluster.size) if cluster else (0, 1)
    if rank is None or size is None or not 0 <= rank < size:
        raise ValueError(
            f"rank={rank!r} and size={size!r} name no worker. Give both, the rank from 0 to size-1,"
            " or none of them."
        )
    return rank, size
