"""Rows: batches of several lengths, padded to the next of a few (`length_buckets`)."""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from parity import data, models
from parity.case import BOTH, Case

layers = keras.layers
BUCKETS = (4, 8)
_SIZES = (7, 7, 7, 1)
_LONGEST = (3, 4, 7, 2)  # of each batch: below, at and above a bucket
# A row takes as long as three others, so few of them run on workers too.
_case = functools.partial(Case, length_buckets=BUCKETS, worlds=("2",), then=BOTH)


def _lengths(longest: tuple[int, ...]) -> list[np.ndarray]:
    """Words of each sentence of each batch; one of them has as many as the batch is long."""
    drawn = np.random.default_rng(5).integers(1, 100, size=sum(_SIZES))
    lengths = [drawn[7 * i : 7 * i + size] % longest[i] + 1 for i, size in enumerate(_SIZES)]
    for of_batch, most in zip(lengths, longest, strict=True):
        of_batch[-1] = most
    return lengths


def _batches(kind: str, longest: tuple[int, ...]) -> list[tuple[np.ndarray, ...]]:
    rng = np.random.default_rng(6)
    made = []
    for lengths in _lengths(longest):
        shape = (len(lengths), int(lengths.max()))
        is_word = np.arange(shape[1])[None] < lengths[:, None]
        x = np.where(is_word, rng.integers(1, data.TOKENS, size=shape), 0)
        y = rng.integers(0, data.CLASSES, size=len(lengths) if kind == "class" else shape)
        made.append((x, y, rng.uniform(0.1, 2, size=y.shape)))
    return made


def sentences(
    kind: str = "class", *, weighted: bool = False, longest: tuple[int, ...] = _LONGEST
) -> dict[str, Any]:
    """A dataset of sentences, each batch as long as its longest one.

    Args:
        kind: "class", one a sentence, or "tags", one a word; "binary" tags are 0 and 1.
        weighted: Whether they have weights.
        longest: Words of the longest sentence of each batch.
    """
    batches = [batch if weighted else batch[:2] for batch in _batches(kind, longest)]
    if kind == "binary":
        batches = [(x, y % 2, *weight) for x, y, *weight in batches]
    signature = tuple(
        tf.TensorSpec([None] * part.ndim, part.dtype) for part in batches[0]
    )
    return {"x": data.of_known_length(lambda: iter(batches), signature, len(batches))}


class Batches(keras.utils.PyDataset):
    """The same batches, of a PyDataset."""

    def __len__(self) -> int:
        return len(_SIZES)

    def __getitem__(self, index: int) -> Any:
        return _batches("class", _LONGEST)[index][:2]


def _pairs() -> dict[str, Any]:
    """Sentences and translations of another length, with one class a word of the latter."""
    sources, targets = _batches("tags", _LONGEST), _batches("tags", (6, 2, 8, 1))
    batches = [
        ({"a": x, "b": words}, tags)
        for (x, *_), (words, tags, _) in zip(sources, targets, strict=True)
    ]
    words = tf.TensorSpec([None, None], tf.int64)
    signature = ({"a": words, "b": words}, words)
    return {"x": data.of_known_length(lambda: iter(batches), signature, len(batches))}


def _adam() -> Any:
    return keras.optimizers.Adam(0.02, global_clipnorm=0.1)


def _words() -> tuple[Any, Any]:
    words = keras.Input((None,), dtype="int32")
    return words, layers.Embedding(data.TOKENS, 4, mask_zero=True)(words)


def _softmax() -> Any:
    return layers.Dense(data.CLASSES, activation="softmax")


def _classifier(*middle: Any, **options: Any) -> models.Build:
    def build() -> keras.Model:
        words, hidden = _words()
        for make in middle:
            hidden = make()(hidden)
        return models.compiled(keras.Model(words, _softmax()(hidden)), _adam, **options)

    return build


