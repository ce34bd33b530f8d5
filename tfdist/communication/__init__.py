"""Which replicas and workers are there, and what do they tell each other?

Replicas talk inside a step, by collectives; workers also talk between two calls of the loop.

Read in this order; each file imports from those above it only:

1. share.py: which replicas are this worker's, and which rows of a batch are a replica's.
2. collectives.py: what a replica can ask the others for.
3. compression.py: what gradients look like between replicas.
4. reduction.py: how gradients and counts travel: once, summed, in packs.
5. exchange.py: how workers send each other rows of one message.
6. slices.py: how gradients travel where each replica needs one slice of them alone.
7. owners.py: how they travel where each variable has one replica that updates it.
8. workers.py: which workers there are, and what they tell each other.
9. together.py: how a file is written where reading its content takes all workers.
10. agreement.py: whether all workers mean the same.
11. link_check.py: whether the links transfer data unchanged.
12. presence.py: whether this worker, and its peers, are at work.
"""
