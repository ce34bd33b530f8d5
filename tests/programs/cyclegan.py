"""A CycleGAN: four networks, four optimizers, one persistent tape, pairs of two datasets."""

import os
import sys

import keras
import numpy as np
import tensorflow as tf
from keras import layers

keras.config.set_floatx("float64")
keras.utils.set_random_seed(11)
rng = np.random.default_rng(0)
horses = tf.data.Dataset.from_tensor_slices(rng.normal(size=(10, 4, 4, 1))).batch(4)
zebras = tf.data.Dataset.from_tensor_slices(rng.normal(size=(10, 4, 4, 1))).batch(4)


def get_generator(name):
    image = layers.Input((4, 4, 1))
    x = layers.Conv2D(3, 3, padding="same", activation="relu")(image)
    x = layers.GroupNormalization(groups=1)(x)
    return keras.Model(image, layers.Conv2D(1, 3, padding="same")(x), name=name)


def get_discriminator(name):
    image = layers.Input((4, 4, 1))
    x = layers.LeakyReLU(0.2)(layers.Conv2D(3, 3, strides=2, padding="same")(image))
    return keras.Model(image, layers.Conv2D(1, 2, padding="same")(x), name=name)


mse, mae = keras.losses.MeanSquaredError(), keras.losses.MeanAbsoluteError()


class CycleGan(keras.Model):
    def __init__(self):
        super().__init__()
        self.gen_G, self.gen_F = get_generator("generator_G"), get_generator("generator_F")
        self.disc_X, self.disc_Y = get_discriminator("disc_X"), get_discriminator("disc_Y")

    def call(self, inputs):
        return self.disc_X(inputs), self.disc_Y(inputs), self.gen_G(inputs), self.gen_F(inputs)

    def compile(self, gen_G_optimizer, gen_F_optimizer, disc_X_optimizer, disc_Y_optimizer):
        super().compile()
        self.gen_G_optimizer, self.gen_F_optimizer = gen_G_optimizer, gen_F_optimizer
        self.disc_X_optimizer, self.disc_Y_optimizer = disc_X_optimizer, disc_Y_optimizer

    def train_step(self, batch_data):
        real_x, real_y = batch_data
        with tf.GradientTape(persistent=True) as tape:
            fake_y = self.gen_G(real_x, training=True)
            fake_x = self.gen_F(real_y, training=True)
            cycled_x = self.gen_F(fake_y, training=True)
            cycled_y = self.gen_G(fake_x, training=True)
            disc_real_x, disc_fake_x = self.disc_X(real_x), self.disc_X(fake_x)
            disc_real_y, disc_fake_y = self.disc_Y(real_y), self.disc_Y(fake_y)
            total_loss_G = mse(tf.ones_like(disc_fake_y), disc_fake_y) + 10 * mae(real_y, cycled_y)
            total_loss_F = mse(tf.ones_like(disc_fake_x), disc_fake_x) + 10 * mae(real_x, cycled_x)
            total_loss_G += 5 * mae(real_y, self.gen_G(real_y, training=True))
            disc_X_loss = mse(tf.ones_like(disc_real_x), disc_real_x)
            disc_X_loss += mse(tf.zeros_like(disc_fake_x), disc_fake_x)
            disc_Y_loss = mse(tf.ones_like(disc_real_y), disc_real_y)
            disc_Y_loss += mse(tf.zeros_like(disc_fake_y), disc_fake_y)
        updates = [
            (total_loss_G, self.gen_G, self.gen_G_optimizer),
            (total_loss_F, self.gen_F, self.gen_F_optimizer),
            (disc_X_loss, self.disc_X, self.disc_X_optimizer),
            (disc_Y_loss, self.disc_Y, self.disc_Y_optimizer),
        ]
        grads = [tape.gradient(loss, part.trainable_variables) for loss, part, _ in updates]
        for grad, (_, part, optimizer) in zip(grads, updates):
            optimizer.apply_gradients(zip(grad, part.trainable_variables))
        return {"G_loss": total_loss_G, "F_loss": total_loss_F, "D_X_loss": disc_X_loss}


model = CycleGan()
model.compile(*[keras.optimizers.Adam(learning_rate=2e-3, beta_1=0.5) for _ in range(4)])
history = model.fit(tf.data.Dataset.zip((horses, zebras)), epochs=2, verbose=0)
translated = model.gen_G.predict(rng.normal(size=(3, 4, 4, 1)), verbose=0)
np.savez(
    sys.argv[1] + os.environ.get("TFDIST_RANK", ""),
    *model.get_weights(), translated=translated, **history.history,
)
