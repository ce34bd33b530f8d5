"""tests of tfdist/step/update.py; what a step comes to is in the parity table"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from parity import data, models, recomputation, worlds
from parity.one_step import parts_of

from tfdist.communication import reduction
from tfdist.compat import keras_internals
from tfdist.step import replicas
from tfdist.step import update as update_lib

_NUM_REPLICAS = 2


def _model(**options: Any) -> tuple[keras.Model, tf.distribute.Strategy]:
    strategy = worlds.local_strategy(_NUM_REPLICAS)
    with strategy.scope():
        keras.utils.set_random_seed(1)
        model = models.mlp(**options)()
        model.optimizer.build(model.trainable_variables)
    return model, strategy


def _batch(size: int) -> replicas.Batch:
    rows = (data.features(size).astype("float32"), data.labels(size))
    parts = keras.tree.map_structure(
        tf.constant, parts_of(rows, _NUM_REPLICAS, fill_empty=True)
    )
    return replicas.Batch(global_size=tf.constant(size), parts=parts)


def _traced(function: Any, model: keras.Model, strategy: Any, batch: replicas.Batch) -> Any:
    @tf.function(autograph=False)
    def run(size: Any, parts: Any) -> Any:
        return function(model, strategy, replicas.Batch(global_size=size, parts=parts))

    return run(batch.global_size, batch.parts)


@pytest.mark.parametrize("size", [5, 1])
def test_train_step_is_one_update_of_the_whole_batch(size: int) -> None:
    model, strategy = _model(optimizer=lambda: keras.optimizers.SGD(0.1))
    before = [np.asarray(weight) for weight in model.weights]
    _traced(update_lib.train_step, model, strategy, _batch(size))
    alone = models.mlp(lambda: keras.optimizers.SGD(0.1))()
    alone.set_weights(before)
    alone.train_on_batch(data.features(size).astype("float32"), data.labels(size))
    for mine, theirs in zip(model.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-7)
    assert int(np.asarray(model.optimizer.iterations)) == 1


@pytest.mark.slow
def test_every_replica_holds_the_same_variables() -> None:
    model, strategy = _model(optimizer=lambda: keras.optimizers.Adam(0.1))
    _traced(update_lib.train_step, model, strategy, _batch(5))
    for variable in [*model.weights, *model.optimizer.variables]:
        first, second = strategy.experimental_local_results(variable.value)
        np.testing.assert_array_equal(first, second)


class _OwnMean(keras.metrics.Mean):
    """A mean of no rows is NaN, and so is 0 times NaN."""

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        rows = keras.ops.cast(keras.ops.shape(y_pred)[0], y_pred.dtype)
        self.total.assign_add(rows * keras.ops.mean(y_pred))
        self.count.assign_add(rows)


def test_an_empty_replica_leaves_a_metric_of_ones_own_alone() -> None:
    strategy = worlds.local_strategy(_NUM_REPLICAS)
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        model = models.mlp(metrics=[_OwnMean("own")])()
        model.optimizer.build(model.trainable_variables)
    _traced(update_lib.test_step, model, strategy, _batch(1))
    with strategy.scope():
        found = model.get_metrics_result()["own"]
    np.testing.assert_allclose(found, 1 / data.CLASSES, rtol=1e-5)


def test_test_step_changes_no_weight() -> None:
    model, strategy = _model()
    before = model.get_weights()
    _traced(update_lib.test_step, model, strategy, _batch(5))
    for mine, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("size", [5, 2, 1])
def test_predict_step_gives_rows_in_input_order(size: int) -> None:
    model, strategy = _model()
    outputs = _traced(update_lib.predict_step, model, strategy, _batch(size))
    expected = keras.Sequential(model.layers)
    x = data.features(size).astype("float32")
    alone = models.mlp()()
    alone.set_weights(model.get_weights())
    np.testing.assert_allclose(outputs, alone.predict(x, verbose=0), rtol=1e-5)
    assert expected is not model


def test_gradients_are_summed_once() -> None:
    """Twice would train twice as fast, and the replicas would agree all the same."""
    strategy = worlds.local_strategy(_NUM_REPLICAS)

    @tf.function(autograph=False)
    def summed() -> Any:
        def gradients() -> Any:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            sparse = tf.IndexedSlices(tf.ones([1, 2]), tf.constant([2]), tf.constant([4, 2]))
            return [tf.cast(replica + 1, tf.float32), tf.ones([2]), sparse]

        dense, one, sparse = strategy.run(gradients)
        return reduction.sum_gradients(strategy, [dense, None, one, sparse])

    dense, nothing, one, sparse = summed()
    assert float(dense) == 3
    assert nothing is None
    assert one.numpy().tolist() == [2, 2]
    assert isinstance(sparse, tf.IndexedSlices), "rows of an embedding stay rows"
    assert tf.convert_to_tensor(sparse).numpy().tolist() == [[0, 0], [0, 0], [2, 2], [0, 0]]


def test_update_builds_the_optimizer() -> None:
    strategy = worlds.local_strategy(_NUM_REPLICAS)
    with strategy.scope():
        variable = keras.Variable([1.0, 2.0])
        optimizer = keras.optimizers.SGD(0.5)

    @tf.function(autograph=False)
    def update() -> None:
        gradients = strategy.run(lambda: [tf.ones([2])])
        update_lib.update(strategy, optimizer, gradients, [variable])

    update()
    np.testing.assert_allclose(np.asarray(variable), [0.0, 1.0])


def test_a_model_without_weights_has_nothing_to_update() -> None:
    strategy = worlds.local_strategy(_NUM_REPLICAS)
    update_lib.update(strategy, keras.optimizers.SGD(), [], [])


def test_refuses_compiling_a_model_that_holds_a_collective() -> None:
    strategy = worlds.local_strategy(_NUM_REPLICAS)
    with strategy.scope():
        model = models.mlp(
            models.momentum,
            lambda: keras.layers.BatchNormalization(synchronized=True, name="norm"),
            jit_compile=True,
        )()
    with pytest.raises(ValueError, match="norm.*jit_compile=False"):
        _traced(update_lib.train_step, model, strategy, _batch(4))


def test_refuses_compiling_a_loss_that_needs_the_rows_of_others() -> None:
    def of_all_rows(y_true: Any, y_pred: Any) -> Any:
        return tf.reduce_max(tf.abs(y_pred))

    strategy = worlds.local_strategy(_NUM_REPLICAS)
    with strategy.scope():
        model = models.mlp(loss=of_all_rows, metrics=None, jit_compile=True)()
        model.optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match="rows of other replicas.*Compile with jit_compile=False"):
        _traced(update_lib.train_step, model, strategy, _batch(4))


def test_a_compiled_step_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a masked mean needs a sum over the replicas, which is taken outside."""
    strategy = worlds.local_strategy(_NUM_REPLICAS)
    with strategy.scope():
        model = models.tagger(jit_compile=True)()
        rows = (data.tagged()["x"], data.tagged()["y"])
        spec = keras.tree.map_structure(tf.type_spec_from_value, rows)
        keras_internals.symbolic_build(model, spec)
    parts = keras.tree.map_structure(tf.constant, parts_of(rows, _NUM_REPLICAS, fill_empty=True))

    @tf.function(autograph=False)
    def run() -> Any:
        batch = replicas.Batch(global_size=tf.constant(len(rows[0])), parts=parts)
        return update_lib.train_step(model, strategy, batch)

    graph = run.get_concrete_function().graph.as_graph_def()
    compiled = [f for f in graph.library.function if f.attr["_XlaMustCompile"].b]
    names = {f.signature.name: {node.op for node in f.node_def} for f in compiled}
    assert any("MatMul" in ops for ops in names.values())
    assert len([node for node in graph.node if node.op == "StatefulPartitionedCall"]) == 2


