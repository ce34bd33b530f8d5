"""Rows: losses that compare the examples of a batch with each other, by `tfdist.all_rows`."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

import tfdist
from parity import data
from parity.case import BOTH, NO_THIRD_WORKER, Case

layers, ops = keras.layers, keras.ops


def _normalized(x: Any) -> Any:
    return x / ops.sqrt(ops.sum(ops.square(x), axis=-1, keepdims=True) + 1e-3)


class Contrastive(keras.Model):
    """Two views of each example have to be closer than any two others (SimCLR)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = layers.Dense(4, "tanh"), layers.Dense(3)

    def call(self, x: Any) -> Any:
        return self.encoder(x[:, :4])

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        views = y_pred, self.encoder(x[:, 2:])
        # The head comes after the rows were gathered: its gradient is of all rows on each replica.
        a, b = (_normalized(self.head(tfdist.all_rows(view))) for view in views)
        both = ops.concatenate([a, b])
        count = ops.shape(both)[0]
        alike = ops.matmul(both, ops.transpose(both)) / 0.5 - 100.0 * ops.eye(count)
        partners = ops.concatenate([ops.sum(a * b, -1), ops.sum(b * a, -1)]) / 0.5
        contrast = ops.mean(ops.logsumexp(alike, axis=-1) - partners)
        return contrast + 0.1 * ops.mean(ops.square(y_pred))  # and a term of each row by itself


class Decorrelating(keras.Sequential):
    """Statistics of all rows: what Barlow twins are trained by, in a `train_step`."""

    def train_step(self, batch: Any) -> dict[str, Any]:
        x, y = batch
        with tf.GradientTape() as tape:
            a, b = (tfdist.all_rows(self(half)) for half in (x[:, :3], x[:, 3:]))
            known = ops.cast(tfdist.all_rows(y), a.dtype)[:, None]  # integers have no gradient
            a, b = (
                (z - ops.mean(z, axis=0)) / ops.sqrt(ops.var(z, axis=0) + 0.1) for z in (a, b)
            )
            count = ops.cast(ops.shape(a)[0], a.dtype)
            found = ops.matmul(ops.transpose(a), b) / count
            loss = ops.sum(ops.square(found - ops.eye(data.CLASSES)))
            loss += ops.sum(ops.square(ops.mean(a * known, axis=0)))
        variables = self.trainable_variables
        gradients = tape.gradient(loss, variables)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return {"cost": loss}


class Towers(keras.Model):
    """A query is compared with the candidates of all rows, in `call`."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.candidate = layers.Dense(3), layers.Dense(3)

    def call(self, x: Any) -> Any:
        queries, candidates = self.query(x[:, :3]), self.candidate(x[:, 3:])
        scores = ops.matmul(queries, ops.transpose(tfdist.all_rows(candidates)))
        own = ops.sum(queries * candidates, axis=-1)
        return (ops.logsumexp(scores, axis=-1) - own)[:, None]


def _of_rows(y_true: Any, y_pred: Any) -> Any:
    return y_pred[:, 0] + 0.1 * ops.square(y_true[:, 0] - y_pred[:, 0])


def _contrastive() -> keras.Model:
    model = Contrastive()
    model.compile(keras.optimizers.Adam(0.05))
    model.head.build((None, 4))
    return model


def _decorrelating() -> keras.Model:
    model = Decorrelating([keras.Input((3,)), layers.Dense(4, "tanh"), layers.Dense(data.CLASSES)])
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9))
    return model


def _towers() -> keras.Model:
    model = Towers()
    model.compile(keras.optimizers.Adam(0.05), _of_rows)
    return model


ROWS = (
    Case("compute_loss of SimCLR", _contrastive, lambda: {"x": data.features()},
         worlds=NO_THIRD_WORKER),
    Case("train_step of Barlow twins", _decorrelating, data.plain, then=(),
         worlds=NO_THIRD_WORKER),
    Case("in-batch negatives in call", _towers, data.regression, then=BOTH),
)
