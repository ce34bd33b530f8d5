"""What in a training step can a TPU do only badly, or not at all? lint(model) -> findings.

Synopsis:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3, name="odd")])
    >>> model.compile("sgd", "mse")
    >>> [(finding.rule, finding.where) for finding in lint(model)]
    [('pads_badly', "layer 'odd' (Dense)")]

The step is traced as fit traces it, and nothing runs. Of what the compiler refuses, lint finds only
what TensorFlow's part of it sees; preflight calls the rest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfdist.compat import keras_internals
from tfdist.tpu import example
from tfdist.tpu.limits import DROPPED_OPERATIONS, RULE_OF_OPERATION, RULES
from tfdist.tpu.operations import first_of_kind, missing_kind, operations_of
from tfdist.tpu.program import Program, make_program, refuse
from tfdist.tpu.scopes import Origins

_LANES, _SUBLANES = 128, 8
_WASTE = 1.5  # how many times larger padding may make a tensor before it is named


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something in a training step that a TPU cannot do, or does badly.

    Attributes:
        rule: Name of the rule; one of tfdist.tpu.limits.RULES.
        where: The layer, metric, input or operation that it is about.
        what: The operations or sizes in it.
    """

    rule: str
    where: str
    what: str

    @property
    def stops(self) -> bool:
        """Whether the step cannot run on a TPU at all."""
        return RULES[self.rule].stops

    def __str__(self) -> str:
        rule = RULES[self.rule]
        kind = "error" if rule.stops else "warning"
        return f"{kind}: {self.where}: {rule.cause} ({self.what}). {rule.cure} [{rule.name}]"


def lint(
    model: keras.Model, batch: Any = None, *, per_replica_batch_size: int = 8
) -> tuple[Finding, ...]:
    """Names the layers and functions behind what a TPU cannot do, or does badly.

    Of the operations that TPUs do not have, the first is named: the lowering stops there.

    Args:
        model: A compiled model, made outside of any strategy's scope.
        batch: A batch of any size, `(x, y)` or `(x, y, sample_weight)`, that tells shapes and
            dtypes; by default the model's inputs, outputs and losses do.
        per_replica_batch_size: Examples of a step on each replica.

    Returns:
        Findings, those that stop a step first.

    Raises:
        ValueError: The model is not compiled, was made under several replicas, or does not say what
            it takes.
    """
    refuse(model)
    specs = example.specs(model, rows=per_replica_batch_size, batch=batch)
    found = list(_of_inputs(specs))
    if any(finding.rule == "string" for finding in found):
        return _sorted(found)  # Keras cannot trace a step over them either
    origins = Origins()
    try:
        program = make_program(model, specs, origins=origins)
    except Exception as error:  # of the user's code, of Keras, of TensorFlow
        where = origins.of_exception(error) or "the step"
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return _sorted([*found, Finding("does_not_trace", where, what)])
    of_graph = list(_of_graph(program))
    named = {finding.what for finding in of_graph}
    of_lowering = [each for each in _of_lowering(program) if each.what not in named]
    return _sorted([*found, *of_graph, *of_lowering, *_of_sizes(model, specs)])


def _of_inputs(specs: Any) -> Iterator[Finding]:
    parts = zip(("x", "y", "sample_weight"), specs, strict=False)
    leaves = [(part, spec) for part, specs in parts for spec in keras.tree.flatten(specs)]
    for part, spec in leaves:
        where = f"the batch's {part}"
        if spec.dtype == tf.string:
            yield Finding("string", where, "dtype string")
        if not spec.shape.is_fully_defined():
            yield Finding("unknown_dimension", where, f"shape {spec.shape}")
        if spec.dtype == tf.float64 and keras.config.floatx() != "float64":
            yield Finding("float64", where, "dtype float64")


def _of_graph(program: Program) -> Iterator[Finding]:
    found = [
        (rule, made) for made in operations_of(program) if (rule := _broken(made.kind, made.dtypes))
    ]
    explained = {rule for rule, made in found if made.origin}
    for rule, made in found:
        if made.origin or rule not in explained:  # what follows from a layer's dtype is no news
            yield Finding(rule, made.where, made.kind)


def _broken(kind: str, dtypes: Sequence[Any]) -> str | None:
    """Returns the rule that an operation breaks by itself, or None."""
    if kind in RULE_OF_OPERATION:
        return RULE_OF_OPERATION[kind]
    if kind in DROPPED_OPERATIONS:
        return None
    if tf.string in dtypes:
        return "string"
    return "float64" if tf.float64 in dtypes else None


def _of_lowering(program: Program) -> Iterator[Finding]:
    if any(not spec.shape.is_fully_defined() for spec in program.concrete.inputs
           if spec.dtype != tf.resource):
        return  # it would say no more than that
    try:
        program.lower()
    except Exception as error:  # of no class of its own
        text = str(error)
        where, missing = program.origins.of_message(text), missing_kind(text)
        if missing is None:
            yield Finding("does_not_lower", where or "the step", " ".join(text.split())[:200])
        elif missing not in RULE_OF_OPERATION:
            where = where or first_of_kind(program, missing)
            yield Finding("no_kernel", where or "the step", missing)


def _of_sizes(model: keras.Model, specs: Any) -> Iterator[Finding]:
    rows = keras.tree.flatten(specs)[0].shape[0]
    if rows % _SUBLANES:
        yield Finding("pads_badly", "the batch", f"{rows} rows a replica")
    for layer in keras_internals.flat_layers(model):
        if hasattr(layer, "layers"):
            continue  # its layers are in the list too
        for variable in layer.trainable_weights:
            shape = tuple(variable.shape)
            if len(shape) >= 2 and _padded(shape[-1], _LANES) > _WASTE * shape[-1]:
                where = f"layer {layer.name!r} ({type(layer).__name__})"
                yield Finding("pads_badly", where, f"{variable.name} of shape {shape}")


def _padded(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _sorted(findings: list[Finding]) -> tuple[Finding, ...]:
    """Merges the findings of one rule at one layer, and puts first what stops a step."""
    joined: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        joined.setdefault((finding.rule, finding.where), []).append(finding.what)
    merged = [
        Finding(rule, where, ", ".join(dict.fromkeys(what)))
        for (rule, where), what in joined.items()
    ]
    return tuple(sorted(merged, key=lambda finding: not finding.stops))
