"""Is a private name that a release lacks told in one sentence, at the first call of tfdist?"""

from __future__ import annotations

import ast
import configparser
import inspect
import pathlib
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist.compat import (
    keras_internals,
    private_names,
    replacing,
    tensor_notes,
    tf_internals,
)

_CHECKOUT = pathlib.Path(tfdist.__file__).parent.parent
_TAKEN = "keras.src.losses.loss.reduce_values"
_SENTENCE = (
    f"Keras {keras.__version__} has no '{_TAKEN}', which tfdist needs for losses of the global "
    "batch. Install a newer tfdist, or a release that it was run with: pip install "
    f"'keras{private_names.RELEASES['keras']}'."
)


@pytest.fixture
def unchecked(monkeypatch):
    """A process that has not looked yet, and in which private names can be taken away."""
    private_names.check.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    private_names.check.cache_clear()


def _model() -> keras.Model:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize(
    "first_call",
    [
        lambda: tfdist.get_strategy("cpu"),
        lambda: tfdist.Trainer(_model()),
        lambda: tfdist.fit(_model(), np.ones((2, 2)), np.ones(2), verbose=0),
        lambda: tfdist.make_train_step(lambda batch: batch, None),
    ],
    ids=["get_strategy", "Trainer", "fit", "make_train_step"],
)
def test_first_call_names_what_is_missing(first_call, unchecked):
    unchecked.delattr(_TAKEN)
    with pytest.raises(ImportError) as caught:
        first_call()
    assert str(caught.value) == _SENTENCE


@pytest.mark.parametrize(
    ("taken", "told"),
    [
        # A method, a name of TensorFlow, and a module that has gone.
        ("keras.src.models.model.Model._symbolic_build", "Model._symbolic_build"),
        (
            "tensorflow.python.distribute.distribute_lib._push_per_thread_mode",
            "distribute_lib._push_per_thread_mode",
        ),
        (None, "keras.src.utils.rng_utils.get_random_seed"),
    ],
)
def test_every_kind_of_name_is_looked_for(taken, told, unchecked):
    if taken is None:
        unchecked.delitem(sys.modules, "keras.src.utils.rng_utils")
    else:
        owner, _, attribute = taken.rpartition(".")
        place = pytest.importorskip(owner) if owner in sys.modules else keras.Model
        owner = next(c for c in getattr(place, "__mro__", [place]) if attribute in vars(c))
        unchecked.delattr(owner, attribute)
    with pytest.raises(ImportError, match=told):
        private_names.check()


def test_attribute_that_no_method_gives_is_missing(unchecked):
    def build(self, variables):
        self._summed_gradients = []

    [base] = [kind for kind in keras.optimizers.SGD.__mro__ if kind.__name__ == "BaseOptimizer"]
    unchecked.setattr(base, "build", build)
    lacking = {name for _, name, _ in private_names.missing()}
    assert "BaseOptimizer.build > _accumulated_gradients" in lacking


def test_either_home_will_do(unchecked):
    """As Keras 3.16 moved it, and as it was before."""
    [home] = [name for name in private_names.TABLE if "_compute_moments_sync" in name.names]
    [here] = [name for name in home.homes if name in sys.modules]
    [there] = set(home.homes) - {here}
    unchecked.setitem(sys.modules, there, sys.modules.pop(here))
    try:
        assert private_names.missing() == []
        assert callable(replacing.original("_compute_moments_sync"))
    finally:
        sys.modules[here] = sys.modules[there]


def test_nothing_is_missing_here_not_even_what_can_be():
    # TensorFlow loads these when they are used.
    dataset = tf.data.Dataset.range(2).map(abs).repeat(1)
    tf.data.Dataset.zip((dataset, dataset)).padded_batch(2, padded_shapes=([], [])).batch(1)
    assert private_names.missing(also_optional=True) == []


def test_looks_once_and_quickly(unchecked):
    private_names.check()
    looks = []
    unchecked.setattr(private_names, "missing", lambda: looks.append(1) or [])
    private_names.check()
    assert not looks
    unchecked.undo()
    secs = []
    for _ in range(5):
        start = time.perf_counter()
        private_names.missing()
        secs.append(time.perf_counter() - start)
    assert min(secs) < 0.005


@pytest.mark.slow
def test_look_loads_no_module():
    code = """
import sys, keras, tensorflow
from tfdist.compat import private_names
before = set(sys.modules)
private_names.check()
print(sorted(set(sys.modules) - before))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100
    )
    assert done.stdout == "[]\n"


def test_table_has_every_private_name_of_compat():
    others = (keras_internals, replacing, tf_internals, tensor_notes)
    tree = ast.parse("\n".join(inspect.getsource(module) for module in others))
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    texts = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    used |= {text for text in texts if text.isidentifier()}
    private = {name for name in used if name.startswith("_") and not name.startswith("__")} - own
    modules = {text for text in texts if text.startswith(("keras.src.", "tensorflow.python."))}
    replaced = {name.rpartition(".")[2] for name in replacing._MODULES}
    assert {"_symbolic_build", "_loss_ids", "_accumulated_gradients"} < private
    assert len(modules) > 15
    # Which the functions of the entry "masking" write by its text.
    by_text = {"_keras_mask"}
    assert (private | modules | replaced) - set(private_names.private_parts()) == by_text


def test_releases_are_those_of_the_package():
    config = configparser.ConfigParser(interpolation=None)
    config.read(_CHECKOUT / "setup.cfg")
    required = config["options"]["install_requires"].split()
    assert f"keras{private_names.RELEASES['keras']}" in required
    for extra in ("cpu", "gpu"):
        for line in config["options.extras_require"][extra].strip().splitlines():
            assert line.partition(";")[0].endswith(private_names.RELEASES["tensorflow"])


def test_each_entry_says_why_and_until_when():
    for entry in private_names.TABLE:
        assert entry.why, entry
        assert entry.until, entry
        assert entry.read_in.startswith(("Keras 3.", "TensorFlow 2.")), entry
        assert entry.homes[0].startswith(entry.read_in.split()[0].lower()), entry
