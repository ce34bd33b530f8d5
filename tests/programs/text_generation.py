"""An LSTM language model: TextVectorization, callbacks that generate text and decay."""

import os
import sys

import keras
import numpy as np
import tensorflow as tf
from keras import layers

keras.config.set_floatx("float64")
keras.utils.set_random_seed(10)
rng = np.random.default_rng(0)
words = ["the", "a", "cat", "dog", "sees", "likes", "old", "young"]
texts = [" ".join(rng.choice(words, size=rng.integers(3, 8))) for _ in range(21)]
vectorize_layer = layers.TextVectorization(output_mode="int", output_sequence_length=7)
vectorize_layer.adapt(texts)
vocab = vectorize_layer.get_vocabulary()


def prepare_lm_inputs_labels(text):
    tokenized_sentences = vectorize_layer(tf.expand_dims(text, -1))
    return tokenized_sentences[:, :-1], tokenized_sentences[:, 1:]


text_ds = tf.data.Dataset.from_tensor_slices(texts).shuffle(buffer_size=8, seed=4).batch(8)
text_ds = text_ds.map(prepare_lm_inputs_labels, num_parallel_calls=tf.data.AUTOTUNE)
text_ds = text_ds.prefetch(tf.data.AUTOTUNE)


class TextGenerator(keras.callbacks.Callback):
    def __init__(self, max_tokens, start_tokens, print_every=1):
        super().__init__()
        self.max_tokens, self.start_tokens = max_tokens, start_tokens
        self.print_every, self.generated = print_every, []

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.print_every != 0:
            return
        tokens = list(self.start_tokens)
        for _ in range(self.max_tokens):
            x = np.array([tokens + [0] * (6 - len(tokens))])
            y = self.model.predict(x, verbose=0)
            tokens.append(int(np.argmax(y[0][len(tokens) - 1])))
        self.generated.append(tokens)
        print(f"generated text: {' '.join(vocab[token] for token in tokens)!r}")


class DecayOnce(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.rates = [*getattr(self, "rates", []), float(self.model.optimizer.learning_rate)]
        if epoch == 1:
            self.model.optimizer.learning_rate = 0.5 * float(self.model.optimizer.learning_rate)


model = keras.Sequential(
    [
        layers.Embedding(len(vocab), 6, mask_zero=True),
        layers.LSTM(7, return_sequences=True, recurrent_dropout=0.1),
        layers.Dense(len(vocab)),
    ]
)
model.compile(
    optimizer=keras.optimizers.Nadam(0.02),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
generator, decay = TextGenerator(2, [vocab.index("the")]), DecayOnce()
history = model.fit(text_ds, verbose=0, epochs=2, callbacks=[generator, decay])
np.savez(
    sys.argv[1] + os.environ.get("TFDIST_RANK", ""),
    *model.get_weights(), generated=generator.generated, rates=decay.rates, **history.history,
)
