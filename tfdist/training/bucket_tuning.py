"""Which sizes of pieces and buckets are fastest here? `fit` measures them on request."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

from tfdist.checkpoint.run import Run
from tfdist.communication.compression import EXACT, Reduction
from tfdist.communication.workers import Workers
from tfdist.training.profiling import sum_secs

_LOG = logging.getLogger("tfdist")
_MIB = 2**20
# The first one is the default, used without a measurement and where no other is faster.
_SIZES = (
    (EXACT.piece_bytes, EXACT.bucket_bytes),
    *((piece * _MIB, bucket * _MIB) for piece, bucket in ((4, 2), (4, 4), (8, 1), (8, 8))),
)
_NOTED = "reduction_sizes"
_GAIN = 0.05  # less is noise


def settled(
    reduction: Reduction,
    variables: Sequence[Any],
    workers: Workers,
    run: Run,
) -> Reduction:
    """Returns the reduction with its sizes filled in; a resumed run keeps the sizes it began with.

    Args:
        reduction: As given to `fit`. Every worker has to call this with the same one.
        variables: The trained variables.
        workers: Of the strategy; the chief's measurement counts.
        run: Holds the sizes of a resumed run, and records the sizes that are chosen here.
    """
    if not reduction.is_open:
        return reduction
    sizes = run.noted(_NOTED) or _measured(reduction, variables, workers)
    run.note(**{_NOTED: list(sizes)})
    return dataclasses.replace(reduction, piece_bytes=int(sizes[0]), bucket_bytes=int(sizes[1]))


def _measured(
    reduction: Reduction, variables: Sequence[Any], workers: Workers
) -> Sequence[Any]:
    reductions = [
        Reduction(reduction.wire_dtype, piece_bytes=piece, bucket_bytes=bucket)
        for piece, bucket in _SIZES
    ]
    secs = sum_secs(workers.strategy, variables, reductions)
    best = min(range(len(secs)), key=secs.__getitem__)
    if secs[best] > (1 - _GAIN) * secs[0]:
        best = 0
    best = int(workers.gather(best)[0, 0])
    piece, bucket = _SIZES[best]
    _LOG.info(
        "Gradients travel in pieces of %s and buckets of %s bytes: %.2f ms a sum, where the usual "
        "sizes take %.2f ms.", piece, bucket, 1e3 * secs[best], 1e3 * secs[0],
    )
    return _SIZES[best]
