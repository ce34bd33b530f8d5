"""How does Flower deploy what tfdist trains?  A ClientApp, and a strategy with tfdist's mean.

Flower brings the network, TLS, and who may take part (`--enable-supernode-auth`, without which
anybody may); inside each site tfdist trains, on all of its devices exactly data-parallel. Flower's
own secure aggregation is not used: it folds its secrets to 32 bits.

In the ServerApp and the ClientApp of a Flower project:

    strategy = flower.strategy(build, fraction_train=0.5)
    result = strategy.start(grid, flower.initial_arrays(build), num_rounds=10)

    app = flower.client_app(build, lambda context: load(context.node_config["partition-id"]))

Needs the package `flwr` (extra `[flower]`). Flower tells its makers of its use, unless
FLWR_TELEMETRY_ENABLED=0 is set, which the functions here do where it is not set.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np

from tfdist.federated import clients
from tfdist.federated.averaging import Sum
from tfdist.federated.learner import Learner
from tfdist.federated.server import Server
from tfdist.federated.task import Task
from tfdist.strategy.factory import get_strategy

_STATE = "tfdist.local"  # of a node's context: the weights that stay with it


def client_app(
    build_fn: Callable[[], keras.Model],
    data_fn: Callable[[Any], Any],
    *,
    validation_fn: Callable[[Any], Any] | None = None,
    keep_local: Any = None,
    device: str = "auto",
) -> Any:
    """Returns a `flwr.clientapp.ClientApp` that trains and evaluates with tfdist.

    Of the server's train_config it takes "local-epochs", "batch-size", "shuffle", "seed", and
    "proximal-mu", which Flower's FedProx sets.

    Args:
        build_fn: Returns the compiled model; see `tfdist.federated.fit`.
        data_fn: Returns the data of a node, given Flower's `Context`.
        validation_fn: The same for evaluation; None for the training data.
        keep_local: As in `fit`; what stays with a node is in Flower's state of it.
        device: What a node trains on; see `tfdist.get_strategy`.
    """
    app = _part("clientapp").ClientApp()
    made: list[Learner] = []

    def learner() -> Learner:
        if not made:
            strategy = get_strategy(device, cluster=None)
            made.append(Learner(build_fn, strategy, keep_local=keep_local))
        return made[0]

    @app.train()
    def train(message: Any, context: Any) -> Any:
        own, name = learner(), _name(context)
        data = clients.loaded(name, data_fn(context))
        values = _values(own, message, context)
        logs = {}
        if data.examples:
            logs = own.train(values, data, _task(message), client=name)
        else:
            own.set(values)
        if own.local:
            context.state[_STATE] = _record(own.values(own.local))
        return _answer(message, own.values(own.shared), logs, data.examples)

    @app.evaluate()
    def evaluate(message: Any, context: Any) -> Any:
        own = learner()
        data = clients.loaded(_name(context), (validation_fn or data_fn)(context))
        logs = own.evaluate(_values(own, message, context), data, _task(message))
        return _answer(message, {}, logs, data.examples)

    return app


def strategy(
    build_fn: Callable[[], keras.Model],
    *,
    server_optimizer: keras.optimizers.Optimizer | None = None,
    keep_local: Any = None,
    **options: Any,
) -> Any:
    """Returns a strategy of Flower, a FedAvg with tfdist's mean and server optimizers.

    The mean is in float64, in the order of the nodes' numbers, so it does not depend on who answers
    first.

    Args:
        build_fn: As in `client_app`.
        server_optimizer: As in `tfdist.federated.fit`.
        keep_local: As in `client_app`.
        **options: Those of `flwr.serverapp.strategy.FedAvg`.
    """
    base = _part("serverapp.strategy").FedAvg
    own = Learner(build_fn, get_strategy("cpu", cluster=None), keep_local=keep_local)
    server = Server(own.values(), own.trainable, server_optimizer)

    def configure_train(self: Any, number: int, arrays: Any, config: Any, grid: Any) -> Any:
        server.values = _read(own, arrays)  # what they begin with
        return base.configure_train(self, number, arrays, config, grid)

    def aggregate_train(self: Any, number: int, replies: Iterable[Any]) -> Any:
        replies = list(replies)
        _, metrics = base.aggregate_train(self, number, replies)
        good = [reply for reply in replies if not reply.has_error()]
        added = Sum({name: server.values[name] for name in own.shared})
        for reply in sorted(good, key=lambda one: int(one.metadata.src_node_id)):
            [record] = reply.content.array_records.values()
            [told] = reply.content.metric_records.values()
            arrays = dict(zip(own.shared, record.to_numpy_ndarrays(), strict=True))
            added.add(str(reply.metadata.src_node_id), arrays, told[self.weighted_by_key])
        if not added.total:
            return None, metrics
        server.move({name: change / added.total for name, change in added.changes().items()})
        return _record(server.values), metrics

    methods = {"configure_train": configure_train, "aggregate_train": aggregate_train}
    return type("TfdistFedAvg", (base,), methods)(**options)


def initial_arrays(build_fn: Callable[[], keras.Model]) -> Any:
    """Returns the weights that `strategy.start` begins with, as an `ArrayRecord`."""
    return _record(Learner(build_fn, get_strategy("cpu", cluster=None)).values())


def set_weights(model: keras.Model, arrays: Any) -> None:
    """Gives a model the weights that `strategy.start` has returned.

    Args:
        model: One of `build_fn`.
        arrays: `result.arrays`.
    """
    model.set_weights(arrays.to_numpy_ndarrays())


def _part(name: str) -> Any:
    """Returns a module of Flower, which tells nobody of it."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    try:
        return importlib.import_module(f"flwr.{name}")
    except ModuleNotFoundError as error:
        raise ImportError(
            "tfdist.federated.flower needs the package 'flwr', which is not installed. Install it "
            "with pip install 'tfdist[flower]', in an environment of its own if others of your "
            "packages need newer releases of what it pins.",
            name="flwr",
        ) from error


