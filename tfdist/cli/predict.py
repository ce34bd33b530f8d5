"""How does a saved model predict for files, from a terminal?

    tfdist predict model.keras data/*.parquet --columns=x --to=predictions
    tfdist predict model.keras pixels.npy --to=predictions --workers=4
    tfdist predict model.keras photos/ --image_size=224,224 --to=predictions
    tfdist predict model.keras logs.tfrecord --parse_fn=reading.py:parse --to=predictions

The folder gets Parquet files with the columns "id" and "prediction", in the order of the input. The
same command again goes on where a job was stopped. Exit code 0, 2 for wrong flags or input, else
that of the worker that failed first.
"""

from __future__ import annotations

import glob
import os
import pathlib
import runpy
from collections.abc import Sequence
from typing import Any

from absl import flags

from tfdist.launch import command
from tfdist.launch.command_line import CommandLine

_IMAGES = (".jpg", ".jpeg", ".png", ".gif", ".bmp")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Its arguments; those of this process by default.

    Returns:
        The exit code: 2 for wrong flags or input, else that of the worker that failed first.
    """
    line = _make_line()
    model, *inputs = line.parse(argv) or [""]
    if not inputs:
        line.refuse("give the model, a .keras file, and the files that it predicts for")
    if not line.flags.to:
        line.refuse("give the folder of the predictions, --to=FOLDER")
    if command.is_alone(line):
        return _predict(line, model, inputs)
    itself = [
        f"--{name}={value}"
        for name, value in line.values().items()
        if name in _OWN and value not in (None, False, "")
    ]
    return command.run(line, ["module", "tfdist", "predict", model, *inputs, *itself])


# Flags of this command that its workers get too.
_OWN = (
    "to", "device", "batch_size", "part_rows", "format", "strict", "columns", "id_column",
    "image_size", "parse_fn", "weights", "jit_compile",
)


def _make_line() -> CommandLine:
    line = CommandLine(
        "tfdist predict", "MODEL INPUT... --to=FOLDER [flags]", text=__doc__, is_mixed=True
    )
    own = {"flag_values": line.flags}
    flags.DEFINE_string("to", None, "Folder of the predictions.", **own)
    flags.DEFINE_string("device", "auto", "What each worker uses, as in tfdist.get_strategy.",
                        **own)
    flags.DEFINE_integer("batch_size", 256, "Rows at a time.", **own)
    flags.DEFINE_integer("part_rows", None, "Rows of a file; by default some 100,000.", **own)
    flags.DEFINE_string("format", "parquet", "Of the predictions: parquet or npz.", **own)
    flags.DEFINE_boolean(
        "strict", False, "Whether to end at a row that cannot be read; else it is left out, and "
        "told.", **own,
    )
    flags.DEFINE_string("columns", None, "Parquet: the model's inputs, separated by commas.", **own)
    flags.DEFINE_string(
        "id_column", None, "Parquet: the column that names each row; by default its number.", **own
    )
    flags.DEFINE_string("image_size", "224,224", "Images: height and width, in pixels.", **own)
    flags.DEFINE_string(
        "parse_fn", None, "TFRecord: FILE:NAME of the function that parses a record.", **own
    )
    flags.DEFINE_enum(
        "weights", None, ["int8", "bfloat16"], "What the model's weights are "
        "reduced to first, as by tfdist.inference.reduced; by default they stay.", **own,
    )
    flags.DEFINE_boolean("jit_compile", False, "Whether XLA compiles the model.", **own)
    command.add_job(line, workers=1)
    return line


def _predict(line: CommandLine, path: str, inputs: Sequence[str]) -> int:
    import keras

    from tfdist.data.files import parquet_files
    from tfdist.inference.fewer_bits import reduced
    from tfdist.inference.predicting_to import predict_to
    from tfdist.strategy.factory import get_strategy

    given = line.flags
    try:
        if given.format == "parquet":
            parquet_files.module()
    except ImportError as error:
        line.refuse(f"{error} Or give --format=npz.")
    try:
        with get_strategy(given.device).scope():
            model = keras.models.load_model(path, compile=False)
        if given.weights:
            model = reduced(model, given.weights)
        model.jit_compile = given.jit_compile
        done = predict_to(
            model, _source(given, inputs), given.to, batch_size=given.batch_size,
            part_rows=given.part_rows, format=given.format, strict=given.strict,
        )
    except ValueError as error:
        line.refuse(str(error))
    told = f" {done.bad_rows} could not be read, see {done.folder}/_bad." if done.bad_rows else ""
    if done.is_complete:
        print(f"tfdist: {done.rows} rows are predicted in {done.folder}.{told}")
    return 0


def _source(given: Any, inputs: Sequence[str]) -> Any:
    """Returns the rows of the inputs, by what their files are."""
    import numpy as np

    from tfdist.inference.parquet_rows import ParquetRows
    from tfdist.inference.rows import ArrayRows, ImageRows, RecordRows

    files = _files(inputs)
    kinds = {pathlib.Path(file).suffix.lower() for file in files}
    if kinds <= set(_IMAGES):
        height, width = map(int, given.image_size.split(","))
        return ImageRows(files, (height, width))
    if len(kinds) != 1:
        raise ValueError(f"The inputs are of several kinds, {sorted(kinds)}. Give files of one.")
    [kind] = kinds
    if kind == ".parquet":
        if not given.columns:
            raise ValueError(
                "Parquet files have columns. Name the model's inputs by --columns=NAME,..."
            )
        return ParquetRows(files, given.columns.split(","), given.id_column)
    if kind == ".npy":
        if len(files) != 1:
            raise ValueError(f"There are {len(files)} .npy files. Give one.")
        return ArrayRows(np.load(files[0], mmap_mode="r"))
    if kind in (".tfrecord", ".tfrecords", ".txt"):
        if not given.parse_fn or ":" not in given.parse_fn:
            raise ValueError(
                f"{kind} files hold records. Name what parses one by --parse_fn=FILE:NAME."
            )
        file, _, name = given.parse_fn.rpartition(":")
        format = "text" if kind == ".txt" else "tfrecord"
        return RecordRows(files, runpy.run_path(file)[name], format=format)
    raise ValueError(
        f"{files[0]} is of no known kind. Give .parquet, .npy, .tfrecord, .txt or image files."
    )


def _files(inputs: Sequence[str]) -> list[str]:
    found: list[str] = []
    for given in inputs:
        if os.path.isdir(given):
            inside = sorted(glob.glob(os.path.join(given, "**", "*"), recursive=True))
            found += [
                path for path in inside
                if os.path.isfile(path) and os.path.basename(path)[0] not in "._"
            ]  # fmt: skip
        elif os.path.isfile(given):
            found.append(given)
        else:
            raise ValueError(f"The input {given!r} is not there. Give a file, or a folder.")
    if not found:
        raise ValueError(f"There is no file in {list(inputs)}. Give a folder that holds some.")
    return found
