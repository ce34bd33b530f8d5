"""Is a plot written where it can be, and is it said where it cannot?"""

from __future__ import annotations

import sys

import pytest

from tfdist.diagnostics.forecast import Forecast, Link
from tfdist.diagnostics.plot import plot_scaling
from tfdist.training.time_split import Split

_SPLIT = Split(input_secs=0.01, compute_secs=0.1, communication_secs=0.0, host_secs=0.01)


@pytest.mark.parametrize("is_strong", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of matplotlib's own imports
def test_plot_is_a_png(tmp_path, monkeypatch, is_strong):
    figure = pytest.importorskip("matplotlib.figure", reason="needs the extra plot")
    drawn = []
    forecast = Forecast(
        _SPLIT, 10**8, Link(1e9), is_strong=is_strong, measured={1: 0.12, 2: 0.2, 4: 0.25}
    )
    save = figure.Figure.savefig

    def noted(self, *args, **kwargs):
        drawn.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(figure.Figure, "savefig", noted)
    plot_scaling(forecast, tmp_path / "a.png", workers=64)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    [axes, _] = drawn[0].axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}
    assert lines["ideal"][-1] == [64, 64]
    assert lines["predicted"][1] == [2, pytest.approx(forecast.speed_up(2))]
    work = 1 if is_strong else 2
    assert lines["measured"][1] == [2, pytest.approx(work * 0.12 / 0.2)]
    law = "Amdahl" if is_strong else "Gustafson"
    assert f"{law}'s fit to 3 points" in lines


def test_without_matplotlib(tmp_path, monkeypatch):
    for name in [n for n in sys.modules if n.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'tfdist\[plot\]'"):
        plot_scaling(Forecast(_SPLIT, 1, Link(1e9)), tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
