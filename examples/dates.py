"""Translates dates, as people write them in six languages, into one form: sequence to sequence.

    python examples/dates.py
    tfdist run --device=2xcpu examples/dates.py
    tfdist run --workers=2 --device=cpu examples/dates.py --epochs=30

An encoder reads the letters of a date, a decoder writes "2024-03-31" letter by letter and looks
back at them by attention. It is trained on the right letters so far, and tested on its own ones.

Data: days of 1950 to 2049, written by Babel with the names and forms of the Unicode CLDR (Unicode
license), of which the dates to test on are held out in all languages.
"""

import datetime

import babel.dates
import keras
import numpy as np
from absl import app, flags
from keras import layers

_EPOCHS = flags.DEFINE_integer("epochs", 16, "Passes over the dates to train on.")
_DATES = flags.DEFINE_integer("dates", 6000, "Days to train on, each in one language.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Dates a step, over all replicas.")
_WIDTH = flags.DEFINE_integer("width", 96, "Of the hidden states.")
_LEARNING_RATE = flags.DEFINE_float("learning_rate", 4e-3, "Of Adam.")
_SEED = flags.DEFINE_integer("seed", 1, "Of the weights and the choice of the days.")

_LANGUAGES = ("de", "en", "es", "fr", "it", "pt")
_FORMS = ("medium", "long", "full")
_TO_TEST_ON = 500
_START, _ANSWER = "^", len("2024-03-31")


def make_data(rng, count):
    """Returns dates as people write them and in the one form: two lists of texts."""
    first = datetime.date(1950, 1, 1)
    days = rng.choice(36_500, count + _TO_TEST_ON, replace=False)
    dates = [first + datetime.timedelta(int(day)) for day in days]
    written = [
        babel.dates.format_date(date, format=str(rng.choice(_FORMS)), locale=str(language))
        for date, language in zip(dates, rng.choice(_LANGUAGES, len(dates)), strict=True)
    ]
    return [text.lower() for text in written], [date.isoformat() for date in dates]


def as_numbers(texts, letters):
    """Returns the numbers of the letters, from 1, with zeros behind the shorter texts."""
    numbers = np.zeros((len(texts), max(map(len, texts))), "int32")
    for row, text in zip(numbers, texts, strict=True):
        row[: len(text)] = [letters.index(letter) + 1 for letter in text]
    return numbers


def build_model(num_letters, width):
    """Returns a model of the letters that were read and written, for the next one to write."""
    read = keras.Input((None,), dtype="int32", name="read")
    written = keras.Input((_ANSWER,), dtype="int32", name="written")
    x = layers.Embedding(num_letters, 32, mask_zero=True)(read)
    x = layers.Bidirectional(layers.GRU(width // 2, return_sequences=True))(x)
    y = layers.Embedding(num_letters, 32)(written)
    y = layers.GRU(width, return_sequences=True)(y)
    # Scores of a fitting size, which Attention learns to scale from the first step on.
    seen = layers.Attention(use_scale=True)([layers.Dense(width)(y), x])
    y = layers.Dense(width, activation="gelu")(layers.Concatenate()([y, seen]))
    return keras.Model({"read": read, "written": written}, layers.Dense(num_letters)(y))


def translate(model, read, letters):
    """Returns what the model writes, the likeliest letter each time."""
    written = np.zeros((len(read), _ANSWER), "int32")
    written[:, 0] = letters.index(_START) + 1
    for place in range(_ANSWER):
        scores = model.predict({"read": read, "written": written}, batch_size=500, verbose=0)
        answer = scores[:, place].argmax(-1)
        if place + 1 < _ANSWER:
            written[:, place + 1] = answer
    texts = np.concatenate([written[:, 1:], answer[:, None]], axis=1)
    return ["".join(letters[number - 1] for number in row) for row in texts]


def main(argv):
    del argv
    keras.utils.set_random_seed(_SEED.value)
    given, wanted = make_data(np.random.default_rng(_SEED.value), _DATES.value)
    letters = sorted({*_START, *"".join(given), *"".join(wanted)})
    read, answers = as_numbers(given, letters), as_numbers(wanted, letters)
    start = np.full((len(answers), 1), letters.index(_START) + 1, "int32")
    written = np.concatenate([start, answers[:, :-1]], axis=1)

    model = build_model(len(letters) + 1, _WIDTH.value)
    model.compile(
        keras.optimizers.Adam(_LEARNING_RATE.value, global_clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    ours = slice(_TO_TEST_ON, None)
    model.fit(
        {"read": read[ours], "written": written[ours]}, answers[ours],
        batch_size=_BATCH_SIZE.value, epochs=_EPOCHS.value, verbose=2,
    )
    test = slice(_TO_TEST_ON)
    _, accuracy = model.evaluate(
        {"read": read[test], "written": written[test]}, answers[test], batch_size=500, verbose=0
    )
    print(f"letters_right={accuracy:.4f}")
    found = translate(model, read[:_TO_TEST_ON], letters)
    for text, date in list(zip(given, found, strict=False))[:3]:
        print(f"{text} -> {date}")
    right = np.mean([ours == theirs for ours, theirs in zip(found, wanted, strict=False)])
    print(f"exactly_right={right:.4f}")


if __name__ == "__main__":
    app.run(main)
