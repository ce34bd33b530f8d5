"""What does scaling look like? A picture of measured and predicted speed, as a PNG file.

`plot_scaling(forecast, "scaling.png")` draws the speed-up against the ideal line, with Amdahl's fit
where enough was measured, and below it what a step is made of. Needs the extra `plot`.
"""

from __future__ import annotations

import os
from typing import Any

from tfdist import report
from tfdist.forecast import Forecast

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
        axes.plot(list(measured), speed, "o", label="measured")
    if len(measured) > 1:
        # Amdahl's law is about the same work: in weak scaling a worker's share of a step.
        secs = [s if forecast.is_strong else s / n for n, s in measured.items()]
        fit = report.amdahl(list(measured), secs)
        axes.plot(counts, [fit.secs(1) / fit.secs(n) for n in counts], ":", label="Amdahl's fit")
    axes.set_yscale("log", base=2)
    axes.set_ylabel("speed-up")
    axes.set_title("strong scaling" if forecast.is_strong else "weak scaling")
    axes.legend()


def _draw_parts(axes: Any, forecast: Forecast, counts: list[int]) -> None:
    splits = [forecast.split(n) for n in counts]
    times = [[1000 * getattr(split, f"{part}_secs") for split in splits] for part in _PARTS]
    axes.stackplot(counts, *times, labels=_PARTS)
    axes.set_ylabel("ms of a step, predicted")
    axes.legend(loc="upper right")
