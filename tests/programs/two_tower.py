"""Ranking of films for users: two towers with StringLookup, a `compute_loss`, evaluate by name."""

import os
import sys

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

keras.config.set_floatx("float64")
keras.utils.set_random_seed(6)
rng = np.random.default_rng(0)
users, movies = rng.integers(5, size=27), rng.integers(7, size=27)
ratings = tf.data.Dataset.from_tensor_slices(
    {
        "user": np.array([f"user {number}" for number in users]),
        "movie": np.array([f"movie {number}" for number in movies]),
        "rating": rng.uniform(1, 5, size=27),
    }
)
ratings = ratings.map(lambda x: ({"user": x["user"], "movie": x["movie"]}, x["rating"]))
train, test = ratings.take(19).batch(8).cache(), ratings.skip(19).batch(3).cache()


class TwoTower(keras.Model):
    def __init__(self, dim=4, **kwargs):
        super().__init__(**kwargs)
        user_ids = [f"user {number}" for number in range(5)]
        movie_titles = [f"movie {number}" for number in range(7)]
        self.user_lookup = layers.StringLookup(vocabulary=user_ids)
        self.movie_lookup = layers.StringLookup(vocabulary=movie_titles)
        self.user_embedding = layers.Embedding(len(user_ids) + 1, dim)
        self.movie_embedding = layers.Embedding(len(movie_titles) + 1, dim)
        self.movie_bias = layers.Embedding(len(movie_titles) + 1, 1, embeddings_regularizer="l2")
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def call(self, inputs):
        user = self.user_embedding(self.user_lookup(inputs["user"]))
        movie = self.movie_lookup(inputs["movie"])
        dot = ops.sum(user * self.movie_embedding(movie), axis=1, keepdims=True)
        return self.scale * dot + self.movie_bias(movie)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        error = ops.square(ops.reshape(y, (-1, 1)) - y_pred)
        return ops.mean(error) + sum(self.losses)


model = TwoTower()
model.compile(
    optimizer=keras.optimizers.Adagrad(0.1), metrics=[keras.metrics.RootMeanSquaredError()]
)
history = model.fit(train, epochs=2, validation_data=test, validation_freq=2, verbose=0)
scores = model.evaluate(test, return_dict=True, verbose=0)
best = model.predict(
    {
        "user": tf.constant(["user 1", "user 1", "user 1"]),
        "movie": tf.constant(["movie 2", "movie 4", "no such film"]),
    },
    verbose=0,
)
np.savez(
    sys.argv[1] + os.environ.get("TFDIST_RANK", ""),
    *model.get_weights(), best=best, **history.history,
    **{f"test {name}": value for name, value in scores.items()},
)
