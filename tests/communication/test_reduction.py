"""Are sums of gradients right, the same everywhere, and as small on the wire as was asked for?"""

from __future__ import annotations

import collections
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from parity import worlds

import tfdist
from tfdist import testing
from tfdist.communication import reduction as reduction_lib
from tfdist.communication.compression import EXACT, Reduction, scales_of
from tfdist.compat import tf_internals

_ROUNDING = {"bfloat16": 2.0**-8, "float16": 2.0**-11}  # of one value, relative
_LIMIT_SECS = 100


def _values(replica: int) -> dict[str, np.ndarray]:
    """Gradients of one replica: large and small ones, of several types and magnitudes."""
    rng = np.random.default_rng(replica)
    return {
        "large": rng.normal(size=(70, 30)).astype("float32"),
        "tiny": (1e-9 * rng.normal(size=(5, 3))).astype("float32"),
        "huge": (3e7 * rng.normal(size=(7,))).astype("float32"),
        "scalar": np.float32(rng.normal()),
        "empty": np.zeros((0, 4), "float32"),
        "double": rng.normal(size=(11,)),
        "whole": rng.integers(-9, 9, 6).astype("int32"),
        "zero": np.zeros(3, "float32"),
    }


def _exact(replicas: int) -> dict[str, np.ndarray]:
    parts = [_values(replica) for replica in range(replicas)]
    return {
        name: sum(np.asarray(part[name], "float64") for part in parts) for name in parts[0]
    }


def _summed(strategy: Any, reduction: Reduction) -> tuple[dict[str, np.ndarray], list[Any], Any]:
    """Returns the sums, those of rows and of nothing, and the traced function."""
    names = list(_values(0))

    @tf.function(autograph=False)
    def run() -> Any:
        def gradients() -> Any:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            both = [_values(0), _values(1)]
            rows = tf.ones([1, 2]) / 3
            rows = tf.IndexedSlices(rows, tf.constant([2]), tf.constant([4, 2]))
            own = [tf.where(tf.equal(replica, 0), both[0][n], both[1][n]) for n in names]
            return [*own, rows]

        *dense, rows = strategy.run(gradients)
        # As operations outside of the replicas leave them: on no device that is named.
        dense = [tf.identity(v) if isinstance(v, tf.Tensor) else v for v in dense]
        return reduction_lib.sum_gradients(strategy, [*dense, None, rows], reduction)

    *dense, nothing, rows = run()
    assert isinstance(rows, tf.IndexedSlices)
    values = {name: value.numpy() for name, value in zip(names, dense, strict=True)}
    return values, [nothing, tf.convert_to_tensor(rows).numpy()], run.get_concrete_function()


def _on_worker(reductions: list[Reduction]) -> list[Any]:
    strategy = tfdist.get_strategy("cpu")
    assert strategy.num_replicas_in_sync == 2
    found = []
    for reduction in reductions:
        values, rest, function = _summed(strategy, reduction)
        found.append((values, rest, _bytes_on_wire(function), _largest_on_wire(function)))
    found.append(_large_sums(strategy))
    context = tf_internals.collective_context()
    config = context._collective_ops_server_def.default_session_config
    assert "enable_collective_ops" not in vars(context), "put back"
    return [*found, config.experimental.recv_buf_max_chunk]


def _gradients(worker: int) -> list[np.ndarray]:
    """Gradients of six layers, one of 12 MB, and of their biases."""
    rng = np.random.default_rng(worker)
    large = [rng.normal(size=(3 if number else 12, 2**18)) for number in range(6)]
    return [value for kernel in large for value in (kernel, rng.normal(size=3))]


def _waited_for(operation: Any) -> set[Any]:
    """Returns the operations that one waits for besides its inputs, or that its inputs wait for."""
    both = [operation, *(given.op for given in operation.inputs)]
    return {before for one in both for before in one.control_inputs}


