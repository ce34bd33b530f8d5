"""Which parts of the predictions are done, whatever happened to the workers?

A folder of predictions has a file for each part: so many rows of the source, the same however many
workers there are. A file is written beside and then renamed, so that one that is there is whole. A
manifest says of what the predictions are; other ones do not get into the same folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from tfdist.inference.rows import Bad

_MANIFEST = "_manifest.json"
_COMPLETE = "_SUCCESS"  # as Spark and Hadoop call it
_WRITING = "_writing-"


@dataclasses.dataclass(frozen=True)
class Predicted:
    """What a folder of predictions holds.

    Attributes:
        folder: The folder.
        rows: Rows of the source for which there is a prediction, or a reason why there is none.
        bad_rows: Rows that could not be read.
        is_complete: Whether these are all rows: other workers may still be at theirs.
    """

    folder: pathlib.Path
    rows: int
    bad_rows: int
    is_complete: bool


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts of a folder.

    Attributes:
        folder: The folder.
        rows: Rows of the source.
        part_rows: Rows of a part; the last one may have fewer.
        suffix: Of the files, as in ".parquet".
    """

    folder: pathlib.Path
    rows: int
    part_rows: int
    suffix: str

    def __len__(self) -> int:
        return -(-self.rows // self.part_rows)

    def bounds(self, number: int) -> tuple[int, int]:
        """Returns the rows of a part as `(begin, end)`."""
        return number * self.part_rows, min((number + 1) * self.part_rows, self.rows)

    def is_done(self, number: int) -> bool:
        """Whether a part is written."""
        return self._path(number).exists() or self._mark_of_none(number).exists()

    def found(self) -> Predicted:
        """Looks at what is there; marks the folder as complete where all parts are."""
        done = [number for number in range(len(self)) if self.is_done(number)]
        is_complete = len(done) == len(self)
        if is_complete:
            (self.folder / _COMPLETE).touch()
            for left in self.folder.glob(f"{_WRITING}*"):  # of workers that were killed
                shutil.rmtree(left, ignore_errors=True)
        rows = sum(end - begin for begin, end in map(self.bounds, done))
        bad = sum(self._bad_rows(number) for number in done)
        return Predicted(self.folder, rows, bad, is_complete)

    def begin(self, described: dict[str, Any]) -> None:
        """Makes the folder, or goes on with it.

        Args:
            described: What has to be the same where predictions go on, in plain values.

        Raises:
            ValueError: The folder is of other predictions, or holds something else.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        manifest = self.folder / _MANIFEST
        if not manifest.exists():
            if others := sorted(name for name in os.listdir(self.folder) if name[0] not in "._"):
                raise ValueError(
                    f"The folder {self.folder} holds {others[0]!r} and no predictions. Give a new "
                    "folder."
                )
            with _beside(manifest) as path:
                path.write_text(json.dumps(described, indent=1))
                with contextlib.suppress(FileExistsError):  # another worker came first
                    os.link(path, manifest)
        known, wanted = json.loads(manifest.read_text()), json.loads(json.dumps(described))
        for name in wanted:
            if known.get(name) != wanted[name]:
                raise ValueError(
                    f"The predictions in {self.folder} are of another {name}: "
                    f"{_short(known.get(name))}, not {_short(wanted[name])}. Give a new folder, or "
                    "what it was begun with."
                )

    @contextlib.contextmanager
    def writing(self, number: int) -> Iterator[pathlib.Path]:
        """Gives the path to write a part to, which is renamed if all goes well."""
        with _beside(self._path(number)) as path:
            yield path
            if path.exists():
                _to_disk(path)
                os.replace(path, self._path(number))
            else:
                self._mark_of_none(number).touch()

    def tell_bad(self, number: int, bad: Sequence[Bad]) -> None:
        """Writes which rows of a part could not be read: before the part, which then is done."""
        path = self._bad(number)
        if not bad:
            path.unlink(missing_ok=True)  # of a time before, when a file could not be read
            return
        path.parent.mkdir(exist_ok=True)
        with _beside(path) as part:
            part.write_text("".join(json.dumps(dataclasses.asdict(row)) + "\n" for row in bad))
            _to_disk(part)
            os.replace(part, path)

    def _bad_rows(self, number: int) -> int:
        path = self._bad(number)
        return len(path.read_text().splitlines()) if path.exists() else 0

    def _path(self, number: int) -> pathlib.Path:
        return self.folder / f"part-{number:06d}{self.suffix}"

    def _mark_of_none(self, number: int) -> pathlib.Path:
        return self.folder / f"_part-{number:06d}.empty"

    def _bad(self, number: int) -> pathlib.Path:
        return self.folder / "_bad" / f"part-{number:06d}.jsonl"


@contextlib.contextmanager
def _beside(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a path in a folder of its own beside another one, which readers pass over."""
    with tempfile.TemporaryDirectory(prefix=_WRITING, dir=path.parent) as folder:
        yield pathlib.Path(folder, path.name)


def _to_disk(path: pathlib.Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
