"""When do the workers watch each other, and what do they say at the end?"""

from __future__ import annotations

import types

import pytest

from tfdist import testing
from tfdist.cluster import contract
from tfdist.communication import presence


@pytest.mark.parametrize(
    ("text", "secs"), [("", 5.0), ("0", 0.0), ("2", 2.0), ("7.5", 7.5), ("3600", 3600.0)]
)
def test_silence(text, secs):
    assert presence._silence_secs({contract.HEARTBEAT_SECS: text}) == secs
    assert presence._silence_secs({}) == 5.0


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf", "1", "1e9"])
def test_silence_that_cannot_be(text):
    with pytest.raises(ValueError, match=f"^TFDIST_HEARTBEAT_SECS='{text}' must be a number of"):
        presence._silence_secs({contract.HEARTBEAT_SECS: text})


def test_workers_that_cannot_watch_each_other_do_not_begin(monkeypatch):
    monkeypatch.setattr(presence, "_addresses", lambda strategy: ("127.0.0.1:1", "127.0.0.1:2"))
    monkeypatch.setattr(presence.side_channel.accept, "__kwdefaults__", {"timeout_secs": 0.1})
    alone = types.SimpleNamespace(
        rank=0, count=2, strategy=None, from_chief=lambda text: text, any=lambda found: found
    )
    told = r"not connected besides TensorFlow.*\(worker 1 did not reach 127.0.0.1:\d+\)"
    with pytest.raises(RuntimeError, match=told):
        presence._make_heart(alone)
    monkeypatch.setenv(contract.HEARTBEAT_SECS, "0")
    assert presence._make_heart(alone) is None


@pytest.mark.slow
def test_error_of_one_worker_ends_the_other_one_with_its_name():
    with pytest.raises(RuntimeError, match="worker 1 failed first: exit code 1: KeyError: 'gone'"):
        testing.run_workers(_fails_on_one)


def _fails_on_one():
    import os

    import keras
    import numpy as np

    import tfdist

    class Fail(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if os.environ["TFDIST_RANK"] == "1" and epoch == 1:
                raise KeyError("gone")

    with tfdist.get_strategy("multi_worker").scope():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    x = np.ones((4, 2))
    tfdist.fit(model, x, x, epochs=2, verbose=0, callbacks=[Fail()])