def _large_sums(strategy: Any) -> list[Any]:
    """Returns sums, exact and narrow, and the operations that make them, as they were traced."""
    gradients = _gradients(strategy.cluster_resolver.task_id)
    found: list[Any] = []
    for reduction in (EXACT, Reduction("bfloat16")):
        def run(reduction: Reduction = reduction) -> Any:
            own = [tf.constant(gradient, "float32") for gradient in gradients]
            return reduction_lib.sum_gradients(strategy, own, reduction)

        function = tf.function(run, autograph=False).get_concrete_function()
        operations = [
            (operation.inputs[0].shape.num_elements(),
             operation.get_attr("max_subdivs_per_device"),
             sorted(before.inputs[0].shape.num_elements() for before in _waited_for(operation)))
            for operation in function.graph.get_operations()
            if operation.type == "CollectiveReduceV2"
        ]
        found.append(([total.numpy() for total in function()], operations))
    return found


def _sums(function: Any) -> list[tf.Tensor]:
    return [
        operation.inputs[0]
        for operation in function.graph.get_operations()
        if operation.type.startswith("CollectiveReduce")
    ]


def _bytes_on_wire(function: Any) -> dict[str, int]:
    found: collections.Counter[str] = collections.Counter()
    for tensor in _sums(function):
        found[tensor.dtype.name] += tensor.shape.num_elements() * tensor.dtype.size
    return dict(found)


def _largest_on_wire(function: Any) -> int:
    return max(tensor.shape.num_elements() * tensor.dtype.size for tensor in _sums(function))


def _assert_right(values: dict[str, np.ndarray], rest: list[Any], reduction: Reduction) -> None:
    parts, exact = [_values(0), _values(1)], _exact(2)
    for name, value in values.items():
        assert value.dtype == parts[0][name].dtype, name
        assert value.shape == parts[0][name].shape, name
        off = np.abs(value - exact[name])
        if reduction.narrows(tf.as_dtype(value.dtype)):
            # Each part is rounded once, and so is their sum.
            size = sum(np.abs(np.asarray(part[name], "float64")) for part in parts)
            assert (off <= 2 * _ROUNDING[str(reduction.wire_dtype)] * size).all(), name
        else:
            np.testing.assert_allclose(value, exact[name], rtol=1e-6, atol=1e-12)
    assert rest[0] is None
    expected = np.zeros((4, 2))
    expected[2] = 2 / 3
    np.testing.assert_allclose(rest[1], expected, rtol=1e-6)


REDUCTIONS = [EXACT, Reduction("bfloat16"), Reduction("float16")]


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=lambda reduction: str(reduction.wire_dtype))
def test_two_replicas(reduction: Reduction) -> None:
    values, rest, _ = _summed(worlds.local_strategy(2), reduction)
    _assert_right(values, rest, reduction)
    if reduction.wire_dtype:
        assert np.abs(values["large"] - _exact(2)["large"]).max() > 1e-5, "was it narrowed at all?"


@pytest.mark.slow
def test_two_workers() -> None:
    """Also: whether they are cut and packed, and what travels, by the traced operations."""
    reductions = [*REDUCTIONS, Reduction(piece_bytes=1000, bucket_bytes=50)]
    found = testing.run_workers(_on_worker, args=(reductions,), timeout_secs=_LIMIT_SECS)
    (*first, large, chunk), (*second, same, _) = found
    for reduction, mine, theirs in zip(reductions, first, second, strict=True):
        _assert_right(*mine[:2], reduction)
        for name, value in mine[0].items():
            assert value.tobytes() == theirs[0][name].tobytes(), (reduction, name)
    exact, bfloat16, float16, apart = first
    for name, value in exact[0].items():
        assert value.tobytes() == apart[0][name].tobytes(), name
    floats = 4 * (70 * 30 + 5 * 3 + 7 + 1 + 3)
    assert exact[2] == {"float32": floats, "float64": 8 * 11, "int32": 4 * 6}
    halves = floats // 2 + 2 * 11
    assert bfloat16[2] == {"bfloat16": halves, "int32": 4 * 6}
    assert float16[2] == {"float16": halves, "float32": 4 * 7, "int32": 4 * 6}
    assert exact[3] == floats, "small tensors travel together"
    assert apart[3] == 4 * 70 * 30
    _assert_large(large, same)
    assert chunk == 2**18, "TensorFlow's 4 KB take a fifth longer"


