"""Does the parity table notice when a line of the arithmetic is wrong?

Each mutation is made in a copy of the package, and the row that guards the line has to fail. A line
that is no longer there fails as well: its mutation is to be written anew. Lines that are guarded by
other tests are in test_promises.py.
"""

from __future__ import annotations

import dataclasses

import pytest
from mutating import Fault, copied_to, mutate
from parity import apart, selection, table, worker


@dataclasses.dataclass(frozen=True)
class Mutation(Fault):
    """A fault, and the row that sees it.

    Attributes:
        row: Name of a row of the parity table.
        replicas: Of one process, on which the row is run.
        workers_see_it: Whether the row shows the fault in worker processes too. All were tried in
            the world that CI runs the row in, which follows from this: see `selection.hardest`.
    """

    row: str
    replicas: int = 2
    workers_see_it: bool = True


MUTATIONS = {
    "the reduction is doubled": Mutation(
        "step/update.py",
        "summed = reduction_lib.sum_gradients(strategy, gradients, reduction, residuals=residuals)",
        "summed = [2 * g for g in reduction_lib.sum_gradients(strategy, gradients, reduction)]",
        "SGD with momentum",
    ),
    "gradients are clipped before the reduction": Mutation(
        "step/update.py",
        "gradients = tape.gradient(scaled, variables)",
        "gradients = [tf.clip_by_norm(g, 0.05) for g in tape.gradient(scaled, variables)]",
        "SGD clipnorm",
    ),
    "rows of an embedding become dense": Mutation(
        "communication/reduction.py",
        "return strategy.experimental_local_results(value)[0]",
        "return tf.convert_to_tensor(strategy.experimental_local_results(value)[0])",
        "Adam clipnorm, embedding",
    ),
    "a mean of means": Mutation(
        "global_batch/losses_metrics.py",
        "return loss * position.fraction(loss.dtype)",
        "return loss / position.collectives.num_replicas",
        "uneven last batch",
    ),
    "the filler row counts": Mutation(
        "global_batch/tracing.py",
        "rows: _first_rows(rows, position.local_size), value)",
        "rows: rows, value)",
        "last batch of one, Adam with clipping",
    ),
    "a sum is weighted like a mean": Mutation(
        "global_batch/losses_metrics.py",
        "return value if position is None else value / _safe(position.fraction(value.dtype))",
        "return value",
        "reduction sum, sample weights",
    ),
    "sample weights are summed over one replica": Mutation(
        "global_batch/losses_metrics.py",
        "divisor = position.collectives.sum(_of_counted_rows(weight, position))",
        "divisor = weight",
        "reduction mean_with_sample_weight, sample weights",
    ),
    "valid steps are counted on one replica": Mutation(
        "global_batch/losses_metrics.py",
        "valid = position.collectives.sum(_of_counted_rows(ops.sum(mask), position))",
        "valid = ops.sum(mask)",
        "reduction sum_over_batch_size, mask",
    ),
    "rows that pad a batch count": Mutation(
        "global_batch/padded_rows.py",
        "return tf.where(counts, value, tf.zeros((), value.dtype))",
        "return value",
        "static: binary metrics, weighted and not",
    ),
    "steps that pad a batch count": Mutation(
        "global_batch/padded_timesteps.py",
        "return tf.where(counted, value, tf.zeros((), value.dtype))",
        "return value",
        "lengths: metrics that look at no mask",
    ),
    "steps that pad a batch weigh the others": Mutation(
        "global_batch/padded_timesteps.py",
        "return mean * (padded / tf.cast(timesteps.counted, mean.dtype))",
        "return mean",
        "lengths: one class a word",
    ),
    "outputs stay as long as they were padded": Mutation(
        "loop/branches.py",
        "slice(None) if number is None else slice(own[number])",
        "slice(None)",
        "lengths: one class a word",
    ),
    "a batch is padded with a word": Mutation(
        "data/lengths.py",
        "tf.zeros((), value.dtype)",
        "tf.ones((), value.dtype)",
        "lengths: masked mean",
    ),
    "the reported loss is a mean of means": Mutation(
        "global_batch/losses_metrics.py",
        "tracker.update_state(loss, sample_weight=local_size)",
        "tracker.update_state(loss)",
        "uneven last batch",
    ),
    "a scalar counts once a replica": Mutation(
        "global_batch/losses_metrics.py",
        "return _of_counted_rows(values, position) * fraction, fraction",
        "return values, None",
        "compute_loss updates a Mean by a scalar",
    ),
    "a scalar loss is one of each replica": Mutation(
        "global_batch/losses_metrics.py",
        "        **whole_batch.functions(),\n",
        "",
        "loss function that is no mean of rows",
    ),
    "all replicas draw the same": Mutation(
        "global_batch/tracing.py",
        "functions = randomness.keyed_draws(keras_internals.random_functions())",
        "functions = {}",
        "Dropout",
    ),
    "losses of replicas mix": Mutation(
        "compat/replacing.py",
        'for attribute, make in (("_losses", list), ("_loss_ids", set)):',
        "for attribute, make in ():",
        "add_loss with synchronized BatchNormalization",
        workers_see_it=False,
    ),
    "the filler row is normalized with": Mutation(
        "global_batch/batch_norm.py",
        "x = x[: tf.where(position.local_size > 0, tf.shape(x)[0], 0)]",
        "x = x[:]",
        "synchronized BatchNormalization, batches smaller than four replicas",
        replicas=4,
        workers_see_it=False,
    ),
    "a compiled step counts its own replica alone": Mutation(
        "step/jit_compile.py",
        "[position.collectives.sum(v) for v in summands]",
        "summands",
        "jit_compile, masked mean",
    ),
    "an own step's gradients are summed as they are": Mutation(
        "global_batch/row_losses.py",
        "return given * position.fraction(given.dtype)",
        "return given",
        "train_step of its own",
    ),
    "an own step's gradients are weighted after they went through the other replicas": Mutation(
        "step/own_gradients.py",
        "shares = row_losses.share_of_gradient(original, tape, target, sources, *args, **kwargs)",
        "shares = [update.scaled(g, position.fraction(g.dtype))"
        " for g in original(tape, target, sources)]",
        "train_step of SAM, synchronized BatchNormalization",
    ),
    "an own step sees the gradients of one replica": Mutation(
        "step/own_gradients.py",
        "if not row_losses.are_variables(sources):",
        "if True:",
        "train_step clips by the norm of all gradients",
    ),
    "what was accumulated before counts once a replica": Mutation(
        "step/accumulation.py",
        "                    if number > 0:\n",
        "                    if number < 0:\n",
        "accumulation of 3 steps",
    ),
    "accumulated gradients are not taken out before the update": Mutation(
        "step/accumulation.py",
        "        self._assign(self._nothing())  #",
        "        #",
        "accumulation of 2 steps",
    ),
    "a loss for each row that a layer adds counts as a mean": Mutation(
        "global_batch/row_losses.py",
        "return sum_of_rows(loss) if is_of_rows(loss) else loss",
        "return loss",
        "add_loss of a loss for each row",
    ),
    "a loss for each row that a tape is given counts as a mean": Mutation(
        "compat/replacing.py",
        "return gradient(original_gradient, tape, target, sources, *args, **kwargs)",
        "return original_gradient(tape, target, sources, *args, **kwargs)",
        "train_step with a loss for each row",
    ),
    "a gathered row has the gradient of one replica alone": Mutation(
        "global_batch/all_rows.py",
        "total = position.collectives.linked_sum(tf.convert_to_tensor(of_all))",
        "total = tf.convert_to_tensor(of_all)",
        "train_step of Barlow twins",
    ),
    "the gradient of a gathered row is another row's": Mutation(
        "global_batch/all_rows.py",
        "begin = tf.one_hot(0, total.shape.rank, position.offset, 0)",
        "begin = tf.zeros(total.shape.rank, tf.int32)",
        "in-batch negatives in call",
    ),
    "the row of an empty replica is gathered": Mutation(
        "global_batch/all_rows.py",
        "return rows[: position.local_size]",
        "return rows[:]",
        "compute_loss of SimCLR",
    ),
    "logits are lost where rows are cut": Mutation(
        "compat/tensor_notes.py",
        "made._keras_logits = of_rows(logits)",
        "pass",
        "outputs that saturate",
    ),
    "the operation behind an output is lost where rows are cut": Mutation(
        "compat/tensor_notes.py",
        "made = _ACTIVATIONS[kind](of_rows(value.op.inputs[0]))",
        "made = of_rows(value)",
        "outputs that saturate",
    ),
    "logits are not gathered with the rows of a whole batch": Mutation(
        "global_batch/whole_batch.py",
        "return tensor_notes.with_notes(lambda rows: with_own_gradient(rows, position), value)",
        "return with_own_gradient(value, position)",
        "outputs that saturate, a loss of one number",
    ),
    "a draw of fixed size is taken for one of rows": Mutation(
        "step/replicas.py",
        "            data = rows.opened(data)\n",
        "            pass\n",
        "draws of the size of weights, batches of fixed size",
    ),
    "a draw of as many rows as the batch is fixed to is the same everywhere": Mutation(
        "global_batch/randomness.py",
        "first, local = dims[0], position.padded_rows or position.fixed_rows",
        "first, local = dims[0], position.padded_rows",
        "Dropout of a loss of its own, batches of fixed size",
    ),
    "what is looked up once for a batch is there once a replica": Mutation(
        "step/lookups.py",
        "return count is None and reaches",
        "return True",
        "positions, Adam",
    ),
    "an open number of positions is taken for rows": Mutation(
        "step/dependence.py",
        'if operation.type == "Rank" or _is_other_dimension(operation):',
        'if operation.type == "Rank":',
        "positions of sentences of open length",
    ),
    "the last rows go to another replica": Mutation(
        "communication/share.py",
        "return (replica * global_size + num_replicas - 1) // num_replicas",
        "return replica * (global_size // num_replicas)",
        "uneven last batch",
    ),
}


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize("name", MUTATIONS)
def test_the_table_notices(name, tmp_path):
    mutation = MUTATIONS[name]
    mutate(mutation, tmp_path)
    assert _verdict(mutation.row, mutation.replicas, tmp_path) != "right"


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize("replicas", [2, 4])
def test_a_copy_without_a_mutation_is_right(replicas, tmp_path):
    copied_to(tmp_path)
    assert _verdict("uneven last batch", replicas, tmp_path) == "right"


@pytest.mark.parametrize("name", MUTATIONS)
def test_ci_runs_the_row_where_it_shows_the_fault(name):
    [case] = [case for case in table.ROWS if case.name == MUTATIONS[name].row]
    assert MUTATIONS[name].workers_see_it or selection.hardest(case) == "4"


def _verdict(row, replicas, packages):
    return apart.call(worker.judge, row, str(packages), replicas=replicas, timeout_secs=150)
