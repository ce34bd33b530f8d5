"""Which traced functions does a model need, and how long are they kept?

One traced loop for training, one for testing, one for predicting, and a traced read of the results.
Each is made when it is first needed, and kept, also between calls of `fit`, until the model is
compiled again. In one file, since all of them are dropped together then.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfdist.communication import collectives
from tfdist.communication.share import is_tpu, share_of
from tfdist.compat import graph_passes, keras_internals
from tfdist.data import already_sharded, padding_check, shapes
from tfdist.data.errors import told_plainly
from tfdist.data.same_data import Witness
from tfdist.data.source import Source
from tfdist.global_batch import padded_rows
from tfdist.loop import agreed_end, branches
from tfdist.loop.loop_options import PLAIN, LoopOptions
from tfdist.loop.one_trace import OneTrace
from tfdist.loop.outputs import OutputLoop, make_output_loop
from tfdist.loop.waits import Waits
from tfdist.loop.while_loop import (
    Loop,
    in_rounds,
    make_loop,
    make_shared_loop,
    next_where,
    split_where,
)
from tfdist.privacy import update as private
from tfdist.sharding import shards
from tfdist.step import accumulation, local_steps, rules, update, whole
from tfdist.step.finite import FiniteWatch
from tfdist.step.logs import LastLogs
from tfdist.step.own_code import own_code
from tfdist.step.replicas import Batch
from tfdist.step.rounds import Rounds
from tfdist.step.variables import optimizers_of

_ALWAYS = ("waits", ("watch", True), ("watch", False))  # is not traced itself


class Programs:
    """The traced functions of one model.

    Args:
        model: The model.
        strategy: The strategy that it was made under.
        replica_step: The user's training rule, or None for the model's.
    """

    def __init__(
        self,
        model: keras.Model,
        strategy: tf.distribute.Strategy,
        *,
        replica_step: Callable[[Any], dict[str, Any]] | None = None,
    ) -> None:
        self._model, self._strategy, self._replica_step = model, strategy, replica_step
        self._share = share_of(strategy)
        #: Adds up what the loops have read, if every worker reads all of the data.
        self.witness = Witness(is_needed=self._share.has_others)
        self._made: dict[Any, Any] = {}
        self._compiled: tuple[Any, ...] = ()
        self._forced: tuple[Any, ...] = ()
        self._returned: dict[str, LastLogs] = {}
        self._no_logs = LastLogs()

    def train(self, options: LoopOptions = PLAIN) -> Loop:
        """Returns the traced loop over training steps."""
        watch, rounds = self.watch(options.on_nan), self.rounds(options)

        def goes_on() -> Any:
            is_well = watch.is_well() if watch and options.on_nan == "raise" else True
            return tf.logical_and(is_well, self._is_loss_finite() if options.stops_at_nan else True)

        def make() -> Loop:
            if options.privacy is not None:
                own = private.train_rule
                return self._loop("train", options, own, options.privacy, watch, goes_on=goes_on)
            undoing = watch.undoing if watch and options.on_nan == "skip" else None
            loop = self._loop(
                "train", options, rules.train_rule, self._replica_step, watch, options.reduction,
                rounds, undoing=undoing, goes_on=goes_on,
            )
            if rounds is None:
                return loop
            return in_rounds(loop, rounds, is_alone=not self._share.has_others)

        return self._kept(("train", options), make)

    def rounds(self, options: LoopOptions) -> Rounds | None:
        """Returns the rounds that training goes in; None if replicas sum in every step."""
        model, strategy, reduction = self._model, self._strategy, options.reduction
        if self._replica_step is not None or keras_internals.overrides(model, "train_step"):
            return None
        if (size := options.local_steps) is not None:
            return self._kept(
                ("rounds", options),
                lambda: local_steps.LocalSteps(model, strategy, reduction, size=size),
            )
        if not accumulation.is_possible(model, strategy, on_nan=options.on_nan):
            return None
        return self._kept(
            ("rounds", options),
            lambda: accumulation.Accumulation(model, strategy, self._share, reduction),
        )

    def waits(self) -> Waits:
        """Returns the object that adds up the waits of the measured training loop."""
        return self._kept("waits", Waits)

    def watch(self, on_nan: str) -> FiniteWatch | None:
        """Returns the watch on the gradients of the training loop, if the policy needs one."""
        if on_nan not in ("raise", "skip"):
            return None
        skips = on_nan == "skip"
        return self._kept(("watch", skips), lambda: FiniteWatch(self._strategy, skips=skips))

    def test(self, options: LoopOptions = PLAIN) -> Loop:
        """Returns the traced loop over test steps."""
        return self._kept(("test", options), lambda: self._loop("test", options, rules.test_rule))

    def predict(
        self, options: LoopOptions = PLAIN, followed: shapes.Followed | None = None
    ) -> OutputLoop:
        """Returns the traced loop over batches that returns the outputs for their rows.

        Args:
            options: How it runs through its batches.
            followed: Which lengths the outputs have, if lengths are padded.
        """
        return self._kept(("predict", options, followed), lambda: self._predict(options, followed))

    def followed(self, source: Source, *, predicts: bool = False) -> shapes.Followed | None:
        """Checks that the model can handle padded lengths; returns which its outputs have.

        Args:
            source: The data.
            predicts: Whether outputs are returned; else targets are compared with them.

        Raises:
            ValueError: The model cannot handle them.
        """
        lengths = source.padding.lengths if source.padding else None
        if lengths is None:
            return None
        model = self._model
        is_own = predicts and keras_internals.overrides(model, "predict_step")

        def call(batch: Any) -> Any:
            if is_own:
                return model.predict_step(batch)
            x, *_ = keras.utils.unpack_x_y_sample_weight(batch)
            return keras_internals.call(model, x, training=False)

        found = self._kept(
            ("lengths", repr(source.spec), lengths, is_own),
            lambda: padding_check.followed(model, self._strategy, source.spec, lengths, call),
        )
        padding_check.refuse_unused(found, lengths, predicts=predicts)
        return found

    def logs(self, phase: str) -> dict[str, Any]:
        """Returns the current loss, metrics and other logs; every worker has to call it.

        Args:
            phase: "train" or "test", whose steps keep their own logs; "check", which keeps none.
        """
        returned = self._returned.get(phase, self._no_logs)
        if phase == "train" and self._replica_step is not None:
            return returned.read()  # such a rule returns all its logs itself
        # What no phase has logged is read after steps of all kinds, each of which may make metrics.
        states = self._model.metrics_variables if returned is self._no_logs else ()
        name = ("logs", returned, *map(id, states))
        read = self._kept(name, lambda: self._results(returned))
        return returned.shown(read())

    def _loop(
        self,
        phase: str,
        options: LoopOptions,
        rule: Callable[..., rules.Rule],
        *args: Any,
        undoing: Callable[..., Any] | None = None,
        goes_on: Callable[[], Any] = lambda: True,
    ) -> Loop:
        if options.padding is not None and options.padding.is_needed:
            padded_rows.refuse_own_rules(self._model, phase, self._replica_step)
        one_step = self.one_trace(phase, options) or self._step(phase, rule, *args)
        if undoing is not None:
            one_step = undoing(self._model, self._strategy, one_step)
        if options.padding is not None:
            one_step = branches.padded(one_step, options.padding)
        if options.has_all_rows:
            one_step = self._of_all_rows(one_step, options.is_whole)
        next_batch = next_where
        if options.is_timed:
            one_step, next_batch = self.waits().after(one_step), self.waits().next_where
        if options.is_share:
            of_replicas = already_sharded.sizes_of_replicas
            loop = make_shared_loop(
                one_step, eager=self._is_eager, goes_on=goes_on, next_batch=next_batch,
                sizes_of=functools.partial(of_replicas, self._strategy, self._share),
            )
        else:
            loop = make_loop(
                one_step, eager=self._is_eager, witness=self.witness, agree=self._agree,
                goes_on=goes_on, next_batch=next_batch,
            )
        if not self._is_eager:  # else it would call functions of the user's
            loop = graph_passes.without_idle(loop)
        changes_shapes = functools.partial(collectives.changes_shapes, self._strategy)
        loop = split_where(loop, changes_shapes, goes_on=goes_on)
        return told_plainly()(loop)

    def one_trace(self, phase: str, options: LoopOptions) -> OneTrace | None:
        """Returns the step that the loop of these options shares with the check of a first step.

        Args:
            phase: "train" or "test".
            options: How the loop runs through its batches.

        Returns:
            None if the loop has a step of its own: since there is nothing to check, or since it
            does more than the step that is checked.
        """
        model, strategy, reduction = self._model, self._strategy, options.reduction
        is_one = self._share.num_replicas == 1 or is_tpu(strategy) or self._is_eager
        has_more = options.padding or options.has_all_rows or options.is_whole or options.privacy
        if is_one or has_more or not own_code(model, step=f"{phase}_step"):
            return None
        if phase == "train" and (
            self._replica_step is not None or reduction.wire_dtype or self.rounds(options)
            or self.watch(options.on_nan) or self._scales_losses
        ):
            return None

        def make() -> OneTrace:
            if phase == "test":
                step = self._step(phase, rules.test_rule)
            else:
                step = self._step(phase, rules.train_rule, None, None, reduction)
            return OneTrace(step, self._returned[phase], num_replicas=self._share.num_replicas)

        return self._kept(("one trace", phase, reduction), make)

    def _of_all_rows(self, step: Callable[[Batch], Any], is_whole: bool) -> Callable[[Batch], Any]:
        return whole.of_all_rows(step, self._model, self._strategy, is_whole=is_whole)

    def _step(self, phase: str, rule: Callable[..., rules.Rule], *args: Any) -> rules.Rule:
        returned = self._returned.setdefault(phase, LastLogs())
        return rule(self._model, self._strategy, returned, *args)

    def on_batch(
        self, phase: str, spec: Any, build: Callable[[], None], *, is_whole: bool = False
    ) -> Callable[..., Any]:
        """Returns `step(global_size, parts)`, which returns the outputs if it predicts.

        Args:
            phase: "train", "test" or "predict".
            spec: Of a replica's part of the batch, with an open number of rows.
            build: Creates what the step needs; called before the first one.
            is_whole: Whether a batch is one part, with all rows, and computed whole.
        """

        def make() -> Callable[[Any, Any], Any]:
            build()
            step: Any = functools.partial(update.predict_step, self._model, self._strategy)
            if phase == "train":
                step = self._step(phase, rules.train_rule, self._replica_step)
            elif phase == "test":
                step = self._step(phase, rules.test_rule)

            if is_whole:
                step = self._of_all_rows(step, is_whole)

            def on_batch(global_size: Any, parts: Any) -> Any:
                return step(Batch(global_size, parts))

            if self._is_eager:
                return on_batch
            traced: Any = tf.function(on_batch, autograph=False, reduce_retracing=True)
            is_own = keras_internals.overrides(self._model, f"{phase}_step")
            if is_own or update.asks_for_sizes(self._model):
                return traced
            # One trace, whatever the size.
            parts = (spec,) * (1 if is_whole else self._share.local_replicas)
            return traced.get_concrete_function(tf.TensorSpec([], tf.int32), parts)

        return self._kept((phase, "on_batch", repr(spec), is_whole), make)

    def _agree(self, number: tf.Tensor) -> tf.Tensor:
        return agreed_end.numbers_of_replicas(self._strategy, number)

    def _is_loss_finite(self) -> Any:
        """Tells whether the loss that callbacks would see now is finite."""
        loss = self._returned["train"].read().get("loss")
        tracker = keras_internals.loss_tracker(self._model)
        if loss is None and tracker is None:
            return True
        with self._strategy.scope():
            return tf.math.is_finite(tracker.result() if loss is None else loss)

    def _predict(self, options: LoopOptions, followed: shapes.Followed | None) -> OutputLoop:
        outputs_of: Any = functools.partial(update.predict_step, self._model, self._strategy)
        if options.has_all_rows:
            outputs_of = self._of_all_rows(outputs_of, options.is_whole)

        def one_step(element: Any) -> Any:
            global_size, parts, *_ = element
            sizes = already_sharded.only_own(self._share, global_size) if options.is_share else None
            batch = Batch(global_size, parts, sizes)
            if options.padding is None:
                return outputs_of(batch)
            outputs = branches.padded(outputs_of, options.padding)(batch)
            return branches.cut_back(outputs, parts[0][1], followed) if followed else outputs

        # Gathered rows of other workers vary in shape with the batch: one batch per call.
        is_gathered = not options.is_share and not options.is_whole and self._share.has_others
        loop = make_output_loop(
            one_step, agree=self._agree, eager=self._is_eager, joins=not is_gathered
        )
        return told_plainly()(loop)

    def _results(self, returned: LastLogs) -> Callable[[], dict[str, Any]]:
        def read() -> dict[str, Any]:
            with self._strategy.scope():
                return self._model.get_metrics_result() | returned.read_results()

        return read if self._is_eager else tf.function(read, autograph=False)

    @property
    def _scales_losses(self) -> bool:
        """Tells whether an optimizer updates inside of a `tf.cond`, where gradients are copied."""
        kind = keras.optimizers.LossScaleOptimizer
        return any(isinstance(one, kind) for one in optimizers_of(self._model).values())

    @property
    def _is_eager(self) -> bool:
        return bool(self._model.compiled and self._model.run_eagerly)

    def _kept(self, name: Any, make: Callable[[], Any]) -> Any:
        model = self._model
        # `compile` makes a new loss tracker, even if it gets the same optimizer again, and
        # `make_train_function(force=True)`, which layers that are unfrozen need, a new function.
        forced = (model.train_function, model.test_function)
        compiled: tuple[Any, ...] = ()
        if model.compiled:
            sliced = shards.of(model.optimizer)  # a trace writes to the variables of its optimizer
            compiled = model.optimizer, keras_internals.loss_tracker(model), sliced
        if [id(part) for part in compiled] != [id(part) for part in self._compiled]:
            self._compiled, self._made, self._returned = compiled, {}, {}
        if [id(part) for part in forced] != [id(part) for part in self._forced]:
            self._made = {key: made for key, made in self._made.items() if key in _ALWAYS}
            self._forced = forced
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]
