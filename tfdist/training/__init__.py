"""How do epochs, validation and callbacks run, as in Keras, and what is checked meanwhile?

This is the outer loop, in Python: it calls the traced loops of loop/, and acts between the calls.

Read in this order; each file imports from those above it only:

1. options.py: what `fit` takes besides Keras's own arguments.
2. same_call.py: whether all workers were called alike.
3. fingerprints.py: whether all replicas still hold the same weights.
4. divergence.py: whether they do while nobody asks.
5. guard.py: what is checked while training runs.
6. time_split.py: the parts of a step's time, and what could be done about them.
7. profiling.py: where the time of a run went.
8. bucket_tuning.py: which sizes of pieces and buckets are fastest here.
9. callback_files.py: which worker's callbacks write files.
10. shared_events.py: what callbacks need when several workers run them.
11. building.py: when a model's variables are created, and by what.
12. epochs.py: how an epoch runs.
13. predicting.py: how a model predicts for a whole feed.
14. on_batch.py: how a single batch is trained on.
15. routing.py: how a model's own `fit`, and Keras's, come to tfdist.
16. trainer.py: arguments in, results out.
17. fitting.py: `fit`, `evaluate` and `predict` as functions.
18. saving.py: which worker writes, where an unchanged program saves its model.
19. patching.py: how a program of plain Keras becomes distributed.
20. custom_loop.py: the parts of a step for a custom training loop.
"""
