"""All rows of the parity table, by topic."""

from __future__ import annotations

from parity import (
    adapters,
    batches,
    comparisons,
    custom_steps,
    cut_datasets,
    layers,
    lookups,
    loop_options,
    losses,
    metrics,
    model_losses,
    models_by_shape,
    optimizers,
    options,
    own_gradients,
    pipelines,
    precision,
    randomness,
    recomputation,
    sharding,
    static_lengths,
    static_shapes,
)

TOPICS = {
    "clipping, accumulation, averaged weights": options.ROWS,
    "optimizers, schedules, weight decay": optimizers.ROWS,
    "optimizers in slices": sharding.ROWS,
    "mixed precision and overflows": precision.ROWS,
    "losses, reductions, weights, masks": losses.ROWS,
    "losses of the model's own": model_losses.ROWS,
    "sizes of batches": batches.ROWS,
    "datasets whose examples are made one by one": pipelines.ROWS + cut_datasets.ROWS,
    "layers": layers.ROWS,
    "adapters, and weights in int8 and int4": adapters.ROWS,
    "tables looked up once for a batch": lookups.ROWS,
    "rematerialization": recomputation.ROWS,
    "comparisons of examples": comparisons.ROWS,
    "kinds of models": models_by_shape.ROWS,
    "randomness": randomness.ROWS,
    "options of the loop": loop_options.ROWS,
    "static shapes": static_shapes.ROWS + static_lengths.ROWS,
    "metrics": metrics.ROWS,
    "training steps of one's own": custom_steps.ROWS + own_gradients.ROWS,
}
ROWS = tuple(row for rows in TOPICS.values() for row in rows)
