"""Are batches padded to the next of a few lengths, and is refused what that would make wrong?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from parity import worlds

import tfdist
from tfdist.communication.share import Share
from tfdist.data.adapters import make_source
from tfdist.data.lengths import lengths_of
from tfdist.data.padding import pad
from tfdist.data.shapes import Lengths

layers = keras.layers
_OPEN = tf.TensorSpec([None, None], tf.int32)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ((_OPEN, tf.TensorSpec([None], tf.int32)), Lengths((4, 8), (True, False), None)),
        ((_OPEN, _OPEN, _OPEN), Lengths((4, 8), (True, True, True), 1)),
        (({"a": _OPEN, "b": tf.TensorSpec([None, 3])}, _OPEN),
         Lengths((4, 8), (True, False, True), 1)),
        ((tf.TensorSpec([None, None, 2]),), Lengths((4, 8), (True,), None)),
        ((tf.TensorSpec([None, 5]), tf.TensorSpec([None, 4])), None),
    ],
)
def test_open_tensors(spec: Any, expected: Any) -> None:
    assert lengths_of(spec, (4, 8)) == expected


@pytest.mark.parametrize(
    ("spec", "buckets", "message"),
    [
        (_OPEN, (), r"length_buckets=\(32, 64, ...\)"),
        (tf.TensorSpec([None, None, None]), (4,), "Only the second dimension may vary"),
        (tf.TensorSpec(None), (4,), "Only the second dimension may vary"),
        ((tf.TensorSpec([None, 3]), _OPEN), (4,), "only targets have one"),
        ((_OPEN, {"a": _OPEN, "b": tf.TensorSpec([None, 4])}), (4,), "also one of length_buckets"),
        ((_OPEN, _OPEN, tf.TensorSpec([None])), (4,), "Give one weight for each timestep"),
    ],
)
def test_specs_that_are_refused(spec: Any, buckets: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lengths_of(spec, buckets)


def _dataset(*batches: Any) -> tf.data.Dataset:
    """A dataset of these batches, of open lengths, that says how many they are."""
    signature = tf.nest.map_structure(
        lambda part: tf.TensorSpec([*[None] * min(part.ndim, 2), *part.shape[2:]], part.dtype),
        batches[0],
    )
    made = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=signature)
    return made.apply(tf.data.experimental.assert_cardinality(len(batches)))


def test_what_pads() -> None:
    data = _dataset(
        {"a": np.array([[1, 2, 3]]), "b": np.array([[True]]), "c": np.array([["x", "y"]], "S1")}
    )
    padded = pad(make_source(data, share=Share(0, 1, 1)), Share(0, 1, 1), (2, 4))
    ((_, ((batch, own),)),) = list(padded.stream(0, 0))
    assert own.numpy().tolist() == [3, 1, 2]
    assert {name: value.numpy().tolist() for name, value in batch.items()} == {
        "a": [[1, 2, 3, 0]],
        "b": [[True, False, False, False]],
        "c": [[b"x", b"y", b"", b""]],
    }
    assert padded.padding is not None
    assert padded.padding.is_needed


class Recorder(layers.Layer):
    """Takes note of the shapes that it is traced with; keeps the mask."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: Any = []
        self.supports_masking = True

    def call(self, x: Any) -> Any:
        if not tf.executing_eagerly():
            self.shapes.append(tuple(x.shape))
        return x


def _model(*middle: Any, mask_zero: bool = True, strategy: Any = None, **options: Any) -> Any:
    strategy = strategy or worlds.local_strategy(2)
    with strategy.scope():
        made = [make() for make in middle] or [layers.GlobalAveragePooling1D()]
        model = keras.Sequential(
            [keras.Input((None,)), layers.Embedding(9, 3, mask_zero=mask_zero), *made,
             layers.Dense(1)]
        )
        model.compile(**{"optimizer": "sgd", "loss": "mse", **options})
    return model


def _words(*lengths: int, rows: int = 4) -> list[Any]:
    return [(np.ones((rows, length), "int64"), np.ones(rows, "float32")) for length in lengths]


def _tags(*lengths: int, rows: int = 4) -> list[Any]:
    return [(x, np.ones((*x.shape, 1), "float32")) for x, _ in _words(*lengths, rows=rows)]


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_one_trace_for_each_length(jit_compile: bool) -> None:
    with worlds.local_strategy(2).scope():
        recorder = Recorder()
    model = _model(
        lambda: recorder, lambda: layers.GlobalAveragePooling1D(), jit_compile=jit_compile
    )
    data = _dataset(*_words(1, 2, 3, 4, 5, 6), *_words(2, rows=1))
    given = {"length_buckets": (3, 6), "verbose": 0}
    recorder.shapes.clear()

    def seen() -> list[Any]:
        return [shape for shape in recorder.shapes if None not in shape]

    tfdist.fit(model, data, epochs=2, **given)
    # Each replica once; where it is compiled once more before, to see what it sums: jit_compile.py.
    expected = [(2, 3, 3)] * (4 if jit_compile else 2) + [(2, 6, 3)] * (4 if jit_compile else 2)
    assert seen() == expected
    tfdist.fit(model, _dataset(*_words(5, 2, 1)), **given)
    assert seen() == expected
    for run in (tfdist.evaluate, tfdist.predict):
        recorder.shapes.clear()
        run(model, data, **given)
        run(model, _dataset(*_words(4, 1)), **given)
        assert seen() == [(2, 3, 3)] * 2 + [(2, 6, 3)] * 2, run