def _assert_large(large: list[Any], same: list[Any]) -> None:
    (exact, operations), (narrow, _) = large
    layer = 3 * 2**18
    # The last layers' sums come first, so that nothing holds them back; the fifth waits for the
    # first, and the small ones of all layers travel with the first layer's.
    assert operations == [
        (layer, 1, []), (layer, 1, []), (layer, 1, []), (layer, 1, []), (layer, 1, [layer]),
        (18, 1, [layer]), (12 * 2**18, 2, [layer]),
    ]
    parts = [[value.astype("float32") for value in _gradients(worker)] for worker in range(2)]
    for index, (mine, other) in enumerate(zip(*parts, strict=True)):
        assert exact[index].tobytes() == (mine + other).tobytes() == same[0][0][index].tobytes()
        assert narrow[index].tobytes() == same[1][0][index].tobytes()
        off = np.abs(narrow[index] - (mine + other)).max()
        assert 0 < off <= 2 * _ROUNDING["bfloat16"] * (np.abs(mine) + np.abs(other)).max()


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_is_not_finite_stays_so(bad: float, dtype: str) -> None:
    """Or a loss scale would never move, and the weights be spoilt."""
    strategy = worlds.local_strategy(2)

    @tf.function(autograph=False)
    def run() -> Any:
        def gradients() -> Any:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            return [tf.where(tf.equal(replica, 1), bad, 1.0) * tf.ones([2]), tf.ones([2])]

        return reduction_lib.sum_gradients(strategy, strategy.run(gradients), Reduction(dtype))

    spoilt, other = run()
    assert not np.isfinite(spoilt.numpy()).any()
    assert other.numpy().tolist() == [2, 2]


def test_no_scaled_sum_overflows_or_vanishes() -> None:
    bounds = np.array([3e38, 65504.0, 1.0, 1e-30, 1e-44, 0.0, np.inf, np.nan], "float32")
    scales = scales_of(tf.constant(bounds)).numpy()
    assert np.isfinite(scales).all()
    assert (scales > 0).all()
    assert (np.frexp(scales)[0] == 0.5).all(), "powers of two lose no bits"
    scaled = bounds[:4] * scales[:4]
    assert (scaled <= 2.0**15).all()
    assert (scaled > 2.0**13).all()
    assert scales[5:].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wire_dtype": "float8"}, "wire_dtype='float8' must be one of None, 'bfloat16'"),
        ({"piece_bytes": 0}, "piece_bytes=0 must be 'auto' or a whole number"),
        ({"bucket_bytes": 1e6}, "bucket_bytes=1000000.0 must be 'auto' or a whole number"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Reduction(**options)


def _fitted(strategy: Any, reduction: Any, **options: Any) -> list[np.ndarray]:
    with strategy.scope():
        keras.utils.set_random_seed(1)
        dense = keras.layers.Dense
        model = keras.Sequential([keras.Input((6,)), dense(9, "tanh"), dense(3)])
        model.compile(keras.optimizers.Adam(0.01), "mse")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(23, 6)), rng.normal(size=(23, 3))
    options = {"batch_size": 5, "epochs": 2, "verbose": 0, "shuffle": False} | options
    tfdist.fit(model, x, y, reduction=reduction, **options)
    return [np.asarray(weight) for weight in model.weights]


def _fits_on_worker(folder: str) -> list[Any]:
    strategy = tfdist.get_strategy("cpu")
    assert strategy.num_replicas_in_sync == 2
    found: list[Any] = [_fitted(strategy, reduction) for reduction in (None, "bfloat16", "float16")]
    part = {"checkpoint_dir": folder, "save_every": 3}
    _fitted(strategy, "float16", epochs=1, **part)
    found.append(_fitted(strategy, "float16", **part))
    is_chief = strategy.cluster_resolver.task_id == 0
    try:
        _fitted(strategy, "float16" if is_chief else "bfloat16")
    except ValueError as error:
        found.append(str(error))
    return found


