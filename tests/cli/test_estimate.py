"""Does the command say how much memory training takes, and whether that is there?"""

from __future__ import annotations

import re

import pytest

from tfdist.cli import estimate
from tfdist.diagnostics import batch_size, memory_limit


def test_a_model_of_ours(capsys, logical_cpus):
    assert estimate.main(["--device=2xcpu", "--batch_size=64"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("global batch 64, 32 examples a replica: ")
    assert "for 2 replica(s): enough" in shown


def test_an_optimizer_in_parts(capsys, logical_cpus):
    optimizers = []
    for flags in ([], ["--sharded_optimizer"]):
        assert estimate.main(["--device=2xcpu", "--batch_size=64", *flags]) == 0
        optimizers.append(float(re.search(r"([\d.]+) optimizer", capsys.readouterr().out)[1]))
    assert optimizers[1] == pytest.approx(optimizers[0] / 2, abs=0.1)
    assert optimizers[1] < optimizers[0]


def test_too_little_memory(capsys, monkeypatch, logical_cpus):
    monkeypatch.setattr(memory_limit, "available_bytes", lambda: 1000)
    assert estimate.main(["--device=cpu"]) == 1
    assert "TOO LITTLE; make the batch or the model smaller" in capsys.readouterr().out


def test_the_largest_batch_needs_examples(tmp_path, monkeypatch, capsys, logical_cpus):
    (tmp_path / "only_a_model.py").write_text(
        "import keras\n"
        "def make():\n"
        "    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])\n"
        "    model.compile('sgd', 'mse')\n"
        "    return model\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    given = ["--target=only_a_model:make", "--device=cpu", "--find_largest_batch"]
    assert estimate.main(given) == 2
    assert "Let the function of --target return (model, (x, y))" in capsys.readouterr().err


def test_the_largest_batch_is_asked_for(capsys, monkeypatch, logical_cpus):
    asked = {}

    def search(model, x, y, **options):
        asked.update(options, x=x.shape, y=y.shape)
        return 4096

    monkeypatch.setattr(batch_size, "find_batch_size", search)
    given = ["--device=cpu", "--batch_size=10", "--find_largest_batch", "--memory_limit_mb=900"]
    assert estimate.main([*given, "--sharded_optimizer"]) == 0
    assert capsys.readouterr().out.endswith("the largest global batch that trains here: 4096\n")
    assert asked == {
        "x": (1 << 24, 8, 8), "y": (1 << 24,), "device": "cpu", "start": 10,
        "memory_limit_bytes": 900_000_000, "sharded_optimizer": True,
    }  # fmt: skip
