"""Does whatever cannot be used end at once, in one sentence that says so?

Parsers have property-based tests of their own; here is one of each kind of mistake, as users make
them, from `fit` down to flags and environments.
"""

from __future__ import annotations

import json
import os
import re
import time
import traceback

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist.cluster import hostlists
from tfdist.communication import presence
from tfdist.launch import __main__ as launch_main
from tfdist.launch.job import Job
from tfdist.strategy.devices import parse_device

_X = np.ones((8, 4), np.float32)
_Y = np.arange(8) % 3
_FILES = ("manifest.json", "state.json", "tensors.index", "tensors.data-00000-of-00001")
_LIMIT_SECS = 20.0  # the machine may be busy; each takes a fraction of a second


def _model():
    with tfdist.get_strategy("2xcpu").scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax")])
        model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    return model


def _fit(x=_X, y=_Y, **kwargs):
    return tfdist.fit(_model(), x, y, verbose=0, **kwargs)


def _of_lengths(*lengths, told=None):
    def rows():
        for length in lengths:
            yield _X[0, :length], 1

    spec = (tf.TensorSpec([told], tf.float32), tf.TensorSpec([], tf.int64))
    return tf.data.Dataset.from_generator(rows, output_signature=spec)


def _of_line(line):
    return tf.strings.to_number(tf.strings.split(line)), 0


