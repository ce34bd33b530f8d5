"""Which calls of Keras's own methods come to tfdist, and with which arguments?"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import keras
import numpy as np
import pytest

import tfdist
from tfdist.compat import trainer_methods
from tfdist.training import routing
from tfdist.training.trainer import ROUTES

_X, _Y = np.arange(10.0).reshape(5, 2), np.ones((5, 1))


class Prepared(keras.Sequential):
    """Prepares its data in methods of its own, as the tasks of libraries do."""

    def fit(self, x: Any = None, y: Any = None, **kwargs: Any) -> Any:
        return super().fit(x / 10, y, 5, **kwargs)

    def evaluate(self, x: Any = None, y: Any = None, **kwargs: Any) -> Any:
        return super().evaluate(x / 10, y, **kwargs)

    def predict(self, x: Any, **kwargs: Any) -> Any:
        return super().predict(x / 10, **kwargs)


def _made(kind: Any = keras.Sequential) -> keras.Model:
    strategy = tfdist.get_strategy("2xcpu")
    assert strategy.num_replicas_in_sync == 2
    keras.utils.set_random_seed(3)
    with strategy.scope():
        model = kind([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.01), "mse")
    return model


@pytest.mark.slow
def test_a_model_prepares_its_own_data(tmp_path):
    model, plain = _made(Prepared), _made()
    history = tfdist.fit(model, _X, _Y, epochs=2, verbose=0, checkpoint_dir=tmp_path / "run")
    assert list((tmp_path / "run").iterdir())  # an option that its `fit` does not know
    expected = tfdist.fit(plain, _X / 10, _Y, batch_size=5, epochs=2, verbose=0)
    assert history.history == expected.history
    assert tfdist.evaluate(model, _X, _Y, verbose=0) == tfdist.evaluate(
        plain, _X / 10, _Y, verbose=0
    )
    trainer = tfdist.Trainer(model)
    np.testing.assert_array_equal(
        trainer.predict(_X, verbose=0), tfdist.predict(plain, _X / 10, verbose=0)
    )


def test_callbacks_come_to_tfdist_while_it_trains():
    model, seen = _made(), []

    class Predicts(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            calls = ROUTES.calls
            predicted = self.model.predict(_X, verbose=0)
            one_batch = self.model.predict_on_batch(_X)
            loss = self.model.evaluate(_X, _Y, verbose=0)
            seen.append((ROUTES.calls - calls, predicted.shape, one_batch.shape, loss))

    tfdist.fit(model, _X, _Y, verbose=0, callbacks=[Predicts()])
    (calls, *shapes, loss), = seen
    assert (calls, *shapes) == (3, (5, 1), (5, 1))
    expected = float(np.mean((_X @ model.get_weights()[0] + model.get_weights()[1] - _Y) ** 2))
    assert loss == pytest.approx(expected, rel=1e-5)
    assert keras.Model.predict is trainer_methods.original("predict")


def test_models_outside_of_a_strategy_stay_with_keras():
    teacher, seen = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]), []
    teaches = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(teacher.predict(_X, verbose=0))
    )
    calls = ROUTES.calls
    tfdist.fit(_made(), _X, _Y, verbose=0, callbacks=[teaches])
    assert (len(seen), ROUTES.calls) == (1, calls)


def test_an_unfrozen_layer_trains_when_it_is_asked_for():
    def trained(fit: Any, scope: Any) -> list[np.ndarray]:
        keras.utils.set_random_seed(3)
        with scope:
            layers = [keras.Input((2,)), keras.layers.Dense(2), keras.layers.Dense(1)]
            model = keras.Sequential(layers)
            optimizer = keras.optimizers.SGD(0.01)
            optimizer.build(model.trainable_variables)
            model.layers[0].trainable = False
            model.compile(optimizer, "mse")

        def unfreeze(epoch: int, logs: Any) -> None:
            model.layers[0].trainable = True
            model.make_train_function(force=True)

        unfreezes = keras.callbacks.LambdaCallback(on_epoch_end=unfreeze)
        fit(model, _X, _Y, epochs=2, verbose=0, shuffle=False, callbacks=[unfreezes])
        return model.get_weights()

    expected = trained(keras.Model.fit, contextlib.nullcontext())
    found = trained(tfdist.fit, tfdist.get_strategy("2xcpu").scope())
    for one, two in zip(expected, found, strict=True):
        np.testing.assert_allclose(two, one, atol=1e-6)


def test_users_at_the_same_time_put_back_once():
    own = keras.Model.fit
    first, second = ROUTES.on(), ROUTES.on()
    first.__enter__()
    other = threading.Thread(target=second.__enter__)
    other.start()
    other.join(10)
    first.__exit__(None, None, None)
    assert keras.Model.fit is not own
    second.__exit__(None, None, None)
    assert keras.Model.fit is own


def test_arguments_by_their_place_have_names():
    assert routing.named("fit", (1, 2, 3), {"epochs": 4}) == {
        "x": 1, "y": 2, "batch_size": 3, "epochs": 4,
    }
    with pytest.raises(TypeError, match="multiple values for argument 'x'"):
        routing.named("fit", (1,), {"x": 2})
    with pytest.raises(TypeError, match="too many"):
        routing.named("predict_on_batch", (1, 2), {})
