"""Recommends things to people: a two-tower model whose tables are large, and touched in few rows.

    python examples/recommendation.py
    tfdist run --workers=2 --device=cpu examples/recommendation.py --people=100000

Data: made, not real. Each person and each thing has a hidden taste of 8 numbers. A person takes
the best, by taste and chance (Gumbel noise), of 30 things that are shown, popular ones more often.
The metric is how often the next thing taken is among the model's first ten of 100 candidates: 0.1
by chance. Rows of embeddings travel between workers as rows, and not the whole tables.
"""

import keras
import numpy as np
from absl import app, flags
from keras import layers, ops

_PEOPLE = flags.DEFINE_integer("people", 3000, "People who take things.")
_THINGS = flags.DEFINE_integer("things", 1000, "Things to take.")
_TAKEN = flags.DEFINE_integer("taken", 20, "Things that a person has taken.")
_EPOCHS = flags.DEFINE_integer("epochs", 4, "Passes over what was taken.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Pairs a step, over all replicas.")
_WIDTH = flags.DEFINE_integer("width", 16, "Numbers that stand for a person or a thing.")
_SEED = flags.DEFINE_integer("seed", 1, "Of the data and the weights.")
_SHOWN, _CANDIDATES = 30, 100


def make(people, things, taken, seed):
    """Returns what each person took, in order, and candidates of which the first is taken next."""
    draws = np.random.default_rng(seed)
    taste, kind = draws.normal(size=(people, 8)), draws.normal(size=(things, 8))
    popular = 1 / (5 + np.arange(things))
    chosen = np.zeros((people, taken + 1), "int32")
    for turn in range(taken + 1):
        shown = draws.choice(things, (people, _SHOWN), p=popular / popular.sum())
        liking = np.einsum("pk,psk->ps", taste, kind[shown]) + draws.gumbel(size=shown.shape)
        chosen[:, turn] = shown[np.arange(people), liking.argmax(axis=1)]
    others = draws.choice(things, (people, _CANDIDATES - 1), p=popular / popular.sum())
    return chosen[:, :-1], np.concatenate([chosen[:, -1:], others], axis=1).astype("int32")


class TwoTowers(keras.Model):
    """The nearer a person's numbers are to a thing's, the more likely it is taken."""

    def __init__(self, people, things, width):
        super().__init__()
        self.person = layers.Embedding(people, width)
        self.thing = layers.Embedding(things, width)
        self.bias = layers.Embedding(things, 1, embeddings_initializer="zeros")

    def call(self, pair):
        person, things = self.person(pair["person"]), self.thing(pair["things"])
        return ops.einsum("bk,btk->bt", person, things) + self.bias(pair["things"])[..., 0]


def main(argv):
    del argv
    keras.utils.set_random_seed(_SEED.value)
    people, things = _PEOPLE.value, _THINGS.value
    taken, candidates = make(people, things, _TAKEN.value, _SEED.value)
    draws = np.random.default_rng(_SEED.value + 1)
    who = np.repeat(np.arange(people, dtype="int32"), _TAKEN.value)
    # Beside each thing taken stand eight that others took: which of them was it?
    others = draws.choice(taken.ravel(), (len(who), 8)).astype("int32")
    shown = np.concatenate([taken.reshape(-1, 1), others], axis=1)
    model = TwoTowers(people, things, _WIDTH.value)
    model.compile(
        keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    model.fit(
        {"person": who, "things": shown}, np.zeros(len(who), "int32"),
        batch_size=_BATCH_SIZE.value, epochs=_EPOCHS.value, verbose=2,
    )
    scores = model.predict(
        {"person": np.arange(people, dtype="int32"), "things": candidates},
        batch_size=_BATCH_SIZE.value, verbose=0,
    )
    better = (scores[:, 1:] > scores[:, :1]).sum(axis=1)
    print(f"hit_rate_at_10={(better < 10).mean():.4f}")


if __name__ == "__main__":
    app.run(main)
