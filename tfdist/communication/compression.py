"""What do gradients look like between replicas? Exact, unless a narrower type is requested.

Synopsis:

    >>> Reduction("bfloat16").narrows(tf.float32), Reduction().narrows(tf.float32)
    (True, False)
    >>> scales = scales_of(tf.constant([3e6, 0.0, 5e-7]))
    >>> scales.numpy().tolist()
    [0.0078125, 1.0, 34359738368.0]
    >>> float(narrow(tf.constant(2e6), "float16", scales[0]))
    15624.0
"""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

# Half of the largest float16: the other half is room for the rounding of a sum.
_MOST = 2.0**15
_WIRES = (None, "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Reduction:
    """How gradients travel between replicas, in the one reduction of a step.

    Attributes:
        wire_dtype: None for the gradients' own type, which is exact. "bfloat16" and "float16" halve
            the bytes of float32 (a quarter of float64): each replica's gradient, and each sum on
            the way, is rounded to 8 or 11 bits. float16 is scaled so that no sum can overflow,
            which costs a small reduction before the large one. Rows of embeddings, integers and
            gradients that are no wider travel as they are.
        piece_bytes: Larger tensors travel in pieces of this many bytes, so that their sums overlap.
            Only on CPUs, where TensorFlow makes none smaller than 4 MB: NCCL cuts by itself.
        bucket_bytes: Smaller tensors are combined until they have this many bytes. "auto", here and
            for `piece_bytes`, chooses the fastest of some sizes when `fit` begins; a resumed run
            keeps that choice. Other sizes may group sums differently: last bits differ.
        error_feedback: Whether each replica adds the rounding error of a gradient to its next one,
            so that small gradients are not lost for good (Karimireddy et al. 2019,
            arXiv:1901.09847). Only in `fit`; it takes a copy of the weights on each replica.

    Raises:
        ValueError: An attribute is invalid.
    """

    wire_dtype: str | None = None
    # Measured on two workers of one core each with 84 MB of gradients (BUILD_NOTES.md).
    piece_bytes: int | str = 4 * 2**20
    bucket_bytes: int | str = 2**20
    error_feedback: bool = False

    def __post_init__(self) -> None:
        if self.wire_dtype not in _WIRES:
            raise ValueError(
                f"wire_dtype={self.wire_dtype!r} must be one of {', '.join(map(repr, _WIRES))}."
            )
        for name in ("piece_bytes", "bucket_bytes"):
            size = getattr(self, name)
            if size != "auto" and (type(size) is not int or size < 8):
                raise ValueError(
                    f"{name}={size!r} must be 'auto' or a whole number of bytes, at least 8."
                )
        if (self.piece_bytes == "auto") != (self.bucket_bytes == "auto"):
            raise ValueError(
                f"piece_bytes={self.piece_bytes!r} and bucket_bytes={self.bucket_bytes!r} are "
                "chosen together. Give 'auto' for both, or for neither."
            )
        if self.error_feedback and self.wire_dtype is None:
            raise ValueError(
                "error_feedback=True was given without a wire_dtype, and so nothing is rounded. "
                "Give wire_dtype='bfloat16' or 'float16', or leave error_feedback out."
            )

    @property
    def is_open(self) -> bool:
        """Whether sizes are still to be chosen."""
        return self.piece_bytes == "auto"

    @property
    def numbers(self) -> tuple[int, int, int, int]:
        """Whole numbers that are equal if and only if two reductions are."""
        sizes = (0, 0) if self.is_open else (int(self.piece_bytes), int(self.bucket_bytes))
        return _WIRES.index(self.wire_dtype), *sizes, int(self.error_feedback)

    def narrows(self, dtype: tf.DType) -> bool:
        """Tells whether gradients of a type are rounded on the wire."""
        return self.wire_dtype is not None and dtype in (tf.float32, tf.float64)


EXACT = Reduction()


def parse_reduction(given: Any) -> Reduction:
    """Returns the reduction that `fit(reduction=...)` means by a type's name, "auto" or None.

    >>> parse_reduction("bfloat16").wire_dtype
    'bfloat16'
    """
    if isinstance(given, Reduction):
        return given
    if given == "auto":
        return Reduction(piece_bytes="auto", bucket_bytes="auto")
    if given is None or isinstance(given, str):
        return Reduction(given)
    raise ValueError(
        f"reduction={given!r} is not a reduction. Give tfdist.Reduction(...), 'bfloat16', "
        "'float16', 'auto' or None."
    )


def largest(tensor: tf.Tensor) -> tf.Tensor:
    """Returns the largest absolute value; float32 scalar, 0 for an empty tensor."""
    return tf.maximum(tf.cast(tf.reduce_max(tf.abs(tensor)), tf.float32), 0.0)


def scales_of(bounds: tf.Tensor) -> tf.Tensor:
    """Returns powers of two that scale sums of at most `bounds` into the range of float16.

    Args:
        bounds: Sums over the replicas of the `largest` of their gradients; float32. No sum of
            gradients, whole or in part, is larger.

    Returns:
        float32 of the same shape; 1 for a bound that is zero or not finite: infinities and NaN
        stay what they are.
    """
    is_usual = tf.logical_and(tf.math.is_finite(bounds), bounds > 0)
    exponents = tf.math.log(_MOST / tf.where(is_usual, bounds, _MOST)) / tf.math.log(2.0)
    exponents = tf.clip_by_value(tf.math.floor(exponents), -126.0, 126.0)
    return tf.where(is_usual, tf.pow(2.0, exponents), 1.0)


def narrow(tensor: tf.Tensor, dtype: str, scale: tf.Tensor | None = None) -> tf.Tensor:
    """Returns a gradient as it travels."""
    scaled = tensor if scale is None else tensor * tf.cast(scale, tensor.dtype)
    return tf.cast(scaled, dtype)


def widen(tensor: tf.Tensor, dtype: tf.DType, scale: tf.Tensor | None = None) -> tf.Tensor:
    """Returns the received sum, in the gradient's type."""
    wide = tf.cast(tensor, dtype)
    return wide if scale is None else wide / tf.cast(scale, dtype)
