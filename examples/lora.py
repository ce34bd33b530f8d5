"""Teaches a language model of prose to read programs, by adapters (LoRA) on its frozen weights.

    python examples/lora.py
    tfdist run --workers=2 --device=cpu examples/lora.py --rank=8

The backbone is KerasHub's GPT-2 (docs/large_models.md says how to install it), made from its
configuration. No weights are downloaded: it is trained on the prose first, which stands for that.

Data: English from Python's language reference, and the source of some of its modules (PSF licence),
as both come with Python. The metric is bits a letter on source that is not trained on.
"""

import importlib.util
import math
import pathlib
from pydoc_data import topics

import keras
import keras_hub
from absl import app, flags

_EPOCHS = flags.DEFINE_integer("epochs", 6, "Passes over the prose.")
_LORA_EPOCHS = flags.DEFINE_integer("lora_epochs", 4, "Passes over the programs.")
_RANK = flags.DEFINE_integer("rank", 8, "Of the adapters.")
_LETTERS = flags.DEFINE_integer("letters", 400_000, "How much of each text is read.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Excerpts a step, over all replicas.")
_LENGTH = flags.DEFINE_integer("length", 96, "Letters of an excerpt.")
_WIDTH = flags.DEFINE_integer("width", 96, "Features of a letter.")
_LAYERS = flags.DEFINE_integer("layers", 2, "Of the backbone.")
_PROMPT = flags.DEFINE_string("prompt", "    def ", "What the sample begins with.")
_SAMPLE = flags.DEFINE_integer("sample", 60, "Letters that are written at the end.")
_SEED = flags.DEFINE_integer("seed", 1, "Of weights, dropout and the order of the excerpts.")
_ALPHABET = [chr(code) for code in range(32, 127)] + ["\n"]
# The layers of a transformer's block that get adapters.
_ADAPTED = [
    "query", "key", "value", "attention_output", "feedforward_intermediate_dense",
    "feedforward_output_dense",
]
_MODULES = ("argparse", "tarfile", "difflib", "pickle", "subprocess", "typing", "mailbox", "ast")


def prose():
    """Returns the manual."""
    return "\n".join(topics.topics[name] for name in sorted(topics.topics))


def programs():
    """Returns the source of modules, a piece of each by turns."""
    files = [pathlib.Path(importlib.util.find_spec(name).origin) for name in _MODULES]
    return "".join(file.read_text(encoding="utf-8") for file in files)


def excerpts(text, letters, length):
    """Returns excerpts of a text to train on, and every twentieth of them to test with."""
    text = "".join(letter for letter in text if letter in _ALPHABET)[:letters]
    found = [text[at : at + length] for at in range(0, len(text), length)]
    return [one for n, one in enumerate(found) if n % 20], found[::20]


def build_model(length, width, num_layers):
    """Returns GPT-2 with a token for each letter."""
    # As its tokenizer writes letters. It pads with number 0, so that the end has another one.
    tokens = [*_ALPHABET[1:-1], "\u0120", "\u010a", "<|endoftext|>"]
    tokenizer = keras_hub.models.GPT2Tokenizer({token: n for n, token in enumerate(tokens)}, [])
    backbone = keras_hub.models.GPT2Backbone(
        len(tokens), num_layers=num_layers, num_heads=4, hidden_dim=width,
        intermediate_dim=4 * width, max_sequence_length=length,
    )
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(tokenizer, length)
    return keras_hub.models.GPT2CausalLM(backbone, preprocessor)


def train(model, texts, *, learning_rate, epochs):
    """Trains what is trainable, which a model learns of when it is compiled."""
    steps = -(-len(texts) // _BATCH_SIZE.value) * epochs
    rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    model.compile(keras.optimizers.AdamW(rate), weighted_metrics=[], sampler="greedy")
    model.fit(texts, batch_size=_BATCH_SIZE.value, epochs=epochs, verbose=2)


def bits_a_letter(model, texts):
    loss = model.evaluate(texts, batch_size=_BATCH_SIZE.value, verbose=0)
    return loss / math.log(2)


def main(argv):
    del argv
    keras.utils.set_random_seed(_SEED.value)
    length = _LENGTH.value
    model = build_model(length, _WIDTH.value, _LAYERS.value)
    read, _ = excerpts(prose(), _LETTERS.value, length - 2)
    train(model, read, learning_rate=3e-3, epochs=_EPOCHS.value)

    read, held_out = excerpts(programs(), _LETTERS.value, length - 2)
    print(f"bits_before={bits_a_letter(model, held_out):.4f}")
    model.backbone.enable_lora(_RANK.value, target_layer_names=_ADAPTED)
    trained = sum(weight.value.shape.num_elements() for weight in model.trainable_weights)
    print(f"adapters: {trained:,} of {model.count_params():,} numbers are trained")
    train(model, read, learning_rate=1e-2, epochs=_LORA_EPOCHS.value)
    print(model.generate(_PROMPT.value, max_length=len(_PROMPT.value) + _SAMPLE.value))
    print(f"bits_a_letter={bits_a_letter(model, held_out):.4f}")


if __name__ == "__main__":
    app.run(main)