class Block(layers.Layer):
    """A transformer block. It keeps the mask, which MultiHeadAttention takes off its inputs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.attention = layers.MultiHeadAttention(num_heads=2, key_dim=2)
        self.wide, self.narrow = layers.Dense(6, activation="gelu"), layers.Dense(4)
        self.norms = [layers.LayerNormalization(), layers.LayerNormalization()]
        self.supports_masking = True

    def call(self, x: Any) -> Any:
        x = self.norms[0](x + self.attention(x, x))
        return self.norms[1](x + self.narrow(self.wide(x)))


def _transformer(*, pooled: bool) -> models.Build:
    def build() -> keras.Model:
        words, hidden = _words()
        hidden = Block()(hidden)
        hidden = layers.GlobalAveragePooling1D()(hidden) if pooled else hidden
        return models.compiled(keras.Model(words, _softmax()(hidden)), _adam)

    return build


def _translator() -> keras.Model:
    """Classes of words of one sentence, with a state that another one leaves."""
    a, b = (keras.Input((None,), dtype="int32", name=name) for name in "ab")
    state = layers.SimpleRNN(3)(layers.Embedding(data.TOKENS, 4, mask_zero=True)(a))
    words = layers.Embedding(data.TOKENS, 4, mask_zero=True)(b)
    hidden = layers.SimpleRNN(3, return_sequences=True)(words, initial_state=state)
    return models.compiled(keras.Model({"a": a, "b": b}, _softmax()(hidden)), _adam)


def _binary_tagger() -> keras.Model:
    """With metrics that look at no mask, and so count every word that a batch has room for."""
    words, hidden = _words()
    hidden = layers.Dense(1, activation="sigmoid")(hidden)

    def made() -> dict[str, Any]:
        kinds = keras.metrics
        return {
            "metrics": [
                kinds.AUC(num_thresholds=5, name="auc"), kinds.Precision(name="precision"),
                kinds.RootMeanSquaredError(name="error"), kinds.BinaryAccuracy(name="accuracy"),
            ],
            "weighted_metrics": [kinds.Recall(name="recall"), kinds.MeanSquaredError(name="mse")],
        }

    model = keras.Model(words, hidden)
    return models.compiled(model, _adam, loss="binary_crossentropy", made=made)


def _with_last_dimension() -> dict[str, Any]:
    dataset = sentences("binary", weighted=True)["x"]
    return {"x": dataset.map(lambda x, y, weight: (x, y[..., tf.newaxis], weight))}


def _tagger(*middle: Any, **options: Any) -> models.Build:
    return models.tagger(_adam, *middle, steps=None, **options)


def _reduced(reduction: str | None) -> dict[str, Any]:
    return {"loss": keras.losses.SparseCategoricalCrossentropy(reduction=reduction)}


ROWS = (
    _case("lengths: Embedding and LSTM", _classifier(lambda: layers.LSTM(3)), sentences,
          worlds=("2", "4", "2 workers")),
    _case("lengths: masked mean", _classifier(layers.GlobalAveragePooling1D),
          lambda: sentences(weighted=True), worlds=("2", "2 workers"), quick=True),
    _case("lengths: one class a word", _tagger(models.recurrent), lambda: sentences("tags"),
          worlds=("2", "4", "2 workers")),
    _case("lengths: one class a word, weights of words",
          _tagger(weighted_metrics=["accuracy"]), lambda: sentences("tags", weighted=True)),
    *(
        _case(
            f"lengths: reduction {reduction}",
            _tagger(made=functools.partial(_reduced, reduction)),
            lambda: sentences("tags", weighted=True),
            then=("evaluate",),
        )
        for reduction in ("sum", "mean_with_sample_weight", None)
    ),
    _case("lengths: metrics that look at no mask", _binary_tagger, _with_last_dimension,
          worlds=("2", "2 workers")),
    _case("lengths: synchronized normalization",
          _tagger(lambda: layers.BatchNormalization(synchronized=True)),
          lambda: sentences("tags")),
    _case("lengths: transformer", _transformer(pooled=True), sentences),
    # What attention gives for a masked word follows the length: its predictions are not compared.
    _case("lengths: transformer, one class a word", _transformer(pooled=False),
          lambda: sentences("tags"), then=("evaluate",)),
    _case("lengths: two inputs, each of its own length", _translator, _pairs,
          worlds=("2", "2 workers")),
    _case("lengths: jit_compile, masked mean",
          _classifier(layers.GlobalAveragePooling1D, jit_compile=True), sentences),
    _case("lengths: jit_compile, one class a word",
          _tagger(jit_compile=True), lambda: sentences("tags")),
    _case("lengths: run_eagerly", _classifier(layers.GlobalAveragePooling1D, run_eagerly=True),
          sentences),
    _case("lengths: PyDataset", _classifier(layers.GlobalAveragePooling1D),
          lambda: {"x": Batches()}),
    _case("lengths: dropout, batches as long as the buckets",
          _tagger(models.recurrent, lambda: layers.Dropout(0.3)),
          lambda: sentences("tags", longest=(4, 8, 4, 8)), worlds=("2", "2 workers")),
)