def test_outputs_are_as_long_as_their_batch() -> None:
    model = _model(lambda: layers.Dense(2))
    rows = tfdist.predict(model, _dataset(*_tags(3, 5, 4)), length_buckets=(4, 8), verbose=0)
    assert isinstance(rows, tf.RaggedTensor)
    assert rows.row_lengths().numpy().tolist() == [3] * 4 + [5] * 4 + [4] * 4
    expected = model.predict(_dataset(*_tags(3, 5, 4)), verbose=0)
    np.testing.assert_allclose(rows.flat_values, expected.flat_values, rtol=1e-6)


def test_longer_batch_is_an_error() -> None:
    data = _dataset(*_words(2, 9))
    told = r"has 9 timesteps, but the largest of length_buckets is 8\."
    with pytest.raises(ValueError, match=told):
        tfdist.fit(_model(), data, length_buckets=(4, 8), verbose=0)


def test_targets_are_as_long_as_inputs() -> None:
    (x, _), (_, y) = _words(3)[0], _tags(4)[0]
    model = _model(lambda: layers.Dense(2))
    with pytest.raises(ValueError, match=r"are not as long as its inputs: \[4\].*\[3\]"):
        tfdist.fit(model, _dataset((x, y)), length_buckets=(4,), verbose=0)


def test_arrays_are_padded_to_the_length_above() -> None:
    with worlds.local_strategy(2).scope():
        recorder = Recorder()
    model = _model(lambda: recorder, lambda: layers.Dense(2))
    x, given = np.ones((5, 3), "int64"), {"batch_size": 3, "length_buckets": (4, 8), "verbose": 0}
    y = np.ones((5, 3, 1), "float32")
    weight = np.random.default_rng(0).uniform(size=(5, 3))
    alone = _model(lambda: layers.Dense(2), strategy=tf.distribute.get_strategy())
    alone.set_weights(model.get_weights())
    plain = alone.evaluate(x, y, sample_weight=weight, verbose=0)
    recorder.shapes.clear()
    loss = tfdist.evaluate(model, x, y, sample_weight=weight, **given)
    rows = tfdist.predict(model, x, **given)
    assert {shape for shape in recorder.shapes if None not in shape} == {(2, 4, 3), (2, 8, 3)}
    assert loss == pytest.approx(plain, rel=1e-6)
    np.testing.assert_allclose(rows, alone.predict(x, verbose=0), rtol=1e-6)
    recorder.shapes.clear()
    assert tfdist.predict(model, np.ones((5, 7), "int64"), **given).shape == (5, 7, 1)
    assert recorder.shapes == []


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # Keras says so of any generator
def test_generator() -> None:
    def losses(fit: Callable[..., Any]) -> Any:
        keras.utils.set_random_seed(2)
        batches = (batch for batch in _words(3, 5, 2, rows=3))
        return fit(_model(), batches, verbose=0).history["loss"]

    padded = losses(lambda *args, **more: tfdist.fit(*args, length_buckets=(4, 8), **more))
    np.testing.assert_allclose(padded, losses(tfdist.fit), rtol=1e-6)


