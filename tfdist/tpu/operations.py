"""Which operations has a program, and who made each?  Also inside of functions that it calls."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from tfdist.compat import tf_internals
from tfdist.tpu.program import Program
from tfdist.tpu.scopes import is_users


@dataclasses.dataclass(frozen=True)
class Made:
    """An operation of a program.

    Attributes:
        kind: What TensorFlow calls it, such as "PyFunc".
        dtypes: Of its inputs and outputs.
        origin: The layer or metric that made it; None where none is known.
        where: That, or the loss, or its own name, with the line of the user's that made it.
    """

    kind: str
    dtypes: tuple[Any, ...]
    origin: str | None
    where: str


def operations_of(program: Program) -> Iterator[Made]:
    """Gives the operations of a program, those of the functions that it calls last."""
    for op in program.concrete.graph.get_operations():
        dtypes = tuple(tensor.dtype for tensor in (*op.inputs, *op.outputs))
        yield _made(program, op.name, op.type, dtypes, _line(op))
    whole = program.concrete.graph.as_graph_def()
    main, *bodies = tf_internals.bodies_of(whole)
    names = [function.signature.name for function in whole.library.function]
    functions = dict(zip(names, bodies, strict=True))
    callers = _callers(main, functions)
    for name, nodes in functions.items():
        for node in nodes:
            dtypes = tuple(tf.as_dtype(value.type) for value in node.attr.values() if value.type)
            yield _made(program, f"{callers.get(name, '')}{node.name}", node.op, dtypes, "")


def first_of_kind(program: Program, kind: str) -> str | None:
    """Returns who made the first operation of a kind; None where there is none."""
    return next((made.where for made in operations_of(program) if made.kind == kind), None)


def missing_kind(text: str) -> str | None:
    """Returns the kind of operation of which XLA says that there is none; None for other texts."""
    found = re.search(r"unsupported operations .*?: (\w+) \(No registered", text, re.DOTALL)
    return found[1] if found else None


def _made(program: Program, name: str, kind: str, dtypes: tuple[Any, ...], line: str) -> Made:
    origin = program.origins.of_operation(name)
    return Made(kind, dtypes, origin, origin or _plain(name) + line)


def _callers(main: Any, functions: Mapping[str, Any]) -> dict[str, str]:
    """Returns for each function the path of the operations that call it, "layer/call/"."""
    found: dict[str, str] = {}
    open_bodies = [("", main)]
    while open_bodies:
        path, nodes = open_bodies.pop()
        for node in nodes:
            for name in _called(node):
                if name in functions and name not in found:
                    found[name] = f"{path}{node.name}/"
                    open_bodies.append((found[name], functions[name]))
    return found


def _called(node: Any) -> Iterator[str]:
    for value in node.attr.values():
        if value.func.name:
            yield value.func.name
        yield from (function.name for function in value.list.func)


def _plain(name: str) -> str:
    loss = re.search(r"(?:^|/)compile_loss/(\w+)/", name)
    return f"loss {loss[1]!r}" if loss else f"operation {name!r}"


def _line(operation: Any) -> str:
    """Says in which line of the user's an operation was made, where that can be told."""
    own = [frame for frame in operation.traceback if is_users(frame.filename)]
    return f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
