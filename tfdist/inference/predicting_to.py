"""How does a worker predict its parts of what does not fit into memory?

Each worker has a contiguous share of the parts, and needs nothing from the others: it reads,
predicts and writes alone. Parts that are written stay, so a job that was killed goes on where it
stopped, with any number of workers.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tfdist.cluster.worker_number import rank_and_size
from tfdist.communication.share import bounds
from tfdist.communication.workers import Workers
from tfdist.data.files import parquet_files
from tfdist.inference.parts import Parts, Predicted
from tfdist.inference.rows import Bad, Block, Rows, as_rows
from tfdist.inference.writing import WRITERS
from tfdist.training.fitting import predict
from tfdist.training.trainer import trainer_of

_PART_ROWS = 100_000
_BATCHES_AT_A_TIME = 8  # are read, and are predicted in one call


def predict_to(
    model: keras.Model,
    source: Any,
    folder: str | os.PathLike[str],
    *,
    batch_size: int = 32,
    part_rows: int | None = None,
    format: str = "parquet",
    strict: bool = False,
    verbose: Any = "auto",
) -> Predicted:
    """Predicts for any number of rows, into files, with a few batches in memory.

    The folder gets files `part-000000.parquet`, `part-000001.parquet`, ..., which in the order of
    their names hold the rows in the order of the source: the column "id", and "prediction" (or
    "prediction_0", ..., or a column by key, where the model has several outputs). Called again
    after a stop, it goes on with the parts that are missing. On several workers each writes its
    share of the parts, all into the same folder, which all must see.

    Args:
        model: The model; it need not be compiled. With `model.jit_compile = True` XLA compiles it,
            for batches that are all padded to one shape.
        source: Arrays of shape `(rows, ...)`, or a structure of them; or `ParquetRows`,
            `RecordRows`, `ImageRows`, or anything with their methods. The same on each worker.
        folder: A new folder, or one of the same predictions, which go on.
        batch_size: Rows that a worker predicts for at a time.
        part_rows: Rows of a file, a multiple of `batch_size`; by default some 100,000.
        format: "parquet", or "npz".
        strict: Whether a row that cannot be read is an error. Otherwise it is left out, and stands
            with the reason in `_bad/part-000000.jsonl`.
        verbose: 0 for silence, 1 for a progress bar on the chief, "auto" for 1.

    Returns:
        What the folder holds. Where the model's strategy has several workers, they wait for each
        other first, so that it is complete.

    Raises:
        ImportError: pyarrow is missing, which Parquet needs.
        ValueError: The folder is of other predictions or holds something else, the source has no
            row, a size is wrong, or with `strict` a row cannot be read.
    """
    rows = as_rows(source)
    suffix, writer = _writer(format)
    if batch_size < 1 or len(rows) < 1:
        raise ValueError(
            f"batch_size={batch_size!r} of {len(rows)} rows: both must be at least one. Give rows "
            "to predict for."
        )
    part_rows = part_rows or max(_PART_ROWS // batch_size, 1) * batch_size
    if part_rows < 1 or part_rows % batch_size:
        raise ValueError(
            f"part_rows={part_rows!r} is no multiple of batch_size={batch_size}. Give one, so that "
            "batches are the same in any file."
        )
    parts = Parts(pathlib.Path(folder), len(rows), part_rows, suffix)
    workers = Workers(trainer_of(model).strategy)
    rank, size = rank_and_size(None, None)
    parts.begin(
        {
            "source": rows.describe(), "rows": len(rows), "part_rows": part_rows,
            "batch_size": batch_size, "format": format, "model": _fingerprint(model),
        }
    )
    own = range(*bounds(len(parts), rank, size))
    progress = _progress(parts, own, verbose=verbose if rank == 0 else 0)
    for number in own:
        if not parts.is_done(number):
            with parts.writing(number) as path, writer(path) as file:
                bad: list[Bad] = []
                for block in _blocks(rows, *parts.bounds(number), batch_size=batch_size):
                    bad += block.bad
                    _refuse_bad(bad, strict=strict)
                    if len(block.ids):
                        file.add(block.ids, _predicted(model, block, batch_size, workers.count))
                parts.tell_bad(number, bad)
        progress(number)
    workers.gather(len(own), what="the end of predict_to")
    return parts.found()


def _writer(format: str) -> Any:
    if format not in WRITERS:
        raise ValueError(f"format={format!r} is unknown; there are {', '.join(WRITERS)}.")
    if format == "parquet":
        parquet_files.module()  # says now what is missing, and not behind the first batches
    return WRITERS[format]


def _fingerprint(model: keras.Model) -> str:
    """Returns a checksum of the weights: other weights make other predictions."""
    digest = hashlib.sha256()
    for variable in model.variables:
        digest.update(np.asarray(keras.ops.convert_to_numpy(variable)).tobytes())
    return digest.hexdigest()


def _blocks(rows: Rows, begin: int, end: int, *, batch_size: int) -> Iterator[Block]:
    """Gives the rows of a part, a few batches at a time; the next ones are read meanwhile."""
    step = batch_size * _BATCHES_AT_A_TIME
    ranges = [(at, min(at + step, end)) for at in range(begin, end, step)]
    with concurrent.futures.ThreadPoolExecutor(1) as reader:
        following = reader.submit(rows.read, *ranges[0])
        for number in range(len(ranges)):
            block = following.result()
            if number + 1 < len(ranges):
                following = reader.submit(rows.read, *ranges[number + 1])
            yield block


def _predicted(model: keras.Model, block: Block, batch_size: int, workers: int) -> Any:
    """Returns the outputs for a block; XLA, which compiles for each shape, gets full batches."""
    rows = len(block.ids)
    missing = -rows % batch_size if model.jit_compile else 0

    def filled(array: Any) -> np.ndarray:
        return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])

    # There the size counts the rows of all workers, of which each has as many.
    outputs = predict(
        model, keras.tree.map_structure(filled, block.x) if missing else block.x,
        batch_size=batch_size * workers, verbose=0, already_sharded=True, check=False,
    )
    return keras.tree.map_structure(lambda array: array[:rows], outputs)


def _refuse_bad(bad: list[Bad], *, strict: bool) -> None:
    if strict and bad:
        raise ValueError(
            f"The row {bad[0].id!r} cannot be read: {bad[0].reason}. Mend it, or leave it out by "
            "strict=False."
        )


def _progress(parts: Parts, own: range, *, verbose: Any) -> Any:
    """Returns what is told that a part is done: a bar over this worker's rows, or nothing."""
    if verbose == 0 or not own:
        return lambda number: None
    first, last = parts.bounds(own[0])[0], parts.bounds(own[-1])[1]
    bar = keras.utils.Progbar(last - first, unit_name="row")
    return lambda number: bar.update(parts.bounds(number)[1] - first)
