"""What does each worker process of the table do? All rows, one after the other."""

from __future__ import annotations

import os
import pathlib
import pickle
import time


def run_rows(names: list[str], folder: str, is_stock: bool = False) -> None:
    """Runs rows of the table as one of several workers and writes each outcome to a file."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")

    import tensorflow as tf

    import tfdist

    strategy = tfdist.get_strategy("cpu")
    cluster = tfdist.detect_cluster()
    assert isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    assert strategy.num_replicas_in_sync == cluster.size > 1

    from parity import harness, table
    from parity.case import Api, Case

    def api(case: Case) -> Api:
        if is_stock:
            return harness.stock(strategy)
        return harness.distributed(strategy, **case.shapes())

    rows = {case.name: case for case in table.ROWS}
    for index, name in enumerate(names):
        start = time.monotonic()
        outcome = harness.run(rows[name], api(rows[name]))
        print(f"{name}: {time.monotonic() - start:.1f} s {outcome.error[0]}", flush=True)
        path = pathlib.Path(folder, file_name(index, cluster.rank))
        path.with_suffix(".part").write_bytes(pickle.dumps(outcome))
        path.with_suffix(".part").replace(path)


def file_name(index: int, rank: int) -> str:
    """Names the file of a row's outcome on a worker."""
    return f"row{index}_worker{rank}.pickle"
