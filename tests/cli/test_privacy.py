"""Does the command say what training would?"""

from __future__ import annotations

import re

import pytest

from tfdist.cli import privacy
from tfdist.privacy import Mechanism, epsilon

_DATA = ["--examples=60000", "--batch_size=250", "--epochs=15"]


def test_epsilon_of_a_noise_multiplier(capsys):
    assert privacy.main([*_DATA, "--noise_multiplier=1.1", "--batch_cap=304"]) == 0
    shown = capsys.readouterr().out
    step = Mechanism(1.1, 250 / 60_000, 304, 60_000)
    assert f"epsilon={epsilon([(step, 3600)], delta=1e-5):.4f} at delta=1e-05 over 3600" in shown
    assert "304 at most" in shown


def test_noise_multiplier_of_an_epsilon(capsys):
    assert privacy.main(["--examples=1000", "--batch_size=100", "--epsilon=2"]) == 0
    found = re.search(r"noise_multiplier=([\d.]+): epsilon=([\d.]+)", capsys.readouterr().out)
    assert 1.98 < float(found[2]) <= 2


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--epsilon=2"], "give --examples=N"),
        ([*_DATA], "follow from each other"),
        ([*_DATA, "--epsilon=2", "--delta=0.1"], "Give a delta below"),
        ([*_DATA, "--epsilon=-1"], "target_epsilon=-1.0 is no promise"),
    ],
)
def test_wrong_flags(flags, told, capsys):
    try:
        code = privacy.main(flags)
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert told in capsys.readouterr().err
