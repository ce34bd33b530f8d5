"""What can be done with tfdist from a terminal?

Read in this order:

1. named_functions.py: the function that a flag names.
2. first_fit.py: what an unchanged program gives to its first `fit`.
3. looked_at.py: the model and batch that a command looks at.
4. run.py: an unchanged Keras program, distributed.
5. verify.py: whether it trains the same as on one device.
6. predict.py: a saved model that predicts for files.
7. encrypt.py: a file that only who holds a key can read.
8. decrypt.py: such a file, as it was.
9. preflight.py: whether it trains on a TPU that is not there.
10. estimate.py: how much memory it takes.
11. privacy.py: what private training promises.
12. timing.py: how long a step takes.
13. benchmark_slices.py: what an optimizer in slices costs and saves.
14. benchmark.py: how much faster it is on more workers.
15. render.py: a job, described to a cluster.
16. health/: what this host and its Python are, and what is known to break there.
17. env.py: that, to paste into a report.
18. gpu_check/: whether all of tfdist works on the GPU that is here.
19. doctor.py: all of this, and the verdict.
20. commands.py: which commands there are.
"""
