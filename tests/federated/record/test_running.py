"""Is a run of other facts refused by name, instead of going on from a checkpoint?"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from tfdist import federated

_RNG = np.random.default_rng(0)
_CLIENTS = {name: (_RNG.normal(size=(4, 3)), _RNG.normal(size=4)) for name in "abc"}
_ASKED = federated.SecureSums(largest=8.0)


def _build() -> keras.Model:
    keras.utils.set_random_seed(3)
    layers = keras.layers
    model = keras.Sequential([keras.Input((3,)), layers.BatchNormalization(), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def _fit(clients: Any = None, **kwargs: Any) -> federated.Federated:
    kwargs = {"rounds": 1, "secure": _ASKED, "device": "cpu", "verbose": 0, **kwargs}
    return federated.fit(_build, clients or _CLIENTS, **kwargs)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Returns a folder with the checkpoint of one round."""
    folder = tmp_path_factory.mktemp("run")
    _fit(checkpoint_dir=folder)
    return folder


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("seed", {"seed": 1}),
        ("fraction", {"fraction": 0.7}),
        ("clients", {"clients": {**_CLIENTS, "d": _CLIENTS["a"]}}),
        ("server_optimizer", {"server_optimizer": lambda: keras.optimizers.SGD(1.0)}),
        ("keep_local", {"keep_local": lambda: (lambda variable: False)}),
        ("local_epochs", {"local_epochs": 2}),
        ("batch_size", {"batch_size": 3}),
        ("shuffle", {"shuffle": False}),
        ("proximal", {"proximal": 0.1}),
        ("secure", {"secure": federated.SecureSums(largest=4.0)}),
        ("secure", {"secure": federated.SecureSums(largest=8.0, max_examples=99)}),
        ("secure", {"secure": federated.SecureSums(largest=8.0, threshold=3)}),
        ("secure", {"secure": None}),
    ],
)
def test_another_run_does_not_go_on(name, changed, checkpoints):
    made = {key: value() if callable(value) else value for key, value in changed.items()}
    with pytest.raises(ValueError, match=f"is of another run: {name}: .* in the checkpoint"):
        _fit(**{"rounds": 2, "checkpoint_dir": checkpoints, **made})
