"""A GAN of the old school: `train_on_batch` in a loop, the discriminator frozen in the gan."""

import os
import sys

import keras
import numpy as np
from keras import layers

keras.config.set_floatx("float64")
keras.utils.set_random_seed(15)
rng = np.random.default_rng(0)
X_train, noise_dim, batch_size = rng.uniform(-1, 1, size=(13, 6)), 4, 5

discriminator = keras.Sequential(
    [keras.Input((6,)), layers.Dense(8), layers.LeakyReLU(), layers.Dropout(0.3)]
)
discriminator.add(layers.Dense(1, activation="sigmoid"))
discriminator.compile("adam", "binary_crossentropy", metrics=["accuracy"])
generator = keras.Sequential([keras.Input((noise_dim,)), layers.Dense(8, "relu")])
generator.add(layers.Dense(6, activation="tanh"))

discriminator.trainable = False
z = keras.Input((noise_dim,))
combined = keras.Model(z, discriminator(generator(z)))
combined.compile(keras.optimizers.Adam(0.01), "binary_crossentropy")
discriminator.trainable = True

d_losses, g_losses, made = [], [], []
for _ in range(2):
    for start in range(0, len(X_train), batch_size):
        real = X_train[start : start + batch_size]
        noise = rng.normal(0, 1, (len(real), noise_dim))
        fake = generator.predict(noise, verbose=0)
        d_real = discriminator.train_on_batch(real, np.ones((len(real), 1)))
        d_fake = discriminator.train_on_batch(fake, np.zeros((len(real), 1)))
        d_losses.append(0.5 * np.add(d_real, d_fake))
        discriminator.trainable = False
        g_losses.append(combined.train_on_batch(noise, np.ones((len(real), 1))))
        discriminator.trainable = True
    made.append(generator.predict_on_batch(rng.normal(0, 1, (3, noise_dim))))
scores = discriminator.test_on_batch(X_train, np.ones((13, 1)), return_dict=True)
np.savez(
    sys.argv[1] + os.environ.get("TFDIST_RANK", ""),
    *combined.get_weights(), d_losses=d_losses, g_losses=g_losses, made=made, **scores,
)
