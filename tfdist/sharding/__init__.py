"""Which part of an optimizer's states does a replica hold, where each holds one slice of them?

Of N replicas each keeps one N-th of the momentums and the like, updates that part of the weights,
and gets the rest from the others: ZeRO's first stage (Rajbhandari et al. 2020, arXiv:1910.02054),
and of the second what costs nothing, since summed gradients exist as slices alone. Checkpoints and
files hold whole states, under the names that they have without it.

Read in this order; each file imports from those above it only:

1. allowed.py: which optimizers and options can be had.
2. sliced_state.py: how a state that is held in slices is read and written whole.
3. sliced_weight.py: what an optimizer sees of a weight.
4. of_all_gradients.py: norms to clip by, and whether all gradients are finite.
5. shards.py: an optimizer that updates slices.
6. adopting.py: when an optimizer is taken apart into slices, and put together again.
"""
