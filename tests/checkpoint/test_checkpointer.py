"""Is what was saved restored, and does no failure lose what was saved before?"""

from __future__ import annotations

import json
import logging
import os
import pathlib
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist.checkpoint import manifest
from tfdist.checkpoint.checkpointer import Checkpointer
from tfdist.checkpoint.contents import Saved, pack, unpack


@pytest.fixture
def variable() -> tf.Variable:
    return tf.Variable(np.zeros(50, np.float32), name="weights")


def _save(checkpointer: Checkpointer, variable: tf.Variable, *steps: int, **kwargs) -> None:
    for step in steps:
        variable.assign(tf.fill([50], float(step)))
        checkpointer.save(variable, step=step, progress={"step": step}, **kwargs)
    checkpointer.wait()


def _names(root: pathlib.Path) -> list[str]:
    return [folder.name for folder in manifest.list_checkpoints(root)]


def test_it_is_public():
    assert tfdist.Checkpointer is Checkpointer


def test_model_optimizer_and_metrics_come_back(tmp_path):
    def build() -> keras.Model:
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        model.compile(keras.optimizers.Adam(0.1), "mse", metrics=["mae"])
        return model

    x, y = np.random.default_rng(0).normal(size=(8, 3)), np.ones((8, 2))
    before, after = build(), build()
    before.fit(x, y, epochs=2, verbose=0)
    after.train_on_batch(x, y)  # makes the variables
    with Checkpointer(tmp_path / "new" / "run") as checkpointer:
        checkpointer.save(before, step=2, progress={"epoch": 2, "text": "Grüße"})
        assert checkpointer.restore(after) == {"epoch": 2, "text": "Grüße"}
    for one, other in zip(
        [*before.variables, *before.optimizer.variables, *before.metrics_variables],
        [*after.variables, *after.optimizer.variables, *after.metrics_variables],
        strict=True,
    ):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_nothing_to_restore(tmp_path, variable):
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.restore(variable) is None


def test_many_objects_and_dtypes(tmp_path):
    values = [
        tf.constant([1.5, float("nan"), -0.0], tf.bfloat16), tf.constant(True),
        tf.constant(2**60, tf.int64), tf.constant("text"), tf.constant([1, 255], tf.uint8),
    ]
    before = [tf.Variable(value) for value in values]
    after = [tf.Variable(tf.zeros_like(value)) for value in values]
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(*before, keras.metrics.Mean(), step=1)
        checkpointer.restore(*after, keras.metrics.Mean())
    for one, other in zip(before, after, strict=True):
        assert one.numpy().tobytes() == other.numpy().tobytes() if one.dtype != tf.string else \
            one.numpy() == other.numpy()


def test_what_is_sent_to_the_others_comes_back():
    arrays = {
        "texts": np.array([["a", "\0é"], ["", "b" * 99]], object), "text": np.array("x", object),
        "none": np.zeros((0, 3)), "half": np.ones(3, tf.bfloat16.as_numpy_dtype),
        "number": np.asarray(2, np.int8), "no text": np.zeros((0,), object),
    }
    saved = Saved("folder", {"step": 1}, {"plain": "é\n"}, arrays)
    found = unpack(pack(saved, None))
    assert (found.folder, found.facts, found.plain) == ("folder", {"step": 1}, {"plain": "é\n"})
    for name, array in arrays.items():
        other = found.arrays[name]
        assert (other.dtype, other.shape) == (array.dtype, array.shape)
        texts = [x.decode() if isinstance(x, bytes) else x for x in other.ravel().tolist()]
        assert texts == array.ravel().tolist()


def test_the_newest_are_kept(tmp_path, variable):
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        _save(checkpointer, variable, 1, 2, 3, 4)
        assert _names(tmp_path) == ["000003-step-3", "000004-step-4"]


@pytest.mark.parametrize(("order", "kept"), [("min", 2), ("max", 4)])
def test_the_best_is_kept(tmp_path, variable, order, kept):
    losses = [0.5, 0.1, float("nan"), 0.9, 0.3, 0.3]
    with Checkpointer(tmp_path, keep=1, best=f"{order} val_loss") as checkpointer:
        for step, loss in enumerate(losses, start=1):
            _save(checkpointer, variable, step, logs={"val_loss": loss})
        _save(checkpointer, variable, 7)
        assert _names(tmp_path) == [f"{kept:06d}-step-{kept}", "000007-step-7"]
        assert checkpointer.restore(variable) == {"step": 7}
        assert checkpointer.restore(variable, which="best") == {"step": kept}
    assert variable.numpy()[0] == kept


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: os.truncate(f / "tensors.data-00000-of-00001", 9), "has 9 bytes instead of"),
        (lambda f: (f / "state.json").unlink(), "state.json cannot be read"),
        (lambda f: (f / "tensors.index").write_bytes(b""), "tensors.index has 0 bytes"),
        (lambda f: os.truncate(f / "manifest.json", 40), "manifest.json is cut short"),
    ],
)
def test_a_damaged_one_is_reported_and_passed_over(tmp_path, variable, damage, said, caplog):
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        _save(checkpointer, variable, 1, 2)
    damage(tmp_path / "000002-step-2")
    with caplog.at_level(logging.WARNING, "tfdist"), Checkpointer(tmp_path, keep=2) as checkpointer:
        assert checkpointer.restore(variable) == {"step": 1}
        (record,) = caplog.records
        assert f"{tmp_path}/000002-step-2 is damaged: " in record.getMessage()
        assert said in record.getMessage()
        assert variable.numpy()[0] == 1
        # Room is made by the damaged one, not by a whole one.
        _save(checkpointer, variable, 2)
        assert _names(tmp_path) == ["000001-step-1", "000003-step-2"]


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", "no JSON", "7", ""])
def test_state_with_a_right_checksum_that_is_none_is_a_damage(tmp_path, variable, content):
    with Checkpointer(tmp_path) as checkpointer:
        _save(checkpointer, variable, 1, 2)
    folder = tmp_path / "000002-step-2"
    (folder / "state.json").write_text(content)
    _forge(folder)
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.restore(variable) == {"step": 1}


