"""Are the events of a trace read as TensorFlow's profiler has written them?"""

from __future__ import annotations

import pytest

from tfdist.cli.gpu_check import trace_file


def test_a_real_trace(tmp_path, logical_cpus):
    import tensorflow as tf

    @tf.function
    def multiplied(x):
        for _ in range(3):
            x = tf.matmul(x, x, name="known_product")
        return x

    multiplied(tf.ones([300, 300]))
    tf.profiler.experimental.start(str(tmp_path))
    multiplied(tf.ones([300, 300])).numpy()
    tf.profiler.experimental.stop()
    found = [e for e in trace_file.events_of(str(tmp_path)) if e.name.startswith("known_product")]
    assert len(found) == 3
    assert {event.plane for event in found} == {"/host:CPU"}
    assert all(1e-6 < event.end - event.start < 5.0 for event in found)
    assert max(e.end for e in found) - min(e.start for e in found) < 10.0


def test_a_file_that_is_none_is_told():
    with pytest.raises(ValueError, match="A field of kind 7 is in no trace"):
        list(trace_file.fields(b"\x0f\x00"))
