"""Is federated averaging what it is defined as, whoever computes it in whichever order?

The oracles are stock Keras on one device where both are the same, a loop by hand in NumPy and a
tape where they are not, and `fit(local_steps=...)`, which has code of its own for the same mean.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist import federated, testing

_RNG = np.random.default_rng(0)
_X, _Y = _RNG.normal(size=(48, 5)), _RNG.normal(size=(48, 1))
_CLIENTS = {
    "a": (_X[:3], _Y[:3]), "b": (_X[3:20], _Y[3:20]), "c": (_X[20:31], _Y[20:31]),
    "d": (_X[31:], _Y[31:]),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _float64():
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    _all_in_float64()
    yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)


def _all_in_float64() -> None:
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")


def _build(*, extra: Any = None, optimizer: Any = None) -> keras.Model:
    layers = keras.layers
    first, last = (keras.initializers.GlorotUniform(seed=seed) for seed in (1, 2))
    model = keras.Sequential([
        keras.Input((5,)),
        layers.Dense(4, activation="tanh", kernel_regularizer="l2", kernel_initializer=first),
        *([] if extra is None else [extra()]), layers.Dense(1, kernel_initializer=last),
    ])  # fmt: skip
    model.compile(optimizer or keras.optimizers.SGD(0.1), "mse")
    return model


def _fit(clients: Any = None, build: Any = _build, **kwargs: Any) -> federated.Federated:
    clients = _CLIENTS if clients is None else clients
    kwargs = {"rounds": 3, "batch_size": 4, "device": "cpu", "verbose": 0, **kwargs}
    return federated.fit(build, clients, **kwargs)


def _assert_close(one: Any, other: Any, tolerance: float = 1e-9) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_one_client_with_all_data_and_one_step_is_one_device():
    trained = _fit({"all": (_X, _Y)}, batch_size=48, rounds=4)
    alone = _build()
    history = alone.fit(_X, _Y, batch_size=48, epochs=4, shuffle=False, verbose=0)
    _assert_close(trained.model.get_weights(), alone.get_weights())
    np.testing.assert_allclose(trained.history["loss"], history.history["loss"], rtol=1e-9)


def test_local_steps_of_two_clients_are_those_of_two_replicas(logical_cpus):
    """Both average after three steps on four rows each."""
    halves = [np.concatenate([range(i, i + 4) for i in range(half, 24, 8)]) for half in (0, 4)]
    clients = {str(i): (_X[rows], _Y[rows]) for i, rows in enumerate(halves)}
    trained = _fit(clients, shuffle=False, rounds=5)
    strategy = tfdist.get_strategy("2xcpu")
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        model = _build()
    tfdist.fit(
        model, _X[:24], _Y[:24], batch_size=8, epochs=5, shuffle=False, verbose=0, local_steps=3
    )
    _assert_close(trained.model.get_weights(), model.get_weights())


def _by_hand(rounds: int, epochs: int, mu: float, server: Any = None) -> list[np.ndarray]:
    """FedAvg and FedProx as they are written down, with a tape and the rows in their order."""
    model = _build()
    weights = [v.numpy() for v in model.trainable_variables]
    for _ in range(rounds):
        mean = [np.zeros_like(w) for w in weights]
        for x, y in _CLIENTS.values():
            for variable, value in zip(model.trainable_variables, weights, strict=True):
                variable.assign(value)
            for start in list(range(0, len(x), 4)) * epochs:
                rows = slice(start, start + 4)
                with tf.GradientTape() as tape:
                    loss = tf.reduce_mean(tf.square(model(x[rows]) - y[rows])) + sum(model.losses)
                for variable, gradient, begin in zip(
                    model.trainable_variables,
                    tape.gradient(loss, [v.value for v in model.trainable_variables]),
                    weights, strict=True,
                ):
                    step = gradient + mu * (variable.value - begin)
                    variable.assign_sub(0.1 * step)
            for total, variable in zip(mean, model.trainable_variables, strict=True):
                total += len(x) / 48 * variable.numpy()
        if server is None:
            weights = mean
            continue
        for variable, value in zip(model.trainable_variables, weights, strict=True):
            variable.assign(value)
        changes = [w - m for w, m in zip(weights, mean, strict=True)]
        server.apply([tf.constant(c) for c in changes], model.trainable_variables)
        weights = [v.numpy() for v in model.trainable_variables]
    return weights


@pytest.mark.parametrize(
    ("mu", "server"),
    [
        pytest.param(0.0, None, marks=pytest.mark.slow),  # 3 s; the other has all that it has
        (0.7, lambda: keras.optimizers.Adam(0.05)),
    ],
    ids=["FedAvg", "FedProx with FedAdam"],
)
def test_clients_of_any_sizes_are_averaged_as_by_hand(mu, server):
    trained = _fit(
        shuffle=False, local_epochs=2, proximal=mu, server_optimizer=server and server()
    )
    wanted = _by_hand(3, 2, mu, server and server())
    _assert_close([v.numpy() for v in trained.model.trainable_variables], wanted)
    kernel = trained.model.trainable_variables[0]
    assert type(kernel.regularizer) is keras.regularizers.L2  # as it was before


def _leaves(number: int, name: str) -> str | None:
    return "train" if number == 1 and name in "ab" else None


def _random_run(order: int = 1, leaves: Any = _leaves, **kwargs: Any) -> tuple[list[bytes], Any]:
    """A run with all that could depend on who computes what: draws, statistics, samples."""
    tfdist.get_strategy("cpu")  # before anything else, in a process of its own
    _all_in_float64()

    def extra() -> Any:
        return keras.Sequential([keras.layers.BatchNormalization(), keras.layers.Dropout(0.3)])

    def build() -> keras.Model:  # with states that the next client must not find
        return _build(extra=extra, optimizer=keras.optimizers.Adam(0.05))

    trained = _fit(
        dict(list(_CLIENTS.items())[::order]), build, fraction=0.75,
        server_optimizer=keras.optimizers.Adam(0.05), drop_out=leaves,
        keep_local="statistics", local_epochs=2, validation_data=(_X, _Y),
        validation_clients=_CLIENTS, seed=5, **kwargs,
    )
    local = [v.tobytes() for name in sorted(trained.local) for v in trained.local[name].values()]
    return [w.tobytes() for w in trained.model.get_weights()] + local, trained.rounds


@pytest.mark.slow
def test_order_of_clients_and_number_of_workers_change_no_bit():
    """Two jobs of 8 s; nothing else sees what workers tell each other, and in which order."""
    three = testing.run_workers(_random_run, workers=3, threads=1, kwargs={"order": -1})
    [one] = testing.run_workers(_random_run, workers=1, threads=1)
    assert all(found == one for found in three)
    [first, second, third] = one[1]
    assert [len(told["clients"]) + len(told["left"]) for told in one[1]] == [3, 3, 3]
    assert set(second["left"].values()) == {"drop_out says so in the phase train"}
    assert first["clients"] != second["clients"]
    assert len(third["val_by_client"]) == 4


class Stop(Exception):
    """Ends a run in the midst of a round."""


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_the_same_bits(tmp_path):
    """Three runs, 5 s; nothing else sees what a checkpoint lacks."""
    whole = _random_run()

    def stop(number: int, name: str) -> str | None:
        if number == 2 and name == whole[1][2]["clients"][-1]:
            raise Stop
        return _leaves(number, name)

    kwargs = {"checkpoint_dir": tmp_path / "run"}
    with pytest.raises(Stop):
        _random_run(leaves=stop, **kwargs)
    assert _random_run(**kwargs) == whole
    with pytest.raises(ValueError, match="is of another run: seed: 5 in the checkpoint, 0 here"):
        _fit(checkpoint_dir=tmp_path / "run")


@pytest.mark.slow  # 3 s each; nothing else sees whose values a client finds again
@pytest.mark.parametrize("keep_local", ["normalization", lambda v: "normalization" in v.path])
def test_what_stays_with_a_client_is_its_own(keep_local):
    """FedBN: what a client keeps is what it has after its own steps, and nobody else's."""
    def build():
        return _build(extra=keras.layers.BatchNormalization)

    trained = _fit({"a": _CLIENTS["a"], "d": _CLIENTS["d"]}, build, keep_local=keep_local)
    assert [len(trained.local[name]) for name in ("a", "d")] == [4, 4]
    for (name, one), other in zip(trained.local["a"].items(), trained.local["d"].values(),
                                  strict=True):  # fmt: skip
        assert (one != other).any(), name
    first = build()
    assert len(first.layers[1].weights) == 4
    _assert_close([w.numpy() for w in trained.model.layers[1].weights],
                  [w.numpy() for w in first.layers[1].weights], 0)  # fmt: skip
    # With one client there is nobody to differ from, so keeping changes nothing.
    kept, averaged = (
        _fit({"d": _CLIENTS["d"]}, build, keep_local=k) for k in (keep_local, None)
    )
    own = iter(kept.local["d"].values())
    _assert_close([next(own) for _ in range(4)],
                  [w.numpy() for w in averaged.model.layers[1].weights])  # fmt: skip


