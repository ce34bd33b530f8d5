"""Does the first step's check find what other people's code does wrong, and nothing else?"""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from first_step import planted

import tfdist
from tfdist.first_step import checking, rankings
from tfdist.training.fitting import trainer_of

ops = keras.ops
_QUICK = ("a sum in a step", "a running maximum", "statistics in a layer")


pytestmark = pytest.mark.usefixtures("float64")


def _check(build: Any, device: str = "2xcpu", **kwargs: Any) -> keras.Model:
    """Checks a first step, and trains no step: what is traced is the check alone."""
    strategy = tfdist.get_strategy(device)
    assert strategy.num_replicas_in_sync > 1
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = build()
    x, y = planted.data()
    trainer = trainer_of(model)

    class Loop:
        """Stands for the traced training loop."""

        def __call__(self, options: Any) -> Any:
            return lambda iterator, steps: 0

    trainer._programs.train = Loop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer._epochs, "_steps", _only_first)
        trainer.fit(x, y, batch_size=5, shuffle=False, verbose=0, **kwargs)
    return model


def _only_first(feed: Any, loop: Any, events: Any, **kwargs: Any) -> None:
    feed.begin_epoch()
    loop(feed.iterator, 1)


def _marked(names: Any) -> list[Any]:
    return [
        pytest.param(name, marks=() if name in _QUICK else pytest.mark.slow) for name in names
    ]


@pytest.mark.parametrize("name", _marked(planted.PLANTED))
def test_what_is_wrong_is_named(name):
    build, told, _ = planted.PLANTED[name]
    with pytest.raises(ValueError, match="The first step is not one device's") as caught:
        _check(build)
    assert told in str(caught.value)
    assert "check=False" in str(caught.value)


@pytest.mark.parametrize("name", _marked(n for n, (*_, right) in planted.PLANTED.items() if right))
def test_what_is_right_passes(name, caplog):
    _, _, build = planted.PLANTED[name]
    _check(build)
    assert not [record for record in caplog.records if record.name == "tfdist"]


@pytest.mark.slow
@pytest.mark.parametrize("device", ["3xcpu", "4xcpu"])
@pytest.mark.parametrize("name", ["a sum in a step", "statistics in a layer", "a codebook"])
def test_other_numbers_of_replicas(name, device):
    wrong, _, right = planted.PLANTED[name]
    _check(right, device)
    with pytest.raises(ValueError, match="The first step is not one device's"):
        _check(wrong, device)


def _noisy() -> keras.Model:
    """A right model, whose step draws, and drops units."""
    draws = keras.random.SeedGenerator(4)  # of no model: its state is none of the model's either

    class Noisy(keras.Sequential):
        def train_step(self, batch: Any) -> dict[str, Any]:
            x, y = batch
            return dict(super().train_step((x + keras.random.normal(tf.shape(x), seed=draws), y)))

    model = Noisy([keras.Input((3,)), keras.layers.Dropout(0.4), keras.layers.Dense(1)])
    model.compile("adam", "mse", metrics=["mae"])
    model.draws = draws.state
    return model


def _values(model: keras.Model) -> list[np.ndarray]:
    state = [*model.variables, *model.optimizer.variables, *model.metrics_variables, model.draws]
    return [np.asarray(variable) for variable in state]


def _data(kind: str) -> dict[str, Any]:
    x, y = planted.data()
    batches = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(20, seed=2)
    if kind == "arrays":
        return {"x": x, "y": y, "batch_size": 5}
    if kind == "generator":
        return {"x": ((x[i : i + 5], y[i : i + 5]) for i in (0, 5, 1, 4)), "steps_per_epoch": 2}
    return {"x": batches.batch(5, drop_remainder=kind == "fixed")}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["arrays", "dataset", "generator", "fixed"])
