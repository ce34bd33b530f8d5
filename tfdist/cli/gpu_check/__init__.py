"""Does all of tfdist work on the GPU that is here, and how fast?  One block of text to send back.

Read in this order:

1. rows.py: what is told of each thing that was tried.
2. setting.py: what is tried on, and how large.
3. models.py: which models are trained.
4. training.py: how a model is trained by stock Keras, and by tfdist.
5. card.py: which GPU this is, and how much of it is taken.
6. parity.py: whether one device gives what a CPU gives, by type.
7. logical.py: one GPU that is divided in two.
8. replicas.py: whether two replicas give what one device gives, and what watches over them.
9. probes.py: which collectives this TensorFlow has between two devices.
10. rates.py: how fast it is beside Keras, and what its input costs.
11. trace_file.py: which events a trace of the profiler holds.
12. overlap.py: whether sums and copies run while something is computed.
13. workers.py: two workers with a GPU each, over NCCL.
14. part.py: one part, in a process of its own, which may crash or hang.
15. check.py: all parts, within ten minutes.
"""
