"""How is a `tf.data.Dataset` read by all workers, each making its own rows only?

Read in this order; each file imports from those above it only:

1. pipeline.py: how a dataset makes its batches, and of what.
2. own_rows.py: how a worker makes only its own rows of them.
3. tf_data.py: how a dataset becomes a stream of global batches.
"""
