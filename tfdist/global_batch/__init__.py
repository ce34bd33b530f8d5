"""What do Keras's losses, metrics, layers and draws mean when a replica sees only its rows?

They mean what they mean on one device for the global batch. Each file covers one kind of them, and
tracing.py puts them in place of Keras's own while a replica's function is traced.

Read in this order; each file imports from those above it only:

1. position.py: which rows of the global batch a replica holds.
2. padded_timesteps.py: which timesteps of a sequence count, where lengths are padded.
3. padded_rows.py: which rows count, where batches are padded to one shape.
4. all_rows.py: the rows of all replicas, for whoever compares examples.
5. example_losses.py: the loss of each example by itself.
6. whole_batch.py: losses and metrics that reduce a whole batch to one number.
7. losses_metrics.py: losses and metrics that are means and sums.
8. row_losses.py: losses with one value a row, which Keras or a tape sums.
9. activity_losses.py: what activity regularizers add.
10. batch_norm.py: how a BatchNormalization sees the rows of all replicas.
11. blocks.py: whether rows are those of several batches, one after the other.
12. philox.py: which numbers of a draw are a replica's rows.
13. randomness.py: what a replica draws.
14. unsplit_layers.py: which layers cannot mean it, and are refused.
15. tracing.py: how a replica's function means the global batch while it is traced.
"""
