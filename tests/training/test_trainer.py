"""Does `fit` tell callbacks what Keras tells them, in the same order, with the same logs?

The oracle is stock `keras.Model.fit` on one device, with the same model, data and callbacks.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist

ROWS, FEATURES, CLASSES = 22, 4, 3
_RNG = np.random.default_rng(0)
X = _RNG.normal(size=(ROWS, FEATURES))
Y = _RNG.integers(0, CLASSES, size=ROWS)
WORLDS = ("cpu", "2xcpu")

Hooks = [
    name
    for name, member in inspect.getmembers(keras.callbacks.Callback, inspect.isfunction)
    if name.startswith("on_")
]
# The generic forms of a batch hook: called by the ones of training, which would record them twice.
_ALIASES = ("on_batch_begin", "on_batch_end")


class Recorder(keras.callbacks.Callback):
    """Writes down every event: hook, arguments, logs, and the parameters at the beginning."""

    def __init__(self, *, batches: bool = True) -> None:
        super().__init__()
        self.events: list[tuple] = []
        for name in Hooks:
            if name not in _ALIASES and (batches or "batch" not in name):
                setattr(self, name, self._record(name))

    def _record(self, name: str):
        def hook(*args, logs=None):
            if name.startswith(("on_epoch", "on_train_batch", "on_test_batch", "on_predict_batch")):
                number, *rest = args
            else:
                number, rest = None, list(args)
            found = logs if logs is not None else (rest[0] if rest else None)
            self.events.append((name, number, _plain(found)))
            if name.endswith(("train_begin", "test_begin", "predict_begin")):
                self.events.append(("params", None, dict(self.params)))

        return hook


def _plain(logs):
    if logs is None:
        return None
    return {name: np.asarray(value).tolist() for name, value in logs.items()}


class Api:
    """Stock Keras on one device, or tfdist in a world."""

    def __init__(self, world: str) -> None:
        self.is_stock = world == "stock"
        self.strategy = None if self.is_stock else tfdist.get_strategy(world, cluster=None)

    def scope(self):
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    def __getattr__(self, name):  # fit, evaluate, predict
        if self.is_stock:
            return lambda model, *args, **kwargs: getattr(model, name)(*args, **kwargs)
        return getattr(tfdist, name)


pytestmark = pytest.mark.usefixtures("float64")


def make_model(**options) -> keras.Model:
    keras.utils.set_random_seed(7)
    model = keras.Sequential(
        [keras.Input((FEATURES,)), keras.layers.Dense(CLASSES, activation="softmax")]
    )
    defaults = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}
    model.compile(**{"optimizer": keras.optimizers.SGD(0.1), **defaults, **options})
    return model


def run(world, action, *, batches=True, **options):
    """Runs `action(api, model, recorder)` in a world; returns its value, the events, the weights.

    The last item says how often the run was warned that the data had ended.
    """
    api, recorder = Api(world), Recorder(batches=batches)
    with api.scope():
        model = make_model(**options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = action(api, model, recorder)
    endings = [str(w.message) for w in caught if "ran out of data" in str(w.message)
               or "The data ended before" in str(w.message)]
    return value, recorder.events, model.get_weights(), len(endings)


def assert_same(found, wanted):
    """Compares structures of texts and numbers, numbers to 1e-9."""
    if isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for name in wanted:
            assert_same(found[name], wanted[name])
    elif isinstance(wanted, (list, tuple)):
        assert len(found) == len(wanted), (found, wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_same(one, other)
    elif wanted is None or isinstance(wanted, str):
        assert found == wanted
    else:
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-9)


def dataset(*, rows=ROWS, size=8):
    return tf.data.Dataset.from_tensor_slices((X[:rows], Y[:rows])).batch(size)


def unknown(**kwargs):
    return dataset(**kwargs).filter(lambda x, y: True)


FITS = {
    "plain": {"epochs": 2},
    "validation": {"epochs": 3, "validation_data": (X[:7], Y[:7]), "validation_freq": 2},
    "validation at": {
        "epochs": 4,
        "initial_epoch": 1,
        "validation_data": (X[:7], Y[:7]),
        "validation_freq": [2, 4],
    },
    "validation split": {"epochs": 2, "validation_split": 0.3, "validation_batch_size": 3},
    "initial epoch": {"epochs": 4, "initial_epoch": 2},
    "no epoch": {"epochs": 2, "initial_epoch": 2},
    "fewer steps": {"epochs": 3, "steps_per_epoch": 2, "batch_size": 8},
    "steps without a batch size": {"epochs": 2, "steps_per_epoch": 4, "batch_size": None},
    "validation steps": {"epochs": 2, "validation_data": (X, Y), "validation_steps": 2},
}
QUICK = ("validation at", "fewer steps", "unknown")


def rows_of(table):
    """The names of a table, most of them for `make test-all`."""
    return [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in table]


STREAMS = {
    "dataset": (dataset, {"epochs": 2}),
    "endless": (lambda: dataset().repeat(), {"epochs": 3, "steps_per_epoch": 4}),
    "unknown": (unknown, {"epochs": 2}),
    "validated by one": (dataset, {"epochs": 2, "validation_data": dataset}),
    "steps within": (dataset, {"epochs": 4, "steps_per_epoch": 2}),
}


@pytest.mark.parametrize("name", rows_of(FITS))
def test_fit_on_arrays_tells_callbacks_what_keras_tells(name):
    arguments = {"batch_size": 8, "shuffle": False, "verbose": 0, **FITS[name]}

    def action(api, model, recorder):
        return api.fit(model, X, Y, callbacks=[recorder], **arguments).history

    wanted = run("stock", action)
    for world in WORLDS:
        assert_same(run(world, action), wanted)


@pytest.mark.parametrize("name", rows_of(STREAMS))
def test_fit_on_datasets_tells_callbacks_what_keras_tells(name):
    make, arguments = STREAMS[name]

    def action(api, model, recorder):
        own = {k: v() if callable(v) else v for k, v in arguments.items()}
        return api.fit(model, make(), callbacks=[recorder], verbose=0, shuffle=False, **own).history

    found, wanted = run("2xcpu", action), run("stock", action)
    assert_same(found[:3], wanted[:3])
    if make is not unknown:  # where Keras warns of every end, the first and expected one included
        assert found[3] == wanted[3]


@pytest.mark.parametrize("world", ["2xcpu", pytest.param("cpu", marks=pytest.mark.slow)])
def test_steps_per_execution_is_obeyed(world):
    def action(api, model, recorder):
        arguments = {"batch_size": 5, "epochs": 2, "shuffle": False, "verbose": 0}
        validation = {"validation_data": (X[:16], Y[:16])}
        api.fit(model, X, Y, callbacks=[recorder], **arguments, **validation)

    assert_same(
        run(world, action, steps_per_execution=3), run("stock", action, steps_per_execution=3)
    )


@pytest.mark.parametrize("world", ["2xcpu", pytest.param("cpu", marks=pytest.mark.slow)])
def test_without_batch_listeners_the_rest_is_the_same(world):
    def action(api, model, recorder):
        arguments = {"batch_size": 2, "epochs": 3, "shuffle": False, "verbose": 0}
        return api.fit(
            model, X, Y, callbacks=[recorder], validation_data=(X[:5], Y[:5]), **arguments
        ).history

    assert_same(run(world, action, batches=False), run("stock", action, batches=False))


@pytest.mark.parametrize(
    ("metrics", "return_dict"),
    [
        (["accuracy"], True),
        pytest.param(["accuracy"], False, marks=pytest.mark.slow),
        ([], False),
        pytest.param([], True, marks=pytest.mark.slow),
    ],
)
def test_evaluate_tells_and_returns_what_keras_does(return_dict, metrics):
    def action(api, model, recorder):
        arguments = {"batch_size": 8, "verbose": 0, "return_dict": return_dict}
        return api.evaluate(model, X, Y, callbacks=[recorder], **arguments)

    found, wanted = (run(world, action, metrics=metrics) for world in ("2xcpu", "stock"))
    assert type(found[0]) is type(wanted[0])
    assert_same(found, wanted)


@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_predict_returns_rows_in_input_order(steps_per_execution):
    def action(api, model, recorder):
        return api.predict(model, X, batch_size=5, verbose=0, callbacks=[recorder])

    found, wanted = (
        run(world, action, steps_per_execution=steps_per_execution) for world in ("2xcpu", "stock")
    )
    assert isinstance(found[0], np.ndarray)
    assert_same(found, wanted)


def test_predict_keeps_the_structure_of_the_outputs():
    def build():
        inputs = keras.Input((FEATURES,))
        dense = keras.layers.Dense(2)(inputs)
        return keras.Model(inputs, {"a": dense, "b": (inputs, dense)})

    keras.utils.set_random_seed(1)
    with tfdist.get_strategy("2xcpu", cluster=None).scope():
        model = build()  # predicting needs no compile
    found = tfdist.predict(model, X, batch_size=5, verbose=0)
    wanted = model(X)
    keras.tree.assert_same_structure(found, wanted)
    keras.tree.map_structure(
        lambda one, other: np.testing.assert_allclose(one, other, atol=1e-12), found, wanted
    )


def test_progress_bar_is_the_one_of_keras(capsys):
    def shown(world):
        def action(api, model, recorder):
            api.fit(model, X, Y, batch_size=8, epochs=2, shuffle=False, verbose=2)

        run(world, action)
        lines = capsys.readouterr().out.splitlines()
        return [[word for word in line.split() if "s/" not in word] for line in lines]

    found, wanted = shown("2xcpu"), shown("stock")
    assert len(found) == 4
    assert [line[-4:] for line in found] == [line[-4:] for line in wanted]


@pytest.mark.slow
def test_callback_list_is_used_as_it_is():
    def action(api, model, recorder):
        callbacks = keras.callbacks.CallbackList(
            [recorder], add_history=True, model=model, verbose=0, epochs=2, steps=3
        )
        return api.fit(model, X, Y, callbacks=callbacks, batch_size=8, epochs=2, shuffle=False)

    found, wanted = run("2xcpu", action), run("stock", action)
    assert_same(found[1], wanted[1])
    assert_same(found[0].history, wanted[0].history)


@pytest.mark.parametrize(
    "hook",
    [
        "on_train_batch_end",
        pytest.param("on_epoch_end", marks=pytest.mark.slow),
        pytest.param("on_test_batch_end", marks=pytest.mark.slow),
    ],
)
def test_a_callback_can_stop(hook):
    def action(api, model, recorder):
        def stop(number, logs=None):
            if number == 1:
                model.stop_training = model.stop_evaluating = True

        stopper = keras.callbacks.LambdaCallback()
        setattr(stopper, hook, stop)
        arguments = {"batch_size": 5, "epochs": 3, "shuffle": False, "verbose": 0}
        return api.fit(
            model, X, Y, callbacks=[stopper, recorder], validation_data=(X, Y), **arguments
        ).history

    assert_same(run("2xcpu", action), run("stock", action))


@pytest.mark.slow
def test_debugging_limits_of_keras_are_obeyed():
    if not hasattr(keras.config, "set_max_epochs"):
        pytest.skip(f"Keras {keras.__version__} has no such limits.")

    def action(api, model, recorder):
        keras.config.set_max_epochs(2)
        keras.config.set_max_steps_per_epoch(2)
        arguments = {"batch_size": 5, "epochs": 5, "shuffle": False, "verbose": 0}
        try:
            with pytest.warns(UserWarning, match="Limiting epochs to 2"):
                api.fit(model, X, Y, callbacks=[recorder], validation_data=(X, Y), **arguments)
        finally:
            keras.config.set_max_epochs(None)
            keras.config.set_max_steps_per_epoch(None)

    assert_same(run("2xcpu", action), run("stock", action))


@pytest.mark.parametrize(
    ("name", "told"),
    [("epoch", "did you mean 'epochs'?"), ("Sample_weights", "did you mean 'sample_weight'?"),
     ("zzz", "it takes x, y, batch_size, epochs")],
)
def test_an_argument_that_there_is_not_is_told_of(name, told):
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(1)])
    with pytest.raises(TypeError, match=re.escape(f"tfdist.fit has no argument {name!r}; {told}")):
        tfdist.fit(model, X, Y, **{name: 1})


@pytest.mark.parametrize("world", WORLDS)
def test_an_optimizer_that_was_made_outside_the_scope_is_refused(world):
    optimizer = keras.optimizers.Adam()
    with tfdist.get_strategy(world).scope():
        model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(1)])
        model.compile(optimizer, "mse")
    with pytest.raises(ValueError, match="iteration' was made outside the scope"):
        tfdist.fit(model, X, Y, verbose=0)
