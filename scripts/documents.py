"""How does a script put what it has measured into a document?  Between two marks."""

from __future__ import annotations

import pathlib


def table_of(path: pathlib.Path, mark: str) -> list[str]:
    """Returns the lines that stand between a document's two marks."""
    return _parts(path, mark)[1].splitlines()


def replace_table(path: pathlib.Path, mark: str, lines: list[str]) -> None:
    """Puts lines between a document's two marks, `<!-- MARK -->` and `<!-- end of MARK -->`."""
    before, _, after = _parts(path, mark)
    path.write_text(before + "\n".join(lines) + "\n" + after)


def _parts(path: pathlib.Path, mark: str) -> tuple[str, str, str]:
    begin, end = f"<!-- {mark} -->\n", f"<!-- end of {mark} -->"
    before, found, rest = path.read_text().partition(begin)
    inside, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise RuntimeError(f"{path.name} lacks {begin.strip()!r} and {end!r}; put them in.")
    return before + begin, inside, end + after
