"""How many bytes does a traced graph hold at once?  Its tensors, from where made to last use.

Operations are taken in the order in which they were traced. TensorFlow may run them in another one,
or fuse them, so this is an estimate; what an operation needs inside of itself is not in it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

# Their output is their input, under another name.
_ALIASES = {"ExpandDims", "Identity", "IdentityN", "PreventGradient", "Reshape", "Snapshot",
            "Squeeze", "StopGradient"}
# Their output is a variable's or an argument's memory, or of no size.
_FREE = {"Placeholder", "ReadVariableOp", "VarHandleOp"}
# They write into an input that is not needed any more.
_IN_PLACE = {"Add", "AddN", "AddV2", "BiasAdd", "Cast", "EluGrad", "Erf", "Exp", "Log", "Mul",
             "Neg", "RealDiv", "Relu", "Relu6", "Relu6Grad", "ReluGrad", "Rsqrt", "RsqrtGrad",
             "SelectV2", "Sigmoid", "SigmoidGrad", "Softmax", "Sqrt", "Square", "Sub", "Tanh",
             "TanhGrad"}
_SHAPES_ALONE = {"Rank", "Shape", "ShapeN", "Size", "BroadcastGradientArgs"}


@dataclasses.dataclass(frozen=True)
class Held:
    """What a graph of a forward and a backward pass holds, in bytes.

    Attributes:
        kept: Results of the forward pass that the backward pass uses.
        peak: The most that is held at once, including the outputs.
        uncounted: Operations whose results have a size that the graph does not tell.
    """

    kept: int
    peak: int
    uncounted: tuple[str, ...]


def held(operations: Sequence[Any], *, num_forward: int, outputs: Sequence[Any]) -> Held:
    """Follows the tensors of a graph through its operations.

    Args:
        operations: All of a `tf.Graph`, as traced.
        num_forward: How many of them, from the first, are the forward pass.
        outputs: Tensors that are held to the end.
    """
    used = _needed(operations, outputs)
    last_use = {_source(tensor).ref(): len(operations) for tensor in outputs}
    forward, kept = set(operations[:num_forward]), dict[Any, int]()
    for number, operation in enumerate(operations):
        if operation not in used or operation.type in _SHAPES_ALONE:
            continue
        for tensor in operation.inputs:
            key = _source(tensor).ref()
            last_use[key] = max(number, last_use.get(key, 0))
            if number >= num_forward and key.deref().op in forward:
                kept[key] = _size(key.deref()) or 0
    uncounted = sorted({op.name for op in used for out in op.outputs if _size(out) is None})
    return Held(sum(kept.values()), _peak(operations, used, last_use), tuple(uncounted))


def _needed(operations: Sequence[Any], outputs: Sequence[Any]) -> set[Any]:
    """Returns the operations that run: those that outputs need, and those with effects."""
    found = {tensor.op for tensor in outputs}
    found |= {op for op in operations if not op.outputs}
    for operation in reversed(operations):
        if operation in found:
            found |= {tensor.op for tensor in operation.inputs}
    return found


def _peak(operations: Sequence[Any], used: set[Any], last_use: dict[Any, int]) -> int:
    live: dict[Any, int] = {}
    now = peak = 0
    for number, operation in enumerate(operations):
        if operation not in used or operation.type in _ALIASES | _FREE:
            continue
        ends = {_source(tensor).ref() for tensor in operation.inputs}
        ends = {key for key in ends if last_use.get(key, -1) <= number and key in live}
        made = {out.ref(): _size(out) or 0 for out in operation.outputs}
        if operation.type in _IN_PLACE:
            [size] = made.values()
            given = [key for key in ends if live[key] == size]
            now -= live.pop(given[0]) if given else 0
            ends -= set(given[:1])
        live |= made
        now += sum(made.values())
        peak = max(peak, now)
        dead = ends | {key for key in made if key not in last_use}
        now -= sum(live.pop(key) for key in dead)
    return peak


def _source(tensor: Any) -> Any:
    """Returns the tensor whose memory this one is."""
    while tensor.op.type in _ALIASES:
        tensor = tensor.op.inputs[tensor.value_index if tensor.op.type == "IdentityN" else 0]
    return tensor


def _size(tensor: Any) -> int | None:
    """Returns the bytes of a tensor; None where the graph does not tell."""
    if tensor.op.type in _FREE | _ALIASES or tensor.dtype == tf.resource:
        return 0
    if tensor.dtype in (tf.variant, tf.string) or not tensor.shape.is_fully_defined():
        return None
    return math.prod(tensor.shape.as_list()) * int(tensor.dtype.size)
