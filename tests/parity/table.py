"""All rows of the parity table."""

from __future__ import annotations

from parity import (
    batches,
    custom_steps,
    layers,
    loop_options,
    losses,
    metrics,
    model_losses,
    models_by_shape,
    optimizers,
    options,
    precision,
    randomness,
)

ROWS = (
    *options.ROWS,
    *optimizers.ROWS,
    *precision.ROWS,
    *losses.ROWS,
    *model_losses.ROWS,
    *batches.ROWS,
    *layers.ROWS,
    *models_by_shape.ROWS,
    *randomness.ROWS,
    *loop_options.ROWS,
    *metrics.ROWS,
    *custom_steps.ROWS,
)
