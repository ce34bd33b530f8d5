"""Which part of an optimizer's states does a replica hold, where each holds a part of them alone?

Of N replicas each keeps one N-th of the momentums and the like, updates that part of the weights,
and gets the rest from the others: ZeRO's first stage (Rajbhandari et al. 2020, arXiv:1910.02054),
and of the second what costs nothing, since summed gradients exist as parts alone. Checkpoints and
files hold whole states, under the names that they have without it.

Parts are slices of every weight, or, for optimizers that look at whole weights, some whole ones.

Read in this order; each file imports from those above it only:

1. allowed.py: which optimizers and options can be had.
2. sliced_state.py: how a state that is held in parts is read and written whole; slices are.
3. owned_state.py: the same of a state that one replica holds.
4. stand_in.py: what an optimizer sees of a weight, and what a way to part weights has to do.
5. in_slices.py: each weight in slices.
6. by_owner.py: whole weights, each with an owner.
7. of_all_gradients.py: norms to clip by, and whether all gradients are finite.
8. sums.py: how gradients become the sums for the parts.
9. shards.py: an optimizer that updates parts.
10. adopting.py: when an optimizer is taken apart, and put together again.
"""
