"""How do the workers of a job share the clients?  Each is one client at a time, in waves.

The chief is the server. It sends a request to all workers; then client i of those that are asked,
in the order of their names, is the work of worker i mod N, and the answers come back in that order.
So what the chief adds up, and in which order, does not depend on how many workers there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from tfdist.communication.workers import Workers
from tfdist.federated import messages
from tfdist.federated.channel import InProcess, Request
from tfdist.federated.messages import Message


class OverWorkers:
    """Clients that the workers of a job share; the chief asks, and the others `follow`.

    Args:
        clients: All clients, as each worker has them.
        workers: The workers of the job.
    """

    def __init__(self, clients: InProcess, workers: Workers) -> None:
        self._clients, self._workers = clients, workers
        self._owners: dict[str, int] = {}
        self._is_in_waves = False  # the others wait for the chief in the next wave
        self._is_over = False  # a worker has failed, or the chief has ended all

    def names(self) -> list[str]:
        """See `Channel`."""
        return self._clients.names()

    def ask(self, request: Request) -> Iterator[tuple[str, bytes]]:
        """See `Channel`; the chief calls it."""
        self._workers.from_chief(_packed(request))
        yield from self._waves(request)

    def follow(self) -> Message:
        """Works for the chief until it ends; returns what it says at the end.

        Raises:
            RuntimeError: The chief, or another worker, has failed.
        """
        while True:
            message = messages.unpack(self._workers.from_chief(b""), "ask", "end")
            if message.kind == "end":
                if error := message.header.get("error", "").rstrip("."):
                    raise RuntimeError(f"The chief has failed: {error}. Look at its own error.")
                return message
            for _ in self._waves(_request(message)):
                pass

    def end(self, message: bytes) -> None:
        """Ends the other workers' `follow`, which the chief calls once, whatever has happened.

        Args:
            message: One of the kind "end", unless a worker has failed, which all know by then.
        """
        if self._is_over:
            return
        self._is_over = True
        if self._is_in_waves:  # the others wait there
            why = "the chief, which has stopped in the midst of a round."
            self._workers.payloads(messages.pack("failed", {"why": why}))
        else:
            self._workers.from_chief(message)

    def _waves(self, request: Request) -> Iterator[tuple[str, bytes]]:
        """Yields the answers; where a worker fails, all of them raise."""
        waves = self._assigned(request)
        for number, wave in enumerate(waves, start=1):
            answers = self._wave(wave, request)
            self._is_in_waves = number < len(waves)
            yield from answers.items()

    def _wave(self, wave: Mapping[int, str], request: Request) -> dict[str, bytes]:
        own, error = b"", None
        if name := wave.get(self._workers.rank):
            try:
                own = self._clients.answer(request, name)
            except Exception as problem:
                error = problem
                why = f"the client {name!r}: {type(problem).__name__}: {problem}"
                own = messages.pack("failed", {"why": why})
        every = self._workers.payloads(own)
        if error is not None:
            self._is_over = True
            raise error
        for rank, payload in enumerate(every):
            if payload and (told := _failure(payload)):
                self._is_over = True
                raise RuntimeError(
                    f"Worker {rank} has failed with {told}. Look at its own error, above or below."
                )
        return {name: every[rank] for rank, name in wave.items()}

    def _assigned(self, request: Request) -> list[dict[int, str]]:
        """Returns who is whose work, wave by wave, in the order of the names.

        Within a round a client stays with its worker, which may hold its keys.
        """
        if request.phase in ("train", "evaluate", "keys"):
            count = self._workers.count
            self._owners = {name: i % count for i, name in enumerate(sorted(request.own))}
        waves: list[dict[int, str]] = []
        last = self._workers.count
        for name in sorted(request.own):
            owner = self._owners[name]
            if owner <= last or not waves:
                waves.append({})
            waves[-1][owner] = name
            last = owner
        return waves


def _packed(request: Request) -> bytes:
    header = {"phase": request.phase, "round": request.round_number, "names": sorted(request.own)}
    parts = [request.common, *(request.own[name] for name in sorted(request.own))]
    arrays = {str(i): np.frombuffer(part, np.uint8) for i, part in enumerate(parts)}
    return messages.pack("ask", header, arrays)


def _request(message: Message) -> Request:
    common, *own = (message.arrays[str(i)].tobytes() for i in range(len(message.arrays)))
    names = message.header["names"]
    return Request(
        message.header["phase"], message.header["round"], common,
        dict(zip(names, own, strict=True)),
    )


def _failure(payload: bytes) -> str:
    """Returns why a worker has failed, "" if it has not."""
    try:
        return str(messages.unpack(payload, "failed").header["why"]).rstrip(".")
    except ValueError:
        return ""
