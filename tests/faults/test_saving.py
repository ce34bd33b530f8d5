"""Can plain Keras, which knows nothing of tfdist, go on with what a distributed run saved?"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import tfdist
from tfdist import testing

ROWS, FEATURES, CLASSES = 20, 4, 3
_RNG = np.random.default_rng(0)
X = _RNG.normal(size=(ROWS, FEATURES)).astype("float32")
Y = _RNG.integers(0, CLASSES, size=ROWS)
FIT = {"batch_size": 6, "shuffle": False, "verbose": 0, "epochs": 2}
LIMIT_SECS = 400.0
pytestmark = pytest.mark.timeout(900)

# Run by a process of its own: loads what was saved, and prints what it gives.
PLAIN_KERAS = """
import sys
import keras
import numpy as np
import tensorflow as tf

folder, data = sys.argv[1], np.load(sys.argv[2])
whole = keras.models.load_model(f"{folder}/whole.keras")
weights = keras.models.clone_model(whole)
weights.load_weights(f"{folder}/only.weights.h5")
exported = tf.saved_model.load(f"{folder}/exported")
assert not any(name.startswith("tfdist") for name in sys.modules)
np.savez(
    f"{folder}/plain.npz",
    whole=whole.predict(data, verbose=0),
    weights=weights.predict(data, verbose=0),
    exported=exported.serve(data).numpy(),
    iterations=np.asarray(whole.optimizer.iterations),
    momentum=np.asarray(whole.optimizer.variables[2]),
)
"""


def make_model(*, synchronized=True):
    keras.utils.set_random_seed(3)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((FEATURES,)),
            layers.Dense(6, activation="tanh"),
            layers.BatchNormalization(synchronized=synchronized),
            layers.Dropout(0.2),
            layers.Dense(CLASSES, activation="softmax"),
        ]
    )
    compile_model(model)
    return model


def compile_model(model):
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True, ema_overwrite_frequency=3)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])


def save_everything(model, folder):
    os.makedirs(folder, exist_ok=True)
    model.save(f"{folder}/whole.keras")
    model.save_weights(f"{folder}/only.weights.h5")
    model.export(f"{folder}/exported", verbose=False)


def plain_keras(folder, tmp_path):
    """Loads what was saved in a new process, in which tfdist cannot even be found."""
    np.save(tmp_path / "data.npy", X)
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_KERAS, str(folder), str(tmp_path / "data.npy")],
        cwd=tmp_path, env={**environ, "KERAS_BACKEND": "tensorflow"}, capture_output=True,
        text=True, timeout=LIMIT_SECS, check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(f"{folder}/plain.npz") as found:
        return dict(found)


def assert_plain_keras_agrees(found, model_facts):
    for name in ("whole", "weights", "exported"):
        np.testing.assert_allclose(found[name], model_facts["outputs"], rtol=0, atol=1e-6)
    assert found["iterations"] == model_facts["iterations"]
    np.testing.assert_array_equal(found["momentum"], model_facts["momentum"])


def facts_of(model):
    return {
        "outputs": tfdist.predict(model, X, batch_size=6, verbose=0),
        "iterations": int(np.asarray(model.optimizer.iterations)),
        "momentum": np.asarray(model.optimizer.variables[2]),
    }


@pytest.mark.slow
def test_what_replicas_saved_is_plain_keras(tmp_path):
    with tfdist.get_strategy("2xcpu", cluster=None).scope():
        model = make_model()
    tfdist.fit(model, X, Y, **FIT)
    save_everything(model, tmp_path / "saved")
    assert_plain_keras_agrees(plain_keras(tmp_path / "saved", tmp_path), facts_of(model))


def trained_on(path, scope, fit):
    """Loads a model, trains it on, and returns what it came to."""
    with scope:
        model = keras.models.load_model(path)
    history = fit(model, X, Y, **FIT)
    return [np.asarray(v) for v in [*model.weights, *model.optimizer.variables]], history.history


def assert_trains_on_alike(found, wanted):
    for one, other in zip(found[0], wanted[0], strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)
    for name in wanted[1]:
        np.testing.assert_allclose(found[1][name], wanted[1][name], rtol=0, atol=1e-9)


@pytest.fixture
def saved_by_plain_keras(tmp_path):
    """A `.keras` file of a model without what is different by replica, in float64."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((FEATURES,)),
            keras.layers.Dense(6, activation="tanh"),
            keras.layers.BatchNormalization(synchronized=True),
            keras.layers.Dense(CLASSES, activation="softmax"),
        ]
    )
    compile_model(model)
    model.fit(X, Y, **FIT)
    model.save(tmp_path / "plain.keras")
    return tmp_path / "plain.keras"


@pytest.mark.parametrize(
    "device",
    ["4xcpu", *[pytest.param(device, marks=pytest.mark.slow) for device in ("cpu", "2xcpu")]],
)
def test_a_file_trains_on_under_any_strategy(device, saved_by_plain_keras):
    wanted = trained_on(
        saved_by_plain_keras, contextlib.nullcontext(), lambda model, *a, **k: model.fit(*a, **k)
    )
    strategy = tfdist.get_strategy(device, cluster=None)
    found = trained_on(saved_by_plain_keras, strategy.scope(), tfdist.fit)
    assert_trains_on_alike(found, wanted)


def test_a_model_that_was_loaded_outside_the_scope_is_refused(saved_by_plain_keras):
    tfdist.get_strategy("2xcpu", cluster=None)
    model = keras.models.load_model(saved_by_plain_keras)
    with pytest.raises(ValueError, match="scope"):
        tfdist.fit(model, X, Y, **FIT)


def work(folder):
    """What each of two workers does: train, save, load again, train on."""
    import warnings

    warnings.simplefilter("ignore")
    strategy = tfdist.get_strategy("cpu")
    rank = tfdist.detect_cluster().rank
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        model = make_model()
    tfdist.fit(model, X, Y, **FIT)
    with strategy.scope():
        by_replica = make_model(synchronized=False)  # has statistics of each replica's own
    tfdist.fit(by_replica, X, Y, **FIT)
    if rank == 0:  # no other worker is asked for anything
        save_everything(model, f"{folder}/by_chief")
        save_everything(by_replica, f"{folder}/by_replica")
    save_everything(model, f"{folder}/by_worker_{rank}")
    facts = facts_of(model)
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    return facts, trained_on(f"{folder}/plain.keras", strategy.scope(), tfdist.fit)


@pytest.mark.slow
def test_what_workers_saved_is_plain_keras(saved_by_plain_keras, tmp_path):
    wanted = trained_on(
        saved_by_plain_keras, contextlib.nullcontext(), lambda model, *a, **k: model.fit(*a, **k)
    )
    results = testing.run_workers(work, args=(str(tmp_path),), timeout_secs=LIMIT_SECS)
    for rank, (facts, trained) in enumerate(results):
        assert_trains_on_alike(trained, wanted)
        assert_plain_keras_agrees(plain_keras(tmp_path / f"by_worker_{rank}", tmp_path), facts)
    assert_plain_keras_agrees(plain_keras(tmp_path / "by_chief", tmp_path), results[0][0])
    assert np.isfinite(plain_keras(tmp_path / "by_replica", tmp_path)["whole"]).all()
