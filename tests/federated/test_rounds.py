"""Does a round use of each client what is its own, wherever that stays, and weigh its logs by rows?

The oracle of an evaluation is stock Keras.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tfdist
from tfdist import federated
from tfdist.federated.channel import InProcess
from tfdist.federated.collecting import Plain
from tfdist.federated.learner import Learner
from tfdist.federated.rounds import Plan, Progress, Rounds
from tfdist.federated.server import Server
from tfdist.federated.site import Site
from tfdist.federated.task import Task

_RNG = np.random.default_rng(0)
_CLIENTS = {
    name: (_RNG.normal(size=(rows, 5)), _RNG.normal(size=(rows, 1)))
    for name, rows in (("a", 3), ("b", 17))
}


def _build() -> keras.Model:
    keras.utils.set_random_seed(1)
    layers = keras.layers
    model = keras.Sequential([
        keras.Input((5,)), layers.Dense(4, "tanh"), layers.BatchNormalization(), layers.Dense(1)
    ])  # fmt: skip
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


@pytest.mark.usefixtures("float64")
def test_a_client_is_evaluated_with_what_stays_with_it_in_a_job_and_at_a_site():
    trained = federated.fit(
        _build, _CLIENTS, keep_local="statistics", rounds=2, validation_clients=_CLIENTS, seed=3,
        batch_size=4, device="cpu", verbose=0,
    )
    alone, last = _build(), trained.rounds[-1]
    alone.set_weights(trained.model.get_weights())
    norm = alone.layers[1]
    for name, (x, y) in _CLIENTS.items():
        own = trained.local[name].values()
        for variable, value in zip((norm.moving_mean, norm.moving_variance), own, strict=True):
            variable.assign(value)
        wanted = alone.evaluate(x, y, verbose=0)
        assert last["val_by_client"][name]["loss"] == pytest.approx(wanted, rel=1e-9)
    for logs, mean in (
        (last["val_by_client"], last["val_logs"]["clients_val_loss"]),
        (last["by_client"], last["logs"]["loss"]),
    ):
        first, second = logs["a"]["loss"], logs["b"]["loss"]
        assert abs(first - second) > 1e-3
        assert mean == pytest.approx((3 * first + 17 * second) / 20)

    # Sites keep what a job carries.
    learner = Learner(_build, tfdist.get_strategy("cpu"), keep_local="statistics")
    sites = {
        name: Site(name, learner, data=data, validation=data) for name, data in _CLIENTS.items()
    }
    channel = InProcess(sites)
    engine = Rounds(
        Plan(rounds=2, fraction=1.0, task=Task(round_number=0, seed=3, batch_size=4)),
        Server(learner.values(), learner.trainable), channel, Plain(channel, learner.shared),
        evaluates_clients=True,
    )  # fmt: skip
    progress = Progress()
    for told in trained.rounds:
        assert engine.run(progress) == told
    assert not progress.local
    for name, site in sites.items():
        assert site.local.keys() == trained.local[name].keys()
        for one, other in zip(site.local.values(), trained.local[name].values(), strict=True):
            np.testing.assert_array_equal(one, other)
