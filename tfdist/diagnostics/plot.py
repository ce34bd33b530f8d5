"""What does scaling look like? A picture of measured and predicted speed, as a PNG file.

`plot_scaling(forecast, "scaling.png")` draws the speed-up against the ideal line, with a law's fit
where enough was measured: Amdahl's for the same work, Gustafson's for work that grows with the
workers. Below it stands what a step is made of. Needs the extra `plot`.
"""

from __future__ import annotations

import os
from typing import Any

from tfdist.diagnostics import scaling_laws
from tfdist.diagnostics.forecast import Forecast

_PARTS = ("compute", "input", "communication", "host")


def plot_scaling(forecast: Forecast, path: str | os.PathLike[str], *, workers: int = 1024) -> None:
    """Writes the plot of a forecast as a PNG file.

    Args:
        forecast: What is drawn, with its measured points.
        path: The file; one that is there is replaced.
        workers: Number of workers up to which the prediction goes.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    figure = _new_figure()
    counts = [n for n in (2**power for power in range(11)) if n <= workers]
    above, below = figure.subplots(2, 1, sharex=True)
    _draw_speed(above, forecast, counts)
    _draw_parts(below, forecast, counts)
    below.set_xlabel("workers")
    below.set_xscale("log", base=2)
    below.set_xticks(counts, [f"{n:,}" for n in counts])
    below.set_xlim(counts[0], max(counts[-1], 2))
    figure.tight_layout()
    figure.savefig(os.fspath(path), format="png", dpi=100)


def _new_figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "A plot needs the package 'matplotlib', which is not installed. Install it with "
            "pip install 'tfdist[plot]', or ask for no plot.",
            name="matplotlib",
        ) from error
    return Figure(figsize=(7, 8))  # no pyplot: no window, and nothing global


def _draw_speed(axes: Any, forecast: Forecast, counts: list[int]) -> None:
    axes.plot(counts, counts, "--", color="gray", label="ideal")
    axes.plot(counts, [forecast.speed_up(n) for n in counts], label="predicted")
    measured = dict(sorted(forecast.measured.items()))
    if alone := measured.get(1):
        work = {n: 1 if forecast.is_strong else n for n in measured}
        speed = [work[n] * alone / secs for n, secs in measured.items()]
        axes.plot(list(measured), speed, "o", label="measured", zorder=3, clip_on=False)
    if alone and len(measured) > 1:
        name, fitted = _fit(measured, counts, is_strong=forecast.is_strong)
        axes.plot(counts, fitted, ":", label=f"{name}'s fit to {len(measured)} points")
    axes.set_yscale("log", base=2)
    ticks = counts[::2]
    axes.set_yticks(ticks, [f"{n:,}" for n in ticks])
    axes.set_ylabel("speed-up over one worker")
    kind = "strong scaling: the same global batch" if forecast.is_strong else (
        "weak scaling: the same batch a worker"
    )
    axes.set_title(kind)
    axes.grid(alpha=0.3)
    axes.legend()


def _fit(
    measured: dict[int, float], counts: list[int], *, is_strong: bool
) -> tuple[str, list[float]]:
    """Returns the law that is about this kind of scaling, and the speed-ups that it gives."""
    if is_strong:
        law = scaling_laws.amdahl(list(measured), list(measured.values()))
        return "Amdahl", [law.secs(1) / law.secs(n) for n in counts]
    speed_ups = [n * measured[1] / secs for n, secs in measured.items()]
    share = scaling_laws.gustafson(list(measured), speed_ups)
    return "Gustafson", [n - share * (n - 1) for n in counts]


def _draw_parts(axes: Any, forecast: Forecast, counts: list[int]) -> None:
    splits = [forecast.split(n) for n in counts]
    times = [[1000 * getattr(split, f"{part}_secs") for split in splits] for part in _PARTS]
    axes.stackplot(counts, *times, labels=_PARTS)
    axes.set_ylabel("ms of a step, predicted")
    # Below the axes: inside, it would hide the first workers in one plot or the last in the other.
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncol=len(_PARTS), frameon=False)
