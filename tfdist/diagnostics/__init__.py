"""Does training agree with one device, how fast is it, and how large may it be?

Read in this order; each file imports from those above it only:

1. recording.py: what happened in each step of a run.
2. verification.py: does it train the same as on one device? `verify`.
3. speed.py: how fast it is, against what.
4. scaling_laws.py: what more devices would bring.
5. forecast.py: how long a step would take on more workers.
6. plot.py: what scaling looks like.
7. batch_search.py: what the largest number is that fits.
8. memory_limit.py: how much memory this process may take.
9. batch_size.py: what the largest batch is that trains here.
10. liveness.py: how many bytes a traced graph holds at once.
11. memory_estimate.py: how much memory training will take.
"""
