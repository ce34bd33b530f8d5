"""What is one update of the weights?

Forward and backward on each replica, one reduction, one apply. The list of a model's weights and
other variables is here as well, since a step needs it first; checkpoint/ saves the same ones.

Read in this order; each file imports from those above it only:

1. variables.py: which variables training touches.
2. own_code.py: which code of a model is not Keras's.
3. replicas.py: how a function runs on every replica's rows of a global batch.
4. jit_compile.py: how XLA compiles a replica's part of a step that needs sums over the replicas.
5. tpu_step.py: a step that every replica runs as one program.
6. error_feedback.py: what happens to the rounding error of a gradient.
7. dependence.py: whether a tensor depends on the rows of the batch.
8. metric_results.py: which log of a step is which metric's result.
9. logs.py: what a step reports besides the metrics.
10. lookups.py: which rows of a table's gradient come from the rows of the batch.
11. update.py: one update.
12. from_replica.py: the same, asked for by a replica.
13. uses.py: whether a gradient is used for something before it is applied.
14. own_gradients.py: the gradients that a step of the model's own sees.
15. finite.py: whether every gradient is finite, and what happens if one is not.
16. rounds.py: which sums are taken once per several steps.
17. accumulation.py: accumulated gradients: one reduction per update.
18. local_steps.py: replicas that train on their own for some steps, and then average their weights.
19. rules.py: which rule trains this model.
20. whole.py: a step that every replica computes on all rows.
"""
