"""What is kept and told of a run?

Read in this order; each file imports from those above it only:

1. kept.py: how is a run of rounds kept, so that it goes on after a stop?
2. outcome.py: what has come of a federated training?
3. telling.py: who is told of the rounds?
4. running.py: how are rounds run to their end, each saved and told?
"""