def _out_of_scope():
    tfdist.get_strategy("2xcpu")
    model = keras.Sequential([keras.layers.Dense(3, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    tfdist.fit(model, _X, _Y)


def _broken():
    raise OSError("the disk is gone")
    yield


_SLICES = tf.data.Dataset.from_tensor_slices

# What is done; the type of the error; a part of its text.
_OF_DATA = {
    "no data": (lambda: _fit(None, None), ValueError, "There is no data: x=None"),
    "no data to evaluate": (
        lambda: tfdist.evaluate(_model(), None), ValueError, "There is no data: x=None"
    ),
    "no examples": (lambda: _fit(_X[:0], _Y[:0]), ValueError, "The data holds no examples"),
    "nothing to predict": (
        lambda: tfdist.predict(_model(), _X[:0]), ValueError, "The data holds no examples"
    ),
    "mismatched lengths": (lambda: _fit(_X, _Y[:5]), ValueError, "'x' sizes: 8\n'y' sizes: 5"),
    "lengths of weights": (
        lambda: _fit(sample_weight=np.ones(3)), ValueError, "'sample_weight' sizes: 3"
    ),
    "lengths of validation": (
        lambda: _fit(validation_data=(_X, _Y[:3])), ValueError, "'y' sizes: 3"
    ),
    "wrong shape": (lambda: _fit(np.ones((8, 5))), ValueError, "to have value 4, but received"),
    "wrong shape to predict": (
        lambda: tfdist.predict(_model(), np.ones((3, 9))), ValueError, "to have value 4, but"
    ),
    "texts": (lambda: _fit(np.array([["a"] * 4] * 8)), ValueError, "Invalid dtype: str"),
    "objects": (lambda: _fit(np.array([[object()] * 4] * 8)), ValueError, "Invalid dtype: object"),
    "uneven lists": (lambda: _fit([[1, 2], [1]]), ValueError, "Unrecognized data type"),
    "ragged where dense is needed": (
        lambda: _fit(tf.ragged.constant([[1.0, 2, 3, 4], [1.0, 2]]), _Y[:2]),
        ValueError, "do not have the length that the model was built for",
    ),
    "labels above the classes": (
        lambda: _fit(y=_Y * 0 + 7), ValueError, "A label is 7, but the model tells 3 classes apart"
    ),
    "labels below the classes": (
        lambda: _fit(y=_Y * 0 - 5), ValueError, "A label is -5, but the model tells 3 classes"
    ),
    "labels below the classes to evaluate": (
        lambda: tfdist.evaluate(_model(), _X, _Y * 0 - 5), ValueError, "A label is -5, but the"
    ),
    "labels that are no number": (
        lambda: _fit(y=np.full(8, np.nan)), ValueError, "808 (which NaN becomes), but the model"
    ),
    "other shapes in a dataset": (
        lambda: _fit(_of_lengths(4, 3).batch(2), None),
        ValueError, "met examples of two shapes, [4] and [3]",
    ),
    "other lengths in a dataset": (
        lambda: _fit(_of_lengths(4, 3).batch(1), None), ValueError, "received input with shape"
    ),
    "a generator that breaks its word": (
        lambda: _fit(_of_lengths(4, 3, told=4).batch(2), None),
        ValueError, "yielded an element of shape (3,) where an element of shape (4,) was expected",
    ),
    "fewer labels than rows": (
        lambda: _fit(_SLICES((_X, _Y)).batch(4).map(lambda x, y: (x, y[:3])), None),
        ValueError, "The tensors of a batch have different numbers of rows, 4 3",
    ),
    "a dataset of nothing": (
        lambda: _fit(_SLICES((_X, _Y)).take(0).batch(4), None),
        ValueError, "The data holds no examples: its number of batches is 0",
    ),
    "a dataset that leaves nothing": (
        lambda: _fit(_SLICES((_X, _Y)).filter(lambda x, y: False).batch(4), None),
        ValueError, "The data holds no examples: it ended before its first batch",
    ),
    "a dataset of nothing to evaluate": (
        lambda: tfdist.evaluate(_model(), _SLICES((_X, _Y)).filter(lambda x, y: False).batch(4)),
        ValueError, "The data holds no examples: it ended before its first batch",
    ),
    "a dataset of nothing to predict": (
        lambda: tfdist.predict(_model(), _SLICES(_X).filter(lambda x: False).batch(4)),
        ValueError, "The data holds no examples: it ended before its first batch",
    ),
    "a batch of nothing": (
        lambda: _fit(_SLICES((_X, _Y)).batch(4).map(lambda x, y: (x[:0], y[:0])), None),
        ValueError, "A batch of the dataset holds no examples",
    ),
    "a dataset without an end": (
        lambda: _fit(_SLICES((_X, _Y)).batch(4).repeat(), None),
        ValueError, "The data never ends, and nothing says how long an epoch is",
    ),
    "validation without an end": (
        lambda: _fit(validation_data=_SLICES((_X, _Y)).batch(4).repeat()),
        ValueError, "The data never ends, and nothing says how long an epoch is",
    ),
    "an evaluation without an end": (
        lambda: tfdist.evaluate(_model(), _SLICES((_X, _Y)).batch(4).repeat()),
        ValueError, "The data never ends, and nothing says how long an epoch is",
    ),
    "a file that is not there": (
        lambda: _fit(tf.data.TextLineDataset("/nowhere/x").map(_of_line).batch(2), None),
        tf.errors.NotFoundError, "/nowhere/x; No such file or directory",
    ),
    "gradients that are no number": (
        lambda: _fit(_X * np.nan, on_nan="raise"), RuntimeError, "At step 1 of the run the gradient"
    ),
    "targets beside a dataset": (
        lambda: _fit(_SLICES((_X, _Y)).batch(4)), ValueError, "`y` should not be passed"
    ),
    "a dataset without batches": (
        lambda: _fit(_SLICES((_X, _Y)), None), ValueError, "The dataset is not batched"
    ),
    "a generator that fails": (lambda: _fit(_broken(), None), OSError, "the disk is gone"),
}

_OF_ARGUMENTS = {
    "batch of none": (lambda: _fit(batch_size=0), ValueError, "but batch_size=0."),
    "batch below none": (lambda: _fit(batch_size=-1), ValueError, "but batch_size=-1."),
    "batch of a part": (lambda: _fit(batch_size=2.5), ValueError, "but batch_size=2.5."),
    "batch of none for shares": (
        lambda: _fit(batch_size=0, already_sharded=True), ValueError, "but batch_size=0."
    ),
    "batch of text": (lambda: _fit(batch_size="4"), ValueError, "but batch_size='4'."),
    "all for validation": (lambda: _fit(validation_split=1.0), ValueError, "validation_split=1.0"),
    "a name that is not there": (
        lambda: _fit(batchsize=3), TypeError, "argument 'batchsize'"
    ),
    "no model": (lambda: tfdist.fit("m", _X, _Y), ValueError, "but model='m' was given"),
    "a model of no scope": (
        _out_of_scope, ValueError, "This model was made outside any strategy's scope"
    ),
    "unknown policy": (lambda: _fit(on_nan="stop"), ValueError, "on_nan='stop' must be one of"),
    "comparing every so often": (
        lambda: _fit(fingerprint_every=0.5), ValueError, "fingerprint_every=0.5 must be"
    ),
    "saving to nowhere": (lambda: _fit(save_every=3), ValueError, "without a checkpoint_dir"),
    "saving to an address": (
        lambda: _fit(checkpoint_dir="gs://a/b"), ValueError, "'gs://a/b' is an address"
    ),
    "saving to a number": (lambda: _fit(checkpoint_dir=3), ValueError, "checkpoint_dir=3 is not a"),
    "saving soon": (
        lambda: _fit(checkpoint_dir="a", save_every="soon"), ValueError, "save_every='soon' must"
    ),
}

_TWO = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 7}}

_TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
_SLURM = {
    "SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURM_LOCALID": "0", "SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0",
}

_OF_PLACES = {
    "unknown device": (lambda: parse_device("quantum"), ValueError, "'quantum'"),
    "no devices": (lambda: parse_device("0xcpu"), ValueError, "'0xcpu'"),
    "the same GPU twice": (lambda: parse_device("gpu:1,1"), ValueError, "'gpu:1,1'"),
    "a GPU that is not there": (lambda: tfdist.get_strategy("gpu:97"), RuntimeError, "97"),
    "a cluster of text": (
        lambda: tfdist.get_strategy("cpu", cluster="mine"), ValueError, "cluster='mine' is neither"
    ),
    "garbled TF_CONFIG": (
        lambda: tfdist.detect_cluster({"TF_CONFIG": "{"}), ValueError, "TF_CONFIG"
    ),
    "TF_CONFIG of no object": (
        lambda: tfdist.detect_cluster({"TF_CONFIG": "[3]"}), ValueError, "TF_CONFIG is a JSON list"
    ),
    "a world of text": (
        lambda: tfdist.detect_cluster({**_TORCHRUN, "WORLD_SIZE": "two"}),
        ValueError, "WORLD_SIZE='two' must be a whole number from 1",
    ),
    "hosts of Slurm that are none": (
        lambda: tfdist.detect_cluster({**_SLURM, "SLURM_STEP_NODELIST": "a[1-"}),
        ValueError, "SLURM_STEP_NODELIST: 'a[1-' is no list of hosts",
    ),
    "a rank of text": (
        lambda: tfdist.detect_cluster({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "x"}),
        ValueError, "OMPI_COMM_WORLD_RANK='x' must be a whole number from 0",
    ),
    "a rank outside of its world": (
        lambda: tfdist.detect_cluster({"TFDIST_RANK": "3", "TFDIST_SIZE": "2"}),
        ValueError, "TFDIST_RANK=3 is outside the world of TFDIST_SIZE=2",
    ),
    "hosts of SageMaker that are none": (
        lambda: tfdist.detect_cluster({"SM_HOSTS": "{", "SM_CURRENT_HOST": "a"}),
        ValueError, "SM_HOSTS='{' must be a JSON list",
    ),
    "TF_CONFIG of nobody": (
        lambda: tfdist.detect_cluster({"TF_CONFIG": json.dumps(_TWO)}), ValueError, "TF_CONFIG"
    ),
    "a rank beyond the world": (
        lambda: tfdist.Cluster(rank=2, size=2), ValueError, "rank=2"
    ),
    "garbled host list": (lambda: hostlists.expand_hosts("a[1-"), ValueError, "a[1-"),
    "silence of text": (
        lambda: presence._silence_secs({"TFDIST_HEARTBEAT_SECS": "x"}), ValueError, "='x' must be"
    ),
    "no workers": (lambda: Job(workers=0), ValueError, "workers=0 must be"),
    "half a thread": (lambda: Job(workers=1, threads=0.5), ValueError, "threads=0.5 must be"),
    "unknown engine": (lambda: Job(workers=1, engine="x"), ValueError, "engine='x' is unknown"),
    "no time at all": (lambda: Job(workers=1, stall_secs=0), ValueError, "stall_secs=0 must be"),
    "fewer restarts than none": (
        lambda: Job(workers=1, max_restarts=-1), ValueError, "max_restarts=-1 must be"
    ),
}

_CASES = {**_OF_DATA, **_OF_ARGUMENTS, **_OF_PLACES}


@pytest.mark.parametrize("name", _CASES)
def test_bad_input_is_refused_in_a_sentence(name):
    act, kind, text = _CASES[name]
    began = time.monotonic()
    with pytest.raises(kind, match=re.escape(text)):
        act()
    assert time.monotonic() - began < _LIMIT_SECS


_FLAGS = {
    "workers of text": (["--workers=two", __file__], "workers='two' must be"),
    "no workers": (["--workers=0", __file__], "workers=0 must be"),
    "unknown engine": (["--engine=x", __file__], "engine='x' is unknown"),
    "unknown flag": (["--wrokers=3", __file__], "flag 'wrokers'. Did you mean: workers ?"),
    "no program": ([], "the script is missing; give the path of a Python program"),
    "a program that is not there": (["nothing.py"], "script='nothing.py' is not there"),
    "logs below a file": ([f"--log_dir={__file__}/a", __file__], "cannot be written to"),
}


@pytest.mark.parametrize("name", _FLAGS)
def test_bad_flag_is_refused_in_a_sentence(name, capfd):
    flags, text = _FLAGS[name]
    try:
        code = launch_main.main(flags)
    except SystemExit as left:
        code = left.code
    assert code == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) <= 3  # the sentence; how it is used, and where help is
    assert any(text in line for line in lines)


