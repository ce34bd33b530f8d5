"""Are TensorFlow's long errors about the data told in a sentence, and all others left alone?"""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import tfdist
from tfdist.data.errors import sentence_of, told_plainly

_GRAPH = (
    "Graph execution error:\n\nDetected at node while/a/b defined at (most recent call last):\n"
    '  File "threading.py", line 1002, in _bootstrap\n\n2 root error(s) found.\n'
    "  (0) INVALID_ARGUMENT:  {}\n\t [[{{node while/a/b}}]]\n\t [[while/c/_30]]\n"
    "  (1) INVALID_ARGUMENT:  {}\n0 successful operations.\n[Op:__inference_traced_1010]"
)
_EAGER = "{{function_node __wrapped__Op_device_/job:localhost/device:CPU:0}} {} [Op:Op] name: "


@pytest.mark.parametrize("form", [_GRAPH, _EAGER.replace("{{", "{{{{").replace("}}", "}}}}")])
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "Received a label value of 9 which is outside the valid range of [0, 3).  Label "
            "values: 9 8 7 8",
            "A label is 9, but the model tells 3 classes apart, with labels from 0 to 2. Mend the "
            "labels, or give the last layer a unit for each class.",
        ),
        (
            f"Received a label value of {-(2**63)} which is outside the valid range of [0, 10).",
            f"A label is {-(2**63)} (which NaN becomes), but the model tells 10 classes apart, "
            "with labels from 0 to 9. Mend the labels, or give the last layer a unit for each "
            "class.",
        ),
        (
            "indices[0,12] = -1 is not in [0, 5)",
            "An index into a table (of an Embedding layer, say) is -1, but the table has rows 0 to "
            "4. Mend the inputs, or make the table larger.",
        ),
        (
            "Matrix size-incompatible: In[0]: [1,2], In[1]: [4,3]",
            "A batch has the shape [1,2] where a layer's weights have [4,3], so its rows do not "
            "have the length that the model was built for. Give rows of that length: pad what is "
            "uneven, or cut it.",
        ),
        (
            "logits and labels must have the same first dimension, got logits shape [2,3] and "
            "labels shape [1]",
            "The targets of a batch do not match its inputs: the model's output is [2,3], and the "
            "labels are [1]. Give as many targets as inputs.",
        ),
        (
            "Cannot batch tensors with different shapes in component 0. First element had shape "
            "[4] and element 1 had shape [].",
            "The dataset's .batch() met examples of two shapes, [4] and []. Make them alike, or "
            "batch with .padded_batch() or .ragged_batch().",
        ),
        (
            "TypeError: `generator` yielded an element of shape (3,) where an element of shape "
            "(4,) was expected.\nTraceback (most recent call last):",
            "The generator of a dataset yielded an element of shape (3,) where an element of shape "
            "(4,) was expected. Mend the generator, or the output_signature that it was given "
            "with.",
        ),
        (
            "assertion failed: [A batch of the dataset holds no examples. Filter before .batch()."
            ".  ] [Condition x > 0 did not hold element-wise:]",
            "A batch of the dataset holds no examples. Filter before .batch().",
        ),
        (
            "assertion failed: [The tensors of a batch have different numbers of rows:] [4 12 12]",
            "The tensors of a batch have different numbers of rows, 4 12 12, so that replicas "
            "cannot take their rows of it. Give every tensor one row for each example (batch all "
            "datasets alike, and pad what belongs to one example into its row), or train on one "
            "device.",
        ),
    ],
)
def test_sentence(form, text, sentence):
    assert sentence_of(form.format(text, text)) == sentence


@given(st.text())
def test_any_text_can_be_looked_at(text):
    assert sentence_of(text) is None or "0" in text


def test_other_errors_pass_as_they_are():
    for kind in (tf.errors.InvalidArgumentError, tf.errors.UnavailableError):
        error = kind(None, None, "Something else.")
        with pytest.raises(kind) as caught, told_plainly():
            raise error
        assert caught.value is error
    error = tf.errors.UnavailableError(None, None, "indices[0] = 9 is not in [0, 5)")
    with pytest.raises(tf.errors.UnavailableError), told_plainly():
        raise error


def test_error_of_a_traced_loop_is_told_and_its_own_text_is_kept():
    with tfdist.get_strategy("2xcpu").scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax")])
        model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="A label is 7, but the model tells 3") as caught:
        tfdist.fit(model, np.ones((8, 4)), np.full(8, 7), verbose=0)
    assert isinstance(caught.value.__cause__, tf.errors.InvalidArgumentError)
    assert "Detected at node" in caught.value.__cause__.message
    assert tfdist.fit(model, np.ones((8, 4)), np.full(8, 2), verbose=0).history["loss"][0] > 0
