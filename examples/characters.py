"""Writes text letter by letter, after reading Python's own manual: a small transformer.

    python examples/characters.py
    tfdist run --workers=2 --device=cpu examples/characters.py --prompt="The list "

Data: 0.5 MB of English from Python's language reference (PSF licence), which ships with Python as
`pydoc_data.topics`. The metric is bits a letter on the last twentieth, which is not trained on; all
letters alike would be 6.6.
"""

import math
from pydoc_data import topics

import keras
import numpy as np
from absl import app, flags
from keras import layers, ops

_EPOCHS = flags.DEFINE_integer("epochs", 3, "Passes over the text.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Excerpts a step, over all replicas.")
_LENGTH = flags.DEFINE_integer("length", 96, "Letters of an excerpt.")
_WIDTH = flags.DEFINE_integer("width", 96, "Features of a letter.")
_LETTERS = flags.DEFINE_integer("letters", 0, "How much of the text is read; 0 for all.")
_PROMPT = flags.DEFINE_string("prompt", "The value of ", "What the sample begins with.")
_SAMPLE = flags.DEFINE_integer("sample", 120, "Letters that are written at the end.")
_SEED = flags.DEFINE_integer("seed", 1, "Of the weights, dropout and the sample.")
_ALPHABET = [chr(code) for code in range(32, 127)] + ["\n"]
_NUMBER = {letter: number for number, letter in enumerate(_ALPHABET)}


def load(letters):
    """Returns the text as numbers of letters; those that the alphabet lacks are left out."""
    text = "\n".join(topics.topics[name] for name in sorted(topics.topics))
    numbers = np.array([_NUMBER[letter] for letter in text if letter in _NUMBER], "int32")
    return numbers[: letters or None]


def excerpts(numbers, length):
    """Returns inputs and targets, which are one letter further on."""
    count = (len(numbers) - 1) // length
    x = numbers[: count * length].reshape(count, length)
    return x, numbers[1 : count * length + 1].reshape(count, length)


@keras.saving.register_keras_serializable("examples")
class LettersInPlaces(layers.Layer):
    """What a letter is, and where it stands: one vector for each, added."""

    def __init__(self, alphabet, length, width, **kwargs):
        super().__init__(**kwargs)
        self.letters = layers.Embedding(alphabet, width)
        self.places = layers.Embedding(length, width)

    def build(self, shape):
        self.letters.build(shape)
        self.places.build(shape[1:])

    def call(self, letters):
        return self.letters(letters) + self.places(ops.arange(letters.shape[1]))


@keras.saving.register_keras_serializable("examples")
class Block(layers.Layer):
    """Letters look at those before them, and each by itself at what it has seen."""

    def __init__(self, width, heads=4, **kwargs):
        super().__init__(**kwargs)
        self.norms = [layers.LayerNormalization() for _ in range(2)]
        self.attention = layers.MultiHeadAttention(heads, width // heads)
        self.dense = keras.Sequential([
            layers.Dense(4 * width, activation="gelu"), layers.Dense(width), layers.Dropout(0.1),
        ])

    def build(self, shape):
        for norm in self.norms:
            norm.build(shape)
        self.attention.build(shape, shape)
        self.dense.build(shape)

    def call(self, x, training=None):
        before = self.norms[0](x)
        x = x + self.attention(before, before, use_causal_mask=True, training=training)
        return x + self.dense(self.norms[1](x), training=training)


def build_model(length, width):
    """Returns a model from letters to the logits of the next ones."""
    letters = keras.Input((length,), dtype="int32")
    x = LettersInPlaces(len(_ALPHABET), length, width)(letters)
    for _ in range(2):
        x = Block(width)(x)
    return keras.Model(letters, layers.Dense(len(_ALPHABET))(layers.LayerNormalization()(x)))


def write(model, prompt, count, *, length, seed, temperature=0.7):
    """Returns the prompt with as many letters more, each drawn by its probability."""
    draws = np.random.default_rng(seed)  # the same ones on each worker
    numbers = [_NUMBER[letter] for letter in prompt]
    for _ in range(count):
        window = np.zeros((1, length), "int32")
        seen = numbers[-length:]
        window[0, : len(seen)] = seen
        logits = model.predict_on_batch(window)[0, len(seen) - 1].astype("float64")
        chances = np.exp((logits - logits.max()) / temperature)
        numbers.append(int(draws.choice(len(_ALPHABET), p=chances / chances.sum())))
    return "".join(_ALPHABET[number] for number in numbers)


def main(argv):
    del argv
    keras.utils.set_random_seed(_SEED.value)
    length = _LENGTH.value
    numbers = load(_LETTERS.value)
    held_out = len(numbers) // 20
    x, y = excerpts(numbers[:-held_out], length)
    model = build_model(length, _WIDTH.value)
    model.compile(
        keras.optimizers.AdamW(3e-3, global_clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(x, y, batch_size=_BATCH_SIZE.value, epochs=_EPOCHS.value, verbose=2)
    loss = model.evaluate(*excerpts(numbers[-held_out:], length), verbose=0)
    print(write(model, _PROMPT.value, _SAMPLE.value, length=length, seed=_SEED.value))
    print(f"bits_a_letter={loss / math.log(2):.4f}")


if __name__ == "__main__":
    app.run(main)
