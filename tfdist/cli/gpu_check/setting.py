"""What is tried on, and how large?  A GPU, or the CPU as a test of the check itself.

Synopsis:

    >>> Setting("gpu", folder="/tmp").one, Setting("cpu", folder="/tmp").two
    ('gpu:0', '2xcpu')
"""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Size:
    """How large the models are that are timed.

    Attributes:
        pixels: Of a side of an image.
        width: Channels of the CNN's first stage, and an eighth of the transformer's.
        depth: Blocks of a stage of the CNN, and half of the transformer's.
        words: Of a text.
        batch: Rows of a step.
        steps: Of one timing.
        rounds: Timings, by turns.
    """

    pixels: int
    width: int
    depth: int
    words: int
    batch: int
    steps: int
    rounds: int


LARGE = Size(pixels=32, width=64, depth=3, words=256, batch=128, steps=40, rounds=5)
SMALL = Size(pixels=8, width=4, depth=1, words=8, batch=8, steps=4, rounds=1)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all parts are told.

    Attributes:
        kind: "gpu" or "cpu".
        folder: Where parts leave files for later ones.
    """

    kind: str
    folder: str

    @property
    def is_gpu(self) -> bool:
        """Whether a GPU is tried, and not this check on a CPU."""
        return self.kind == "gpu"

    @property
    def one(self) -> str:
        """The device spec of one replica."""
        return "gpu:0" if self.is_gpu else "cpu"

    @property
    def two(self) -> str:
        """The device spec of two replicas in one process."""
        return f"2x{self.kind}"

    @property
    def size(self) -> Size:
        """How large the models are that are timed."""
        return LARGE if self.is_gpu else SMALL


def physical_gpus() -> list[Any]:
    """Returns the GPUs that TensorFlow sees; it is not started by this."""
    import tensorflow as tf

    found: list[Any] = tf.config.list_physical_devices("GPU")
    return found