def test_a_client_without_examples_or_time_counts_nothing():
    def away():
        raise federated.Unavailable("it is charging")

    trained = _fit({**_CLIENTS, "e": (_X[:0], _Y[:0]), "f": away})
    _assert_close(trained.model.get_weights(), _fit().model.get_weights())
    assert trained.rounds[0]["left"] == {"f": "it is charging"}
    assert trained.rounds[0]["clients"] == ["a", "b", "c", "d", "e"]


@pytest.mark.slow
def test_data_of_all_kinds_is_the_same(tmp_path):
    """A folder, a file, a function and a dataset of the same rows; 4 s, nothing else reads them."""
    folder = tmp_path / "clients"
    for name, (x, y) in _CLIENTS.items():
        (folder / name).mkdir(parents=True)
        np.save(folder / name / "x.npy", x)
        np.save(folder / name / "y.npy", y)
    np.savez(tmp_path / "b.npz", x=_CLIENTS["b"][0], y=_CLIENTS["b"][1])
    mixed = {
        "a": folder / "a", "b": str(tmp_path / "b.npz"), "c": lambda: _CLIENTS["c"],
        "d": tf.data.Dataset.from_tensor_slices(_CLIENTS["d"]).batch(4),
    }  # fmt: skip
    wanted = _fit(shuffle=False).model.get_weights()
    for clients in (folder, mixed):
        _assert_close(_fit(clients, shuffle=False).model.get_weights(), wanted)