def _record(values: Mapping[str, np.ndarray]) -> Any:
    return _part("app").ArrayRecord(list(values.values()))


def _read(learner: Learner, record: Any) -> dict[str, np.ndarray]:
    """Returns the weights in a record, by name."""
    arrays = record.to_numpy_ndarrays()
    found = [array.shape for array in arrays]
    if found != list(learner.shapes.values()):
        raise ValueError(
            f"Flower has brought weights of the shapes {found}, and the model has "
            f"{list(learner.shapes.values())}. Let the server and its clients build the same model."
        )
    return dict(zip(learner.shapes, arrays, strict=True))


def _values(learner: Learner, message: Any, context: Any) -> dict[str, np.ndarray]:
    """Returns the weights that a node begins with: the server's, but for those that stay."""
    [record] = message.content.array_records.values()
    values = _read(learner, record)
    if learner.local and _STATE in context.state:
        kept = context.state[_STATE].to_numpy_ndarrays()
        values |= dict(zip(learner.local, kept, strict=True))
    return values


def _task(message: Any) -> Task:
    [config] = message.content.config_records.values()
    return Task(
        round_number=int(config.get("server-round", 1)) - 1, seed=int(config.get("seed", 0)),
        local_epochs=int(config.get("local-epochs", 1)),
        batch_size=int(config.get("batch-size", 32)), shuffle=bool(config.get("shuffle", True)),
        proximal=float(config.get("proximal-mu", 0.0)),
    )


def _name(context: Any) -> str:
    return str(context.node_config.get("partition-id", context.node_id))


def _answer(
    message: Any, values: Mapping[str, np.ndarray], logs: Mapping[str, float], examples: int
) -> Any:
    app = _part("app")
    content = {"metrics": app.MetricRecord({**logs, "num-examples": examples})}
    if values:
        content["arrays"] = _record(values)
    return app.Message(content=app.RecordDict(content), reply_to=message)
