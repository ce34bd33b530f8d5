"""How does a language model write on for prompts, on any number of workers?

Prompts are cut into batches, in order, and each worker has a contiguous share of the batches. What
a batch draws depends on its number alone, so the texts are the same however many workers there are.

    texts = tfdist.inference.generate(model, prompts, batch_size=32, max_length=64)
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfdist.communication.share import bounds
from tfdist.communication.workers import Workers
from tfdist.training.trainer import trainer_of

_DRAWS = 2**16  # of a sampler in one batch, at most; as many batches have draws of their own


def generate(
    model: keras.Model, prompts: Any, *, batch_size: int = 32, **options: Any
) -> Any:
    """Writes on for prompts by the model's own `generate`, a share of the batches on each worker.

    Every worker gets all texts, in the order of the prompts. With a greedy sampler they are those
    of `model.generate(prompts)`. A sampler that draws begins in the first batch where it stands,
    as in `model.generate`, and 65,536 draws further in each one after it. It is left behind the
    last batch on all workers, so that another call draws anew.

    A worker generates on one device. Start a worker for each GPU.

    Args:
        model: With a method `generate`, as KerasHub's models for causal language modelling have
            it; compiled with the sampler, and made under the strategy of the workers.
        prompts: Texts in a list; or what the model takes without a preprocessor, arrays of shape
            `(prompts, ...)` in a dict, with padding. The same on all workers.
        batch_size: Prompts that a worker writes on for at a time. The last batch is filled up
            with its last prompt, so that the function is compiled for one shape.
        **options: Of the model's `generate`, such as `max_length`.

    Returns:
        The texts in a list; or arrays of shape `(prompts, ...)`, as `model.generate` gives them.

    Raises:
        ValueError: The model has no `generate`, there is no prompt, or workers have other ones.
    """
    if not callable(getattr(model, "generate", None)):
        raise ValueError(
            f"{type(model).__name__} has no method generate. Give a model that writes on, such as "
            "keras_hub.models.GPT2CausalLM."
        )
    rows = _rows(prompts)
    if batch_size < 1 or rows < 1:
        raise ValueError(
            f"batch_size={batch_size!r} of {rows} prompts: both must be at least one. Give prompts "
            "in a list."
        )
    batch_size = min(batch_size, rows)
    batches = -(-rows // batch_size)
    workers = Workers(trainer_of(model).strategy)
    _compare(workers, prompts, batch_size)
    seeds = _Seeds(model, workers)
    written = []
    for number in range(*bounds(batches, workers.rank, workers.count)):
        seeds.stand_before(number)
        begin, end = number * batch_size, min((number + 1) * batch_size, rows)
        outputs = model.generate(_filled(prompts, begin, end, batch_size), **options)
        written.append(_cut(outputs, end - begin))
    seeds.stand_before(batches)
    own = json.dumps(_plain(_joined(written))).encode()
    every = [_of_plain(json.loads(one)) for one in workers.payloads(own)]
    return _joined([part for part in every if part is not None])


class _Seeds:
    """The states of the generators that a model's sampler draws from, those of the chief."""

    def __init__(self, model: Any, workers: Workers) -> None:
        self._variables = list(getattr(getattr(model, "sampler", None), "variables", []))
        states = [keras.ops.convert_to_numpy(one) for one in self._variables]
        told = workers.from_chief(np.asarray(states, np.int64).tobytes())
        self._states = np.frombuffer(told, np.int64).reshape(-1, 2)

    def stand_before(self, batch: int) -> None:
        """Lets the sampler draw what this batch draws; a state is a seed and a count of draws."""
        further = np.asarray([batch // _DRAWS, batch % _DRAWS * _DRAWS])
        for variable, state in zip(self._variables, self._states, strict=True):
            variable.assign((state + further).astype(variable.dtype))


def _parts(prompts: Any) -> list[Any]:
    return list(prompts.values()) if isinstance(prompts, dict) else [prompts]


def _rows(prompts: Any) -> int:
    if isinstance(prompts, (str, bytes)):
        raise ValueError(f"prompts={prompts!r} is one text. Give a list of texts.")
    lengths = {len(part) for part in _parts(prompts)}
    if len(lengths) != 1:
        raise ValueError(f"The prompts have the lengths {sorted(lengths)}. Give as many of each.")
    return lengths.pop()


def _compare(workers: Workers, prompts: Any, batch_size: int) -> None:
    """Raises a ValueError on all workers where they were not given the same."""
    if not workers.has_others:
        return
    sums = [zlib.crc32(repr(np.asarray(part).tolist()).encode()) for part in _parts(prompts)]
    alike = workers.gather(zlib.crc32(repr(sums).encode()), batch_size, what="generate")
    if (alike != alike[0]).any():
        raise ValueError(
            "The workers were given other prompts, or other sizes of a batch. Give all of them the "
            "same: each takes its own share."
        )


def _filled(prompts: Any, begin: int, end: int, size: int) -> Any:
    """Returns prompts of a batch; the last of them again where there are too few."""

    def filled(part: Any) -> Any:
        missing = size - (end - begin)
        if isinstance(part, (list, tuple)):
            return [*part[begin:end], *[part[end - 1]] * missing]
        last = np.repeat(part[end - 1 : end], missing, axis=0)
        return np.concatenate([part[begin:end], last])

    if isinstance(prompts, dict):
        return {name: filled(part) for name, part in prompts.items()}
    return filled(prompts)


def _cut(outputs: Any, rows: int) -> Any:
    if isinstance(outputs, dict):
        return {name: _cut(part, rows) for name, part in outputs.items()}
    return outputs[:rows]


def _joined(parts: Sequence[Any]) -> Any:
    """Returns outputs one behind the other; None where there are none."""
    if not parts:
        return None
    if isinstance(parts[0], dict):
        return {name: _joined([part[name] for part in parts]) for name in parts[0]}
    if isinstance(parts[0], list):
        return [text for part in parts for text in part]
    return np.concatenate(parts)


def _plain(outputs: Any) -> Any:
    """Returns outputs as what JSON can hold."""
    if isinstance(outputs, dict):
        return {"named": {name: _plain(part) for name, part in outputs.items()}}
    if isinstance(outputs, np.ndarray):
        return {"rows": outputs.tolist(), "dtype": str(outputs.dtype)}
    return outputs


def _of_plain(plain: Any) -> Any:
    if not isinstance(plain, dict):
        return plain
    if "named" in plain:
        return {name: _of_plain(part) for name, part in plain["named"].items()}
    return np.asarray(plain["rows"], plain["dtype"])
