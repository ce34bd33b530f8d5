"""Why does a step mean something else where its rows are split, and what is the cure?

What a difference looks like tells most of it: a factor comes of a sum, for example. A graph shows
which operations draw by themselves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfdist.compat.tf_internals import bodies_of
from tfdist.global_batch.randomness import SEVERAL_ROWS

# Operations that draw from a generator of their own, which no seed of Keras reaches.
_DRAWING = {
    "Multinomial", "ParameterizedTruncatedNormal", "RandomGamma", "RandomPoisson",
    "RandomPoissonV2", "RandomShuffle", "RandomStandardNormal", "RandomUniform", "RandomUniformInt",
    "StatefulRandomBinomial", "StatefulStandardNormal", "StatefulStandardNormalV2",
    "StatefulTruncatedNormal", "StatefulUniform", "StatefulUniformFullInt", "StatefulUniformInt",
    "TruncatedNormal",
}  # fmt: skip
_NEAR = 0.2  # of a factor: unequal parts of a batch make it inexact


@dataclasses.dataclass(frozen=True)
class Found:
    """The first tensor that differs between the two computations of a step.

    Attributes:
        group: "gradient", "state", "log" or "output".
        name: The variable's path, the log's name, or the output's number.
        whole: Its values with all rows on one replica.
        split: Its values with the rows split; of the replica that differs.
    """

    group: str
    name: str
    whole: np.ndarray
    split: np.ndarray

    @property
    def values(self) -> tuple[float, float]:
        """The entry that differs most: what it is split, and whole."""
        split, whole = (np.asarray(v, np.float64).reshape(-1) for v in (self.split, self.whole))
        at = int(np.argmax(np.abs(split - whole)))
        return float(split[at]), float(whole[at])

    @property
    def factor(self) -> float:
        """The number that takes the whole values nearest to the split ones; NaN if none is near."""
        split, whole = (np.asarray(v, np.float64).reshape(-1) for v in (self.split, self.whole))
        if not whole.any():
            return float("nan")
        factor = float(split @ whole / (whole @ whole))
        rest = float(np.linalg.norm(split - factor * whole))
        return factor if rest <= _NEAR * float(np.linalg.norm(split)) else float("nan")


def cause(
    found: Found, evenly: Found | None, *, replicas: int, code: Sequence[str],
    draws: Sequence[str], several: Sequence[str] = (),
) -> str:
    """Returns the likely cause of a difference, and the cure, in two sentences.

    Args:
        found: What differs.
        evenly: What differs where all replicas have the same number of rows; None if nothing does.
        replicas: Replicas of all workers together.
        code: The model's own code, see step/own_code.py.
        draws: What draws by itself, see `drawing`.
        several: Draws of several rows an example, see `of_several_rows`.
    """
    where = ", ".join(code[:3]) + (", ..." if len(code) > 3 else "")
    if draws:
        return (
            f"{', '.join(draws[:3])} draws numbers that bypass Keras, so each replica has its own. "
            "Draw with keras.random and a keras.random.SeedGenerator, which give every row what it "
            "gets on one device."
        )
    if several:
        return (
            f"in {where}, {several[0]} is taken for one of several rows an example, next to each "
            "other. Where they are of several batches, one after the other (a concatenation of "
            "real and generated ones, say), draw for each of them by itself, or use batches "
            "without drop_remainder=True."
        )
    factor = evenly.factor if evenly else float("nan")
    if abs(factor * replicas - 1) <= _NEAR:
        return (
            f"with equal parts it is {factor:.3g} of what it is on one device: a sum over the "
            f"batch in {where}, where one number of each replica's rows counts as a mean. Take the "
            "mean (keras.ops.mean), or leave it to Keras to sum one value a row (add_loss, a Loss "
            "with reduction='sum', the values of a metric)."
        )
    if found.group == "state":
        return (
            f"{where} assigns this state from the rows that one replica has, so that the replicas "
            "hold different states. Assign what does not depend on the rows, or what all replicas "
            "agree on, such as the mean of their values (an all_reduce of the replica context)."
        )
    if abs(factor / replicas - 1) <= _NEAR:
        return (
            f"with equal parts it is {factor:.3g} times what it is on one device: {where} counts "
            "something of the whole batch once in each replica, or assigns a metric's state, of "
            "which the replicas' sum is shown. Count rows, or add to the state what comes of rows "
            "alone."
        )
    if evenly is None:
        return (
            f"with equal parts it is right: {where} takes a mean of each replica's rows and gives "
            "it the same weight, whatever their number. Add up sums, and divide by the number of "
            "all rows, or use batches that the replicas divide."
        )
    if found.group == "output":
        return (
            f"{where} makes an output of other examples than its own: of statistics or a sum of "
            "the batch, or of draws. Use tfdist.all_rows, which gives the rows of all replicas, or "
            "BatchNormalization(synchronized=True) for statistics."
        )
    if found.group == "log":
        return (
            f"{where} makes this number of one replica's rows in a way that does not add up: a "
            "mean of means, a state that is assigned instead of added to, or a number of the whole "
            "batch. Add sums and counts of rows to the states of a metric, or give a metric "
            "function that returns one number to compile, which computes it on all rows."
        )
    return (
        f"{where} compares the examples of a batch with each other, or takes statistics or a sum "
        "of them: means, norms, maxima, counts of a mask. Use tfdist.all_rows, which gives the "
        "rows of all replicas, or a loss function given to compile that returns one number, which "
        "sees them too, and BatchNormalization(synchronized=True) for statistics."
    )


def drawing(graphs: Sequence[Any], *, numpy_moved: bool) -> list[str]:
    """Names what draws random numbers by itself in traced steps.

    Args:
        graphs: The traced graphs.
        numpy_moved: Whether tracing drew from Python's or NumPy's generators.
    """
    names = [
        f"{node.name.rpartition('/')[2]!r} ({node.op})"
        for graph in graphs for nodes in bodies_of(graph.as_graph_def())
        for node in nodes if node.op in _DRAWING
    ]
    if numpy_moved:
        names.append("NumPy's or Python's random, once while the step is traced,")
    return list(dict.fromkeys(names))


def of_several_rows(graphs: Sequence[Any]) -> list[str]:
    """Names the draws in traced steps whose number of rows is a multiple of the replica's."""
    found = [told for graph in graphs for told in graph.get_collection(SEVERAL_ROWS)]
    return list(dict.fromkeys(found))
