"""What can be chosen in a training, and which choices do not go together?

The rows of the table vary one thing at a time. A fault may sit where two things meet: dropout and a
fixed batch, Adam and a table without a batch dimension, softmax and large numbers. So trainings are
made of one value of each axis: drawn ones (house/test_parity_property.py), and the smallest set in
which each two values of two axes meet (pairs.py).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping

Training = Mapping[str, str]  # an axis, and the value chosen
Pair = frozenset[tuple[str, str]]  # two axes with a value each

AXES: dict[str, tuple[str, ...]] = {
    "data": ("arrays", "dataset", "dataset, drop_remainder", "padded", "PyDataset", "generator"),
    "rows": ("8 by 4", "10 by 4", "9 by 4", "3 by 1"),  # all, and those of a batch
    "numbers": ("ordinary", "large", "zero", "NaN in one row"),
    "mask": ("none", "timesteps", "a whole row"),
    "layer": (
        "dense", "dropout", "noise", "batch normalization", "layer normalization", "recurrent",
        "convolution", "attention", "positions", "embedding", "penalized", "activity penalized",
        "add_loss", "spectral normalization",
    ),
    "targets": ("of a row", "of timesteps"),
    "loss": ("squares", "classes", "binary", "dice"),
    "loss by": ("string", "object", "function", "own function", "own class"),
    "reduction": ("default", "sum", "mean", "mean_with_sample_weight", "none"),
    "weights": ("none", "any", "some zero", "all zero", "of classes"),
    "metric": ("none", "string", "weighted string", "object", "own function", "own class"),
    "optimizer": (
        "SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "Ftrl", "Lamb", "Nadam",
        "Adafactor",
    ),
    "option": (
        "none", "clipnorm", "clipvalue", "global_clipnorm", "accumulation", "average",
        "average, overwriting", "loss scale", "weight decay",
    ),
    "precision": ("float64", "float32", "mixed_bfloat16", "mixed_float16"),
    "jit_compile": ("False", "True"),
    "steps_per_execution": ("1", "2", "3"),
    "then": ("nothing", "validation", "evaluate", "predict"),
    "world": ("2", "4", "2 workers"),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Excluded:
    """Values of two axes of which no training has both.

    Attributes:
        values: Axis and values.
        others: Another axis and its values.
        reason: Why they do not go together.
    """

    values: tuple[str, tuple[str, ...]]
    others: tuple[str, tuple[str, ...]]
    reason: str

    def pairs(self) -> Iterator[Pair]:
        """Gives each pair that is left out."""
        (axis, values), (other, others) = self.values, self.others
        for one, two in itertools.product(values, others):
            yield frozenset({(axis, one), (other, two)})


EXCLUDED = (
    Excluded(
        ("loss by", ("string", "function", "own function")),
        ("reduction", ("sum", "mean", "mean_with_sample_weight", "none")),
        "a reduction is given to an object",
    ),
    Excluded(
        ("weights", ("of classes",)), ("loss", ("squares", "binary", "dice")),
        "Keras weighs classes that are whole numbers",
    ),
    Excluded(
        ("weights", ("of classes",)), ("targets", ("of timesteps",)),
        "Keras weighs classes of a row",
    ),
    Excluded(
        ("data", ("generator",)), ("then", ("evaluate", "predict")),
        "a generator is used up by fit",
    ),
    Excluded(
        ("reduction", ("none",)), ("layer", ("add_loss", "penalized", "activity penalized")),
        "Keras fails: it adds one number to a loss of many",
    ),
    Excluded(
        ("weights", ("of classes",)), ("data", ("generator",)),
        "Keras refuses class_weight for generators",
    ),
    Excluded(
        ("layer", ("activity penalized",)), ("precision", ("mixed_bfloat16", "mixed_float16")),
        "Keras fails: it adds a penalty in 16 bits to a loss in 32",
    ),
    Excluded(
        ("data", ("generator",)), ("steps_per_execution", ("2", "3")),
        "Keras runs on past steps_per_epoch to fill an execution; tfdist ends the epoch there",
    ),
    Excluded(
        ("option", ("loss scale",)), ("layer", ("positions", "embedding")),
        "Keras fails: it divides the rows of a table, tf.IndexedSlices, by a number",
    ),
    Excluded(
        ("jit_compile", ("True",)), ("layer", ("batch normalization",)),
        "refused: XLA compiles what a replica does, and nothing between the replicas",
    ),
    Excluded(
        ("jit_compile", ("True",)), ("loss", ("dice",)),
        "refused: XLA compiles what a replica does, and nothing between the replicas",
    ),
    Excluded(
        ("numbers", ("NaN in one row",)), ("jit_compile", ("True",)),
        "the largest of NaN and numbers is NaN for XLA, and a number for TensorFlow's kernels; "
        "tfdist compiles neither the update (Adamax) nor evaluation (accuracy), and Keras does",
    ),
    Excluded(
        ("data", ("padded",)), ("layer", ("add_loss",)),
        "refused: a loss of one number counts the rows that pad",
    ),
    Excluded(
        ("data", ("padded",)), ("metric", ("own class",)),
        "refused: a metric that ignores weights counts the rows that pad",
    ),
    Excluded(
        ("data", ("padded",)), ("layer", ("noise",)),
        "refused where XLA compiles it; else it is a row of static_shapes.py",
    ),
    Excluded(
        ("data", ("padded",)), ("loss", ("dice",)),
        "refused: a loss of one number counts the rows that pad",
    ),
    Excluded(
        ("reduction", ("none",)), ("loss", ("dice",)),
        "refused: one value for each weight, of a number for all rows",
    ),
)


def pairs_of(training: Training) -> Iterator[Pair]:
    """Gives all pairs of values of a training."""
    for two in itertools.combinations(training.items(), 2):
        yield frozenset(two)


def excluded_pairs() -> set[Pair]:
    """Returns the pairs that no training has."""
    return {pair for rule in EXCLUDED for pair in rule.pairs()}


def is_possible(training: Training) -> bool:
    """Tells whether all values of a training go together."""
    return excluded_pairs().isdisjoint(pairs_of(training))


def all_pairs() -> set[Pair]:
    """Returns the pairs of values of two axes that go together."""
    pairs = {
        frozenset({(axis, one), (other, two)})
        for axis, other in itertools.combinations(AXES, 2)
        for one, two in itertools.product(AXES[axis], AXES[other])
    }
    return pairs - excluded_pairs()