def _without_compile() -> keras.Model:
    return keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])


@pytest.mark.parametrize(
    ("kwargs", "told"),
    [
        ({"clients": {}}, "names no client. Give a dict"),
        ({"clients": {3: (_X, _Y)}}, "the name 3, which is no text"),
        ({"clients": {"a": _X}}, "The client 'a' has the data"),
        ({"clients": {"a": (_X, _Y[:5])}}, r"have \[5, 48\] rows"),
        ({"clients": {"a": "/nowhere"}}, "where there is no x and y"),
        ({"fraction": 0}, "fraction=0 must be above 0"),
        ({"rounds": 0}, "rounds=0 must be a whole number"),
        ({"local_epochs": 1.5}, "local_epochs=1.5 must be a whole number"),
        ({"proximal": -1}, "proximal=-1 must be a number from 0"),
        ({"keep_local": "bn"}, "keep_local='bn' must be one of 'statistics'"),
        ({"server_optimizer": "adam"}, "server_optimizer='adam' must be a Keras optimizer"),
        ({"validation_clients": {"z": (_X, _Y)}}, r"validation_clients has \['z'\]"),
        ({"build": lambda: _build(extra=keras.layers.Normalization)}, "of int.* has no mean over"),
        ({"build": _without_compile}, "which is no compiled Keras model"),
    ],
)
def test_refused_in_one_sentence(kwargs, told):
    with pytest.raises(ValueError, match=told):
        _fit(**kwargs)


def test_a_client_that_breaks_down_is_named():
    bad = (np.full((4, 5), np.nan), np.ones((4, 1)))
    with pytest.raises(RuntimeError, match="The client 'e' has sent weights that are not finite"):
        _fit({**_CLIENTS, "e": bad})
    with pytest.raises(RuntimeError, match="Round 2 has ended with 2 clients .*needs 4 and 1"):
        _fit(min_clients=4, drop_out=_leaves)


def test_a_scope_outside_is_refused(logical_cpus):
    with tfdist.get_strategy("2xcpu").scope(), pytest.raises(ValueError, match="Call it outside"):
        _fit()


@pytest.mark.slow
def test_a_client_trains_on_all_devices_of_its_site(logical_cpus):
    """One client on two replicas is one device too; 3 s, nothing else pulls over replicas."""
    on_two = _fit({"all": (_X, _Y)}, batch_size=16, device="2xcpu", shuffle=False, proximal=0.3)
    on_one = _fit({"all": (_X, _Y)}, batch_size=16, shuffle=False, proximal=0.3)
    _assert_close(on_two.model.get_weights(), on_one.model.get_weights())
