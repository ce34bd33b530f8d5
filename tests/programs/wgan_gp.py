"""A WGAN with a gradient penalty, three critic steps a batch, and gradients clipped by hand."""

import os
import sys

import keras
import numpy as np
import tensorflow as tf
from keras import layers

keras.config.set_floatx("float64")
keras.utils.set_random_seed(3)
train_images = np.random.default_rng(0).normal(size=(14, 5))
critic = keras.Sequential([keras.Input((5,)), layers.Dense(6, "tanh"), layers.Dense(1)])
generator = keras.Sequential(
    [keras.Input((3,)), layers.Dense(6), layers.LayerNormalization(), layers.Dense(5, "tanh")]
)


class WGAN(keras.Model):
    def __init__(self, discriminator, generator, latent_dim, discriminator_extra_steps, gp_weight):
        super().__init__()
        self.discriminator, self.generator = discriminator, generator
        self.latent_dim, self.d_steps = latent_dim, discriminator_extra_steps
        self.gp_weight = gp_weight

    def compile(self, d_optimizer, g_optimizer, d_loss_fn, g_loss_fn):
        super().compile()
        self.d_optimizer, self.g_optimizer = d_optimizer, g_optimizer
        self.d_loss_fn, self.g_loss_fn = d_loss_fn, g_loss_fn

    def gradient_penalty(self, batch_size, real_images, fake_images):
        alpha = keras.random.uniform([batch_size, 1])
        interpolated = real_images + alpha * (fake_images - real_images)
        with tf.GradientTape() as gp_tape:
            gp_tape.watch(interpolated)
            pred = self.discriminator(interpolated, training=True)
        grads = gp_tape.gradient(pred, [interpolated])[0]
        norm = tf.sqrt(tf.reduce_sum(tf.square(grads), axis=[1]) + 1e-12)
        return tf.reduce_mean((norm - 1.0) ** 2)

    def train_step(self, real_images):
        if isinstance(real_images, tuple):
            real_images = real_images[0]
        batch_size = tf.shape(real_images)[0]
        for _ in range(self.d_steps):
            latent = keras.random.normal((batch_size, self.latent_dim))
            with tf.GradientTape() as tape:
                fake_images = self.generator(latent, training=True)
                fake_logits = self.discriminator(fake_images, training=True)
                real_logits = self.discriminator(real_images, training=True)
                d_cost = self.d_loss_fn(real_img=real_logits, fake_img=fake_logits)
                gp = self.gradient_penalty(batch_size, real_images, fake_images)
                d_loss = d_cost + gp * self.gp_weight
            d_gradient = tape.gradient(d_loss, self.discriminator.trainable_variables)
            d_gradient, _ = tf.clip_by_global_norm(d_gradient, 0.5)
            self.d_optimizer.apply_gradients(
                zip(d_gradient, self.discriminator.trainable_variables)
            )
        latent = keras.random.normal((batch_size, self.latent_dim))
        with tf.GradientTape() as tape:
            generated = self.discriminator(self.generator(latent, training=True), training=True)
            g_loss = self.g_loss_fn(generated)
        gen_gradient = tape.gradient(g_loss, self.generator.trainable_variables)
        self.g_optimizer.apply_gradients(zip(gen_gradient, self.generator.trainable_variables))
        return {"d_loss": d_loss, "g_loss": g_loss}


wgan = WGAN(critic, generator, latent_dim=3, discriminator_extra_steps=2, gp_weight=10.0)
wgan.compile(
    d_optimizer=keras.optimizers.Adam(0.002, beta_1=0.5, beta_2=0.9),
    g_optimizer=keras.optimizers.Adam(0.002, beta_1=0.5, beta_2=0.9),
    d_loss_fn=lambda real_img, fake_img: tf.reduce_mean(fake_img) - tf.reduce_mean(real_img),
    g_loss_fn=lambda fake_img: -tf.reduce_mean(fake_img),
)
history = wgan.fit(train_images, batch_size=5, epochs=2, shuffle=False, verbose=0)
np.savez(
    sys.argv[1] + os.environ.get("TFDIST_RANK", ""), *wgan.get_weights(), **history.history
)
