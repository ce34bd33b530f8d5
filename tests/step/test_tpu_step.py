"""tests of tfdist/step/tpu_step.py: what TensorFlow would hand to a TPU

The strategy is TensorFlow's own, without a TPU behind it, so a step is traced and looked at; see
tests/support/tpu_standin.py. That its numbers are right is shown in tests/tpu/test_numbers.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import keras
import pytest
import tensorflow as tf
import tpu_standin
from models import OwnStep

from tfdist.data.shapes import Padding
from tfdist.step import rules, update
from tfdist.step.finite import FiniteWatch
from tfdist.step.logs import LastLogs
from tfdist.step.replicas import Batch
from tfdist.tpu.program import make_program
from tfdist.tpu.scopes import Origins

layers = keras.layers
Build = Callable[[], keras.Model]
_ROWS = 4


def _model(*parts: Any, optimizer: Any) -> keras.Model:
    model = keras.Sequential([keras.Input((8,)), *parts])
    model.compile(optimizer, "mse", metrics=["mae"])
    return model


def _dense(**options: Any) -> Build:
    return lambda: _model(layers.Dense(3), optimizer=keras.optimizers.Adam(**options))


def _synchronized() -> keras.Model:
    parts = [layers.Dense(4), layers.BatchNormalization(synchronized=True), layers.Dropout(0.5)]
    return _model(*parts, layers.Dense(3), optimizer="sgd")


def _loss_scaled() -> keras.Model:
    inner = keras.optimizers.SGD(0.1, momentum=0.9)
    return _model(layers.Dense(3), optimizer=keras.optimizers.LossScaleOptimizer(inner))


def _embedding() -> keras.Model:
    tokens = layers.Lambda(lambda x: tf.cast(x, tf.int32))
    parts = [tokens, layers.Embedding(50, 4), layers.Flatten(), layers.Dense(3)]
    return _model(*parts, optimizer=keras.optimizers.Adam(global_clipnorm=0.1))


def _own_step() -> keras.Model:
    model = OwnStep([keras.Input((8,)), layers.Dense(3)])
    model.compile("adam", "mse")
    return model


_BUILDS = {
    "clipped": _dense(global_clipnorm=0.1),
    "accumulating": _dense(gradient_accumulation_steps=2, clipnorm=0.1),
    "averaged": _dense(use_ema=True, ema_overwrite_frequency=2, weight_decay=0.1),
    "synchronized": _synchronized,
    "loss scaled": _loss_scaled,
    "embedding": _embedding,
    "own step": _own_step,
}


def _specs() -> Any:
    return (tf.TensorSpec((_ROWS, 8)), tf.TensorSpec((_ROWS, 3)))


def _made(build: Build, strategy: tf.distribute.Strategy) -> keras.Model:
    with strategy.scope():
        model = build()
        model.optimizer.build(model.trainable_variables)
        model._symbolic_build(data_batch=_specs())
    return model


def _traced(rule: Callable[[Batch], Any], num_replicas: int, *, is_full: bool = True) -> Any:
    padding = Padding(_ROWS, is_needed=not is_full)

    @tf.function(autograph=False)
    def one_step(size: tf.Tensor, *parts: Any) -> Any:
        return rule(Batch(size, parts, padding=padding))

    size = tf.TensorSpec((), tf.int32)
    return one_step.get_concrete_function(size, *[_specs()] * num_replicas).graph


def _kind(node: Any) -> str:
    return str(node.op)


def _kind_and_attributes(node: Any) -> str:
    """Tells operations of one kind apart by their types, and how they compute."""
    told = [
        f"{name}={str(value).strip()}" for name, value in sorted(node.attr.items())
        if not name.startswith("_") and not value.func.name and not value.list.func
        and name != "validate_shape"  # a variable of a strategy is assigned without looking
    ]  # fmt: skip
    return " ".join([node.op, *told])


def _kinds(
    graph: Any, name_of: Callable[[Any], str] = _kind
) -> tuple[Counter[str], Counter[str]]:
    """Counts the operations inside of the programs of a graph, and the others."""
    inside, outside = Counter[str](), Counter[str]()
    functions = {f.signature.name: f for f in graph.as_graph_def().library.function}

    def count(node: Any, kinds: Counter[str]) -> None:
        kinds[name_of(node)] += 1
        for value in node.attr.values():
            for function in [value.func, *value.list.func]:
                for inner in functions[function.name].node_def if function.name else ():
                    count(inner, kinds)

    for node in graph.as_graph_def().node:
        count(node, inside if "_tpu_replicate" in node.attr else outside)
    return inside, outside


def _writes(kinds: Counter[str]) -> int:
    return sum(count for kind, count in kinds.items() if "Assign" in kind or "Scatter" in kind)


@pytest.mark.parametrize(
    ("name", "is_full"),
    # A step of one's own is refused where there are rows that do not count.
    [*((name, True) for name in _BUILDS), *((n, False) for n in _BUILDS if n != "own step")],
)
def test_a_step_is_one_program(name: str, is_full: bool) -> None:
    strategy = tpu_standin.strategy(2)
    assert isinstance(strategy, tf.distribute.TPUStrategy)
    assert strategy.num_replicas_in_sync == 2
    model = _made(_BUILDS[name], strategy)
    rule = rules.train_rule(model, strategy, LastLogs())
    inside, outside = _kinds(_traced(rule, 2, is_full=is_full))
    assert inside["TPUReplicateMetadata"] == 1
    assert inside["XlaAllReduce"] >= len(model.trainable_variables)
    assert _writes(inside) > len(model.trainable_variables)
    # Neither Keras nor TensorFlow sums or sends anything once more.
    assert not any(inside[kind] for kind in ("CrossReplicaSum", "AllToAll", "CollectivePermute"))
    logs = 1 if name == "own step" else 0  # kept where the host can read them
    assert _writes(outside) == logs
    assert outside["AddN"] == outside["MatMul"] == 0


_OF_TRACING = (
    "Identity", "IdentityN", "Placeholder", "Const", "NoOp", "TPUReplicateMetadata",
    "XlaReplicaId",  # a strategy has numbers of its own
    "ReadVariableOp",  # TensorFlow reads what it has assigned, where nobody asks for it
)  # fmt: skip


@pytest.mark.parametrize("name", _BUILDS)
def test_preflight_compiles_the_same_operations(name: str) -> None:
    strategy = tpu_standin.strategy(2)
    model = _made(_BUILDS[name], strategy)
    rule = rules.train_rule(model, strategy, LastLogs())
    inside, _ = _kinds(_traced(rule, 2), _kind_and_attributes)
    program = make_program(_BUILDS[name](), _specs(), origins=Origins(), num_replicas=2)
    flown, _ = _kinds(program.concrete.graph, _kind_and_attributes)[::-1]
    kinds = {kind for kind in inside | flown if kind.partition(" ")[0] not in _OF_TRACING}
    assert {kind: inside[kind] - flown[kind] for kind in kinds} == dict.fromkeys(kinds, 0)
    assert sum(kind.startswith("XlaAllReduce") for kind in kinds) > 0


def test_one_replica_is_one_program_too() -> None:
    strategy = tpu_standin.strategy(1)
    model = _made(_BUILDS["clipped"], strategy)
    rule = rules.train_rule(model, strategy, LastLogs())
    inside, outside = _kinds(_traced(rule, 1))
    assert inside["TPUReplicateMetadata"] == 1
    assert not inside["XlaAllReduce"]
    assert _writes(inside) > len(model.trainable_variables)
    assert not _writes(outside)


@pytest.mark.parametrize("skips", [True, False])
def test_gradients_are_looked_at_inside(skips: bool) -> None:
    strategy = tpu_standin.strategy(2)
    model = _made(_BUILDS["synchronized"], strategy)
    watch = FiniteWatch(strategy, skips=skips)
    rule = watch.undoing(
        model, strategy, rules.train_rule(model, strategy, LastLogs(), watch=watch)
    )
    inside, outside = _kinds(_traced(rule, 2))
    assert inside["IsFinite"] == len(model.trainable_variables)
    assert not _writes(outside)
    assert watch.take() is None


def test_evaluation_and_prediction_are_programs() -> None:
    strategy = tpu_standin.strategy(2)
    model = _made(_BUILDS["synchronized"], strategy)
    rule = rules.test_rule(model, strategy, LastLogs())
    inside, outside = _kinds(_traced(rule, 2, is_full=False))
    assert inside["TPUReplicateMetadata"] == 1
    assert _writes(inside) == 4  # total and count of the loss and of the metric
    assert not _writes(outside)
    predict = _traced(lambda batch: update.predict_step(model, strategy, batch), 2, is_full=False)
    inside, outside = _kinds(predict)
    assert inside["TPUReplicateMetadata"] == 1
    assert not _writes(inside)
    assert outside["ConcatV2"]
