"""How does a loop run through its batches?"""

from __future__ import annotations

import dataclasses
from typing import Any

from tfdist.communication.compression import EXACT, Reduction
from tfdist.data.shapes import Padding
from tfdist.data.source import Source
from tfdist.privacy.update import Private


@dataclasses.dataclass(frozen=True)
class LoopOptions:
    """How a loop runs through its batches. Each combination of options has its own trace.

    Attributes:
        is_share: Whether each worker's iterator holds only its own rows.
        has_all_rows: Whether it gives all rows of a batch in one part.
        is_whole: Whether every replica computes on all of these, see step/whole.py.
        padding: The shape that every batch is padded to; None without static shapes.
        stops_at_nan: Whether training ends after a step whose loss is not finite.
        on_nan: What to do if a gradient is not finite; one of options.ON_NAN.
        reduction: How gradients travel between replicas.
        local_steps: Steps that each replica trains on its own, see step/local_steps.py; or None.
        outer_optimizer: The optimizer that updates after each round of them, or None.
        privacy: What a private step computes, see privacy/update.py; or None.
        is_timed: Whether the waits for batches are added up, see `Programs.waits`.
    """

    is_share: bool = False
    has_all_rows: bool = False
    is_whole: bool = False
    padding: Padding | None = None
    stops_at_nan: bool = False
    on_nan: str = "warn"
    reduction: Reduction = EXACT
    local_steps: int | None = None
    outer_optimizer: Any = None
    privacy: Private | None = None
    is_timed: bool = False


def of_source(source: Source) -> LoopOptions:
    """Returns the options of a loop that learns nothing from its batches."""
    return LoopOptions(
        is_share=source.is_share, has_all_rows=source.has_all_rows, padding=source.padding
    )


#: Options for a loop that asks for nothing.
PLAIN = LoopOptions()
