"""Does the first step mean the same with its rows split over the replicas as whole on one?

What code that is not Keras's means for a part of a batch cannot be read off, but it can be tried.

Read in this order; each file imports from those above it only:

1. likely_cause.py: why a step means something else where its rows are split.
2. differences.py: where two computations of one step differ, beyond rounding.
3. rankings.py: by which numbers rows are ranked, so that the parts of a batch differ.
4. rows.py: which rows it gets in both ways.
5. both_ways.py: how one step is computed twice, and all put back.
6. found.py: what has been found of a model's steps.
7. checking.py: when the first step is checked, and what is said.
"""
