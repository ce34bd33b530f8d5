"""How do epochs, validation and callbacks run, as in Keras, and what is checked meanwhile?

This is the outer loop, in Python: it calls the traced loops of loop/, and acts between the calls.

Read in this order; each file imports from those above it only:

1. options.py: what `fit` takes besides Keras's own arguments.
2. checks/: whether all workers were called alike, and all replicas stay alike.
3. time_split.py: the parts of a step's time, and what could be done about them.
4. profiling.py: where the time of a run went.
5. bucket_tuning.py: which sizes of pieces and buckets are fastest here.
6. callback_files.py: which worker's callbacks write files.
7. shared_events.py: what callbacks need when several workers run them.
8. building.py: when a model's variables are created, and by what.
9. private.py: what is set up around a training that is private.
10. epochs.py: how an epoch runs.
11. predicting.py: how a model predicts for a whole feed.
12. on_batch.py: how a single batch is trained on.
13. routing.py: how a model's own `fit`, and Keras's, come to tfdist.
14. trainer.py: arguments in, results out.
15. fitting.py: `fit`, `evaluate` and `predict` as functions.
16. saving.py: which worker writes, where an unchanged program saves its model.
17. patching.py: how a program of plain Keras becomes distributed.
18. custom_loop.py: the parts of a step for a custom training loop.
"""
