"""Do all workers mean the same?  Facts by name, compared before anything is done that follows them.

What decides what a run computes has to be the same on all workers, or they train models that nobody
asked for, or wait in collectives that do not fit together. One number stands for all facts, so that
workers who agree exchange eight bytes. Where they do not, an error names the first fact that
differs, and what it is on which worker.

Synopsis:

    >>> list(leaves({"epochs": 2, "model": {"layers": [{"units": 3}]}}))
    [('epochs', '2'), ('model.layers[0].units', '3')]
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tfdist.cluster.wording import name_workers
from tfdist.communication.workers import Workers

_ABSENT = "absent"
_SHOWN = 80  # letters of a value around the first that differs, in a message


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A fact that is JSON text already, since it is told more than once."""

    text: str


def require_alike(
    facts: Mapping[str, Any],
    workers: Workers,
    *,
    what: str,
    cure: str,
    where: str = "a comparison",
) -> None:
    """Compares facts over the workers; every worker has to call it.

    Args:
        facts: This worker's facts, by name: plain values; of other objects the type is compared.
        workers: All workers.
        what: What the workers did with them, for the message: "were given different data".
        cure: What to do about it.
        where: Where in their programs the workers are, for messages.

    Raises:
        ValueError: They differ; the message names the first fact that does.
    """
    if not workers.has_others:
        return
    texts = {name: _text(value) for name, value in facts.items()}
    digest = hashlib.blake2b(json.dumps(texts).encode(), digest_size=8).digest()
    number = int.from_bytes(digest, "little", signed=True)
    if len(set(workers.gather(number, what=where)[:, 0])) == 1:
        return
    own = dict(leaves({name: json.loads(text) for name, text in texts.items()}))
    path, values = _first_difference(own, workers)
    found = "; ".join(
        f"{name_workers(ranks)}: {path} is {text}" for text, ranks in _by_value(values).items()
    )
    raise ValueError(f"The workers {what}: {found}. {cure}")


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yields the path and the text of everything in plain values that holds nothing else."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(inner, (Mapping, list)) for inner in value):
        for index, inner in enumerate(value):
            yield from leaves(inner, f"{path}[{index}]")
    else:
        yield path, value if isinstance(value, str) else json.dumps(value)


def encoded(value: Any) -> Encoded:
    """Returns a fact as text, for one that is told again and again."""
    return Encoded(_text(value))


def _text(value: Any) -> str:
    if isinstance(value, Encoded):
        return value.text
    text = json.dumps(_with_plain_keys(value), default=_plain)
    # Where an object lies in memory is written into its name.
    return re.sub(r"0x[0-9a-f]{6,}", "0x", text)


def _with_plain_keys(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _with_plain_keys(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_plain_keys(inner) for inner in value]
    return value


def _plain(value: Any) -> Any:
    """Returns what is compared of an object that JSON does not know."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return getattr(value, "__qualname__", None) or type(value).__qualname__


def _first_difference(
    own: Mapping[str, str], workers: Workers
) -> tuple[str, list[str]]:
    """Returns the path of the first fact that differs, and its value on each worker."""
    chiefs: dict[str, str] = json.loads(workers.from_chief(json.dumps(own).encode()))
    paths = dict.fromkeys([*chiefs, *own])
    mine = next((p for p in paths if chiefs.get(p, _ABSENT) != own.get(p, _ABSENT)), None)
    begin = _same_letters(own.get(mine, _ABSENT), chiefs.get(mine, _ABSENT)) if mine else 0
    wishes = [json.loads(w) for w in workers.payloads(json.dumps([mine, begin]).encode())]
    path, begin = next(wish for wish in wishes if wish[0] is not None)
    text = own.get(path, _ABSENT)
    if begin > _SHOWN // 2:
        text = "..." + text[begin - _SHOWN // 2 :]
    if len(text) > 2 * _SHOWN:
        text = text[: 2 * _SHOWN] + "..."
    return path, [value.decode() for value in workers.payloads(text.encode())]


def _same_letters(text: str, other: str) -> int:
    """Returns with how many letters both begin."""
    pairs = enumerate(zip(text, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(text), len(other)))


def _by_value(values: list[str]) -> dict[str, list[int]]:
    ranks: dict[str, list[int]] = {}
    for rank, value in enumerate(values):
        ranks.setdefault(value, []).append(rank)
    return ranks
