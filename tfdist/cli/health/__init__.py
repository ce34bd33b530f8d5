"""What are this host and its Python, and what is known to break there?

Read in this order:

1. host.py: what this process may use of its host.
2. facts.py: what is known of it, and of its Python.
3. place.py: which place in a job the environment gives.
4. rule.py: what a rule is.
5. signs.py: what shows that a rule applies.
6. rules.py: what is known to break, and what to do.
7. trial.py: whether TensorFlow starts, and what would be trained on.
"""