def test_training_is_as_if_nothing_had_been_checked(kind):
    x, y = planted.data()
    found = []
    for check in ("raise", False):
        strategy = tfdist.get_strategy("2xcpu")
        assert strategy.num_replicas_in_sync == 2
        keras.utils.set_random_seed(1)
        with strategy.scope():
            model = _noisy()
        history = tfdist.fit(model, **_data(kind), epochs=2, verbose=0, check=check)
        found.append([*_values(model), history.history["loss"], np.random.random()])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_all_is_put_back_where_it_raises(monkeypatch):
    build, _, _ = planted.PLANTED["a running maximum"]
    kept: list[Any] = []
    monkeypatch.setattr(rankings, "rankings", None)  # the rows as they come are enough

    def built() -> keras.Model:
        kept.append(build())
        return kept[0]

    with pytest.raises(ValueError, match="'own'"):
        _check(built)
    (model,) = kept
    assert int(np.asarray(model.optimizer.iterations)) == 0
    for value in (np.asarray(v) for v in model.metrics_variables):
        assert not value.any()
    keras.utils.set_random_seed(1)
    with tfdist.get_strategy("2xcpu").scope():
        again = build()
    for one, other in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_warning_instead(caplog):
    build, _, _ = planted.PLANTED["a sum in a step"]
    model = _check(build, check="warn")
    told = [record.getMessage() for record in caplog.records if record.name == "tfdist"]
    assert len(told) == 1
    assert "a sum over the batch in Own.train_step" in told[0]
    caplog.clear()
    _check(lambda: model, check="warn")  # it has been told
    _check(build, check=False)
    assert not [record for record in caplog.records if record.name == "tfdist"]


def _keras_alone() -> keras.Model:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])
    return model


def _plain_normalization() -> keras.Model:
    model = _noisy()
    own = type(model)([keras.Input((3,)), keras.layers.BatchNormalization(), *model.layers])
    own.compile("sgd", "mse")
    return own


@pytest.mark.parametrize("build", [_keras_alone, _plain_normalization])
def test_what_cannot_differ_or_has_to_is_not_computed(build):
    def refuse(*args: Any) -> None:
        raise AssertionError("computed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checking, "BothWays", refuse)
        _check(build)
        with pytest.raises(AssertionError, match="computed"):
            _check(_noisy)


def test_once_for_a_compiled_model():
    build = planted.PLANTED["statistics in a layer"][2]
    model = _check(build)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checking, "BothWays", lambda *args: pytest.fail("computed again"))
        _check(lambda: model)


class Weighted(planted.Step):
    """Divides by the sum of the weights that a replica has, where there are weights."""

    def train_step(self, batch: Any) -> dict[str, Any]:
        x, y, weights = keras.utils.unpack_x_y_sample_weight(batch)
        with tf.GradientTape() as tape:
            errors = ops.mean(ops.square(y - self(x, training=True)), axis=-1)
            if weights is None:
                loss = ops.mean(errors)
            else:
                loss = ops.sum(errors * weights) / ops.sum(weights)
        self.update(tape.gradient(loss, self.trainable_variables))
        return {"cost": loss}


