"""Are all workers called alike, and do all replicas stay alike?

Read in this order:

1. same_call.py: whether all workers were called alike.
2. fingerprints.py: whether all replicas still hold the same weights.
3. divergence.py: whether they do while nobody asks.
4. guard.py: what is checked while training runs.
"""
