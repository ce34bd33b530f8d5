"""What can be done with tfdist from a terminal?

Read in this order:

1. run.py: an unchanged Keras program, distributed.
2. verify.py: whether it trains the same as on one device.
3. predict.py: a saved model that predicts for files.
4. commands.py: which commands there are.
"""
