"""Which replicas and workers are there, and what do they tell each other?

Replicas talk inside a step, by collectives; workers also talk between two calls of the loop.

Read in this order; each file imports from those above it only:

1. share.py: which replicas are this worker's, and which rows of a batch are a replica's.
2. collectives.py: what a replica can ask the others for.
3. compression.py: what gradients look like between replicas.
4. reduction.py: how gradients and counts travel: once, summed, in packs.
5. slices.py: how they travel where each replica needs one slice of them alone.
6. workers.py: which workers there are, and what they tell each other.
7. together.py: how a file is written where reading its content takes all workers.
8. agreement.py: whether all workers mean the same.
9. link_check.py: whether the links transfer data unchanged.
10. presence.py: whether this worker, and its peers, are at work.
"""