@pytest.mark.slow
def test_fit_on_two_workers(tmp_path: Any) -> None:
    first, second = testing.run_workers(
        _fits_on_worker, args=(str(tmp_path),), timeout_secs=_LIMIT_SECS
    )
    for mine, theirs in zip(first[:4], second[:4], strict=True):
        for weight, other in zip(mine, theirs, strict=True):
            assert weight.tobytes() == other.tobytes()
    exact, bfloat16, float16, resumed = first[:4]
    for weight, rounded, finer, again in zip(exact, bfloat16, float16, resumed, strict=True):
        off, less = np.abs(weight - rounded).max(), np.abs(weight - finer).max()
        assert 0 < less < off < 1e-2
        assert finer.tobytes() == again.tobytes(), "stopped and resumed"
    for told in (first[4], second[4]):
        assert "worker 0: reduction is [2, " in told


@pytest.mark.slow
def test_fit_on_two_replicas_against_one_device() -> None:
    strategy = worlds.local_strategy(2)
    alone = _fitted(tfdist.get_strategy("cpu", cluster=None), "float16")
    for reduction, within in ((None, 1e-6), ("float16", 1e-3)):
        for mine, theirs in zip(_fitted(strategy, reduction), alone, strict=True):
            np.testing.assert_allclose(mine, theirs, atol=within)
    assert any(
        mine.tobytes() != exact.tobytes()
        for mine, exact in zip(_fitted(strategy, "float16"), _fitted(strategy, None), strict=True)
    )


def test_models_with_a_train_step_and_loops_of_their_own_narrow_too() -> None:
    strategy = worlds.local_strategy(2)
    odd = np.float32(1 / 3)

    class Own(keras.Model):
        def train_step(self, data: Any) -> dict[str, Any]:
            variables = [variable.value for variable in self.trainable_variables]
            self.optimizer.apply([odd * tf.ones_like(v) for v in variables])
            return {}

    def made(kind: type) -> Any:
        with strategy.scope():
            x = keras.Input((1,))
            model = kind(x, keras.layers.Dense(1, kernel_initializer="zeros")(x))
            model.compile(keras.optimizers.SGD(1.0), "mse")
        return model

    model = made(Own)
    rounded = 2 * float(tf.cast(odd / 2, tf.bfloat16))
    # Each has a trace of its own.
    for reduction, step in (("bfloat16", rounded), (None, float(odd))):
        model.set_weights([np.zeros((1, 1)), np.zeros(1)])
        tfdist.fit(model, np.ones((2, 1)), np.ones((2, 1)), reduction=reduction, verbose=0)
        assert float(np.asarray(model.weights[0])[0, 0]) == -step, reduction
    assert rounded != odd

    model = made(keras.Model)
    model.optimizer.build(model.trainable_variables)

    def replica_step(batch: Any) -> Any:
        variables = model.trainable_variables
        gradients = [odd / 2 * tf.ones(v.shape) for v in variables]
        tfdist.apply_gradients(model.optimizer, gradients, variables, reduction="bfloat16")
        return tf.constant(0.0)

    train_step = tfdist.make_train_step(replica_step, strategy)
    data = tf.data.Dataset.from_tensor_slices(np.ones((2, 1), "float32")).batch(2)
    for batch in tfdist.distribute_dataset(data, strategy):
        train_step(batch)
    assert float(np.asarray(model.weights[0])[0, 0]) == -rounded


def test_what_fit_cannot_use_is_refused() -> None:
    strategy = worlds.local_strategy(2)
    told = r"reduction=0\.5 is not a reduction\. Give tfdist\.Reduction"
    with pytest.raises(ValueError, match=told):
        _fitted(strategy, 0.5)
    with strategy.scope():
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    trainer = tfdist.Trainer(model, replica_step=lambda batch: {})
    with pytest.raises(ValueError, match=r"Give it there: tfdist.apply_gradients"):
        trainer.fit(np.ones((2, 1)), reduction="float16")


def test_a_run_goes_on_as_it_began(tmp_path: Any) -> None:
    strategy = worlds.local_strategy(2)
    _fitted(strategy, "bfloat16", checkpoint_dir=tmp_path, epochs=1)
    with pytest.raises(ValueError, match="wire_dtype"):
        _fitted(strategy, None, checkpoint_dir=tmp_path)
