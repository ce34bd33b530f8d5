"""Does training on many replicas give what stock Keras gives on one device? The table's parts.

Read in this order: case.py (what a row is), harness.py (run a row, compare two outcomes), worlds.py
(where a row runs), stored.py (outcomes of stock Keras that are kept), worker.py (the program of
each process of a job), jobs.py (which rows run together), models.py and data.py (what the rows are
made of), then the rows by topic: optimizers.py, options.py, precision.py, losses.py,
model_losses.py, batches.py, layers.py, recomputation.py, models_by_shape.py, randomness.py,
loop_options.py, static_shapes.py, static_lengths.py, metrics.py, custom_steps.py. `table.ROWS` is
all of them, selection.py and rotation.py say which are tested where, remake.py makes anew what is
kept, and verdicts.py says what came of the rows.

Beside the rows, which vary one thing at a time: axes.py (what can be chosen in a training),
trainings.py (what is trained then), and pairs.py (trainings in which each two choices meet).
"""
