"""What can be done with tfdist from a terminal?

Read in this order:

1. commands.py: which commands there are.
2. run.py: an unchanged Keras program, distributed.
"""
