"""Do sums and copies run while something is computed?  By a trace of the profiler.

Synopsis:

    >>> seconds([(0.0, 2.0), (1.0, 3.0), (5.0, 6.0)])
    4.0
    >>> seconds(both([(0.0, 2.0), (5.0, 6.0)], [(1.0, 5.5)]))
    1.5
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence

from tfdist.cli.gpu_check import logical
from tfdist.cli.gpu_check.models import timed_case
from tfdist.cli.gpu_check.rows import FOUND, LEFT_OUT, Row
from tfdist.cli.gpu_check.setting import Setting
from tfdist.cli.gpu_check.trace_file import Event, events_of

Span = tuple[float, float]

_KINDS = {
    "sums over the replicas": re.compile(r"nccl|AllReduce|CollectiveReduce|AddN", re.IGNORECASE),
    "copies": re.compile(r"memcpy|HtoD|DtoH|DtoD|PtoP", re.IGNORECASE),
}
# What holds other events inside of it, or only waits, computes nothing itself.
_AROUND = re.compile(
    r"While|StatefulPartitionedCall|PartitionedCall|EagerExecute|FunctionRun|IteratorGetNext|Wait|"
    r"ExecutorState|ExecutorDone|TraceContext|Session|KernelAndDevice|Prefetch|Iterator|^\$",
)


def rows(setting: Setting) -> Iterator[Row]:
    """Gives the rows of this part."""
    yield Row(FOUND, "two replicas", logical.divide(setting))
    folder = pathlib.Path(setting.folder, "trace")
    _train(setting, str(folder))
    events = events_of(str(folder))
    wanted = "/device:GPU" if setting.is_gpu else "/host:CPU"
    on_devices = [event for event in events if event.plane.startswith(wanted)]
    if not on_devices:
        planes = sorted({event.plane for event in events})
        yield Row(LEFT_OUT, "overlap", f"the trace has no events of {wanted}, but of {planes}")
        return
    yield from judged(on_devices)


def _train(setting: Setting, folder: str) -> None:
    import keras

    from tfdist.strategy import factory
    from tfdist.training import fitting

    case = timed_case("CNN", setting.size)
    with factory.get_strategy(setting.two).scope():
        model = case.make()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(1e-3), loss)
    fitting.fit(
        model, case.x, case.y, batch_size=setting.size.batch, epochs=4, verbose=0, profile=folder
    )


def judged(events: Sequence[Event]) -> Iterator[Row]:
    """Gives for each kind of event how long it ran, and how much of it beside computing.

    Args:
        events: Of devices.
    """
    kinds = {name: [e for e in events if found.search(e.name)] for name, found in _KINDS.items()}
    special = {id(event) for found in kinds.values() for event in found}
    rest = [e for e in events if id(e) not in special and not _AROUND.search(e.name)]
    computing = merged((event.start, event.end) for event in rest)
    busy = merged((event.start, event.end) for event in [*rest, *sum(kinds.values(), [])])
    whole = max((e.end for e in events), default=0.0) - min((e.start for e in events), default=0.0)
    yield Row(
        FOUND, "devices", f"busy for {1e3 * seconds(busy):.1f} of {1e3 * whole:.1f} ms, "
        f"{len(events)} events on {len({(e.plane, e.line) for e in events})} streams or threads",
    )
    for name, found in kinds.items():
        spans = merged((event.start, event.end) for event in found)
        if not spans:
            yield Row(LEFT_OUT, name, "the trace shows none")
            continue
        beside = seconds(both(spans, computing)) / max(seconds(spans), 1e-12)
        yield Row(
            FOUND, name, f"{1e3 * seconds(spans):.1f} ms, {100 * beside:.0f} % of it while "
            f"something is computed; {_most(found)}",
        )


def _most(found: Sequence[Event]) -> str:
    took: dict[str, float] = {}
    for event in found:
        took[event.name] = took.get(event.name, 0.0) + event.end - event.start
    first = max(took, key=lambda name: took[name])
    return f"most of it {first[-60:]!r}"


def merged(spans: Iterable[Span]) -> list[Span]:
    """Returns spans of time that do not overlap, and cover the same."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def both(some: Iterable[Span], others: Iterable[Span]) -> list[Span]:
    """Returns the spans that lie in both."""
    left, right = merged(some), merged(others)
    found, i, j = [], 0, 0
    while i < len(left) and j < len(right):
        start, end = max(left[i][0], right[j][0]), min(left[i][1], right[j][1])
        if start < end:
            found.append((start, end))
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1
    return found


def seconds(spans: Iterable[Span]) -> float:
    """Returns how long spans last, together."""
    return sum(end - start for start, end in merged(spans))
