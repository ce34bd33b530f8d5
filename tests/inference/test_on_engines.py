"""Do the engines predict what `model.predict` does, in the data's order?"""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import sys
import textwrap

import keras
import launching
import numpy as np
import pytest

from tfdist.inference.on_engines import Predictor, RayPredictor, predictor_of

_X = np.random.default_rng(1).normal(size=[37, 3]).astype(np.float32)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved model, and what it predicts."""
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Dense(4, "tanh")(inputs)))
    folder = tmp_path_factory.mktemp("model")
    model.save(folder / "model.keras")
    np.save(folder / "x.npy", _X)
    np.save(folder / "expected.npy", model.predict(_X, verbose=0))
    return str(folder / "model.keras"), model.predict(_X, verbose=0)


@pytest.mark.parametrize("size", [1, 8, 37])
def test_any_number_of_rows_is_predicted_in_one_shape(saved, size):
    path, expected = saved
    predictor = Predictor(path, batch_size=8)
    np.testing.assert_allclose(predictor(_X[:size]), expected[:size], atol=1e-6)


def test_a_process_loads_the_model_once(saved):
    assert predictor_of(saved[0], batch_size=8) is predictor_of(saved[0], batch_size=8)


def test_columns_are_inputs_and_all_others_stay(saved):
    path, expected = saved
    batch = RayPredictor(path, "x", batch_size=16)({"x": _X, "key": np.arange(37)})
    assert batch["key"].tolist() == list(range(37))
    np.testing.assert_allclose(batch["prediction"], expected, atol=1e-6)


_RAY = """
import ray
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
ray.data.DataContext.get_current().execution_options.preserve_order = True
data = ray.data.from_items([{"number": i, "x": row} for i, row in enumerate(x)])
data = data.map_batches(tfdist.inference.RayPredictor, fn_constructor_args=[path, "x"],
                        fn_constructor_kwargs={"batch_size": 8}, batch_size=8, concurrency=2)
rows = data.take_all()
assert [row["number"] for row in rows] == list(range(len(x)))
found = np.stack([row["prediction"] for row in rows])
ray.shutdown()
"""
_DASK = """
import pandas, dask, dask.dataframe
dask.config.set(scheduler="threads", num_workers=2)
frame = dask.dataframe.from_pandas(pandas.DataFrame(x, columns=list("abc")), npartitions=3)
frame = tfdist.inference.dask_map(frame, path, columns=list("abc"), batch_size=8).compute()
assert np.array_equal(frame[list("abc")], x)
found = np.stack(frame["prediction"])
"""
_SPARK = """
import os, pyspark.sql
os.environ["PYSPARK_PYTHON"] = sys.executable
builder = pyspark.sql.SparkSession.builder.master("local[2]").config("spark.ui.enabled", False)
session = builder.config("spark.driver.bindAddress", "127.0.0.1").getOrCreate()
frame = session.createDataFrame([(i, row.tolist()) for i, row in enumerate(x)],
                                "number int, x array<float>")
udf = tfdist.inference.spark_udf(path, shape=[3], return_type="array<float>", batch_size=8)
rows = frame.select("number", udf("x").alias("prediction")).orderBy("number").collect()
found = np.stack([row["prediction"] for row in rows])
session.stop()
"""
_COMPARED = """
assert found.shape == expected.shape, found.shape
assert np.abs(found - expected).max() < 1e-6
print("equal")
"""


@pytest.mark.slow  # 15 s each: that the engine's own calls fit ours is seen here alone
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("package", "program"), [("ray", _RAY), ("dask", _DASK), ("pyspark", _SPARK)]
)
def test_engine_predicts_in_order(saved, tmp_path, package, program):
    pytest.importorskip(package)
    head = f"""
        import pathlib, sys
        import numpy as np, tfdist
        path = {saved[0]!r}
        x, expected = (np.load(pathlib.Path(path).parent / f"{{n}}.npy") for n in ("x", "expected"))
    """
    code = textwrap.dedent(head) + program + _COMPARED
    file = launching.write_program(tmp_path, code)
    done = subprocess.run(
        [sys.executable, file], capture_output=True, text=True, timeout=280, check=False,
        env=launching.environ_with(TF_CPP_MIN_LOG_LEVEL="2", ENGINE_TEST_MARK=str(tmp_path)),
    )  # fmt: skip
    # Ray's processes end a few seconds after it has let go of them.
    launching.wait_for(lambda: not _processes_with(str(tmp_path)), limit_secs=30)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "equal"


def _processes_with(mark):
    """The processes that have a text in their environment."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark.encode() in path.read_bytes():
                found.append(path.parent.name)
    return found