def test_what_is_computed_anew_reads_weights_before_their_update() -> None:
    """The backward pass of `keras.remat` reads them once more than the forward pass."""
    strategy = worlds.local_strategy(_NUM_REPLICAS)
    with strategy.scope():
        model = models.mlp(models.momentum, recomputation.Body)()
        rows = (data.features(5).astype("float32"), data.labels(5))
        specs = keras.tree.map_structure(tf.type_spec_from_value, rows)
        keras_internals.symbolic_build(model, specs)
    parts = _batch(5).parts

    @tf.function(autograph=False)
    def run() -> Any:
        batch = replicas.Batch(global_size=tf.constant(5), parts=parts)
        return update_lib.train_step(model, strategy, batch)

    graph = run.get_concrete_function().graph
    reads, loose = _reads_before_updates(graph, model.trainable_variables)
    anew = [layer for layer in model.layers if isinstance(layer, recomputation.Body)]
    weights = [path for layer in anew for path in (weight.path for weight in layer.weights)]
    assert len(weights) == 4
    for path in weights:  # forward and once more, on each replica
        assert reads[path] >= 2 * _NUM_REPLICAS
    assert loose == []


def test_a_read_that_may_come_after_the_update_is_seen() -> None:
    weight = keras.Variable([1.0, 2.0])

    def run() -> Any:
        late = weight.value.read_value()
        weight.value.assign_add([1.0, 1.0])
        return late

    # Unlike tf.function, it orders nothing by itself.
    wrapped = tf.compat.v1.wrap_function(run, [])
    _, [loose] = _reads_before_updates(wrapped.graph, [weight])
    assert loose.endswith(weight.path)


def _reads_before_updates(graph: Any, variables: Any) -> tuple[dict[str, int], list[str]]:
    """Counts the reads of each variable before its update, and names those that nothing orders."""
    path_of = {}
    for variable in variables:
        for part in getattr(variable.value, "values", [variable.value]):
            path_of[id(part.handle)] = variable.path
    names = {inner.name: (path_of.get(id(outer)), id(outer)) for outer, inner in graph.captures}
    used: dict[int, list[Any]] = {}
    reads: dict[str, int] = {}
    loose = []
    for op in graph.get_operations():
        if "VariableOp" not in op.type:
            continue
        path, handle = names.get(_root(op.inputs[0]).name, (None, 0))
        if path is None:
            continue
        if op.type == "ReadVariableOp":
            used.setdefault(handle, []).append(op)
            continue
        before = _ancestors(op)
        reads[path] = reads.get(path, 0) + len(used[handle])
        loose += [f"{read.name} of {path}" for read in used[handle] if read not in before]
    return reads, loose


def _root(tensor: Any) -> Any:
    while tensor.op.type in ("Identity", "IdentityN"):
        tensor = tensor.op.inputs[tensor.value_index]
    return tensor


def _ancestors(op: Any) -> set[Any]:
    found, waiting = set(), [op]
    while waiting:
        for other in [*(i.op for i in waiting[-1].inputs), *waiting.pop().control_inputs]:
            if other not in found:
                found.add(other)
                waiting.append(other)
    return found
