"""Which shapes are batches given?

The request (`static_shapes`, `length_buckets`), what follows from it for some data, and which
outputs of a model have a padded length. How batches get these shapes is in padding.py and
lengths.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

#: For each dimension of each output: the number of the open tensor whose length it has, or None.
Followed = tuple[tuple[int | None, ...], ...]


@dataclasses.dataclass(frozen=True)
class Lengths:
    """The few lengths that batches of examples of varying length are given; see lengths.py.

    Attributes:
        buckets: The lengths, ascending.
        is_open: For each tensor of a batch, in flat order, whether its second dimension varies.
            Those tensors are called "the open tensors", and numbered in this order.
        target: The number of the first open tensor of the targets; None if there is none.
    """

    buckets: tuple[int, ...]
    is_open: tuple[bool, ...]
    target: int | None


@dataclasses.dataclass(frozen=True)
class Padding:
    """The one shape that every batch of some data is given; see padding.py.

    Attributes:
        rows: Rows of each replica's part of a batch, those that do not count included.
        is_needed: Whether there may be rows or timesteps that do not count; else every batch is
            full.
        lengths: The lengths to pad to; None if all examples have one length.
    """

    rows: int
    is_needed: bool
    lengths: Lengths | None = None


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Which shapes batches are given.

    Attributes:
        are_static: Whether every batch is padded to one shape, or to one of a few.
        buckets: The lengths that batches of varying length are padded to, ascending; () if there
            are none.
    """

    are_static: bool = False
    buckets: tuple[int, ...] = ()


def parse_shapes(static_shapes: bool | None, length_buckets: Any, *, is_tpu: bool) -> Shapes:
    """Returns which shapes batches are given.

    Args:
        static_shapes: As in `fit`.
        length_buckets: As in `fit`; they ask for static shapes.
        is_tpu: Whether None means static shapes: a TPU compiles each shape for seconds to minutes.

    Raises:
        ValueError: The buckets are not lengths, or static_shapes=False contradicts them.
    """
    buckets = _parsed(length_buckets)
    if buckets and static_shapes is not None and not static_shapes:
        raise ValueError(
            f"length_buckets={buckets} pads batches to static shapes, but static_shapes=False "
            "asks for none. Leave static_shapes out, or length_buckets."
        )
    default = bool(buckets) or is_tpu
    return Shapes(default if static_shapes is None else bool(static_shapes), buckets)


def _parsed(length_buckets: Any) -> tuple[int, ...]:
    """Returns the lengths that batches are padded to, ascending, each once; () for None."""
    if length_buckets is None:
        return ()
    is_listed = isinstance(length_buckets, Iterable) and not isinstance(length_buckets, str)
    lengths = list(length_buckets) if is_listed else []
    if not lengths or not all(_is_length(length) for length in lengths):
        raise ValueError(
            f"length_buckets are the lengths that batches are padded to, but "
            f"length_buckets={length_buckets!r}. Give one positive integer or more, as "
            "length_buckets=(32, 64, 128)."
        )
    return tuple(sorted({int(length) for length in lengths}))


def _is_length(length: Any) -> bool:
    is_whole = isinstance(length, (int, np.integer)) and not isinstance(length, bool)
    return bool(is_whole and length >= 1)
