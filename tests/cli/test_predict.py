"""Does a saved model predict for files, from outside?"""

from __future__ import annotations

import subprocess
import sys

import keras
import launching
import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from tfdist.cli import predict

_X = np.linspace(-1, 1, 60, dtype=np.float32).reshape(20, 3)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.keras"
    made = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, "tanh")])
    made.save(path)
    return path, made.predict(_X, verbose=0)


def source(folder, kind):
    """Writes the rows; returns the input and its flags."""
    if kind == "npy":
        np.save(folder / "x.npy", _X)
        return ["x.npy"]
    if kind == "parquet":
        (folder / "data").mkdir()
        table = pyarrow.table({"x": [row.tolist() for row in _X]})
        parquet.write_table(table, folder / "data" / "a.parquet")
        return ["data", "--columns=x"]
    (folder / "x.txt").write_text("".join(" ".join(map(str, row)) + "\n" for row in _X))
    (folder / "reading.py").write_text(
        "import tensorflow as tf\n"
        "def parse(line): return tf.strings.to_number(tf.strings.split(line))\n"
    )
    return ["x.txt", "--parse_fn=reading.py:parse"]


@pytest.mark.parametrize("kind", ["npy", "parquet", "text"])
def test_files_are_predicted(model, kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path, expected = model
    flags = source(tmp_path, kind)
    assert predict.main([str(path), *flags, "--to=to", "--batch_size=8", "--device=cpu"]) == 0
    assert "tfdist: 20 rows are predicted in to." in capsys.readouterr().out
    written = np.asarray(parquet.read_table("to").to_pydict()["prediction"])
    np.testing.assert_allclose(written, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["gone.npy"], "The input 'gone.npy' is not there."),
        (["data"], "Name the model's inputs by --columns=NAME"),
        (["data", "x.npy"], "of several kinds"),
        (["x.txt"], "Name what parses one by --parse_fn=FILE:NAME"),
        (["x.npy", "--format=csv"], "format='csv' is unknown"),
    ],
)
def test_wrong_input_is_told(model, flags, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for kind in ("npy", "parquet", "text"):
        source(tmp_path, kind)
    with pytest.raises(SystemExit, match="2"):
        predict.main([str(model[0]), *flags, "--to=to", "--device=cpu"])
    assert told in capsys.readouterr().err


@pytest.mark.slow  # 12 s: that workers get the flags is seen here alone
@pytest.mark.timeout(200)
def test_workers_predict_their_shares(model, tmp_path):
    path, expected = model
    flags = [*source(tmp_path, "npy"), "--to=to", "--batch_size=2", "--part_rows=4", "--workers=2"]
    done = subprocess.run(
        [sys.executable, "-m", "tfdist", "predict", str(path), *flags], cwd=tmp_path, timeout=180,
        env=launching.environ_with(TF_CPP_MIN_LOG_LEVEL="2"), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "to").glob("part-*"))) == 5
    written = np.asarray(parquet.read_table(tmp_path / "to").to_pydict()["prediction"])
    np.testing.assert_allclose(written, expected, atol=1e-6)


def test_fewer_bits_and_xla(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, expected = model
    flags = source(tmp_path, "npy")
    for number, further in enumerate((["--jit_compile"], ["--weights=int8", "--jit_compile"])):
        to = f"to{number}"
        command = [str(path), *flags, f"--to={to}", "--batch_size=8", "--device=cpu", *further]
        assert predict.main(command) == 0
        written = np.asarray(parquet.read_table(to).to_pydict()["prediction"])
        off = np.abs(written - expected).max()
        assert 1e-5 < off < 0.05 if number else off < 1e-6


def test_without_pyarrow(model, tmp_path, monkeypatch, capsys):
    """One sentence, before the model is loaded, and the format that needs no package."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow.compute", None)
    with pytest.raises(SystemExit) as ended:
        predict.main([str(model[0]), *source(tmp_path, "npy"), "--to=to", "--device=cpu"])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "Parquet files need pyarrow, which is not installed. Install it: pip install" in told
    assert "Or give --format=npz." in told
