"""Does a file of a distributed run give the model's outputs, and is one that does not named?"""

from __future__ import annotations

import contextlib

import keras
import numpy as np
import pytest

import tfdist
from tfdist import export
from tfdist.export import formats

_X = np.random.default_rng(0).normal(size=(12, 6, 6, 1)).astype("float32")
_PATHS = {"keras": "m.keras", "saved_model": "m", "litert": "m.tflite", "onnx": "m.onnx"}
# What the converters' own dependencies will refuse one day is for their authors.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def model(logical_cpus):
    """One model that was trained on two replicas, for all formats."""
    strategy = tfdist.get_strategy("2xcpu")
    assert strategy.num_replicas_in_sync == 2
    layers = keras.layers
    with strategy.scope():
        model = keras.Sequential([
            keras.Input((6, 6, 1)), layers.Conv2D(3, 3, activation="relu"),
            layers.BatchNormalization(synchronized=True), layers.Flatten(), layers.Dropout(0.5),
            layers.Dense(3, activation="softmax"),
        ])  # fmt: skip
        model.compile("sgd", "sparse_categorical_crossentropy")
    tfdist.fit(model, _X, np.arange(12) % 3, batch_size=5, epochs=2, verbose=0)
    return model


def _needs(name):
    for package in formats.FORMATS[name].packages:
        pytest.importorskip(package, reason="pip install 'tfdist[export]'")


@pytest.mark.parametrize("name", formats.FORMATS)
def test_the_file_gives_the_outputs_of_the_model(model, tmp_path, name):
    _needs(name)
    inside = name in ("keras", "saved_model")  # where a program may stand, too
    with model.distribute_strategy.scope() if inside else contextlib.nullcontext():
        found = export.export_model(model, tmp_path / _PATHS[name], _X)
    assert found.format == name
    assert found.largest_difference < 1e-5
    assert "agrees with the model to" in str(found)
    # Its users' own way, beside what `export_model` has looked at.
    if name == "keras":
        loaded = keras.models.load_model(tmp_path / "m.keras")
        assert loaded.optimizer.iterations == 6
        outputs = loaded.predict(_X, verbose=0)
        np.testing.assert_allclose(outputs, tfdist.predict(model, _X, verbose=0), atol=1e-6)


def test_a_file_that_rounds_is_named(model, tmp_path):
    import tensorflow as tf

    _needs("litert")
    options = {"optimizations": [tf.lite.Optimize.DEFAULT],
               "target_spec": {"supported_types": [tf.float16]}}
    with pytest.raises(RuntimeError, match=r"Output 0 of .*m\.tflite' is up to .* away.*round"):
        export.export_model(model, tmp_path / "m.tflite", _X, rtol=0, atol=1e-7, **options)
    found = export.export_model(model, tmp_path / "m.tflite", _X, atol=0.01, **options)
    assert 1e-7 < found.largest_difference < 0.01


def test_several_inputs_are_told_apart_by_name(tmp_path, logical_cpus):
    with tfdist.get_strategy("2xcpu").scope():
        b, a = keras.Input((2,), name="b"), keras.Input((3,), name="a")
        layers = keras.layers
        outputs = {"v": layers.Dense(2)(a), "u": layers.Dense(1)(layers.Concatenate()([b, a]))}
        model = keras.Model({"b": b, "a": a}, outputs)
    x = {"a": _X[:, :3, 0, 0], "b": _X[:, :2, 1, 0]}
    tfdist.predict(model, x, verbose=0)
    for name in ("litert", "onnx"):  # the others know the structure
        _needs(name)
        found = export.export_model(model, tmp_path / _PATHS[name], x)
        assert found.largest_difference < 1e-5


def test_a_file_that_cannot_be_read_is_named(model, tmp_path, monkeypatch):
    def broken(path, model, x):
        raise OSError("no such operation.")

    own = formats.Format("keras", ".keras", formats.FORMATS["keras"].write, broken)
    monkeypatch.setitem(formats.FORMATS, "keras", own)
    with pytest.raises(RuntimeError, match="cannot be read as its users do: OSError: no such"):
        export.export_model(model, tmp_path / "m.keras", _X)
    assert export.export_model(model, tmp_path / "m.keras").largest_difference is None