def _weighted() -> keras.Model:
    model = Weighted([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd")
    return model


@pytest.mark.parametrize("method", ["fit", "train_on_batch"])
def test_once_for_each_kind_of_data(method):
    x, y = planted.data()
    with tfdist.get_strategy("2xcpu").scope():
        model = _weighted()
    if method == "fit":
        train = functools.partial(tfdist.fit, batch_size=5, verbose=0)
    else:
        train = tfdist.train_on_batch
    train(model, x, y)
    with pytest.raises(ValueError, match=r"The first step is not .* Weighted.train_step"):
        train(model, x, y, sample_weight=np.linspace(0.1, 1, len(x)))
    train(model, x, y, sample_weight=np.linspace(0.1, 1, len(x)), check=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checking, "BothWays", lambda *args: pytest.fail("computed again"))
        train(model, x, y)


def _on_worker() -> list[str]:
    """Checks programs on this worker's replica; returns what was said."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    said = []
    for name in ("a sum in a step", "a codebook", "TensorFlow's draws in a step"):
        wrong, _, right = planted.PLANTED[name]
        _check(right, "cpu")
        try:
            _check(wrong, "cpu")
            said.append("nothing")
        except ValueError as error:
            said.append(str(error))
    return said


@pytest.mark.slow
def test_on_two_workers():
    of_workers = tfdist.testing.run_workers(_on_worker, timeout_secs=200)
    assert len(of_workers) == 2
    for said in of_workers:
        assert "a sum over the batch in Own.train_step" in said[0]
        assert "assigns this state" in said[1]
        assert "RandomStandardNormal" in said[2]


def test_an_error_of_the_data_is_told_plainly():
    with tfdist.get_strategy("2xcpu").scope():
        model = _noisy()
    pairs = [tf.data.Dataset.range(n).map(_row).batch(size) for n, size in ((8, 4), (16, 8))]
    with pytest.raises(ValueError, match="different numbers of rows, 4 8"):
        tfdist.fit(model, tf.data.Dataset.zip(tuple(pairs)), verbose=0)


def _row(number: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.stack([number, number, number]), tf.float64)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a loss that is called a sum", "a sum over the batch"),
        ("statistics in a layer", "a number of the whole batch"),
    ],
)
def test_evaluate_checks_its_first_batch(name, told):
    wrong, _, right = planted.PLANTED[name]
    x, y = planted.data()
    keras.utils.set_random_seed(1)
    with tfdist.get_strategy("2xcpu").scope():
        right, wrong = right(), wrong()
    expected = tfdist.evaluate(right, x, y, batch_size=5, verbose=0)
    assert tfdist.evaluate(right, x, y, batch_size=5, verbose=0, check=False) == expected
    with pytest.raises(ValueError, match="The first step is not one device's.*check=False") as it:
        tfdist.evaluate(wrong, x, y, batch_size=5, verbose=0)
    assert told in str(it.value)
    tfdist.evaluate(wrong, x, y, batch_size=5, verbose=0, check=False)
    with pytest.raises(ValueError, match="check='no' must be one of"):
        tfdist.evaluate(wrong, x, y, check="no")


class Counting(planted.Step):
    """A step that is refused where it is split: a log is a whole number of the rows."""

    def logs(self, y: Any, y_pred: Any, loss: Any) -> dict[str, Any]:
        return {"above": tf.reduce_sum(tf.cast(y_pred > 0, tf.int32))}


def _counting() -> keras.Model:
    model = Counting([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd")
    return model


def test_whole_is_also_what_cannot_be_split(caplog):
    x, y = planted.data()
    keras.utils.set_random_seed(1)
    with tfdist.get_strategy("2xcpu").scope():
        model = _counting()
    expected = int(np.sum(model(x[5:]) > 0))
    with pytest.raises(ValueError, match="'above' is a whole number"):
        tfdist.fit(model, x[5:], y[5:], verbose=0)
    caplog.clear()
    history = tfdist.fit(model, x[5:], y[5:], batch_size=6, verbose=0, check="whole")
    assert history.history["above"] == [expected]
    (told,) = [r.getMessage() for r in caplog.records if r.name == "tfdist"]
    assert "'above' is a whole number" in told
    assert "So every train_step is computed whole" in told
    assert told.startswith(history.checked["train_step"].removeprefix("computed whole, since: "))
    caplog.clear()
    tfdist.fit(model, x[5:], y[5:], batch_size=6, verbose=0, check="whole")
    assert not [r for r in caplog.records if r.name == "tfdist"]  # it has been told
    assert "train_step of 'counting" in tfdist.describe(model.distribute_strategy).lower()


def test_history_and_describe_say_what_was_checked():
    x, y = planted.data()
    with tfdist.get_strategy("2xcpu").scope():
        model = _noisy()
    history = tfdist.fit(model, x, y, batch_size=5, verbose=0)
    assert history.checked == {"train_step": "the first one agrees with one device's"}
    line = f"  checked: train_step of {model.name!r}: the first one agrees with one device's"
    assert line in tfdist.describe(model.distribute_strategy).splitlines()


def test_predict_checks_its_first_batch():
    wrong, _, right = planted.PLANTED["statistics in a layer"]
    x, _ = planted.data()
    found = {}
    for device in ("cpu", "2xcpu"):
        keras.utils.set_random_seed(1)
        with tfdist.get_strategy(device).scope():
            found[device] = wrong(), right()
    one, model = found["cpu"][0], found["2xcpu"][0]
    expected = one.predict(x, batch_size=5, verbose=0)
    with pytest.raises(ValueError, match=r"the output '0' is .* Own.call makes an output of other"):
        tfdist.predict(model, x, batch_size=5, verbose=0)
    with pytest.raises(ValueError, match="the output '0' is"):
        tfdist.predict_on_batch(model, x[:5])
    whole = tfdist.predict(model, x, batch_size=5, verbose=0, check="whole")
    np.testing.assert_allclose(whole, expected, atol=1e-12)
    of_batch = tfdist.predict_on_batch(model, x[:5], check="whole")
    np.testing.assert_allclose(of_batch, expected[:5], atol=1e-12)
    unchecked = tfdist.predict(model, x, batch_size=5, verbose=0, check=False)
    assert np.abs(unchecked - expected).max() > 1e-3
    one, model = found["cpu"][1], found["2xcpu"][1]
    predicted = tfdist.predict(model, x, batch_size=5, verbose=0)
    np.testing.assert_allclose(predicted, one.predict(x, batch_size=5, verbose=0), atol=1e-12)


def test_one_batch_is_checked_and_can_be_whole():
    build, _, _ = planted.PLANTED["a loss that is called a sum"]
    x, y = planted.data()
    found = []
    for device in ("cpu", "2xcpu"):
        keras.utils.set_random_seed(1)
        with tfdist.get_strategy(device).scope():
            model = build()
        is_one = device == "cpu"
        if not is_one:
            with pytest.raises(ValueError, match="a sum over the batch in _SumCalled.__call__"):
                tfdist.train_on_batch(model, x[:5], y[:5])
            with pytest.raises(ValueError, match="a sum over the batch in _SumCalled.__call__"):
                tfdist.test_on_batch(model, x[:5], y[:5])
        given = {} if is_one else {"check": "whole"}
        train = model.train_on_batch if is_one else functools.partial(tfdist.train_on_batch, model)
        test = model.test_on_batch if is_one else functools.partial(tfdist.test_on_batch, model)
        losses = [train(x[:size], y[:size], **given) for size in (5, 4, 1)]
        losses.append(test(x[:3], y[:3], **given))
        found.append([*losses, *model.get_weights()])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-9)


def test_a_run_that_is_resumed_goes_on_whole(tmp_path, caplog):
    wrong, _, _ = planted.PLANTED["a masked mean in a step"]
    x, y = planted.data()
    y[-1] = 1.0  # or the last batch, of one row, would give NaN

    def trained(epochs: int, folder: Any, check: Any = "whole") -> keras.Model:
        keras.utils.set_random_seed(1)
        with tfdist.get_strategy("2xcpu").scope():
            model = wrong()
        tfdist.fit(
            model, x, y, batch_size=5, epochs=epochs, verbose=0, check=check, checkpoint_dir=folder
        )
        return model

    trained(1, tmp_path)
    caplog.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checking, "BothWays", lambda *args: pytest.fail("computed again"))
        resumed = trained(2, tmp_path)
    for one, other in zip(
        trained(2, None).get_weights(), resumed.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match=r"steps: 'whole' in the checkpoint, 'absent' here"):
        trained(3, tmp_path, check="raise")


def test_a_plain_normalization_is_reason_enough(caplog):
    x, y = planted.data()
    found = []
    for device in ("cpu", "2xcpu"):
        keras.utils.set_random_seed(1)
        with tfdist.get_strategy(device).scope():
            model = keras.Sequential([
                keras.Input((3,)), keras.layers.BatchNormalization(), keras.layers.Dense(1),
            ])
            model.compile("adam", "mse")
        tfdist.fit(model, x, y, batch_size=5, shuffle=False, verbose=0, check="whole")
        found.append(model.get_weights())
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-9)
    told = [r.getMessage() for r in caplog.records if r.name == "tfdist"]
    assert len(told) == 1
    assert "normalizes the rows that one replica has" in told[0]


class Noisy(planted.Step):
    """Draws for a batch and its negative at once, as people do for real and generated images."""

    def loss_of(self, y: Any, y_pred: Any) -> Any:
        both = keras.ops.concatenate([y_pred, -y_pred], axis=0)
        noise = keras.random.uniform(keras.ops.shape(both), seed=self.draws)
        return keras.ops.mean(keras.ops.square(both + noise))


@pytest.mark.slow
@pytest.mark.parametrize("is_fixed", [False, True])
def test_draws_for_two_batches_are_right_or_named(is_fixed):
    x, y = planted.data()
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(4, drop_remainder=is_fixed)
    found = []
    for device in ("cpu", "2xcpu"):
        keras.utils.set_random_seed(1)
        with tfdist.get_strategy(device).scope():
            model = Noisy([keras.Input((3,)), keras.layers.Dense(1)])
            model.compile("sgd")
        if is_fixed and device == "2xcpu":
            with pytest.raises(ValueError, match=r"a draw of 4 rows, where a replica has 2, is"):
                tfdist.fit(model, data, verbose=0)
        history = tfdist.fit(model, data, verbose=0, check="whole" if is_fixed else "auto")
        found.append(history.history["cost"])
        found[-1] += model.get_weights()
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-12)
