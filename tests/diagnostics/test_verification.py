"""`verify` on models that are right, and on five faults planted into models of a user's own."""

from __future__ import annotations

import dataclasses
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist.cluster import detection
from tfdist.diagnostics import verification

_ROOT = pathlib.Path(__file__).parents[2]
_RNG = np.random.default_rng(0)
X, Y = _RNG.normal(size=(21, 6)), _RNG.integers(0, 3, 21)
LAYERS = keras.layers


def small(*extra, step=None, kind=keras.Sequential):
    model = kind(
        [keras.Input((6,)), LAYERS.Dense(5, activation="tanh"), *extra, LAYERS.Dense(3)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, metrics=["accuracy"])
    return model


def right():
    return small(LAYERS.Dropout(0.3), LAYERS.BatchNormalization(synchronized=True))


def accumulating():
    """Replicas sum once an update; one device gets its gradients step by step."""
    model = small()
    sgd = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    model.compile(sgd, model.loss, metrics=["accuracy"])
    return model


def plain_batch_normalization():
    return small(LAYERS.BatchNormalization(name="plain"))


def rank_dependent_seed():
    model = small()
    worker = detection.detect_cluster()
    draw = np.random.default_rng(worker.rank if worker else 0)
    kernel = model.layers[0].kernel
    kernel.assign(draw.normal(size=kernel.shape))
    return model


def unseeded():
    return small(LAYERS.Lambda(lambda x: x + np.random.default_rng().normal() * 0.1))


def own_rule(change_loss, change_gradients):
    """A training rule of a user's own, with a fault between its lines."""
    model = small()
    optimizer = model.optimizer

    def replica_step(batch):
        x, y = batch
        with tf.GradientTape() as tape:
            per_example = keras.losses.sparse_categorical_crossentropy(
                y, model(x, training=True), from_logits=True
            )
            loss = change_loss(per_example)
        gradients = change_gradients(tape.gradient(loss, model.trainable_variables))
        tfdist.apply_gradients(optimizer, gradients, model.trainable_variables)
        return {"loss": loss}

    return tfdist.Trainer(model, replica_step=replica_step)


def right_rule():
    return own_rule(tfdist.average_loss, lambda gradients: gradients)


def doubled_reduction():
    def reduce(gradients):
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)

    return own_rule(tfdist.average_loss, reduce)


def clipped_before_the_reduction():
    def clip(gradients):
        return [tf.clip_by_norm(gradient, 0.01) for gradient in gradients]

    return own_rule(tfdist.average_loss, clip)


def mean_of_means():
    def mean(per_example):
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        return tf.reduce_mean(per_example) / replicas

    return own_rule(mean, lambda gradients: gradients)


@dataclasses.dataclass(frozen=True)
class Fault:
    build_fn: object
    group: str
    name: str
    step: int
    cause: str
    workers: int = 1


FAULTS = [
    Fault(doubled_reduction, "gradient", "bias", 1, "summed twice"),
    Fault(clipped_before_the_reduction, "gradient", "bias", 1, "before they were summed"),
    Fault(mean_of_means, "loss", "loss", 1, "averages over the local batch"),
    Fault(plain_batch_normalization, "loss", "loss", 1, "plain BatchNormalization (plain)"),
    Fault(rank_dependent_seed, "weight", "kernel", 0, "local random generator", workers=2),
    Fault(unseeded, "loss", "loss", 1, "unseeded randomness"),
]


@pytest.fixture(autouse=True)
def _float64(monkeypatch):
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx(before)


def check(build_fn, workers=1):
    device = "cpu" if workers > 1 else "2xcpu"
    return tfdist.verify(
        build_fn, X, Y, device=device, workers=workers, steps=3, batch_size=7, timeout_secs=90
    )


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.build_fn.__name__)
@pytest.mark.slow
def test_a_planted_fault_is_named(fault):
    report = check(fault.build_fn, workers=fault.workers)
    assert report.replicas == 2
    assert not report.agrees
    found = report.difference
    assert (found.group, found.step) == (fault.group, fault.step), report
    assert fault.name in found.name, report
    assert fault.cause in found.cause, report
    assert found.name in str(report)


