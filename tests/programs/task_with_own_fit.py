"""A task that is given texts: it prepares them in its own `fit`, `evaluate` and `predict`."""

import os
import sys

import keras
import numpy as np
import tensorflow as tf
from keras import layers

keras.config.set_floatx("float64")
keras.utils.set_random_seed(16)
rng = np.random.default_rng(0)
words = np.array(["good", "bad", "film", "plot", "great", "awful", "very"])
texts = [" ".join(rng.choice(words, size=rng.integers(2, 7))) for _ in range(22)]
labels = rng.integers(3, size=22).tolist()


class TextClassifier(keras.Model):
    def __init__(self, vocabulary, num_classes, **kwargs):
        super().__init__(**kwargs)
        self.preprocessor = layers.TextVectorization(
            vocabulary=list(vocabulary), output_sequence_length=6
        )
        self.embedding = layers.Embedding(len(vocabulary) + 2, 5, mask_zero=True)
        self.encoder = layers.Bidirectional(layers.GRU(4))
        self.head = layers.Dense(num_classes)
        self.log_temperature = self.add_weight(shape=(), initializer="zeros")

    def preprocess(self, x, y=None, batch_size=None):
        data = (x,) if y is None else (x, y)
        dataset = tf.data.Dataset.from_tensor_slices(data).batch(batch_size or 8)
        return dataset.map(lambda x, *y: (self.preprocessor(x), *y))

    def fit(self, x=None, y=None, batch_size=None, validation_data=None, **kwargs):
        if validation_data is not None:
            validation_data = self.preprocess(*validation_data, batch_size=batch_size)
        dataset = self.preprocess(x, y, batch_size)
        return super().fit(dataset, validation_data=validation_data, **kwargs)

    def evaluate(self, x=None, y=None, batch_size=None, **kwargs):
        if kwargs.get("_use_cached_eval_dataset") or isinstance(x, tf.data.Dataset):
            return super().evaluate(x, **kwargs)
        return super().evaluate(self.preprocess(x, y, batch_size), **kwargs)

    def predict(self, x, batch_size=None, **kwargs):
        logits = super().predict(self.preprocess(x, batch_size=batch_size), **kwargs)
        return np.argmax(logits, axis=-1), logits

    def call(self, token_ids, training=False):
        x = self.encoder(self.embedding(token_ids), training=training)
        self.add_loss(1e-3 * keras.ops.square(self.log_temperature - 1.0))
        return self.head(x) * keras.ops.exp(self.log_temperature)


classifier = TextClassifier(words, num_classes=3)
classifier.compile(
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    optimizer=keras.optimizers.Lion(1e-2),
    metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
)
history = classifier.fit(
    texts[:15], labels[:15], batch_size=6, epochs=2, verbose=0,
    validation_data=(texts[15:], labels[15:]),
)  # fmt: skip
scores = classifier.evaluate(texts, labels, batch_size=6, return_dict=True, verbose=0)
classes, logits = classifier.predict(texts[:5], batch_size=2, verbose=0)
np.savez(
    sys.argv[1] + os.environ.get("TFDIST_RANK", ""),
    *classifier.get_weights(), classes=classes, logits=logits, **history.history,
    **{f"all {name}": value for name, value in scores.items()},
)  # fmt: skip
