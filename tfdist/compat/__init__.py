"""Which private names of Keras and TensorFlow does all the rest lean on?

No other folder reaches past the public API, so a new release of either is these files to read.

Read in this order; each file imports from those above it only:

1. notes.py: what tfdist notes on objects that are not its own.
2. keras_internals.py: the names of Keras: its trainer, its data adapters, its seeds.
3. replacing.py: what of Keras a step replaces while it is traced.
4. tf_internals.py: the names of TensorFlow.
5. tensor_notes.py: what Keras notes on a tensor besides its values.
6. untraced.py: what has to run as if no step were being traced.
"""
