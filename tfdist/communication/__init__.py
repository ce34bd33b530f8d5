"""Which replicas and workers are there, and what do they tell each other?

Replicas talk inside a step, by collectives; workers also talk between two calls of the loop.

Read in this order; each file imports from those above it only:

1. share.py: which replicas are this worker's, and which rows of a batch are a replica's.
2. collectives.py: what a replica can ask the others for.
3. compression.py: what gradients look like between replicas.
4. exchange.py: how workers send each other rows of one message, and sum one tensor.
5. ring.py: in which order, and which together, gradients travel between workers with CPUs.
6. reduction.py: how gradients and counts travel: once, summed, in packs.
7. slices.py: how gradients travel where each replica needs one slice of them alone.
8. owners.py: how they travel where each variable has one replica that updates it.
9. workers.py: which workers there are, and what they tell each other.
10. together.py: how a file is written where reading its content takes all workers.
11. agreement.py: whether all workers mean the same.
12. link_check.py: whether the links transfer data unchanged.
13. presence.py: whether this worker, and its peers, are at work.
"""
