"""How does a saved model predict for files, from a terminal?

    tfdist predict model.keras data/*.parquet --columns=x --to=predictions
    tfdist predict model.keras pixels.npy --to=predictions --workers=4
    tfdist predict model.keras photos/ --image_size=224,224 --to=predictions
    tfdist predict model.keras logs.tfrecord --parse_fn=reading.py:parse --to=predictions

The folder gets Parquet files with the columns "id" and "prediction", in the order of the input. The
same command again goes on where a job was stopped.
"""

from __future__ import annotations

import argparse
import glob
import os
import pathlib
import runpy
from collections.abc import Sequence
from typing import Any

from tfdist.launch import command

_IMAGES = (".jpg", ".jpeg", ".png", ".gif", ".bmp")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Its arguments; those of this process by default.

    Returns:
        The exit code: 2 for wrong flags or input, else that of the worker that failed first.
    """
    parser = _make_parser()
    flags = parser.parse_intermixed_args(argv)
    if flags.workers == 1 and flags.engine == "local":
        return _predict(parser, flags)
    itself = [
        f"--{name}={value}"
        for name, value in vars(flags).items()
        if name in _OWN and value not in (None, False, "")
    ]
    return command.run(
        parser, flags, ["module", "tfdist", "predict", flags.model, *flags.inputs, *itself]
    )


# Flags of this command that its workers get too.
_OWN = (
    "to", "device", "batch_size", "part_rows", "format", "strict", "columns", "id_column",
    "image_size", "parse_fn",
)


def _make_parser() -> argparse.ArgumentParser:
    parser = command.make_parser(
        "tfdist predict", "MODEL INPUT... --to=FOLDER [flags]", description=__doc__
    )
    add = parser.add_argument
    add("model", help="a .keras file")
    add("inputs", nargs="+", metavar="INPUT", help="files of one kind, or a folder of them")
    add("--to", required=True, metavar="FOLDER", help="folder of the predictions")
    add("--device", default="auto", help="what each worker uses, as in tfdist.get_strategy")
    add("--batch_size", type=int, default=256, help="rows at a time (default: %(default)s)")
    add("--part_rows", type=int, help="rows of a file (default: some 100,000)")
    add("--format", default="parquet", help="of the predictions: parquet or npz (default: parquet)")
    add("--strict", type=_is_yes, nargs="?", const=True, default=False,
        help="end at a row that cannot be read (default: leave it out, and tell it)")  # fmt: skip
    add("--columns", help="Parquet: the model's inputs, separated by commas")
    add("--id_column", help="Parquet: the column that names each row (default: its number)")
    add("--image_size", default="224,224", metavar="H,W", help="images (default: %(default)s)")
    add("--parse_fn", metavar="FILE:NAME", help="TFRecord: the function that parses a record")
    command.add_job(parser, workers=1)
    return parser


def _predict(parser: argparse.ArgumentParser, flags: argparse.Namespace) -> int:
    import keras

    from tfdist.inference.predicting_to import predict_to
    from tfdist.strategy.factory import get_strategy

    try:
        with get_strategy(flags.device).scope():
            model = keras.models.load_model(flags.model, compile=False)
        done = predict_to(
            model, _source(flags), flags.to, batch_size=flags.batch_size,
            part_rows=flags.part_rows, format=flags.format, strict=flags.strict,
        )
    except ValueError as error:
        parser.error(str(error))
    told = f" {done.bad_rows} could not be read, see {done.folder}/_bad." if done.bad_rows else ""
    if done.is_complete:
        print(f"tfdist: {done.rows} rows are predicted in {done.folder}.{told}")
    return 0


def _source(flags: argparse.Namespace) -> Any:
    """Returns the rows of the inputs, by what their files are."""
    import numpy as np

    from tfdist.inference.parquet_rows import ParquetRows
    from tfdist.inference.rows import ArrayRows, ImageRows, RecordRows

    files = _files(flags.inputs)
    kinds = {pathlib.Path(file).suffix.lower() for file in files}
    if kinds <= set(_IMAGES):
        height, width = map(int, flags.image_size.split(","))
        return ImageRows(files, (height, width))
    if len(kinds) != 1:
        raise ValueError(f"The inputs are of several kinds, {sorted(kinds)}. Give files of one.")
    [kind] = kinds
    if kind == ".parquet":
        if not flags.columns:
            raise ValueError(
                "Parquet files have columns. Name the model's inputs by --columns=NAME,..."
            )
        return ParquetRows(files, flags.columns.split(","), flags.id_column)
    if kind == ".npy":
        if len(files) != 1:
            raise ValueError(f"There are {len(files)} .npy files. Give one.")
        return ArrayRows(np.load(files[0], mmap_mode="r"))
    if kind in (".tfrecord", ".tfrecords", ".txt"):
        if not flags.parse_fn or ":" not in flags.parse_fn:
            raise ValueError(
                f"{kind} files hold records. Name what parses one by --parse_fn=FILE:NAME."
            )
        file, _, name = flags.parse_fn.rpartition(":")
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


def _is_yes(text: str) -> bool:
    return text.lower() in ("true", "1", "yes")
