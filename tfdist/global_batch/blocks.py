"""Are these the rows of one batch, or those of several ones, one after the other?

`concatenate([fake, real])` has all rows of the first batch, and then all of the second. What is
drawn for it has a row for each, so a replica's rows of the draw lie in two places. Where each row
of the batch becomes several (time folded into the rows), they lie in one. The graph shows which.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

# Operations whose first dimension is that of their first input, and of any of them.
_OF_FIRST = (
    "AvgPool", "BatchMatMulV2", "BiasAdd", "Cast", "Conv2D", "Elu", "Erf", "Exp",
    "FusedBatchNormV3", "Identity", "LeakyRelu", "Log", "MatMul", "MaxPool", "Neg",
    "PlaceholderWithDefault", "Relu", "Relu6", "Rsqrt", "Selu", "Sigmoid", "Softmax", "Softplus",
    "Sqrt", "Square", "StopGradient", "Tanh",
)  # fmt: skip
_OF_ANY = ("AddV2", "Maximum", "Minimum", "Mul", "RealDiv", "SelectV2", "Sub")
_SIZES = ("Cast", "Identity", "Shape", "StridedSlice", "Unpack", "Pack")


def blocks_of_rows(rows: Any) -> int:
    """Returns of how many tensors, one after the other, the rows of a tensor are; 1 by default."""
    if not isinstance(rows, tf.Tensor) or tf.executing_eagerly():
        return 1
    operation = rows.op
    if operation.type == "ConcatV2":
        *parts, axis = operation.inputs
        is_of_rows = tf.get_static_value(axis) in (0, -(rows.shape.rank or 0))
        return sum(map(blocks_of_rows, parts)) if is_of_rows else blocks_of_rows(parts[0])
    if operation.type in _OF_ANY:
        return max(map(blocks_of_rows, operation.inputs))
    if operation.type in _OF_FIRST or _keeps_rows(operation):
        return blocks_of_rows(operation.inputs[0])
    return 1


def blocks_of_size(size: Any) -> int:
    """Returns the same for a number of rows that was read off a tensor's shape."""
    while isinstance(size, tf.Tensor) and not tf.executing_eagerly():
        operation = size.op
        if operation.type not in _SIZES:
            return 1
        is_other = operation.type == "Unpack" and size.value_index != 0
        if is_other or (operation.type == "StridedSlice" and not _is_first(operation)):
            return 1
        if operation.type == "Shape":
            return blocks_of_rows(operation.inputs[0])
        size = operation.inputs[0]
    return 1


def _is_first(sliced: Any) -> bool:
    begin = tf.get_static_value(sliced.inputs[1])
    return begin is not None and not np.any(begin)


def _keeps_rows(operation: Any) -> bool:
    """Tells whether an operation changes the shape of each row alone, as to flatten an image."""
    if operation.type != "Reshape":
        return False
    shapes = operation.inputs[0].shape, operation.outputs[0].shape
    if any(shape.rank in (None, 0) for shape in shapes):
        return False
    sizes = [shape[1:].num_elements() for shape in shapes]
    return sizes[0] is not None and sizes[0] == sizes[1]
