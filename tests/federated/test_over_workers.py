"""Do all workers end, each with an error, where one of them fails in the midst of a round?"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import tfdist
from tfdist import federated, testing


def _build() -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def _broken() -> Any:
    raise OSError("the disk is gone")


def _secure() -> list[bytes]:
    clients = {name: (np.ones((4, 2)) * i, np.ones(4)) for i, name in enumerate("abcdefg")}
    trained = federated.fit(
        _build, clients, rounds=2, verbose=0, device="cpu", secure=federated.SecureSums(),
        drop_out=lambda number, name: "masked" if name == "ce"[number] else None,
    )
    return [trained.rounds[1]["clients"], *(w.tobytes() for w in trained.model.get_weights())]


def _failures(_: int) -> list[Any]:
    """Runs that fail at a client of the other worker, at the chief between two clients, and none.

    What follows works, so nobody was left waiting.
    """
    tfdist.get_strategy("cpu")
    good = (np.ones((4, 2)), np.ones(4))
    bad = (np.full((4, 2), np.nan), np.ones(4))
    told = []
    for others in ({"b": _broken}, {"b": bad}, {}):
        clients = dict.fromkeys("abcd", good) | others
        try:
            trained = federated.fit(_build, clients, rounds=1, verbose=0, device="cpu")
            told.append(str(trained.rounds[0]["clients"]))
        except (OSError, RuntimeError) as error:
            told.append(f"{type(error).__name__}: {error}")
    return [*told, _secure()]


@pytest.mark.slow
def test_a_failure_ends_all_workers_and_no_more():
    """A job of 12 s; nothing else sees what the workers that did not fail wait for."""
    chief, other = testing.run_workers(_failures, args=(0,))
    assert chief[0].startswith("RuntimeError: Worker 1 has failed with the client 'b': OSError")
    assert other[0] == "OSError: the disk is gone"
    assert chief[1].startswith("RuntimeError: The client 'b' has sent weights that are not finite")
    assert other[1].startswith("RuntimeError: Worker 0 has failed with the chief, which has stopp")
    assert chief[2] == other[2] == "['a', 'b', 'c', 'd']"
    # Secure sums are integers, so the workers change no bit of them either.
    pytest.importorskip("cryptography", reason="pip install 'tfdist[federated]'")
    assert chief[3] == other[3] == _secure()
    assert chief[3][0] == list("abcdfg")
