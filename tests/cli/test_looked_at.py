"""Does a command look at the program's own model and batch, or at those that are named?"""

from __future__ import annotations

import subprocess
import sys

import launching
import pytest

from tfdist.cli import looked_at
from tfdist.launch.command_line import CommandLine

_SHOW = """
import sys
from tfdist.cli import looked_at
from tfdist.compat import keras_internals
from tfdist.launch.command_line import CommandLine
line = CommandLine("tfdist look", "", text="")
device = {"alone": None}.get(sys.argv.pop(), "2xcpu")
found = looked_at.look(line, sys.argv[1:], target=None, instead=looked_at.network, device=device)
strategy = keras_internals.made_under(found.model)
print(found.batch_size, found.model.name, strategy and strategy.num_replicas_in_sync)
print([(part.shape, str(part.dtype)) for part in found.batch])
"""
_PROGRAM = """
import sys, keras, numpy as np, tensorflow as tf
x, y = np.ones((10, 3), "float32"), np.ones(10, "int32")
given = {
    "arrays": (x, y, {"batch_size": 4, "sample_weight": np.ones(10)}),
    "dataset": (tf.data.Dataset.from_tensor_slices((x, y)).batch(5), None, {}),
    "generator": (((x, y) for _ in range(2)), None, {}),
}
x, y, more = given[sys.argv[1]]
model = keras.Sequential([keras.layers.Dense(2)], name="mine")
model.compile("sgd", "sparse_categorical_crossentropy")
print("the program's own words")
model.fit(x, y, epochs=3, **more)
raise SystemExit("what comes after the first fit does not happen")
"""


def _run(tmp_path, kind, device="replicas"):
    (tmp_path / "program.py").write_text(_PROGRAM)
    return subprocess.run(
        [sys.executable, "-c", _SHOW, str(tmp_path / "program.py"), kind, device],
        env=launching.environ_with(TF_CPP_MIN_LOG_LEVEL="2"), capture_output=True, text=True,
        timeout=110, check=False,
    )


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("arrays", "4 mine 2\n[((4, 3), 'float32'), ((4,), 'int32'), ((4,), 'float64')]\n"),
        ("dataset", "5 mine 2\n[(TensorShape([5, 3])"),
    ],
)
def test_a_program_is_looked_at(tmp_path, kind, shown):
    done = _run(tmp_path, kind)
    assert done.stdout.startswith(shown), done.stderr
    assert "the program's own words" in done.stderr


def test_a_program_is_looked_at_on_one_device(tmp_path):
    """Where no device is asked for, as for the program of a TPU, which is one replica's."""
    done = _run(tmp_path, "dataset", "alone")
    assert done.stdout.startswith("5 mine 1\n[(TensorShape([5, 3])"), done.stderr


def test_what_cannot_be_looked_at_is_told(tmp_path):
    done = _run(tmp_path, "generator")
    assert "trains on x=generator, which cannot be looked at" in done.stderr


@pytest.mark.parametrize(
    ("rest", "target", "told"),
    [
        (["no_such.py"], None, "program='no_such.py' is not there"),
        ([__file__], "a:b", "--target=a:b and the program"),
        ([], "a", "--target='a' names no function"),
    ],
)
def test_what_is_not_there_is_told(rest, target, told, capsys):
    line = CommandLine("tfdist look", "PROGRAM", text="")
    with pytest.raises(SystemExit) as ended:
        looked_at.look(line, rest, target=target, instead=looked_at.network, device=None)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_a_named_function_gives_a_model_or_a_batch_too(tmp_path, monkeypatch):
    (tmp_path / "mine_to_look_at.py").write_text(
        "alone = lambda: 'model'\nboth = lambda: ('model', ('x', 'y'))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    line = CommandLine("tfdist look", "", text="")

    def look(name):
        return looked_at.look(
            line, [], target=f"mine_to_look_at:{name}", instead=looked_at.network, device=None
        )

    assert look("alone") == looked_at.Looked("model")
    assert look("both") == looked_at.Looked("model", ("x", "y"))