def test_tensors_with_a_right_checksum_that_are_none_are_a_damage(tmp_path, variable):
    with Checkpointer(tmp_path) as checkpointer:
        _save(checkpointer, variable, 1, 2)
    folder = tmp_path / "000002-step-2"
    (folder / "tensors.index").write_bytes(b"x" * 100)
    _forge(folder)
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.restore(variable) == {"step": 1}


def _forge(folder):
    """Writes checksums of what is there now."""
    body = manifest.peek(folder)
    body.pop("checksum")
    body["files"] = {name: manifest._seal(folder / name) for name in body["files"]}
    text = json.dumps({**body, "checksum": manifest._checksum(body)})
    (folder / manifest.MANIFEST).write_text(text)


def test_none_is_whole(tmp_path, variable):
    with Checkpointer(tmp_path) as checkpointer:
        _save(checkpointer, variable, 1, 2)
    for folder in manifest.list_checkpoints(tmp_path):
        (folder / "state.json").write_text("{")
    with (
        Checkpointer(tmp_path) as checkpointer,
        pytest.raises(RuntimeError, match=r"None of the .* is whole \(000002-.*; 000001-.*\)"),
    ):
        checkpointer.restore(variable)


def test_other_variables_are_refused(tmp_path, variable):
    with Checkpointer(tmp_path) as checkpointer:
        _save(checkpointer, variable, 1)
        other = tf.Variable(tf.zeros([51]), name="weights")
        with pytest.raises(
            ValueError, match=r"is of another run: variables/0/weights: float32\[50\] in the ch.*"
            r"float32\[51\] here\. Start the command",
        ):
            checkpointer.restore(other)


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"directory": "gs://bucket/run"}, "is an address"),
        ({"keep": 0}, "keep=0"),
        ({"keep": True}, "keep=True"),
        ({"best": "val_loss"}, "best='val_loss' must be 'min' or 'max' and a name"),
        ({"best": "min "}, "best='min ' must be"),
        ({"best": 3}, "best=3 must be"),
    ],
)
def test_arguments_that_cannot_be(tmp_path, kwargs, said):
    with pytest.raises(ValueError, match=said):
        Checkpointer(**{"directory": tmp_path, **kwargs})


@pytest.mark.parametrize("which", ["latest", "best", None])
def test_which_that_cannot_be(tmp_path, variable, which):
    with (
        Checkpointer(tmp_path) as checkpointer,
        pytest.raises(ValueError, match="must be 'newest', or 'best' of a Checkpointer"),
    ):
        checkpointer.restore(variable, which=which)


@pytest.mark.parametrize("below", [".", "below/it"])
def test_a_file_in_the_place_of_the_folder(tmp_path, variable, below):
    (tmp_path / "file").write_text("mine")
    checkpointer = Checkpointer(tmp_path / "file" / below)
    with pytest.raises(ValueError, match="checkpoint_dir=.*file.* is a file, or lies below one"):
        checkpointer.restore(variable)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_cannot_be_written(variable):
    checkpointer = Checkpointer("/proc/tfdist")  # nobody can, not even root
    with pytest.raises(RuntimeError, match="checkpoint_dir='/proc/tfdist' cannot be written to: "):
        checkpointer.save(variable, step=1)


def test_disk_full_is_an_error_that_loses_nothing(tmp_path):
    code = f"""
        import resource, tensorflow as tf
        from tfdist.checkpoint.checkpointer import Checkpointer
        variable = tf.Variable(tf.random.normal([100_000]))
        with Checkpointer({str(tmp_path)!r}) as checkpointer:
            checkpointer.save(variable, step=1)
            checkpointer.wait()
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
            checkpointer.save(variable, step=2)  # it fails in the background
            try:
                checkpointer.save(variable, step=3)
            except RuntimeError as error:
                print(error)
            else:
                print("not reported")
            checkpointer.save(variable, step=4)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=100, check=False,
    )
    told = f"A checkpoint could not be written to {tmp_path}: "
    assert done.stdout.startswith(told), done.stderr
    assert "File too large" in done.stdout
    assert "What was saved before is untouched: 000001-step-1. Make room" in done.stdout
    assert f"RuntimeError: {told}" in done.stderr  # and once more when it was closed
    assert done.returncode == 1
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["000001-step-1"]
    manifest.read_manifest(tmp_path / "000001-step-1")


def test_training_may_go_on_while_it_is_written(tmp_path, variable):
    with Checkpointer(tmp_path) as checkpointer:
        for step in range(5):
            variable.assign(tf.fill([50], float(step)))
            checkpointer.save(variable, step=step)
            variable.assign_add(tf.ones([50]) * 100)
        checkpointer.restore(variable)
    assert variable.numpy()[0] == 4


def test_files_are_tensorflows_and_json(tmp_path, variable):
    with Checkpointer(tmp_path) as checkpointer:
        _save(checkpointer, variable, 3)
    folder = tmp_path / "000001-step-3"
    assert sorted(path.name for path in folder.iterdir()) == [
        "manifest.json", "state.json", "tensors.data-00000-of-00001", "tensors.index",
    ]
    listed = tf.train.list_variables(str(folder / "tensors"))
    assert listed == [("variables/0/weights", [50])]
