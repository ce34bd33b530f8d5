"""tests of tfdist/tpu/preflighting.py: real programs through the compiler of real TPUs

The environment of the compiler is made by preflight itself, in a folder that later runs find again.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from typing import Any

import keras
import pytest
import tensorflow as tf

import tfdist
from tfdist.tpu import compiler_environment, compiler_process

layers = keras.layers
_CHECKOUT = pathlib.Path(tfdist.__file__).parents[1]
_LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture(scope="session")
def cache_dir(pytestconfig: pytest.Config) -> pathlib.Path:
    return pytestconfig.cache.mkdir("tfdist-tpu")


def _dense() -> keras.Model:
    model = keras.Sequential(
        [keras.Input((64,)), layers.Dense(128, activation="relu"), layers.Dense(10)]
    )
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), _LOGITS, metrics=["accuracy"])
    return model


def _cnn() -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)), layers.Conv2D(16, 3, strides=2, activation="relu"),
            layers.BatchNormalization(synchronized=True), layers.GlobalAveragePooling2D(),
            layers.Dense(10),
        ]
    )  # fmt: skip
    model.compile(keras.optimizers.Adam(1e-3), _LOGITS, metrics=["accuracy"])
    return model


def _transformer() -> keras.Model:
    tokens = keras.Input((16,), dtype="int32")
    x = layers.Embedding(256, 128)(tokens)
    x = x + layers.MultiHeadAttention(4, 32)(layers.LayerNormalization()(x), x)
    x = x + layers.Dense(128)(layers.Dense(256, activation="gelu")(layers.LayerNormalization()(x)))
    model = keras.Model(tokens, layers.Dense(256)(x))
    model.compile(keras.optimizers.AdamW(1e-3, global_clipnorm=1.0), _LOGITS)
    return model


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("build", [_dense, _cnn, _transformer])
def test_it_compiles_for_v5e_and_v6e(build: Any, policy: str, cache_dir: pathlib.Path) -> None:
    keras.config.set_dtype_policy(policy)
    try:
        model = build()
    finally:
        keras.config.set_dtype_policy("float32")
    for topology in ("v5e:1x1", "v6e:1x1"):
        report = tfdist.tpu.preflight(
            model, batch_size=16, topology=topology, fast=True, cache_dir=cache_dir
        )
        assert report.error is None
        assert report.compiles
        assert report.fits
        assert report.num_replicas == 1
        assert report.fast


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_eight_replicas_in_full(cache_dir: pathlib.Path) -> None:
    report = tfdist.tpu.preflight(
        _dense(), batch_size=60, topology="v5e:2x4", steps_per_execution=3, cache_dir=cache_dir
    )
    assert report.fits
    assert (report.num_replicas, report.global_batch_size) == (8, 64)
    [all_reduce] = report.collectives  # of four gradients, merged by the compiler
    assert (all_reduce.kind, all_reduce.tensors) == ("all-reduce", 4)
    assert all_reduce.bytes == 4 * (64 * 128 + 128 + 128 * 10 + 10)
    assert "fits: yes" in str(report)
    # Forward and twice as much backward, but no gradient of the data.
    products = 2 * 64 * (2 * 64 * 128 + 3 * 128 * 10)
    assert products < (report.flops_per_step or 0) < 3 * products


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_memory_is_what_the_parameters_say(cache_dir: pathlib.Path) -> None:
    width = 4096
    model = keras.Sequential([keras.Input((width,)), layers.Dense(width, use_bias=False)])
    model.compile(keras.optimizers.Adam(), "mse")
    report = tfdist.tpu.preflight(
        model, batch_size=8, topology="v5e:1x1", fast=True, cache_dir=cache_dir
    )
    weights = 4 * width * width
    assert report.fits
    assert weights <= report.parameter_bytes <= weights + 100
    assert 2 * weights <= report.optimizer_bytes <= 2 * weights + 100
    # Weights and two moments stay; a gradient lives for a while, unless it is used as it comes.
    assert 3 * weights <= (report.hbm_bytes_needed or 0) <= 4.3 * weights
    assert 15 * 2**30 < report.hbm_bytes_available < 16 * 2**30


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_out_of_memory_is_found(cache_dir: pathlib.Path) -> None:
    model = keras.Sequential([keras.Input((128,)), layers.Dense(2**14, use_bias=False)])
    model.compile("sgd", "mse")
    report = tfdist.tpu.preflight(
        model, batch_size=2**19, topology="v5e:1x1", fast=True, cache_dir=cache_dir
    )
    assert report.compiles
    assert not report.fits
    assert report.error
    assert (report.hbm_bytes_needed or 0) > report.hbm_bytes_available
    assert "fits: NO" in str(report)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_largest_batch_is_found(cache_dir: pathlib.Path) -> None:
    model = keras.Sequential([keras.Input((128,)), layers.Dense(2**14, use_bias=False)])
    model.compile("sgd", "mse")
    options = {"topology": "v5e:1x1", "fast": True, "cache_dir": cache_dir}
    report = tfdist.tpu.preflight(model, batch_size=2**18, find_largest_batch=True, **options)
    best = report.largest_batch_size or 0
    assert tfdist.tpu.preflight(model, batch_size=best, **options).fits
    assert not tfdist.tpu.preflight(model, batch_size=int(best * 1.06) + 1, **options).fits


class _OnHost(layers.Layer):
    def call(self, inputs: Any) -> Any:
        result = tf.py_function(lambda value: value, [inputs], tf.float32)
        result.set_shape(inputs.shape)
        return result


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_does_not_compile_is_named(cache_dir: pathlib.Path) -> None:
    model = keras.Sequential([keras.Input((8,)), layers.Dense(4), _OnHost(name="culprit")])
    model.compile("sgd", "mse")
    report = tfdist.tpu.preflight(model, batch_size=8, cache_dir=cache_dir)
    assert not report.compiles
    assert not report.fits
    assert report.where == "layer 'culprit' (_OnHost)"
    told = "EagerPyFunc, in layer 'culprit' (_OnHost), has no kernel for TPUs"
    assert told in (report.error or "")


class _Doubled(layers.Layer):
    def call(self, inputs: Any) -> Any:
        waves = tf.signal.fft(tf.cast(inputs, tf.complex128))
        return inputs + tf.stop_gradient(tf.cast(tf.abs(waves), inputs.dtype))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_the_compiler_of_the_tpu_refuses_is_named(cache_dir: pathlib.Path) -> None:
    model = keras.Sequential([keras.Input((8,)), layers.Dense(8), _Doubled(name="culprit")])
    model.compile("sgd", "mse")
    report = tfdist.tpu.preflight(
        model, batch_size=8, topology="v5e:1x1", fast=True, cache_dir=cache_dir
    )
    assert not report.compiles
    assert report.where == "layer 'culprit' (_Doubled)"
    assert "FFT" in (report.error or "")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_unknown_topology(cache_dir: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"topology='v9:2x2' is not one that the compiler knows"):
        tfdist.tpu.preflight(_dense(), batch_size=8, topology="v9:2x2", cache_dir=cache_dir)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compiler_is_ended_when_its_time_is_over(cache_dir: pathlib.Path) -> None:
    python = compiler_environment.compiler_python(cache_dir=cache_dir)
    with pytest.raises(RuntimeError, match=r"not done after timeout_secs=0\.1"):
        compiler_process.ask(python, {"topology": "v5e:2x2"}, timeout_secs=0.1)


@pytest.mark.parametrize("name", ["batch_size", "steps_per_execution"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True])
def test_sizes_that_cannot_be(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name}={value!r} must be a positive integer"):
        tfdist.tpu.preflight(_dense(), **{"batch_size": 8, name: value})


_TARGETS = """
import keras, tensorflow as tf

def good():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    model.compile("sgd", "mse")
    return model

def bad():
    model = good()
    model.compile("sgd", lambda y, p: tf.reduce_mean(tf.py_function(abs, [y - p], tf.float32)))
    return model, (tf.TensorSpec((1, 8)), tf.TensorSpec((1, 4)))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("target", "code", "words"), [
    ("good", 0, "fits: yes"), ("bad", 1, "compiles: NO"), ("missing", 2, "no function 'missing'"),
])  # fmt: skip
def test_script(
    target: str, code: int, words: str, cache_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "targets.py").write_text(_TARGETS)
    done = subprocess.run(
        [
            sys.executable, str(_CHECKOUT / "scripts" / "tpu_preflight.py"), "--fast",
            f"--target=targets:{target}", "--topology=v5e:1x1", "--batch_size=8",
            f"--cache_dir={cache_dir}",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(_CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert words in done.stdout + done.stderr
