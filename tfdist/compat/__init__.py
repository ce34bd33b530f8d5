"""Which private names of Keras and TensorFlow does everything else depend on?

No other folder uses anything but the public API, so for a new release only these files need review.

Read in this order; each file imports from those above it only:

1. notes.py: what tfdist notes on objects that are not its own.
2. private_names.py: whether this Keras and this TensorFlow have the names; why each is needed.
3. keras_internals.py: the names of Keras: its trainer, its data adapters, its seeds.
4. model_files.py: how a model is saved into memory.
5. trainer_methods.py: how calls of Keras's own `fit` and the like come to tfdist.
6. distributed_variables.py: what a variable of several replicas cannot do.
7. replacing.py: what of Keras a step replaces while it is traced.
8. tf_internals.py: the names of TensorFlow.
9. tf_datasets.py: the names that tell what a `tf.data.Dataset` is made of.
10. tensor_notes.py: what Keras notes on a tensor besides its values.
11. optimizer_slices.py: how an optimizer comes to update parts of the weights.
12. untraced.py: what must run outside the step that is being traced.
13. graph_passes.py: which of TensorFlow's passes over the graph of a loop are left out.
14. other_seed.py: how the process has another seed for a while.
"""