class Stop(keras.callbacks.Callback):
    """Ends the run after so many batches, as an error would."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.batches = batches

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.batches -= 1
        if not self.batches:
            raise RuntimeError("stopped")


@pytest.mark.slow
def test_goes_on_in_mid_epoch(tmp_path: Any) -> None:
    data = _dataset(*_words(3, 5, 2, 7, 4, rows=3))
    given = {"epochs": 2, "length_buckets": (4, 8), "verbose": 0}

    def trained(*stops: int) -> list[Any]:
        for stop in (*stops, 0):
            keras.utils.set_random_seed(2)
            model = _model(optimizer="adam")
            folder = {"checkpoint_dir": str(tmp_path), "save_every": 1} if stops else {}
            try:
                tfdist.fit(model, data, callbacks=[Stop(stop)] if stop else [], **folder, **given)
            except RuntimeError as error:
                assert str(error) == "stopped"
        return model.get_weights()

    for mine, other in zip(trained(3, 4), trained(), strict=True):
        np.testing.assert_array_equal(mine, other)


class Adding(layers.Layer):
    def __init__(self) -> None:
        super().__init__(name="adding")
        self.supports_masking = True

    def call(self, x: Any) -> Any:
        self.add_loss(keras.ops.mean(x))
        return x


class LosesMask(layers.Layer):
    """Leaves each step to itself, and says nothing of masks."""

    def call(self, x: Any) -> Any:
        return 2 * x


class AllSteps(layers.Layer):
    """Makes a mask that takes padded timesteps for data."""

    def call(self, x: Any) -> Any:
        return 2 * x

    def compute_mask(self, x: Any, mask: Any = None) -> Any:
        return keras.ops.ones_like(x[..., 0], dtype="bool")


class SumOfSteps(layers.Layer):
    """Sums timesteps without a look at masks."""

    def call(self, x: Any) -> Any:
        return keras.ops.sum(x, axis=1)


class OnlyTraced(layers.Layer):
    """Cannot be called in Python."""

    def __init__(self) -> None:
        super().__init__()
        self.supports_masking = True

    def call(self, x: Any) -> Any:
        if tf.executing_eagerly():
            raise NotImplementedError("not here")
        return 2 * x


def test_targets_say_which_timesteps_count() -> None:
    data = _dataset(*_tags(3, 5))
    model = _model(AllSteps)
    alone = _model(AllSteps, strategy=tf.distribute.get_strategy())
    alone.set_weights(model.get_weights())
    loss = tfdist.evaluate(model, data, length_buckets=(4, 8), verbose=0)
    assert loss == pytest.approx(alone.evaluate(data, verbose=0), rel=1e-6)


@pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask")
def test_weights_that_are_zero_hide_nothing() -> None:
    with worlds.local_strategy(2).scope():
        model = keras.Sequential(
            [keras.Input((None, 2)), layers.Masking(), layers.Dense(3), SumOfSteps()]
        )
        model.compile("sgd", "mse")
    data = _dataset((np.ones((4, 3, 2), "float32"), np.ones((4, 3), "float32")))
    data = data.map(lambda x, y: (x, tf.ensure_shape(y, [None, 3])))
    with pytest.raises(ValueError, match="takes the padding for data"):
        tfdist.fit(model, data, length_buckets=(4, 8), verbose=0)


def test_model_that_cannot_be_tried(caplog: pytest.LogCaptureFixture) -> None:
    model = _model(OnlyTraced)
    tfdist.fit(model, _dataset(*_tags(3)), length_buckets=(4,), verbose=0)
    assert "could not be tried (NotImplementedError" in caplog.text
    with pytest.raises(ValueError, match="trying the model could not show which of them"):
        tfdist.predict(model, _dataset(*_tags(3)), length_buckets=(4,), verbose=0)


class Attention(layers.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.attention = layers.MultiHeadAttention(num_heads=1, key_dim=2)
        self.supports_masking = True

    def call(self, x: Any) -> Any:
        return self.attention(x, x)


def test_what_is_given_for_masked_timesteps_is_told(caplog: pytest.LogCaptureFixture) -> None:
    tfdist.evaluate(_model(Attention), _dataset(*_tags(3)), length_buckets=(4,), verbose=0)
    assert "for timesteps that it masks depends on the length" in caplog.text


@pytest.mark.parametrize("method", ["train_step", "compute_loss"])
def test_own_rules_are_refused(method: str) -> None:
    model = _model()
    setattr(model, method, getattr(model, method))
    full = _dataset(*_words(4)).map(
        lambda x, y: (tf.ensure_shape(x, [4, None]), tf.ensure_shape(y, [4]))
    )
    with pytest.raises(ValueError, match=f"{method} is your own.*leave them out"):
        tfdist.fit(model, full, length_buckets=(4,), verbose=0)


def _mean_over_time(y_true: Any, y_pred: Any) -> Any:
    return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=(1, 2))


def _dense() -> Any:
    return layers.Dense(2)


@pytest.mark.parametrize(
    ("make", "batches", "message"),
    [
        (lambda: _model(mask_zero=False), _words, "none of its layers makes a mask"),
        (lambda: _model(layers.GlobalMaxPooling1D), _words, "takes the padding for data"),
        (lambda: _model(LosesMask, layers.GlobalAveragePooling1D), _words,
         "Keras says: Layer 'loses_mask"),
        (lambda: _model(LosesMask), _tags, "carries no mask of its timesteps"),
        (lambda: _model(_dense, loss=_mean_over_time), _tags, "loss '_mean_over_time' returns"),
        (lambda: _model(_dense, metrics=[_mean_over_time]), _tags,
         "metric '_mean_over_time' returns"),
        (lambda: _model(_dense), _words, "no target is"),
        (lambda: _model(Adding, _dense), _tags, "'adding'.*leave them out"),
        (lambda: _model(lambda: layers.Conv1D(2, 3, padding="same")), _tags, "for data"),
        (lambda: _model(lambda: layers.Conv1D(2, 1, strides=2)), _tags, "the length of no input"),
    ],
    ids=["no mask", "maximum", "mask lost", "mask lost, targets a step", "loss", "metric",
         "one target", "add_loss", "convolution", "shorter output"],
)
@pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask")
def test_models_that_would_count_what_is_padded(
    make: Callable[[], Any], batches: Callable[..., Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tfdist.fit(make(), _dataset(*batches(3, 5)), length_buckets=(4, 8), verbose=0)


def test_own_shares_are_refused() -> None:
    with pytest.raises(ValueError, match="already_sharded"):
        tfdist.fit(_model(), _dataset(*_words(3)), length_buckets=(4,), already_sharded=True)
