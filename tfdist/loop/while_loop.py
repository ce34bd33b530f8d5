"""How are many steps run inside one traced function?

`make_loop` puts a step into a `tf.while_loop`, so that no Python runs between steps as long as no
callback needs to see single batches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfdist.data.arrays import Cursor, Gathering
from tfdist.data.same_data import Witness
from tfdist.loop import agreed_end
from tfdist.step.replicas import Batch
from tfdist.step.rounds import Rounds

Loop = Callable[[Any, int], int]
NextBatch = Callable[[Any, Any], Any]  # has the arguments and result of `next_where`


def _batch_of(element: Any, witness: Witness | None) -> Batch:
    """Turns an element of a source's stream into a step's batch."""
    global_size, parts, *rest = element
    if rest and witness is not None:
        witness.note(rest[0])
    return Batch(global_size, parts)


def next_where(is_wanted: Any, iterator: Any) -> Any:
    """Returns the next batch as an Optional; an empty one if none is wanted.

    Fetching past the last step would lose a batch to the next call of a traced function.
    """

    def empty() -> Any:
        return tf.experimental.Optional.empty(iterator.element_spec)

    return tf.cond(is_wanted, iterator.get_next_as_optional, empty)


def make_loop(
    step: Callable[[Batch], None],
    *,
    eager: bool = False,
    goes_on: Callable[[], Any] = lambda: True,
    witness: Witness | None = None,
    agree: Callable[[tf.Tensor], tf.Tensor] | None = None,
    next_batch: NextBatch = next_where,
) -> Loop:
    """Returns a function that runs a step on a number of batches of an iterator.

    Args:
        step: Takes one global batch; runs in cross-replica context.
        eager: Whether to run step by step in Python, as `run_eagerly` asks.
        goes_on: Tells after each step whether another one may follow; a boolean scalar.
        witness: Records what is read, if the stream carries samples of it.
        agree: Takes how many batches this worker has read; returns that of every replica's worker.
            All workers call it together. Needed for streams of unknown length, see agreed_end.py.
        next_batch: Fetches as `next_where` does, in the traced loop.

    Returns:
        `loop(iterator, num_steps)`, which returns the number of steps that were run: fewer than
        `num_steps` if the iterator ended, or `goes_on` said no. It is traced once per shape of
        batch, whatever `num_steps` is.
    """
    if eager:
        return lambda iterator, num_steps: _eager_steps(
            step, goes_on, witness, agree, iterator, num_steps
        )

    @tf.function(autograph=False, reduce_retracing=True)
    def traced(iterator: Any, num_steps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        def fetch(is_wanted: tf.Tensor) -> tuple[Any, tf.Tensor]:
            batch = next_batch(is_wanted, iterator)
            return batch, agreed_end.numbers_of(batch, iterator.element_spec, agree)

        def body(done: tf.Tensor, batch: Any, _: tf.Tensor) -> tuple[tf.Tensor, Any, tf.Tensor]:
            step(_batch_of(batch.get_value(), witness))
            return done + 1, *fetch(tf.logical_and(done + 1 < num_steps, goes_on()))

        done, _, numbers = tf.while_loop(
            lambda done, batch, numbers: agreed_end.goes_on(batch, numbers),
            body,
            [tf.constant(0), *fetch(num_steps > 0)],
            parallel_iterations=1,
        )
        return done, numbers

    gathering = _make_gathering_loop(step, goes_on)

    def run(iterator: Any, num_steps: int) -> int:
        if isinstance(iterator, Cursor):
            return gathering(iterator, num_steps)
        done, numbers = traced(iterator, tf.constant(num_steps))
        agreed_end.refuse_other_ends(numbers)
        return int(done)

    return run


def _make_gathering_loop(
    step: Callable[[Batch], None], goes_on: Callable[[], Any]
) -> Callable[[Cursor, int], int]:
    """As `make_loop`, over arrays: their end is known, and nothing is fetched ahead."""
    made: dict[str, Any] = {}

    def run(cursor: Cursor, num_steps: int) -> int:
        done, is_on = 0, True
        while is_on and done < num_steps:
            arrays = cursor.arrays
            key = arrays.gathering.key
            if key not in made:
                made[key] = _traced_gathering(step, goes_on, arrays.gathering)
            wanted = min(num_steps - done, cursor.left)
            ran, goes = made[key](arrays.tensors, cursor.order, cursor.batch, wanted)
            cursor.advance(int(ran))
            done, is_on = done + int(ran), bool(goes)
        return done

    return run


def _traced_gathering(
    step: Callable[[Batch], None], goes_on: Callable[[], Any], gathering: Gathering
) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
    scalar = tf.TensorSpec([], tf.int64)
    order = tf.TensorSpec([None], tf.int64)

    @tf.function(autograph=False, input_signature=[gathering.specs, order, scalar, scalar])
    def traced(tensors: Any, order: Any, start: Any, count: Any) -> tuple[tf.Tensor, tf.Tensor]:
        def body(done: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with tf.device("/CPU:0"):  # or the whole arrays would be copied to a GPU
                batch = gathering.batch(tensors, order, start + done)
            step(Batch(*batch))
            return done + 1, tf.convert_to_tensor(goes_on())

        return tf.while_loop(
            lambda done, is_on: tf.logical_and(is_on, done < count),
            body,
            [tf.constant(0, tf.int64), tf.constant(True)],
            parallel_iterations=1,
        )

    return traced


def _eager_steps(
    step: Callable[[Batch], None],
    goes_on: Callable[[], Any],
    witness: Witness | None,
    agree: Callable[[tf.Tensor], tf.Tensor] | None,
    iterator: Any,
    num_steps: int,
) -> int:
    if isinstance(iterator, Cursor):
        return _eager_gathering(step, goes_on, iterator, num_steps)
    for done in range(num_steps):
        batch = iterator.get_next_as_optional()
        numbers = agreed_end.numbers_of(batch, iterator.element_spec, agree)
        agreed_end.refuse_other_ends(numbers)
        if not agreed_end.goes_on(batch, numbers):
            return done
        step(_batch_of(batch.get_value(), witness))
        if not goes_on():
            return done + 1
    return num_steps


def _eager_gathering(
    step: Callable[[Batch], None], goes_on: Callable[[], Any], cursor: Cursor, num_steps: int
) -> int:
    for done in range(num_steps):
        arrays, number = cursor.arrays, tf.constant(cursor.batch, tf.int64)
        step(Batch(*arrays.gathering.batch(arrays.tensors, cursor.order, number)))
        cursor.advance(1)
        if not goes_on():
            return done + 1
    return num_steps


def split_where(
    loop: Loop, is_needed: Callable[[], bool], *, goes_on: Callable[[], Any] = lambda: True
) -> Loop:
    """Makes a loop run one step per call if needed, which is known after the first step.

    Args:
        loop: As `make_loop` returns it.
        is_needed: Tells whether it is needed; called after the first step.
        goes_on: As in `make_loop`.
    """
    is_traced = False

    def run(iterator: Any, num_steps: int) -> int:
        nonlocal is_traced
        done = 0
        while done < num_steps:
            wanted = num_steps - done if is_traced and not is_needed() else 1
            ran = loop(iterator, wanted)
            done, is_traced = done + ran, True
            if ran < wanted or (done < num_steps and not bool(goes_on())):
                break
        return done

    return run


def make_shared_loop(
    step: Callable[[Batch], None],
    *,
    sizes_of: Callable[[tf.Tensor], tf.Tensor],
    eager: bool = False,
    goes_on: Callable[[], Any] = lambda: True,
    next_batch: NextBatch = next_where,
) -> Loop:
    """As `make_loop`, for workers that each bring their own rows of the global batch.

    Args:
        step: As in `make_loop`.
        sizes_of: Takes the rows of this worker's batch; returns the rows of each replica of all
            workers, which call it together.
        eager: As in `make_loop`.
        goes_on: As in `make_loop`.
        next_batch: As in `make_loop`.

    Returns:
        As in `make_loop`. The iterator never ends; the loop ends when no worker has a row left.
    """

    def run(iterator: Any, num_steps: tf.Tensor) -> tf.Tensor:
        def fetch(is_wanted: Any) -> tuple[tf.Tensor, Any]:
            batch = next_batch(is_wanted, iterator)
            own = tf.cond(batch.has_value(), lambda: batch.get_value()[0], lambda: tf.constant(0))
            return sizes_of(own), batch  # always called, so that all workers call it together

        def body(done: tf.Tensor, sizes: tf.Tensor, batch: Any) -> tuple[tf.Tensor, Any, Any]:
            step(Batch(tf.reduce_sum(sizes), batch.get_value()[1], sizes))
            return done + 1, *fetch(tf.logical_and(done + 1 < num_steps, goes_on()))

        done, _, _ = tf.while_loop(
            lambda done, sizes, batch: tf.reduce_sum(sizes) > 0,
            body,
            [tf.constant(0), *fetch(num_steps > 0)],
            parallel_iterations=1,
        )
        return done

    traced = run if eager else tf.function(run, autograph=False, reduce_retracing=True)
    return lambda iterator, num_steps: int(traced(iterator, tf.constant(num_steps)))


def in_rounds(loop: Loop, rounds: Rounds, *, is_alone: bool) -> Loop:
    """Returns a loop that leaves no round open.

    Args:
        loop: Runs the steps of `rounds`.
        rounds: The rounds.
        is_alone: Whether there are no other workers. Then a round can also be ended after an error;
            otherwise the other workers would have to take part.
    """
    begin = tf.function(rounds.begin, autograph=False)
    end = tf.function(rounds.end, autograph=False)

    def run(iterator: Any, num_steps: int) -> int:
        begin()
        try:
            ran = loop(iterator, num_steps)
        except BaseException:
            if is_alone:
                end()
            raise
        end()
        return ran

    return run
