"""Rows: how many steps at a time, compiled by XLA or not traced at all."""

from __future__ import annotations

import keras

from parity import data, models
from parity.case import BOTH, NO_THIRD_WORKER, WORLDS, Case

layers = keras.layers


def _pipeline(**options: object) -> models.Build:
    return models.mlp(
        lambda: keras.optimizers.Adam(0.02, clipnorm=0.1), lambda: layers.Dropout(0.3), **options
    )


ROWS = (
    *(
        Case(
            name=f"steps_per_execution={steps}",
            build=_pipeline(steps_per_execution=steps),
            data=data.plain,
            fit={"batch_size": 4},  # 6 steps: 4, 5 and 7 do not divide it
            then=BOTH if steps == 7 else (),
            worlds={7: WORLDS, 2: ("2",)}.get(steps, ("2", "2 workers")),
        )
        for steps in (1, 2, 3, 7, 50)
    ),
    Case("run_eagerly", _pipeline(run_eagerly=True), data.plain, then=BOTH, worlds=WORLDS),
    Case(
        name="jit_compile",
        build=_pipeline(jit_compile=True),
        data=data.plain,
        then=BOTH,
        worlds=WORLDS,
    ),
    # Compiled, a normal number depends on how many there are: of 8 rows, and of the last 6 or 7.
    Case(
        name="jit_compile, noise",
        build=models.mlp(
            models.momentum, lambda: keras.layers.GaussianNoise(0.3), jit_compile=True
        ),
        data=data.plain,
        batch_size=8,
        then=(),
        worlds=NO_THIRD_WORKER,
    ),
    Case(
        name="jit_compile, embedding and regularizer",
        build=models.bag_of_words(lambda: keras.optimizers.Adam(0.02), jit_compile=True),
        data=data.words,
    ),
    Case(
        name="jit_compile, masked mean",
        build=models.tagger(
            lambda: keras.optimizers.Adam(0.02, clipnorm=0.1),
            lambda: keras.layers.LSTM(3, return_sequences=True),
            lambda: keras.layers.Dropout(0.3),
            jit_compile=True,
        ),
        data=data.tagged,
        worlds=NO_THIRD_WORKER,
    ),
    Case(
        name="jit_compile, mean_with_sample_weight",
        build=models.mlp(
            made=lambda: {
                "loss": keras.losses.SparseCategoricalCrossentropy(
                    reduction="mean_with_sample_weight"
                )
            },
            jit_compile=True,
        ),
        data=lambda: data.plain(sample_weight=data.weights()),
    ),
    Case(
        name="jit_compile=auto",
        build=_pipeline(jit_compile="auto"),
        data=data.plain,
        then=(),
        worlds=("2",),
    ),
)
