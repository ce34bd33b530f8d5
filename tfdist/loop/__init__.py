"""How are many steps run inside one traced function, and how many at a time?

This is the inner loop: everything here runs in a graph or decides what runs there. The outer loop,
in Python, is training/.

Read in this order; each file imports from those above it only:

1. loop_options.py: how a loop runs through its batches.
2. agreed_end.py: whether the data ends at the same place on all workers.
3. while_loop.py: how many steps run inside one traced function.
4. waits.py: how long a traced loop waits for its batches.
5. outputs.py: how the outputs of all batches come back, in input order.
6. branches.py: how a step sees full shapes when lengths are padded.
7. listeners.py: who listens to single batches.
8. throughput.py: how many examples a second are shown in Keras's bar.
9. progress_lines.py: what that bar writes where nobody watches it.
10. pacing.py: how many steps the next call of the loop runs.
11. recorded.py: which gradients a step applied.
12. one_trace.py: how a loop shares the trace of its step with the check of the first one.
13. programs.py: which traced functions a model needs, and how long they are kept.
"""
