"""What is a run, and how does it go on after a stop?

Which weights and other variables a checkpoint holds is in step/variables.py.

Read in this order; each file imports from those above it only:

1. plain_values.py: how Python values become JSON and arrays, and come back the same.
2. rng_state.py: the state of the process's own random number generators.
3. callback_state.py: what the callbacks have learnt since training began.
4. folder_lock.py: who may write into a folder.
5. manifest.py: whether a checkpoint on disk is whole.
6. contents.py: what a checkpoint holds, and how it is read and told to the others.
7. encrypted.py: how only who holds a key can read it.
8. checkpointer.py: how everything is saved and restored.
9. same_run.py: whether this is the run that a checkpoint is of.
10. interval.py: whether it is time: every n steps or seconds.
11. preemption.py: whether this process was told to leave.
12. run.py: how `fit` goes on where the last one ended, and when it saves.
"""
