"""Does Flower, which asks our clients, come to what `fit` comes to?

In memory: a Grid of our own hands each message to the ClientApp. Needs Flower, in an environment of
its own: it pins releases that the other tests do not bear.
"""

from __future__ import annotations

import pathlib
import runpy
import sys
from typing import Any

import keras
import numpy as np
import pytest

from tfdist import federated

# What a real deployment trains is trained here too.
_LOOPBACK = runpy.run_path(
    str(pathlib.Path(__file__).parents[2] / "scripts" / "flower_loopback.py"), run_name="loopback"
)
_CLIENTS, _ROUNDS, _TASK, _build = (
    _LOOPBACK[name] for name in ("CLIENTS", "ROUNDS", "TASK", "build")
)
_FLWR = "needs flwr: pip install 'tfdist[flower]' in an environment of its own"


def _ran(app: Any, strategy: Any) -> Any:
    """Runs a strategy in this process."""
    from flwr.app import ConfigRecord, Context, Message, RecordDict
    from flwr.serverapp import Grid
    from flwr.supercore.task_identity import TaskIdentity

    from tfdist.federated import flower

    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
    contexts = {
        10 + i: Context(run_id=1, node_id=10 + i, node_config={"partition-id": i},
                        state=RecordDict(), run_config={})
        for i in range(len(_CLIENTS))
    }  # fmt: skip

    def send_and_receive(self: Any, messages: Any, *, timeout: Any = None) -> list[Message]:
        answers = []
        for message in reversed(list(messages)):  # in an order of its own
            node = message.metadata.dst_node_id
            answer = app(message, contexts[node])
            answer.metadata._src_node_id = node  # as the network sets it
            answers.append(answer)
        return answers

    methods = dict.fromkeys(Grid.__abstractmethods__, lambda self, *args, **kwargs: None)
    methods |= {"send_and_receive": send_and_receive, "get_node_ids": lambda self: list(contexts)}
    grid = type("InMemory", (Grid,), methods)()
    return strategy.start(
        grid, flower.initial_arrays(_build), num_rounds=_ROUNDS, train_config=ConfigRecord(_TASK)
    )


@pytest.mark.filterwarnings("default")  # what Flower's own dependencies will refuse one day
@pytest.mark.parametrize("keep_local", [None, "statistics"])
def test_flower_comes_to_what_fit_comes_to(keep_local):
    pytest.importorskip("flwr", reason=_FLWR)
    from tfdist.federated import flower

    adam = keras.optimizers.Adam(0.05)
    app = flower.client_app(
        _build, lambda context: _CLIENTS[str(context.node_config["partition-id"])],
        keep_local=keep_local, device="cpu",
    )
    strategy = flower.strategy(_build, server_optimizer=adam, keep_local=keep_local)
    found = _ran(app, strategy)
    wanted = federated.fit(
        _build, _CLIENTS, rounds=_ROUNDS, local_epochs=2, batch_size=4, seed=7, proximal=0.1,
        server_optimizer=adam, keep_local=keep_local, validation_clients=_CLIENTS, device="cpu",
        verbose=0,
    )
    for one, other in zip(
        found.arrays.to_numpy_ndarrays(), wanted.model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    for number, told in enumerate(wanted.rounds, start=1):
        assert found.train_metrics_clientapp[number]["loss"] == pytest.approx(told["logs"]["loss"])
        assert found.evaluate_metrics_clientapp[number]["mae"] == pytest.approx(
            told["val_logs"]["clients_val_mae"]
        )
    model = _build()
    flower.set_weights(model, found.arrays)
    np.testing.assert_array_equal(model.get_weights()[0], wanted.model.get_weights()[0])


def test_without_flower_the_extra_is_named(monkeypatch):
    for name in ("flwr", "flwr.clientapp"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'tfdist\[flower\]'"):
        federated.flower.client_app(_build, lambda context: None)
