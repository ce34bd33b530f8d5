"""Does TensorBoard itself read what was told?"""

from __future__ import annotations

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator

import tfdist
from tfdist.tracking import TensorBoard


def _read(folder):
    found = event_accumulator.EventAccumulator(str(folder))
    found.Reload()
    return found


def _scalars(found, name):
    return {event.step: float(tf.make_ndarray(event.tensor_proto)) for event in found.Tensors(name)}


def test_numbers_and_texts_are_there(tmp_path):
    with tfdist.get_strategy("2xcpu").scope():
        for begins, steps in ((0, (4, 8)), (8, (12,))):  # the second part is of a resumed run
            tracker = TensorBoard(tmp_path)
            tracker.start({"begins_at_step": begins, "replicas": 2})
            for step in steps:
                tracker.log({"loss": 1 / step, "check/train_step": "it agrees"}, step)
            tracker.finish("finished")
    found = _read(tmp_path)
    assert _scalars(found, "loss") == pytest.approx({4: 1 / 4, 8: 1 / 8, 12: 1 / 12})
    texts = {name: found.Tensors(name)[-1].tensor_proto.string_val[0].decode()
             for name in ("check/train_step", "run/config", "run/status")}
    assert texts["check/train_step"] == "it agrees"
    assert '"replicas": 2' in texts["run/config"]
    assert texts["run/status"] == "finished"
