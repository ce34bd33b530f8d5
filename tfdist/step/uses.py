"""Is a gradient handed on as it is, or used for something before it is applied?

Adding gradients up, or dividing them by a number, may happen before they are summed over the
replicas or after it. Whatever else is done with them, such as clipping by a norm, has to see the
sum. The graph tells.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

import tensorflow as tf

_SUMS = ("Identity", "AddV2", "AddN", "Sub", "Neg", "Cast", "Reshape", "UnsortedSegmentSum")
_FACTORS = ("Mul", "RealDiv")
_CALLS = ("PartitionedCall", "StatefulPartitionedCall", "If", "StatelessIf", "While",
          "StatelessWhile")


def is_only_summed(tensor: Any) -> bool:
    """Tells whether what is made of a tensor of a graph, inside of it, are sums alone."""
    waiting, seen = [tensor], set()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        for operation in one.consumers():
            if not _is_sum(operation, one):
                return False
            waiting += operation.outputs
    return True


def is_sum_of_results(
    tensor: Any, known: Container[int], has_rows: Callable[[Any], bool]
) -> bool:
    """Tells whether a tensor of a graph is what functions called in it returned, or a sum of it.

    Args:
        tensor: The tensor.
        known: Ids of tensors that are taken as they are.
        has_rows: Tells whether a tensor is made of the rows of the batch; what is not may be added.
    """
    waiting, seen = [tensor], set()
    while waiting:
        one = waiting.pop()
        if id(one) in known or id(one) in seen or one.op.type in _CALLS or not has_rows(one):
            continue
        seen.add(id(one))
        if not any(_is_sum(one.op, part) for part in one.op.inputs):
            return False
        waiting += one.op.inputs
    return True


def _is_sum(operation: Any, part: Any) -> bool:
    """Tells whether an operation adds a tensor to others, or multiplies it by a number."""
    if operation.type in _FACTORS:
        others = [value for value in operation.inputs if value is not part]
        return len(others) == 1 and tf.get_static_value(others[0]) is not None
    return operation.type in _SUMS
