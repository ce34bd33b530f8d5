"""The data of the rows: small, fixed, and of awkward sizes.

22 examples in batches of 7: three batches that neither 2, 3 nor 4 replicas divide, and one of a
single example, which leaves all replicas but one empty.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

ROWS, FEATURES, CLASSES, TOKENS, STEPS = 22, 6, 3, 7, 5


def _rng(name: str) -> np.random.Generator:
    return np.random.default_rng(list(name.encode()))


def features(rows: int = ROWS, *shape: int) -> np.ndarray:
    """Normal numbers, `(rows, 6)` or of the shape that is given."""
    return _rng("features").normal(size=(rows, *(shape or (FEATURES,))))


def labels(rows: int = ROWS, *shape: int) -> np.ndarray:
    """Classes 0 to 2, `(rows, ...)`."""
    return _rng("labels").integers(0, CLASSES, size=(rows, *shape))


def numbers(rows: int = ROWS, *shape: int) -> np.ndarray:
    """Targets of a regression, `(rows, 1)` or of the shape that is given."""
    return _rng("numbers").normal(size=(rows, *(shape or (1,))))


def weights(rows: int = ROWS, *shape: int) -> np.ndarray:
    """Sample weights between 0.1 and 2, `(rows, ...)`."""
    return _rng("weights").uniform(0.1, 2, size=(rows, *shape))


def tokens(rows: int = ROWS, steps: int = STEPS) -> np.ndarray:
    """Words 1 to 6 with a tail of zeros (padding) of another length in each row; one row is all
    zeros, and so are the rows of the second batch's first half."""
    drawn = _rng("tokens").integers(1, TOKENS, size=(rows, steps))
    lengths = _rng("lengths").integers(1, steps + 1, size=rows)
    lengths[3] = 0
    lengths[7:10] = 0
    drawn[np.arange(steps)[None] >= lengths[:, None]] = 0
    return drawn


def plain(**more: Any) -> dict[str, Any]:
    """Features and classes."""
    return {"x": features(), "y": labels(), **more}


def regression(**more: Any) -> dict[str, Any]:
    """Features and numbers."""
    return {"x": features(), "y": numbers(), **more}


def words(**more: Any) -> dict[str, Any]:
    """Padded sentences and one class a sentence."""
    return {"x": tokens(), "y": labels(), **more}


def tagged(**more: Any) -> dict[str, Any]:
    """Padded sentences and one class a word."""
    return {"x": tokens(), "y": labels(ROWS, STEPS), **more}


def images(**more: Any) -> dict[str, Any]:
    """Colour images of 8x8 in 0..1, and classes."""
    return {"x": _rng("images").uniform(size=(ROWS, 8, 8, 3)), "y": labels(), **more}


def in_batches(*sizes: int, **arrays: np.ndarray) -> dict[str, Any]:
    """A dataset whose batches have the given numbers of rows, in the given order."""
    names = [name for name in ("x", "y", "sample_weight") if name in arrays]
    stops = np.cumsum(sizes)

    def batches() -> Any:
        for start, stop in zip(stops - sizes, stops, strict=True):
            yield tuple(arrays[name][start:stop] for name in names)

    signature = tuple(
        tf.TensorSpec([None, *arrays[name].shape[1:]], arrays[name].dtype) for name in names
    )
    return {"x": of_known_length(batches, signature, len(sizes))}


def of_known_length(batches: Callable[[], Any], signature: Any, count: int) -> tf.data.Dataset:
    """A dataset that says how many batches it has.

    Where it does not, stock Keras 3.15 starts one more step on one device, of which it undoes the
    batch but not what was drawn or counted: 10 iterations for 8 steps, with LSTM and clipping.
    """
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(count))
