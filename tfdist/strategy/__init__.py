"""Which strategy do I train on, and why that one?

The device spec and the devices of this host are facts; the plan follows from them without
TensorFlow, and is then carried out.

Read in this order; each file imports from those above it only:

1. devices.py: what was asked for, and what is on this host.
2. plan.py: which strategy follows from that.
3. tpu.py: how a TPU is brought up.
4. process_scope.py: which strategy is in scope for the whole process.
5. bring_up.py: how a plan is carried out.
6. factory.py: `get_strategy` and `describe`.
"""
