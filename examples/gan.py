"""Draws handwritten digits: two networks with an optimizer each, in a `train_step` of their own.

    python examples/gan.py
    tfdist run --workers=2 --device=cpu examples/gan.py

Data: the digits that ship with tfdist (Alpaydin and Kaynak, CC BY 4.0). The metric is the Frechet
distance between real and generated images, by mean and covariance of their pixels: 0 for the same
distribution, and 10.7 before training.
"""

import keras
import numpy as np
import scipy.linalg
import tensorflow as tf
from absl import app, flags
from keras import layers, ops

from tfdist import datasets

_EPOCHS = flags.DEFINE_integer("epochs", 150, "Passes over the 1,437 images.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images a step, over all replicas.")
_LATENT = flags.DEFINE_integer("latent", 16, "Numbers that an image is made of.")
_SEED = flags.DEFINE_integer("seed", 1, "Of the weights and of what is drawn.")


class GAN(keras.Model):
    """Two networks that train against each other."""

    def __init__(self, latent, seed):
        super().__init__()
        self.latent = latent
        self.draws = keras.random.SeedGenerator(seed)
        self.generator = keras.Sequential([
            layers.Dense(128), layers.LeakyReLU(), layers.Dense(128), layers.LeakyReLU(),
            layers.Dense(64, activation="sigmoid"),
        ])
        self.discriminator = keras.Sequential([
            layers.Dense(128), layers.LeakyReLU(), layers.Dropout(0.3),
            layers.Dense(64), layers.LeakyReLU(), layers.Dense(1),
        ])
        self.generator.build((None, latent))
        self.discriminator.build((None, 64))
        self.built = True
        self.d_loss = keras.metrics.Mean(name="d_loss")
        self.g_loss = keras.metrics.Mean(name="g_loss")

    def compile(self, d_optimizer, g_optimizer):
        super().compile(optimizer=g_optimizer, loss=None)
        self.d_optimizer, self.g_optimizer = d_optimizer, g_optimizer
        self.d_optimizer.build(self.discriminator.trainable_variables)
        self.g_optimizer.build(self.generator.trainable_variables)

    @property
    def metrics(self):
        return [self.d_loss, self.g_loss]

    def draw(self, count):
        return keras.random.normal((count, self.latent), seed=self.draws)

    def call(self, latent):
        return self.generator(latent)

    def train_step(self, real):
        count = ops.shape(real)[0]
        fake = self.generator(self.draw(count))
        with tf.GradientTape() as tape:
            on_real = self.discriminator(real, training=True)
            on_fake = self.discriminator(fake, training=True)
            d_loss = ops.mean(ops.softplus(-on_real)) + ops.mean(ops.softplus(on_fake))
        variables = self.discriminator.trainable_variables
        self.d_optimizer.apply(tape.gradient(d_loss, variables), variables)
        latent = self.draw(count)
        with tf.GradientTape() as tape:
            g_loss = ops.mean(ops.softplus(-self.discriminator(self.generator(latent))))
        variables = self.generator.trainable_variables
        self.g_optimizer.apply(tape.gradient(g_loss, variables), variables)
        self.d_loss.update_state(d_loss)
        self.g_loss.update_state(g_loss)
        return {metric.name: metric.result() for metric in self.metrics}


def distance(a, b):
    """Returns the Frechet distance between two sets of rows, as normal distributions."""
    a_cov, b_cov = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(a_cov @ b_cov).real
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(a_cov + b_cov - 2 * root)


def main(argv):
    del argv
    keras.utils.set_random_seed(_SEED.value)
    (x, _), (x_test, _) = datasets.load_digits()
    x, x_test = (part.reshape(-1, 64).astype("float32") / 16 for part in (x, x_test))
    model = GAN(_LATENT.value, _SEED.value)
    model.compile(*(keras.optimizers.Adam(rate, beta_1=0.5) for rate in (4e-4, 1e-3)))
    latent = np.random.default_rng(_SEED.value).normal(size=(1000, _LATENT.value))
    before = distance(x_test, model.predict(latent.astype("float32"), verbose=0))
    model.fit(x, batch_size=_BATCH_SIZE.value, epochs=_EPOCHS.value, verbose=2)
    drawn = model.predict(latent.astype("float32"), verbose=0)
    for row in drawn[0].reshape(8, 8):
        print("".join(" .:-=+*#%@"[int(9 * value)] * 2 for value in row))
    print(f"distance_before={before:.2f} distance={distance(x_test, drawn):.4f}")


if __name__ == "__main__":
    app.run(main)
