"""A variational autoencoder: no `call`, a sampling layer, all of it in `train_step`."""

import os
import sys

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

keras.config.set_floatx("float64")
keras.utils.set_random_seed(1)
x = np.random.default_rng(0).uniform(size=(22, 8, 8, 1))


class Sampling(layers.Layer):
    """Uses (z_mean, z_log_var) to sample z, the vector that encodes a digit."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(1337)

    def call(self, inputs):
        z_mean, z_log_var = inputs
        batch, dim = ops.shape(z_mean)[0], ops.shape(z_mean)[1]
        epsilon = keras.random.normal(shape=(batch, dim), seed=self.seed_generator)
        return z_mean + ops.exp(0.5 * z_log_var) * epsilon


image = keras.Input((8, 8, 1))
features = layers.Conv2D(4, 3, activation="relu", strides=2, padding="same")(image)
features = layers.Dense(6, activation="relu")(layers.Flatten()(features))
z_mean, z_log_var = layers.Dense(2, name="z_mean")(features), layers.Dense(2)(features)
encoder = keras.Model(image, [z_mean, z_log_var, Sampling()([z_mean, z_log_var])])
latent = keras.Input((2,))
hidden = layers.Reshape((4, 4, 2))(layers.Dense(32, activation="relu")(latent))
decoded = layers.Conv2DTranspose(1, 3, activation="sigmoid", strides=2, padding="same")(hidden)
decoder = keras.Model(latent, decoded)


class VAE(keras.Model):
    def __init__(self, encoder, decoder, **kwargs):
        super().__init__(**kwargs)
        self.encoder, self.decoder = encoder, decoder
        self.total_loss_tracker = keras.metrics.Mean(name="total_loss")
        self.kl_loss_tracker = keras.metrics.Mean(name="kl_loss")

    @property
    def metrics(self):
        return [self.total_loss_tracker, self.kl_loss_tracker]

    def train_step(self, data):
        with tf.GradientTape() as tape:
            z_mean, z_log_var, z = self.encoder(data)
            crossentropy = keras.losses.binary_crossentropy(data, self.decoder(z))
            reconstruction_loss = ops.mean(ops.sum(crossentropy, axis=(1, 2)))
            kl_loss = -0.5 * (1 + z_log_var - ops.square(z_mean) - ops.exp(z_log_var))
            kl_loss = ops.mean(ops.sum(kl_loss, axis=1))
            total_loss = reconstruction_loss + kl_loss
        grads = tape.gradient(total_loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(grads, self.trainable_weights))
        self.total_loss_tracker.update_state(total_loss)
        self.kl_loss_tracker.update_state(kl_loss)
        return {"loss": self.total_loss_tracker.result(), "kl_loss": self.kl_loss_tracker.result()}


vae = VAE(encoder, decoder)
vae.compile(optimizer=keras.optimizers.Adam(0.01))
history = vae.fit(x, epochs=2, batch_size=8, shuffle=False, verbose=0)
digits = vae.decoder.predict(np.array([[0.0, 1.0], [-1.0, 0.5], [1.0, 1.0]]), verbose=0)
codes = vae.encoder.predict(x, batch_size=8, verbose=0)[0]
np.savez(
    sys.argv[1] + os.environ.get("TFDIST_RANK", ""),
    *vae.get_weights(), digits=digits, codes=codes, **history.history,
)