@pytest.mark.parametrize(
    ("build_fn", "workers"), [(right, 1), (right_rule, 1), (accumulating, 1), (right, 2)]
)
@pytest.mark.slow
def test_what_is_right_agrees_to_rounding(build_fn, workers):
    report = check(build_fn, workers=workers)
    assert report.replicas == 2
    assert report.steps == 3
    assert report.agrees, report
    assert 0 < report.largest < 1e-9  # not compared with itself
    assert "agree to" in str(report)


def _record(**values):
    return {tuple(key.split("/")): np.asarray(value) for key, value in values.items()}


def _steps(*values):
    return [{("loss", "loss"): np.array([value])} for value in values]


@pytest.mark.parametrize(
    ("one", "found", "step"),
    [
        ([1.0, 2.0], [1.0, 2.0 + 1e-12], None),
        ([1.0, 2.0], [1.0, 2.001], 1),
        ([1.0, 2.0], [1.0], 1),  # a run that ended early
        ([1.0, np.nan], [1.0, np.nan], None),
        ([1.0, np.nan], [1.0, 2.0], 1),
        ([np.inf, 1.0], [np.inf, 1.0], None),
        ([0.0, 0.0], [0.0, 1e-3], 1),
    ],
)
def test_compare(one, found, step):
    _, where = verification._compare(_steps(*one), [_steps(*found)])
    assert (where and where["step"]) == step


def test_compare_names_the_worker_and_the_earliest_group():
    one = [{("weight", "a"): np.ones(2), ("gradient", "z"): np.ones(2)}]
    other = [{("weight", "a"): np.zeros((1, 2)), ("gradient", "z"): np.array([[1.0, 3.0]])}]
    _, where = verification._compare(one, [one, other])
    assert where["worker"] == 1
    assert (where["group"], where["name"]) == ("gradient", "z")
    assert (where["expected"], where["found"]) == (1.0, 3.0)


@pytest.mark.parametrize(
    ("expected", "found", "differs"),
    [
        ([4e-17, -1e-17], [2e-17, 0.0], False),  # sums that cancel out
        ([4e-14, 0.0], [2e-13, 0.0], True),
        ([0.0, 0.0], [0.0, 1e-8], True),
    ],
)
def test_what_is_zero_but_for_rounding_is_no_difference(expected, found, differs):
    kernel = np.array([0.3, -0.1])
    one = [{("gradient", "bias"): np.array(expected), ("gradient", "kernel"): kernel}]
    other = [{("gradient", "bias"): np.array([found]), ("gradient", "kernel"): kernel[None]}]
    _, where = verification._compare(one, [other])
    assert (where is not None) is differs


@pytest.mark.slow
@pytest.mark.parametrize(("case", "code"), [("right_case", 0), ("wrong_case", 1)])
def test_the_script_says_it_by_its_exit_code(case, code, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import keras, numpy as np\n"
        "def build(*extra):\n"
        "    model = keras.Sequential([keras.Input((4,)), *extra, keras.layers.Dense(1)])\n"
        "    model.compile('sgd', 'mse')\n"
        "    return model\n"
        "data = np.arange(20.0).reshape(5, 4) / 20, np.ones(5)\n"
        "def right_case():\n"
        "    return build, *data\n"
        "def wrong_case():\n"
        "    return lambda: build(keras.layers.BatchNormalization()), *data\n"
    )
    command = [sys.executable, _ROOT / "scripts" / "verify.py", f"--target=mine:{case}",
               "--steps=2", "--global_batch_size=3"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert ("agree to" if code == 0 else "DIFFER in step 1") in done.stdout
