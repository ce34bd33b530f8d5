"""Tells from a sentence of documentation which library it is of: a small transformer on words.

    pip install scikit-learn pandas
    python examples/text.py
    tfdist run --workers=2 --device=cpu examples/text.py

Data: the first paragraphs of docstrings of four libraries as they are installed (keras: Apache-2.0;
scipy, pandas, scikit-learn: BSD), some hundreds of each, read without importing them; another
version has some others. A fifth of them, by the name of their file, is held out to test on. Names
of the libraries are left out of the text. One in four would be right by chance.
"""

import ast
import importlib.util
import pathlib
import re
import zlib

import keras
import numpy as np
from absl import app, flags
from keras import layers, ops

_EPOCHS = flags.DEFINE_integer("epochs", 3, "Passes over the sentences.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Sentences a step, over all replicas.")
_MOST = flags.DEFINE_integer("most", 900, "Sentences of a library that are read, about.")
_SEED = flags.DEFINE_integer("seed", 1, "Of the weights and dropout.")
_LIBRARIES = ("keras", "scipy", "pandas", "sklearn")
_WORDS, _LENGTH, _WIDTH = 3000, 32, 48


def sentences(library, most):
    """Returns the first paragraph of docstrings, and whether each is held out."""
    folder = pathlib.Path(importlib.util.find_spec(library).submodule_search_locations[0])
    found = {}
    for path in sorted(folder.rglob("*.py")):
        if len(found) >= most:
            break
        if "test" in path.as_posix().removeprefix(folder.as_posix()):
            continue
        is_held_out = zlib.crc32(path.name.encode()) % 5 == 0
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                text = " ".join((ast.get_docstring(node) or "").partition("\n\n")[0].split())
                text = re.sub(r"(?i)keras|tensorflow|scipy|pandas|sklearn|scikit-learn", "", text)
                if len(text) > 30:
                    found.setdefault(text, is_held_out)
    return found


def load(most):
    """Returns texts and the number of their library, to train on and to test on."""
    parts = {False: ([], []), True: ([], [])}
    for number, library in enumerate(_LIBRARIES):
        for text, is_held_out in sentences(library, most).items():
            parts[is_held_out][0].append(text)
            parts[is_held_out][1].append(number)
    return [(texts, np.array(numbers)) for texts, numbers in (parts[False], parts[True])]


def build_model():
    """Returns a transformer of one block; what pads a sentence is masked."""
    words = keras.Input((_LENGTH,), dtype="int32")
    x = layers.Embedding(_WORDS, _WIDTH, mask_zero=True)(words)
    x = x + layers.Embedding(_LENGTH, _WIDTH)(ops.arange(_LENGTH))
    mask = ops.not_equal(words, 0)
    seen = layers.MultiHeadAttention(4, _WIDTH // 4)(x, x, attention_mask=mask[:, None, :])
    x = layers.LayerNormalization()(x + layers.Dropout(0.2)(seen))
    x = layers.LayerNormalization()(x + layers.Dense(_WIDTH, activation="gelu")(x))
    weights = ops.cast(mask, x.dtype)[..., None]
    x = ops.sum(x * weights, axis=1) / ops.sum(weights, axis=1)  # the mean of what is not padding
    return keras.Model(words, layers.Dense(len(_LIBRARIES))(layers.Dropout(0.3)(x)))


def main(argv):
    del argv
    keras.utils.set_random_seed(_SEED.value)
    (x, y), (x_test, y_test) = load(_MOST.value)
    to_numbers = layers.TextVectorization(_WORDS, output_sequence_length=_LENGTH)
    to_numbers.adapt(x)
    x, x_test = (np.asarray(to_numbers(texts), "int32") for texts in (x, x_test))
    model = build_model()
    model.compile(
        keras.optimizers.AdamW(2e-3, weight_decay=0.01, global_clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(x, y, batch_size=_BATCH_SIZE.value, epochs=_EPOCHS.value, verbose=2)
    _, accuracy = model.evaluate(x_test, y_test, verbose=0)
    print(f"test_accuracy={accuracy:.4f} of {len(x_test)} sentences")


if __name__ == "__main__":
    app.run(main)
