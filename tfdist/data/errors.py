"""What in the data did TensorFlow fail on?  Its long errors, in one sentence with a cure.

Synopsis:

    >>> with told_plainly():
    ...     raise tf.errors.InvalidArgumentError(None, None, "indices[0,1] = 9 is not in [0, 5)")
    Traceback (most recent call last):
    ValueError: An index into a table (of an Embedding layer, say) is 9, but the table has rows ...

An error of a traced function is a page long, and one line of it tells the user what is wrong with
the data. The long error becomes the cause of the short one; unknown errors pass unchanged.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

import tensorflow as tf

from tfdist.data import rows

_NAN_AS_INT = str(-(2**63))  # what a NaN becomes when it is cast to an integer


def _of_labels(match: re.Match[str]) -> str:
    value, classes = match[1], int(match[2])
    shown = f"{value} (which NaN becomes)" if value == _NAN_AS_INT else value
    return (
        f"A label is {shown}, but the model tells {classes} classes apart, with labels from 0 to "
        f"{classes - 1}. Mend the labels, or give the last layer a unit for each class."
    )


def _of_indices(match: re.Match[str]) -> str:
    return (
        f"An index into a table (of an Embedding layer, say) is {match[1]}, but the table has rows "
        f"0 to {int(match[2]) - 1}. Mend the inputs, or make the table larger."
    )


def _of_matrices(match: re.Match[str]) -> str:
    return (
        f"A batch has the shape {match[1]} where a layer's weights have {match[2]}, so its rows do "
        "not have the length that the model was built for. Give rows of that length: pad what is "
        "uneven, or cut it."
    )


def _of_rows(match: re.Match[str]) -> str:
    return (
        f"The targets of a batch do not match its inputs: the model's output is {match[1]}, and "
        f"the labels are {match[2]}. Give as many targets as inputs."
    )


def _of_batching(match: re.Match[str]) -> str:
    return (
        f"The dataset's .batch() met examples of two shapes, {match[1]} and {match[2]}. Make them "
        "alike, or batch with .padded_batch() or .ragged_batch()."
    )


def _of_generator(match: re.Match[str]) -> str:
    return (
        f"The generator of a dataset yielded {match[1]} where {match[2]} was expected. Mend the "
        "generator, or the output_signature that it was given with."
    )


def _of_unlike_rows(match: re.Match[str]) -> str:
    return rows.unlike_rows(match[1])


def _as_it_is(match: re.Match[str]) -> str:
    return f"{match[0]}."


# Part of TensorFlow's message, and the function that makes a sentence of it.
_KNOWN: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"Received a label value of (-?\d+) which is outside the valid range of \[0, (\d+)\)",
     _of_labels),
    (r"indices\[[\d,]*\] = (-?\d+) is not in \[0, (\d+)\)", _of_indices),
    (r"Matrix size-incompatible: In\[0\]: (\[[\d,]+\]), In\[1\]: (\[[\d,]+\])", _of_matrices),
    (r"logits and labels must have the same first dimension, got logits shape (\[[\d,]*\]) and "
     r"labels shape (\[[\d,]*\])", _of_rows),
    (r"Cannot batch tensors with different shapes in component \d+\. First element had shape "
     r"(\[[\d,]*\]) and element \d+ had shape (\[[\d,]*\])", _of_batching),
    (r"`generator` yielded (an element of .+?) where (an element of .+?) was expected",
     _of_generator),
    (r"The tensors of a batch have different numbers of rows:\] \[([\d ]+)\]", _of_unlike_rows),
    (r"A batch has \d+ timesteps, but the largest of length_buckets is [^\]]*(?=\.)", _as_it_is),
    (r"The targets of a batch are not as long as its inputs: .*timestep of an input", _as_it_is),
    (r"A batch of the dataset holds no examples\. Filter before \.batch\(\)", _as_it_is),
)


def sentence_of(text: str) -> str | None:
    """Returns what TensorFlow's message says about the data; None for unknown messages.

    Args:
        text: The message of an error, of any length.
    """
    for pattern, tell in _KNOWN:
        if match := re.search(pattern, text):
            return tell(match)
    return None


@contextlib.contextmanager
def told_plainly() -> Iterator[None]:
    """Turns an error about the data into one sentence; a context manager and a decorator.

    Raises:
        ValueError: TensorFlow could not use the data; its own error is the cause.
    """
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        sentence = sentence_of(error.message)
        if sentence is None:
            raise
        raise ValueError(sentence) from error
