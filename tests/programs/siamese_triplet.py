"""A siamese network: a layer of distances, and a triplet loss with one value a row."""

import os
import sys

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

keras.config.set_floatx("float64")
keras.utils.set_random_seed(5)
rng = np.random.default_rng(0)
anchors, positives, negatives = (
    tf.data.Dataset.from_tensor_slices(rng.normal(size=(19, 6))) for _ in range(3)
)
dataset = tf.data.Dataset.zip((anchors, positives, negatives)).shuffle(buffer_size=19, seed=3)
dataset = dataset.map(lambda a, p, n: (a * 0.5, p * 0.5, n * 0.5))
train_dataset, val_dataset = dataset.take(13).batch(4), dataset.skip(13).batch(4)
embedding = keras.Sequential(
    [keras.Input((6,)), layers.Dense(8, "relu"), layers.Dropout(0.1), layers.Dense(4)]
)


class DistanceLayer(layers.Layer):
    def call(self, anchor, positive, negative):
        ap_distance = ops.sum(tf.square(anchor - positive), -1)
        an_distance = ops.sum(tf.square(anchor - negative), -1)
        return (ap_distance, an_distance)


inputs = [keras.Input((6,), name=name) for name in ("anchor", "positive", "negative")]
siamese_network = keras.Model(inputs, DistanceLayer()(*(embedding(x) for x in inputs)))


class SiameseModel(keras.Model):
    def __init__(self, siamese_network, margin=0.5):
        super().__init__()
        self.siamese_network, self.margin = siamese_network, margin
        self.loss_tracker = keras.metrics.Mean(name="loss")

    def call(self, inputs):
        return self.siamese_network(inputs)

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = self._compute_loss(data)
        gradients = tape.gradient(loss, self.siamese_network.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.siamese_network.trainable_weights))
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}

    def test_step(self, data):
        loss = self._compute_loss(data)
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}

    def _compute_loss(self, data):
        ap_distance, an_distance = self.siamese_network(data)
        return ops.maximum(ap_distance - an_distance + self.margin, 0.0)

    @property
    def metrics(self):
        return [self.loss_tracker]


siamese_model = SiameseModel(siamese_network)
siamese_model.compile(optimizer=keras.optimizers.SGD(0.01, momentum=0.9))
history = siamese_model.fit(train_dataset, epochs=2, validation_data=val_dataset, verbose=0)
cosine = keras.metrics.CosineSimilarity()
sample = next(iter(val_dataset))
similarity = cosine(embedding(sample[0]), embedding(sample[1])).numpy()
np.savez(
    sys.argv[1] + os.environ.get("TFDIST_RANK", ""),
    *siamese_model.get_weights(), similarity=similarity, **history.history,
)
