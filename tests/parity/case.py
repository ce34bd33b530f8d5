"""What is one row of the parity table?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

WORLDS = ("2", "4", "2 workers", "3 workers")
NO_THIRD_WORKER = ("2", "4", "2 workers")  # for rows to which a third one is like the second
BOTH = ("evaluate", "predict")


@dataclasses.dataclass(frozen=True)
class Api:
    """How a row is run: by stock Keras, or by tfdist.

    Attributes:
        scope: Gives the context in which models are made and loaded.
        fit: `fit(model, ...)`, with the arguments of `keras.Model.fit`; so the other two.
        evaluate: `evaluate(model, ...)`.
        predict: `predict(model, ...)`.
    """

    scope: Callable[[], Any]
    fit: Callable[..., Any]
    evaluate: Callable[..., Any]
    predict: Callable[..., Any]


Program = Callable[[Any, Mapping[str, Any], Api], list[Any]]


def one_fit(model: Any, arguments: Mapping[str, Any], api: Api) -> list[Any]:
    """The program of most rows: trains once; returns the `History` in a list."""
    return [api.fit(model, **arguments)]


@dataclasses.dataclass(frozen=True)
class Case:
    """One row: a model, its data, how it is trained, and what has to come out.

    Attributes:
        name: What the row is about; unique.
        build: Makes the compiled model.
        data: Makes the data: `fit`'s arguments `x`, `y`, `sample_weight`, ...
        fit: `fit`'s other arguments; 2 epochs where it says nothing.
        batch_size: Examples of a batch, where `fit` says nothing and the data is arrays.
        program: What is done with model and data; returns the models' histories.
        then: Which of "evaluate" and "predict" are done after it, on the same data. Each is traced
            anew, so it is done where the row may change what it gives.
        floatx: Keras's default dtype.
        tolerance: Largest difference, relative to the larger of 1 and the number.
        refused: Whether Keras refuses the row on one device, and so tfdist has to.
        static_shapes: Whether tfdist pads every batch to one shape.
        length_buckets: The lengths that tfdist pads batches of several lengths to.
        worlds: Where the row runs; see `worlds.py`.
        quick: Whether it belongs to the quick selection.
        plain: Makes the same model without what the row is about, where that changes no number:
            stock Keras trains this one on one device.
        check: Further checks of the trained model, `check(model)`; raises AssertionError.
        parity: Whether the outcomes have to agree at all; False where `check` alone decides.
    """

    name: str
    build: Callable[[], Any]
    data: Callable[[], dict[str, Any]]
    fit: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    batch_size: int = 7
    program: Program = one_fit
    then: tuple[str, ...] = ("evaluate",)
    floatx: str = "float64"
    tolerance: float = 1e-9
    refused: bool = False
    static_shapes: bool = False
    length_buckets: tuple[int, ...] | None = None
    worlds: tuple[str, ...] = ("2", "2 workers")
    quick: bool = False
    plain: Callable[[], Any] | None = None
    check: Callable[[Any], None] | None = None
    parity: bool = True

    def shapes(self) -> dict[str, Any]:
        """Returns tfdist's own arguments that say which shapes batches are given."""
        static_shapes = None if self.length_buckets else self.static_shapes
        return {"static_shapes": static_shapes, "length_buckets": self.length_buckets}

    def arguments(self) -> dict[str, Any]:
        """Returns all arguments of `fit`."""
        data = self.data()
        made_of_rows = hasattr(data["x"], "shape") or isinstance(data["x"], (dict, list, tuple))
        defaults = {"epochs": 2, "shuffle": False, "verbose": 0}
        if made_of_rows:
            defaults["batch_size"] = self.batch_size
        return {**defaults, **self.fit, **data}