def test_kinds_are_many():
    assert len(_CASES) + len(_FLAGS) >= 75


def test_no_other_error_is_shown_before_that_of_tf_config():
    with pytest.raises(ValueError, match="TF_CONFIG is no valid JSON") as caught:
        tfdist.detect_cluster({"TF_CONFIG": "{"})
    assert "During handling" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("below", [False, True])
def test_folder_that_is_a_file_is_refused(tmp_path, below):
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(ValueError, match="is a file, or lies below one"):
        _fit(checkpoint_dir=path / "a" if below else path)


def test_folder_that_cannot_be_written_to_is_refused():
    with pytest.raises(RuntimeError, match="cannot be written to"):
        _fit(checkpoint_dir="/proc/nothing")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_only_checkpoint_that_is_cut_short_is_refused(tmp_path, share):
    _fit(checkpoint_dir=tmp_path)
    folders = [path for path in tmp_path.iterdir() if path.is_dir()]
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        os.truncate(path, int(share * path.stat().st_size))
    with pytest.raises(RuntimeError, match="None of the checkpoints in .* is whole"):
        _fit(checkpoint_dir=tmp_path, epochs=2)


@pytest.mark.parametrize("name", _FILES)
@pytest.mark.parametrize("left", ["nothing", "a byte", "half", "all but a byte", "another byte"])
def test_damage_to_each_file_of_a_checkpoint_is_seen(tmp_path, name, left):
    variable = tf.Variable([1.0, 2.0])
    with tfdist.Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(variable, step=1, progress={"epoch": 3})
    path = tmp_path / "000001-step-1" / name
    content = path.read_bytes()
    size, middle = len(content), len(content) // 2
    assert size > 2
    kept = {"nothing": 0, "a byte": 1, "half": middle, "all but a byte": size - 1}
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    path.write_bytes(content[: kept[left]] if left in kept else flipped)
    variable.assign([5.0, 6.0])
    with (
        tfdist.Checkpointer(tmp_path) as checkpointer,
        pytest.raises(RuntimeError, match="None of the checkpoints in .* is whole") as caught,
    ):
        checkpointer.restore(variable)
    assert name in str(caught.value)
    assert variable.numpy().tolist() == [5.0, 6.0]  # nothing of it was used


def test_files_of_a_checkpoint_are_all_in_the_table(tmp_path):
    with tfdist.Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(tf.Variable(1.0), step=1)
    assert sorted(path.name for path in (tmp_path / "000001-step-1").iterdir()) == sorted(_FILES)
