"""Does the search for a batch size survive that memory runs out, and end near the largest one?"""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tfdist
from tfdist import launch
from tfdist.diagnostics import batch_size

_MIB = 2**20
_LIMIT = 1400 * _MIB
_WIDTH = 20_000  # 80 kB a row, in the first layer alone


def wide_model() -> keras.Model:
    layers = [keras.Input((2,)), keras.layers.Dense(_WIDTH, "relu"), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.Adam(), "mse")
    return model


def deep_model() -> keras.Model:
    """Returns a model whose optimizer is most of it: 100 MB, and twice that in Adam's states."""
    layers = [keras.layers.Dense(5000, "relu"), keras.layers.Dense(5000), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((2,)), *layers])
    model.compile("adam", "mse")
    return model


def broken_model() -> keras.Model:
    raise ArithmeticError("mine")


def data(rows: int) -> tuple[np.ndarray, np.ndarray]:
    return np.ones((rows, 2), "float32"), np.ones((rows, 1), "float32")


def fits(size: int, mark: str, limit: int = _LIMIT) -> bool:
    options = {"device": "cpu", "limit": limit, "floatx": "float32",
               "fit": {"sharded_optimizer": False}}
    args = (wide_model, data(4), size, mark, options)
    return batch_size._fits(args, timeout_secs=100)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_largest_batch_is_found_though_memory_runs_out(tmp_path):
    model = wide_model()
    before = model.get_weights()
    x, y = data(200_000)
    found = tfdist.find_batch_size(
        model, x, y, device="cpu", start=256, precision=0.25, memory_limit_bytes=_LIMIT
    )
    assert 256 <= found < 200_000
    mark = str(tmp_path / "mark")
    assert fits(found // 2, mark)  # with room for what differs from one process to another
    assert not fits(found * 2, mark)
    assert fits(found * 2, mark, limit=3 * _LIMIT)  # it was memory, and nothing else
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not model.optimizer.iterations.numpy().any()


@pytest.mark.slow
def test_all_rows_are_the_most():
    x, y = data(3)
    assert tfdist.find_batch_size(wide_model, x, y, device="2xcpu") == 3


@pytest.mark.slow  # 20 s: only here is a loaded optimizer, which has all states, taken apart
def test_an_optimizer_in_parts_leaves_room_for_more(tmp_path):
    path, mark = str(tmp_path / "model.keras"), str(tmp_path / "mark")
    deep_model().save(path)
    found = []
    for is_sharded in (False, True):
        options = {"device": "2xcpu", "limit": 2700 * _MIB, "floatx": "float32",
                   "fit": {"sharded_optimizer": is_sharded}}
        found.append(batch_size._fits((path, data(4), 64, mark, options), timeout_secs=100))
    assert found == [False, True]


@pytest.mark.slow
def test_another_error_is_told():
    with pytest.raises(RuntimeError, match="ArithmeticError: mine"):
        tfdist.find_batch_size(broken_model, *data(3), device="cpu")


@pytest.mark.slow
def test_an_error_of_the_training_is_told():
    x, _ = data(3)
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*shape"):
        tfdist.find_batch_size(wide_model, np.ones((3, 7), "float32"), x, device="cpu")


@pytest.mark.slow
def test_a_limit_below_what_a_process_has():
    with pytest.raises(RuntimeError, match="before the first step. Give more"):
        tfdist.find_batch_size(wide_model, *data(3), device="cpu", memory_limit_bytes=_MIB)


@pytest.mark.parametrize(
    ("answers", "expected"), [([True, False], 1), ([False, False, False, False], None)]
)
def test_no_size_and_one_size(monkeypatch, answers, expected):
    given = iter(answers)
    monkeypatch.setattr(launch, "run", lambda *args, **options: [next(given)])
    if expected is None:
        with pytest.raises(RuntimeError, match="Not one example trains"):
            tfdist.find_batch_size(wide_model, *data(9), start=1)
    else:
        assert tfdist.find_batch_size(wide_model, *data(2), start=1) == expected


def test_a_process_that_dies_over_its_memory_is_no_error(monkeypatch):
    def dies(fn, *, args, **options):
        if args[2] > 2:
            open(args[3], "w").close()
            raise RuntimeError("worker 0: killed by SIGABRT")
        return [True]

    monkeypatch.setattr(launch, "run", dies)
    assert tfdist.find_batch_size(wide_model, *data(9), start=1) == 2


def test_a_process_that_dies_before_is_one(monkeypatch):
    def dies(fn, **options):
        raise RuntimeError("worker 0: killed by SIGABRT")

    monkeypatch.setattr(launch, "run", dies)
    with pytest.raises(RuntimeError, match="SIGABRT"):
        tfdist.find_batch_size(wide_model, *data(9))


@pytest.mark.parametrize(
    ("options", "words"),
    [({"start": 0}, "start=0 must be 1 or more"), ({"precision": 0.0}, "precision=0.0 between")],
)
def test_bad_arguments(options, words):
    with pytest.raises(ValueError, match=words):
        tfdist.find_batch_size(wide_model, *data(3), **options)


@pytest.mark.parametrize("x", [None, [], np.ones((0, 2))])
def test_no_rows(x):
    with pytest.raises(ValueError, match="holds no arrays of examples"):
        tfdist.find_batch_size(wide_model, x)


def test_not_compiled():
    with pytest.raises(ValueError, match="The model is not compiled"):
        tfdist.find_batch_size(keras.Sequential([keras.layers.Dense(1)]), *data(3))
