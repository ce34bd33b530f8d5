"""Diffusion: an adapted Normalization, noise in `train_step`, an averaged network kept by hand."""

import math
import os
import sys

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

keras.config.set_floatx("float64")
keras.utils.set_random_seed(4)
images = np.random.default_rng(0).uniform(size=(19, 4, 4, 2))
train = tf.data.Dataset.from_tensor_slices(images).repeat(2).shuffle(38, seed=1)
train = train.batch(8, drop_remainder=True).prefetch(2)
val = tf.data.Dataset.from_tensor_slices(images[:9]).batch(4)


@keras.saving.register_keras_serializable()
def sinusoidal_embedding(x):
    frequencies = ops.exp(ops.linspace(ops.log(1.0), ops.log(100.0), 2))
    angular_speeds = ops.cast(2.0 * math.pi * frequencies, "float64")
    return ops.concatenate([ops.sin(angular_speeds * x), ops.cos(angular_speeds * x)], axis=3)


def get_network():
    noisy, variances = keras.Input((4, 4, 2)), keras.Input((1, 1, 1))
    e = layers.Lambda(sinusoidal_embedding, output_shape=(1, 1, 4))(variances)
    e = layers.UpSampling2D(size=4, interpolation="nearest")(e)
    x = layers.Concatenate()([layers.Conv2D(4, 1)(noisy), e])
    x = layers.Conv2D(4, 3, padding="same", activation="swish")(x)
    return keras.Model([noisy, variances], layers.Conv2D(2, 1, kernel_initializer="zeros")(x))


class DiffusionModel(keras.Model):
    def __init__(self):
        super().__init__()
        self.normalizer = layers.Normalization()
        self.network = get_network()
        self.ema_network = keras.models.clone_model(self.network)

    def compile(self, **kwargs):
        super().compile(**kwargs)
        self.noise_loss_tracker = keras.metrics.Mean(name="n_loss")

    @property
    def metrics(self):
        return [self.noise_loss_tracker]

    def diffuse(self, images, training):
        images = self.normalizer(images, training=training)
        noises = keras.random.normal(ops.shape(images))
        times = keras.random.uniform((ops.shape(images)[0], 1, 1, 1))
        angles = math.acos(0.95) + times * (math.acos(0.02) - math.acos(0.95))
        noise_rates, signal_rates = ops.sin(angles), ops.cos(angles)
        network = self.network if training else self.ema_network
        noisy = signal_rates * images + noise_rates * noises
        return noises, network([noisy, noise_rates**2], training=training)

    def train_step(self, images):
        with tf.GradientTape() as tape:
            noises, pred_noises = self.diffuse(images, training=True)
            noise_loss = self.loss(noises, pred_noises)
        gradients = tape.gradient(noise_loss, self.network.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.network.trainable_weights))
        self.noise_loss_tracker.update_state(noise_loss)
        for weight, ema_weight in zip(self.network.weights, self.ema_network.weights):
            ema_weight.assign(0.9 * ema_weight + (1 - 0.9) * weight)
        return {m.name: m.result() for m in self.metrics}

    def test_step(self, images):
        noises, pred_noises = self.diffuse(images, training=False)
        self.noise_loss_tracker.update_state(self.loss(noises, pred_noises))
        return {m.name: m.result() for m in self.metrics}


model = DiffusionModel()
model.compile(
    optimizer=keras.optimizers.AdamW(1e-2, weight_decay=1e-3), loss=keras.losses.mean_absolute_error
)
model.normalizer.adapt(train)
history = model.fit(train, epochs=2, validation_data=val, verbose=0)
np.savez(
    sys.argv[1] + os.environ.get("TFDIST_RANK", ""), *model.get_weights(), **history.history
)
