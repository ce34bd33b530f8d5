"""Are predictions in files those of `model.predict`, each row once, whatever is killed?"""

from __future__ import annotations

import json
import re

import keras
import launching
import numpy as np
import pyarrow
import pytest
import tensorflow as tf
from pyarrow import parquet

import tfdist
from tfdist.inference import ParquetRows, predict_to, predicting_to

_X = np.random.default_rng(0).normal(size=[103, 3]).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    strategy = tfdist.get_strategy("2xcpu")
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        inputs = keras.Input((3,))
        wide = keras.layers.Dense(6, "tanh")(inputs)
        outputs = {"one": keras.layers.Dense(1)(wide), "map": keras.layers.Reshape([2, 3])(wide)}
        return keras.Model(inputs, outputs)


def read(folder):
    table = parquet.read_table(folder).to_pydict()
    return {name: np.asarray(values) for name, values in table.items()}


def assert_predicted(folder, model, x=_X):
    written, expected = read(folder), model.predict(x, verbose=0)
    assert written["id"].tolist() == list(range(len(x)))
    for name, outputs in expected.items():
        assert written[name].shape == outputs.shape
        np.testing.assert_allclose(written[name], outputs, atol=1e-6)


def test_files_hold_what_predict_returns(model, tmp_path):
    done = predict_to(model, _X, tmp_path, batch_size=8, part_rows=40, verbose=0)
    assert (done.rows, done.bad_rows, done.is_complete) == (103, 0, True)
    assert len(list(tmp_path.glob("part-*"))) == 3
    assert_predicted(tmp_path, model)


def test_what_is_there_is_not_predicted_again(model, tmp_path):
    predict_to(model, _X, tmp_path, batch_size=8, part_rows=40, verbose=0)
    kept, lost = tmp_path / "part-000000.parquet", tmp_path / "part-000001.parquet"
    changed = kept.stat().st_mtime_ns
    lost.unlink()
    assert predict_to(model, _X, tmp_path, batch_size=8, part_rows=40, verbose=0).is_complete
    assert kept.stat().st_mtime_ns == changed
    assert_predicted(tmp_path, model)


def test_arrays_in_files(model, tmp_path):
    predict_to(model, _X, tmp_path, batch_size=8, part_rows=64, format="npz", verbose=0)
    parts = [np.load(path) for path in sorted(tmp_path.glob("part-*.npz"))]
    one = np.concatenate([part["one"] for part in parts])
    np.testing.assert_allclose(one, model.predict(_X, verbose=0)["one"], atol=1e-6)


def test_compiled_by_xla_in_one_shape(model, tmp_path, monkeypatch):
    sizes = []

    def counted(model, x, **options):
        sizes.append(len(x))
        return predict(model, x, **options)

    predict = predicting_to.predict
    monkeypatch.setattr(predicting_to, "predict", counted)
    compiled = _compiled(keras.models.clone_model(model))
    compiled.set_weights(model.get_weights())
    predict_to(compiled, _X, tmp_path, batch_size=8, part_rows=40, verbose=0)
    assert sizes == [40, 40, 24]  # the last part has 23 rows
    assert_predicted(tmp_path, model)


def test_xla_compiles_it(tmp_path):
    """It cannot compile texts, and says so."""
    def lengths(x):
        return tf.strings.to_number(tf.as_string(x))

    model = keras.Sequential([keras.Input((3,)), keras.layers.Lambda(lengths, output_shape=(3,))])
    predict_to(model, _X, tmp_path / "plain", batch_size=8, verbose=0)
    with pytest.raises(tf.errors.OpError, match="XLA_CPU_JIT"):
        predict_to(_compiled(model), _X, tmp_path / "compiled", batch_size=8, verbose=0)


def _compiled(model):
    model.compile(jit_compile=True)
    return model


def test_bad_rows_are_told_with_their_ids(model, tmp_path):
    values = [row.tolist() for row in _X]
    values[3] = None
    values[41:60] = [None] * 19  # a whole part, and the rows around it
    source, to = tmp_path / "from", tmp_path / "to"
    source.mkdir()
    keys = [f"r{number}" for number in range(len(_X))]
    parquet.write_table(pyarrow.table({"key": keys, "x": values}), source / "a.parquet")
    rows = ParquetRows(source, ["x"], id_column="key")
    done = predict_to(model, rows, to, batch_size=4, part_rows=8, verbose=0)
    assert (done.rows, done.bad_rows, done.is_complete) == (103, 20, True)
    good = [number for number in range(len(_X)) if values[number]]
    written = read(to)
    assert written["id"].tolist() == [keys[number] for number in good]
    expected = model.predict(_X[good], verbose=0)["one"]
    np.testing.assert_allclose(written["one"], expected, atol=1e-6)
    lines = "".join(path.read_text() for path in sorted(to.glob("_bad/*"))).splitlines()
    told = [json.loads(line) for line in lines]
    assert [row["id"] for row in told] == ["r3", *keys[41:60]]
    with pytest.raises(ValueError, match=r"The row 'r3' cannot be read: the column 'x' has no val"):
        predict_to(model, rows, tmp_path / "strict", batch_size=4, strict=True, verbose=0)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"batch_size": 8, "part_rows": 12}, "is no multiple of batch_size=8"),
        ({"batch_size": 0}, "must be at least one"),
        ({"format": "csv"}, r"format='csv' is unknown; there are parquet, npz\."),
    ],
)
def test_wrong_sizes_are_refused(model, tmp_path, options, told):
    with pytest.raises(ValueError, match=told):
        predict_to(model, _X, tmp_path / "to", **options)
    assert not (tmp_path / "to").exists()


def test_other_weights_do_not_go_on(model, tmp_path):
    predict_to(model, _X, tmp_path, verbose=0)
    other = keras.models.clone_model(model)
    with pytest.raises(ValueError, match="of another model"):
        predict_to(other, _X, tmp_path, verbose=0)


_PREDICT = """
import os, signal, sys, threading, time
import keras, numpy as np, tfdist
from tfdist.inference import ArrayRows

class Slow(ArrayRows):
    def read(self, begin, end):
        if begin >= 128 and os.environ["TFDIST_RANK"] == "1":  # of its second half
            if int(os.environ["TFDIST_RESTART_COUNT"]) < 2:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().read(begin, end)

x = np.arange(200 * 3, dtype=np.float32).reshape(200, 3) / 600
with tfdist.get_strategy("cpu").scope():
    model = keras.models.load_model(sys.argv[1], compile=False)
print(tfdist.predict_to(model, Slow(x), sys.argv[2], batch_size=4, part_rows=8, verbose=0))
"""


@pytest.mark.slow  # 15 s: that workers which are killed leave no row out, and none twice
@pytest.mark.timeout(200)
def test_workers_that_are_killed_go_on(model, tmp_path):
    saved, to = tmp_path / "model.keras", tmp_path / "to"
    model.save(saved)
    program = launching.write_program(tmp_path, _PREDICT)
    done = launching.launch(
        "--workers=2", "--max_restarts=3", program, saved, to, limit_secs=180
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in (0, 1):
        assert "rows=200, bad_rows=0, is_complete=True" in launching.lines_of(done, rank)[-1]
    assert len(re.findall("restart", done.stderr)) >= 2, done.stderr
    x = np.arange(200 * 3, dtype=np.float32).reshape(200, 3) / 600
    assert_predicted(to, model, x)
