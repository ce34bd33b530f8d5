"""How much memory will training take, and how large may its batch be?

    tfdist estimate program.py ARGS
    tfdist estimate --batch_size=512 --device=2xcpu program.py ARGS
    tfdist estimate --target=my_module:my_model --batch_size=512
    tfdist estimate --device=2xcpu --sharded_optimizer program.py ARGS
    tfdist estimate --find_largest_batch program.py ARGS

A program runs unchanged up to its first `fit`, whose model and batch are looked at; nothing is
trained. With --target, `my_model()` returns a compiled Keras model, or `(model, batch)`. With
neither, a small network on the digits is taken. The estimate is for each replica, beside the 0.4 GB
or so of TensorFlow itself; on CPUs training took 1.0 to 2.1 times as much.

--find_largest_batch tries sizes in processes of their own, which may run out of memory, and with
--sharded_optimizer train with an optimizer in parts. Exit code 0 where there is an answer, 1 where
the estimate is more than this host has, 2 for wrong flags, or a model that cannot be looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from absl import flags

from tfdist.cli import looked_at
from tfdist.cli.looked_at import Looked, look
from tfdist.launch.command_line import CommandLine


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Its arguments; those of this process by default.

    Returns:
        The exit code, as the file's docstring says.
    """
    line = _make_line()
    rest = line.parse(argv)
    given = line.flags
    try:
        found = look(
            line, rest, target=given.target, instead=looked_at.network, device=given.device
        )
        return _estimate(found, given)
    except (RuntimeError, ValueError) as error:
        return line.failed(error)


def _estimate(found: Looked, given: Any) -> int:
    from tfdist.diagnostics import batch_size, memory_estimate, memory_limit

    size = given.batch_size or found.batch_size or 32
    x = found.batch[0] if found.batch else None
    estimate = memory_estimate.estimate_memory(
        found.model, batch_size=size, x=x, sharded_optimizer=given.sharded_optimizer
    )
    print(f"global batch {size}, {estimate.rows} examples a replica: {estimate}")
    available = memory_limit.available_bytes()
    replicas = -(-size // estimate.rows)
    fits = available is None or replicas * estimate.total_bytes < available
    if available is not None:
        print(f"this host has {available / 1e6:,.0f} MB available for {replicas} replica(s): "
              f"{'enough' if fits else 'TOO LITTLE; make the batch or the model smaller'}")
    if given.find_largest_batch:
        x, y, *_ = _rows(found)
        limit = None if given.memory_limit_mb is None else given.memory_limit_mb * 10**6
        largest = batch_size.find_batch_size(
            found.model, x, y, device=given.device, start=size, memory_limit_bytes=limit,
            sharded_optimizer=given.sharded_optimizer,
        )
        print(f"the largest global batch that trains here: {largest}")
    return 0 if fits else 1


def _rows(found: Looked) -> tuple[Any, ...]:
    """Returns many rows, without memory for them: those of the batch again and again."""
    import keras
    import numpy as np

    from tfdist import datasets

    batch = found.batch
    if batch is None:
        if not found.model.inputs or found.model.input_shape != (None, 8, 8):
            raise ValueError(
                "--find_largest_batch trains, so it needs examples. Let the function of --target "
                "return (model, (x, y)), or give a program."
            )
        (x, y), _ = datasets.load_digits()
        batch = (x, y)

    def many(leaf: Any) -> Any:
        leaf = np.asarray(leaf)
        return np.broadcast_to(leaf[:1], (1 << 24, *leaf.shape[1:]))

    return tuple(keras.tree.map_structure(many, part) for part in (*batch, None)[:2])


def _make_line() -> CommandLine:
    line = CommandLine(
        "tfdist estimate", "[--batch_size=N] [--device=DEVICE] [flags] [program.py ARGS]",
        text=__doc__,
    )
    own = {"flag_values": line.flags}
    flags.DEFINE_string("target", None, "module:function that returns a compiled model.", **own)
    flags.DEFINE_string("device", "auto", "What to train on, as in tfdist.get_strategy.", **own)
    flags.DEFINE_integer(
        "batch_size", None, "Examples per step, over all replicas; by default the program's, and "
        "32 of a --target.", lower_bound=1, **own,
    )
    flags.DEFINE_boolean(
        "sharded_optimizer", False, "Whether each replica holds a part of the optimizer's states, "
        "as with fit(..., sharded_optimizer=True).", **own,
    )
    flags.DEFINE_boolean(
        "find_largest_batch", False, "Whether to try for the largest batch that trains here.",
        **own,
    )
    flags.DEFINE_integer(
        "memory_limit_mb", None, "Memory that a try may take, with TensorFlow's, in megabytes; by "
        "default 90 % of what is available.", lower_bound=1, **own,
    )
    return line
