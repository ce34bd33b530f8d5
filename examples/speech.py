"""Understands eight spoken commands, by voices that it has not heard: a CNN on mel spectrograms.

    apt-get install espeak-ng
    python examples/speech.py
    tfdist run --workers=2 --device=cpu examples/speech.py

Data: spoken by the synthesiser espeak-ng of Debian (GPL; no recordings of people) when the program
starts: each command by ten voices at some speeds and pitches, with noise. Three voices, a woman's,
a man's and a croaking one, are held out to test on; one in eight would be right by chance.
"""

import concurrent.futures
import io
import itertools
import subprocess
import wave

import keras
import numpy as np
from absl import app, flags
from keras import layers

_EPOCHS = flags.DEFINE_integer("epochs", 40, "Passes over the spoken commands.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Commands a step, over all replicas.")
_TAKES = flags.DEFINE_integer("takes", 4, "Speeds and pitches at which a voice speaks, 1 to 6.")
_SEED = flags.DEFINE_integer("seed", 1, "Of the noise, the weights and dropout.")
_WORDS = ("stop", "go", "left", "right", "up", "down", "yes", "no")
_HEARD, _HELD_OUT = ("m1", "m2", "m3", "m4", "m6", "f1", "f2"), ("m5", "f3", "croak")
_WAYS = [*itertools.product((150, 120, 190), (50, 65))]  # words a minute, pitch
_RATE, _LENGTH = 11025, 8192  # samples a second; samples of a command


def speak(word, voice, speed, pitch):
    """Returns a command as samples from -1 to 1, cut or filled up to one length."""
    command = ["espeak-ng", "-v", f"en-us+{voice}", "-s", str(speed), "-p", str(pitch), "--stdout"]
    told = subprocess.run([*command, word], capture_output=True, check=True).stdout
    with wave.open(io.BytesIO(told)) as sound:
        samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2") / 32768
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    samples = samples[loud[0] :: 2][:_LENGTH]  # from 22,050 samples a second
    return np.pad(samples, (0, _LENGTH - len(samples))).astype("float32")


def load(voices, takes, seed):
    """Returns commands spoken by these voices, with noise, and which word each is."""
    asked = [(word, voice, *way) for word in _WORDS for voice in voices for way in _WAYS[:takes]]
    try:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            x = np.stack([*pool.map(lambda one: speak(*one), asked)])
    except FileNotFoundError:
        raise SystemExit("espeak-ng is not installed. Try: apt-get install espeak-ng") from None
    noise = np.random.default_rng(seed).normal(0, 0.02, x.shape)
    return x + noise.astype("float32"), np.array([_WORDS.index(one[0]) for one in asked])


def build_model():
    """Returns a CNN on the spectrogram, which is a layer of the model."""
    model = keras.Sequential([
        keras.Input((_LENGTH,)),
        layers.MelSpectrogram(
            fft_length=512, sequence_stride=256, num_mel_bins=32, sampling_rate=_RATE,
            min_freq=60, max_freq=5000,
        ),
        layers.Rescaling(1 / 40),
        layers.Reshape((32, -1, 1)),
    ])
    for filters in (16, 32):
        model.add(layers.Conv2D(filters, 3, padding="same", use_bias=False))
        model.add(layers.BatchNormalization(momentum=0.9, synchronized=True))
        model.add(layers.Activation("gelu"))
        model.add(layers.MaxPooling2D())
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dropout(0.2))
    model.add(layers.Dense(len(_WORDS)))
    return model


def main(argv):
    del argv
    keras.utils.set_random_seed(_SEED.value)
    x, y = load(_HEARD, _TAKES.value, _SEED.value)
    model = build_model()
    model.compile(
        keras.optimizers.Adam(5e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(x, y, batch_size=_BATCH_SIZE.value, epochs=_EPOCHS.value, verbose=2)
    x_test, y_test = load(_HELD_OUT, _TAKES.value, _SEED.value + 1)
    _, accuracy = model.evaluate(x_test, y_test, verbose=0)
    print(f"test_accuracy={accuracy:.4f}")


if __name__ == "__main__":
    app.run(main)
