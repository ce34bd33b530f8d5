"""Train, evaluate and predict as Keras does, on any strategy: arguments in, results out.

Synopsis:

    >>> import keras, numpy as np, tfdist
    >>> with tfdist.get_strategy("2xcpu").scope():
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    ...     model.compile("adam", "mse")
    >>> trainer = tfdist.Trainer(model)
    >>> history = trainer.fit(np.ones((5, 4)), np.ones(5), batch_size=3, epochs=2, verbose=0)
    >>> sorted(history.history), trainer.is_chief
    (['loss'], True)

In one file, since the signatures of three methods are a third of it.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Concatenate, ParamSpec, TypeVar

import keras
import tensorflow as tf

from tfdist.checkpoint import same_run
from tfdist.checkpoint.run import Run
from tfdist.communication.compression import Reduction
from tfdist.communication.link_check import check_links
from tfdist.communication.presence import Presence
from tfdist.communication.share import is_tpu
from tfdist.communication.workers import Workers
from tfdist.compat import keras_internals, private_names
from tfdist.compat.notes import note_of, set_note
from tfdist.data.feed import Feed, limited
from tfdist.data.inputs import Inputs
from tfdist.data.shapes import Shapes, parse_shapes
from tfdist.first_step import found
from tfdist.global_batch import batch_norm
from tfdist.loop.loop_options import LoopOptions, of_source
from tfdist.loop.programs import Programs
from tfdist.sharding import adopting
from tfdist.step import error_feedback
from tfdist.step import local_steps as local_steps_lib
from tfdist.strategy import factory, process_scope
from tfdist.tracking.watch import Watch
from tfdist.training import (
    bucket_tuning,
    building,
    callback_files,
    on_batch,
    profiling,
    routing,
    shared_events,
)
from tfdist.training.checks import divergence, same_call
from tfdist.training.checks.fingerprints import Comparison
from tfdist.training.checks.guard import Guard
from tfdist.training.epochs import Epochs, Training
from tfdist.training.options import Options, options_of, parse_check, refuse_whole
from tfdist.training.predicting import predicted
from tfdist.training.private import PrivateRun
from tfdist.training.profiling import Profiler

_P = ParamSpec("_P")
_T = TypeVar("_T")
_BATCHES_BETWEEN_COMPARISONS = 100  # of the weights over the workers, in `train_on_batch`


def _as_a_run(
    method: Callable[Concatenate[Trainer, _P], _T],
) -> Callable[Concatenate[Trainer, _P], _T]:
    """Runs a method of a trainer for all to see: the launcher, the other workers, and Keras.

    Where the model overrides the method, its own is called, which calls `super()`.
    """
    name, signature = method.__name__, inspect.signature(method)

    @functools.wraps(method)
    def run(self: Trainer, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        with ROUTES.on(), process_scope.left_for(self.strategy):
            if self._replica_step is None and routing.is_overridden(self.model, name):
                own: _T = routing.call_own(self, name, args, kwargs)
                return own
            given = signature.bind(self, *args, **kwargs)
            given.apply_defaults()
            is_alone = name == "predict" and given.arguments["already_sharded"]
            with self._presence.run(name, is_shared=not is_alone):
                if not is_alone:
                    self._require_same(name, given.arguments)
                return method(self, *args, **kwargs)

    return run


class Trainer:
    """The object behind `fit`, `evaluate` and `predict`: a model, its strategy, its traced loops.

    Args:
        model: A compiled Keras model. To train on several replicas it must have been made and
            compiled inside `strategy.scope()`.
        replica_step: A training rule instead of Keras's: `replica_step(batch) -> logs` runs on
            each replica's rows, applies gradients with `tfdist.apply_gradients`, and returns a dict
            of this replica's *shares* of each log, or its share of the loss alone; the shares are
            summed. Validation needs a compiled model.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        replica_step: Callable[[Any], dict[str, Any]] | None = None,
    ) -> None:
        private_names.check()
        _refuse_ignored_distribution()
        self.model = model
        self.strategy = _strategy_of(model)
        self._workers = Workers(self.strategy)
        self._comparison = Comparison(model, self._workers)
        self._inputs = Inputs(self._workers, model)
        self._programs = Programs(model, self.strategy, replica_step=replica_step)
        self._replica_step = replica_step
        self._num_batches = 0  # that `train_on_batch` and the like were called with
        self._presence = Presence(self._workers)
        self._epochs = Epochs(model, self._programs, self._workers, self._presence)

    @property
    def is_chief(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self._workers.is_chief

    @_as_a_run
    def fit(
        self,
        x: Any = None,
        y: Any = None,
        *,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool | str = True,
        class_weight: dict[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: Any = 1,
        # Which data, in which shapes.
        already_sharded: bool = False,
        static_shapes: bool | None = None,
        length_buckets: Sequence[int] | None = None,
        # What is saved, and what is checked.
        checkpoint_dir: Any = None,
        encrypt_to: Any = None,
        save_every: Any = None,
        fingerprint_every: int | None = None,
        on_nan: str = "warn",
        check: str | bool = "auto",
        # What travels between the replicas, and where the time goes.
        reduction: Reduction | str | None = None,
        local_steps: int | None = None,
        outer_optimizer: Any = None,
        sharded_optimizer: bool = False,
        profile: Any = False,
        privacy: Any = None,
        # Who is told of the run.
        trackers: Sequence[Any] | None = None,
    ) -> keras.callbacks.History:
        """Trains the model, with the result that one device gives.

        Works inside and outside `strategy.scope()`. The arguments from `x` to `validation_freq` are
        those of `keras.Model.fit`, with the same meanings and defaults.

        Args:
            x: Inputs: arrays, a `tf.data.Dataset` of *global* batches, a `PyDataset`, a generator.
            y: Targets, where `x` is arrays.
            batch_size: The *global* batch: examples a step, over all replicas of all workers.
            epochs: As in Keras.
            verbose: As in Keras; only the chief speaks.
            callbacks: As in Keras; only the chief's write files.
            validation_split: As in Keras.
            validation_data: As in Keras.
            shuffle: As in Keras.
            class_weight: As in Keras.
            sample_weight: As in Keras.
            initial_epoch: As in Keras.
            steps_per_epoch: As in Keras.
            validation_steps: As in Keras.
            validation_batch_size: As in Keras; global, too.
            validation_freq: As in Keras.
            already_sharded: Whether each worker passes only its own examples, for validation too.
                Together, the examples of all workers in a step are the global batch.
            static_shapes: Whether every batch is padded to the shape of a full one, with rows that
                do not count, so that a step is traced and compiled once. None: only on a TPU.
            length_buckets: Pads batches whose second dimension varies (`.padded_batch`) with 0, ""
                or False to the next of these lengths, such as (32, 64, 128), so that a step is
                traced once per length. Implies static shapes. The model has to mask the padding
                (`Embedding(mask_zero=True)`, `Masking`), which is tried before the first step.
                Random layers draw for the padded length.
            checkpoint_dir: A folder, or a `Checkpointer`. Training is saved there at the end of
                each epoch, and resumes from there where it stopped, also in the middle of an epoch.
                SIGTERM or SIGUSR1 to any worker makes all of them save, and exit with code 75.
            encrypt_to: Encrypts the checkpoints: public keys of age, "age1...", or paths of files
                of them. To resume, the chief needs an identity, in the file that the environment
                variable TFDIST_IDENTITY_FILE names.
            save_every: Save after this many steps (100), or this much time ("10m"), and at the end.
            fingerprint_every: Compare the weights, and states that layers assign, over all replicas
                after this many steps. Without it they are compared each five seconds or more, and
                at the end; states that differ then follow `check`.
            on_nan: What to do if the loss or a gradient is infinite or NaN. "warn" trains on as
                Keras does, and says once where it began; "raise" ends at that step, and names the
                gradient; "skip" leaves out the step, and its batch from the metrics; "ignore" does
                not check.
            check: What to do if code that is not Keras's (a training step, loss, metric, layer or
                function) means something else for a part of a batch: a sum, statistics of a batch,
                draws that bypass Keras, a state that is assigned. The first step is computed with
                some of its rows split and with all of them on one replica, and all variables are
                put back. "raise" names the first tensor that differs, and the likely cause; "warn"
                trains on; "whole" trains on with steps that every replica computes on all rows,
                with one device's numbers and speed; False does not compute it. "auto" is "raise",
                and False on a TPU. Without such code, or with one replica, a `replica_step`,
                `local_steps`, `length_buckets` or a plain `BatchNormalization` (which "whole" takes
                for a difference), there is no check, and it costs nothing.
            reduction: How gradients travel between replicas: a `tfdist.Reduction`, or its type,
                "bfloat16" or "float16", which halves the bytes and rounds. Exact by default.
            local_steps: Replicas train on their own for this many steps, and continue from the mean
                of their weights, for networks that are too slow for a sum in every step. The result
                differs from one device's, except with 1 and SGD. See step/local_steps.py.
            outer_optimizer: Applies the change of weights of each round of local steps, such as
                `SGD(0.7, momentum=0.9, nesterov=True)`.
            sharded_optimizer: Whether each of N replicas holds one N-th of the optimizer's states
                (Adam's momentums, averages of weights, accumulators), and updates that part of the
                weights, with the same numbers up to rounding, and as many bytes between workers.
                Then `model.optimizer.variables` are parts; saving the model, or a checkpoint, puts
                them together, for which every worker has to save. Tables of a
                `keras.layers.Embedding` keep whole states. SGD, Adam, AdamW, Nadam, Adamax, Lion,
                RMSprop, Adagrad, Adadelta and Ftrl have slices of all weights, Lamb, Adafactor and
                Muon some whole weights each; others are refused by name.
            profile: Whether to measure where the time goes, and print it at the end. Given a
                folder, it also writes a TensorBoard trace of some of the chief's steps there.
            privacy: A `tfdist.privacy.DPSGD`: what the trained weights tell of any one example is
                bounded, and the bound, epsilon, is in the logs of each epoch. Steps draw their
                examples at random, so `x` is arrays or a `RowsDataset`, and an epoch is as many
                steps as show each example once in the mean.
            trackers: Who is told of the run, on the chief: names ("json", "tensorboard", "mlflow",
                "wandb"), also with a place ("json:run.jsonl"), or objects with the methods of
                `tfdist.tracking.Tracker`. One that raises is told of once, and ends nothing.

        Returns:
            The `History` of the whole run, the same on every worker. `history.checked` says what
            the check has found, by step. With `profile`, `history.profile` is the `Profile` of this
            worker.

        Raises:
            ValueError: The model was not compiled, the data cannot be used, or an option is invalid
                or not the same on all workers.
            RuntimeError: The model was made outside the scope of the strategy it is to train on.
        """
        options = options_of(
            self.model, self._workers, replica_step=self._replica_step, static_shapes=static_shapes,
            already_sharded=already_sharded, length_buckets=length_buckets, shuffle=shuffle,
            checkpoint_dir=checkpoint_dir, save_every=save_every, batch_size=batch_size,
            fingerprint_every=fingerprint_every, on_nan=on_nan, check=check, reduction=reduction,
            local_steps=local_steps, outer_optimizer=outer_optimizer, encrypt_to=encrypt_to,
            sharded_optimizer=sharded_optimizer, privacy=privacy, profile=profile,
        )
        epochs = limited(epochs, "epochs") or epochs
        if validation_split and validation_data is None:
            data, split = (x, y, sample_weight), keras_internals.validation_split
            (x, y, sample_weight), validation_data = split(data, validation_split)
        profiler = self._profiler(profile)
        run = Run(self.model, checkpoint_dir, save_every=save_every, encrypt_to=encrypt_to)
        watch = Watch(trackers, model=self.model, workers=self._workers)
        with watch, run, profiler or nullcontext():
            check_links(self._workers)
            seed = run.seed(self._workers)
            watch.note(
                checkpoint=checkpoint_dir, epochs=epochs, batch_size=batch_size, seed=seed,
                shuffle=shuffle, on_nan=on_nan, check=check, local_steps=local_steps,
            )
            private = self._private_run(options, run, epochs - initial_epoch, verbose, callbacks)
            feed = self._feed(
                x, y, options, private, sample_weight=sample_weight, class_weight=class_weight,
                batch_size=batch_size, steps=steps_per_epoch, shuffle=shuffle, seed=seed,
                first_pass=initial_epoch,
            )
            validation = self._inputs.validation_feed(
                validation_data, batch_size=validation_batch_size or batch_size,
                steps=validation_steps, **options.of_data,
            )
            run.note(shuffle=shuffle, class_weight=class_weight, initial_epoch=initial_epoch)
            loop_options = self._prepared(feed, validation, options, run, private)
            self._train(
                callbacks, verbose, options, loop_options, feed=feed, validation=validation,
                epochs=epochs, initial_epoch=initial_epoch, validation_freq=validation_freq,
                run=run, watch=watch, profiler=profiler, private=private,
            )
        return self.model.history

    def _train(
        self, callbacks: Any, verbose: Any, options: Options, loop_options: LoopOptions, *,
        feed: Feed, epochs: int, watch: Watch, profiler: Profiler | None,
        private: PrivateRun | None, **training: Any,
    ) -> None:
        """Runs the epochs of `fit`, whose arguments these are, with its callbacks around them."""
        if training["run"].is_encrypted:
            callback_files.refuse_readable(callbacks)
        files = callback_files.files_of_chief_alone(callbacks, is_chief=self.is_chief)
        with private or nullcontext(), files:
            events = self._events(
                callbacks, add_history=True, verbose=verbose, epochs=epochs,
                steps=feed.num_batches, examples_of_step=feed.source.examples_of_step,
            )
            programs = self._programs
            guard = Guard(
                self.model, self._comparison, options, watch=programs.watch(options.on_nan)
            )
            self._epochs.train(
                Training(
                    feed=feed, events=events, epochs=epochs, guard=guard, options=loop_options,
                    watch=watch, profiler=profiler, ledger=private.ledger if private else None,
                    **training,
                )
            )
        if profiler:
            self._tell(profiler, loop_options, verbose=verbose)
        watch.end(self.model.history.profile if profiler else None)

    def _private_run(
        self, options: Options, run: Run, epochs: int, verbose: Any, callbacks: Any
    ) -> PrivateRun | None:
        if options.privacy is None:
            return None
        return PrivateRun(
            self.model, self._workers, run, options.privacy, epochs=epochs,
            is_told=bool(verbose), callbacks=callbacks,
        )

    def _feed(
        self, x: Any, y: Any, options: Options, private: PrivateRun | None, *, steps: int | None,
        first_pass: int, sample_weight: Any, class_weight: Any, **given: Any,
    ) -> Feed:
        """Makes the feed of the training data; a private run draws its own batches of it."""
        weights = {"sample_weight": sample_weight, "class_weight": class_weight}
        if private:
            source = private.source(x, y, steps=steps, **weights)
            return self._inputs.feed_of(source, steps=steps, first_pass=first_pass)
        return self._inputs.feed(
            x, y, steps=steps, first_pass=first_pass, **weights, **given, **options.of_data
        )

    def _require_same(self, name: str, arguments: Mapping[str, Any]) -> None:
        given = {key: value for key, value in arguments.items() if key != "self"}
        same_call.require(
            name, given, model=self.model, replica_step=self._replica_step, workers=self._workers
        )

    def _refuse_other_weights(self) -> None:
        divergence.refuse_other_weights(self.model, self._comparison)

    def _prepared(
        self, feed: Feed, validation: Feed | None, options: Options, run: Run,
        private: PrivateRun | None = None,
    ) -> LoopOptions:
        """Creates all variables that training needs; returns how the loop runs through batches."""
        model = self.model
        self._build(feed, "train_step", builds_optimizer=not options.sharded_optimizer)
        if private:
            private.refuse_model()
        adopting.adopt(model, self.strategy, is_wanted=options.sharded_optimizer)
        for data in filter(None, (feed, validation)):
            self._programs.followed(data.source)
        if validation is not None:
            self._build(validation, "test_step")
        local_steps_lib.adopt(model, self.strategy, options.outer_optimizer)
        error_feedback.adopt(
            model, self.strategy, options.reduction, is_own_rule=options.is_own_rule,
            local_steps=options.local_steps, on_nan=options.on_nan,
        )
        if options.check != "whole":
            batch_norm.warn_of_plain(model, self._workers.share.num_replicas)
        self._refuse_other_weights()
        feed.rewind()
        reduction = bucket_tuning.settled(
            options.reduction, model.trainable_variables, self._workers, run
        )
        if reduction.wire_dtype:
            run.note(wire_dtype=reduction.wire_dtype)
        if options.local_steps:
            run.note(local_steps=options.local_steps)
        run.note(
            **same_run.of_number(
                self._workers.share, is_share=feed.source.is_share, local_steps=options.local_steps
            )
        )
        return LoopOptions(
            is_share=feed.source.is_share, has_all_rows=feed.source.has_all_rows,
            padding=feed.source.padding, on_nan=options.on_nan,
            reduction=reduction, local_steps=options.local_steps,
            outer_optimizer=options.outer_optimizer, is_timed=bool(options.profile),
            privacy=private.step if private else None,
        )

    @_as_a_run
    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        *,
        batch_size: int | None = None,
        verbose: Any = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Any = None,
        return_dict: bool = False,
        already_sharded: bool = False,
        static_shapes: bool | None = None,
        length_buckets: Sequence[int] | None = None,
        check: str | bool = "auto",
    ) -> Any:
        """Returns the loss and metrics over all examples, each once, the same on every worker.

        The arguments up to `return_dict` are those of `keras.Model.evaluate`.

        Args:
            x: As in `fit`.
            y: As in `fit`.
            batch_size: The *global* batch.
            verbose: As in Keras; only the chief speaks.
            sample_weight: As in Keras.
            steps: As in Keras.
            callbacks: As in Keras.
            return_dict: As in Keras.
            already_sharded: As in `fit`.
            static_shapes: As in `fit`.
            length_buckets: As in `fit`.
            check: As in `fit`, for the first batch.

        Returns:
            What `keras.Model.evaluate` returns: a scalar, a list, or with `return_dict` a dict.
        """
        keras_internals.assert_compiled(self.model, "evaluate")
        shapes = self._shapes(static_shapes, length_buckets)
        allowed = self._check(check, already_sharded=already_sharded, shapes=shapes)
        feed = self._inputs.feed(
            x, y, sample_weight=sample_weight, batch_size=batch_size, steps=steps,
            already_sharded=already_sharded, shapes=shapes, all_rows=allowed == "whole",
        )
        self._build(feed, "test_step")
        self._refuse_other_weights()
        self._programs.followed(feed.source)
        with callback_files.files_of_chief_alone(callbacks, is_chief=self.is_chief):
            events = self._events(callbacks, verbose=verbose, epochs=1, steps=feed.num_batches)
            logs = self._epochs.evaluate(feed, events, check=allowed)
        return logs if return_dict else keras_internals.flat_results(self.model, logs)

    @_as_a_run
    def predict(
        self,
        x: Any,
        *,
        batch_size: int | None = None,
        verbose: Any = "auto",
        steps: int | None = None,
        callbacks: Any = None,
        already_sharded: bool = False,
        static_shapes: bool | None = None,
        length_buckets: Sequence[int] | None = None,
        check: str | bool = "auto",
    ) -> Any:
        """Returns the model's outputs for `x`, in input order, on every worker.

        The model need not be compiled. The arguments up to `callbacks` are those of
        `keras.Model.predict`.

        Args:
            x: As in `fit`.
            batch_size: The *global* batch.
            verbose: As in Keras; only the chief speaks.
            steps: As in Keras.
            callbacks: As in Keras.
            already_sharded: Whether a worker passes its own inputs, and gets only their outputs.
            static_shapes: As in `fit`.
            length_buckets: As in `fit`; outputs come back as long as their batch was.
            check: As in `fit`, for the outputs of the first batch, unless each worker has its own.

        Returns:
            NumPy arrays of the model's output structure, with one row per example. Outputs whose
            length differs between batches are ragged tensors, as in `keras.Model.predict`.
        """
        shapes = self._shapes(static_shapes, length_buckets)
        allowed = self._check(check, already_sharded=already_sharded, shapes=shapes)
        feed = self._inputs.feed(
            x, batch_size=batch_size, steps=steps, already_sharded=already_sharded, is_alone=True,
            shapes=shapes, all_rows=allowed == "whole",
        )
        self._build(feed, "predict_step")
        if not already_sharded:
            self._refuse_other_weights()
        options = dataclasses.replace(of_source(feed.source), is_share=already_sharded)
        followed = self._programs.followed(feed.source, predicts=True)

        def predict(iterator: Any, num_batches: int) -> Any:
            now = found.as_found(self.model, options, "predict_step")
            return self._programs.predict(now, followed)(iterator, num_batches)

        allowed = False if already_sharded else allowed  # the others may not be here
        loop = self._presence.ticking(
            self._epochs.checked(predict, feed, check=allowed, step="predict_step")
        )
        with callback_files.files_of_chief_alone(callbacks, is_chief=self.is_chief):
            events = self._events(
                callbacks, verbose=verbose, epochs=1, steps=feed.num_batches, is_alone=True
            )
            workers = None if already_sharded else self._workers
            return predicted(self.model, feed, events, loop, workers=workers)

    @_as_a_run
    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: dict[int, float] | None = None,
        return_dict: bool = False,
        *,
        check: str | bool = "auto",
    ) -> Any:
        """Updates the model once, by one *global* batch, the same on every worker.

        The arguments are those of `keras.Model.train_on_batch`.

        Args:
            x: The inputs of the batch: arrays, or a structure of them.
            y: The targets.
            sample_weight: The weight of each example.
            class_weight: As in Keras.
            return_dict: As in Keras.
            check: As in `fit`, for the first batch after `compile`.

        Returns:
            What `keras.Model.train_on_batch` returns: a scalar, a list, or with `return_dict` a
            dict; the same on every worker.

        Raises:
            ValueError: The model was not compiled, or the batch is empty or not the same on all
                workers.
        """
        keras_internals.assert_compiled(self.model, "train_on_batch")
        sample_weight = on_batch.with_class_weight(y, sample_weight, class_weight)
        return self._observe_batch("train", (x, y, sample_weight), return_dict, check)

    @_as_a_run
    def test_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False, *,
        check: str | bool = "auto",
    ) -> Any:
        """Returns the loss and metrics of one *global* batch, the same on every worker.

        Args:
            x: As in `train_on_batch`.
            y: As in `train_on_batch`.
            sample_weight: As in `train_on_batch`.
            return_dict: As in Keras.
            check: As in `train_on_batch`.

        Returns:
            As `train_on_batch`.
        """
        keras_internals.assert_compiled(self.model, "test_on_batch")
        return self._observe_batch("test", (x, y, sample_weight), return_dict, check)

    @_as_a_run
    def predict_on_batch(self, x: Any, *, check: str | bool = "auto") -> Any:
        """Returns the model's outputs for one *global* batch, in its order, on every worker.

        Args:
            x: As in `train_on_batch`.
            check: As in `train_on_batch`.

        Returns:
            NumPy arrays of the model's output structure, with one row per example.
        """
        return self._on_batch("predict", (x,), check)

    def _observe_batch(self, phase: str, data: Any, return_dict: bool, check: Any) -> Any:
        self.model.reset_metrics()
        self._on_batch(phase, data, check)
        logs = keras_internals.python_logs(self._programs.logs(phase))
        return logs if return_dict else keras_internals.flat_results(self.model, logs)

    def _on_batch(self, phase: str, data: Any, check: str | bool) -> Any:
        allowed = parse_check(check, is_tpu=is_tpu(self.strategy))
        if self._replica_step is not None and phase == "train":
            allowed = False
        outputs = on_batch.run(
            self.model, self._programs, self._workers, phase, data, check=allowed
        )
        if self._num_batches % _BATCHES_BETWEEN_COMPARISONS == 0:
            self._refuse_other_weights()
        self._num_batches += 1
        return outputs

    def _profiler(self, profile: Any) -> Profiler | None:
        folder = profiling.folder_of(profile)
        # Measuring the sum of gradients needs all workers.
        if not self._workers.any(bool(profile)):
            return None
        if self.model.compiled and self.model.run_eagerly:
            raise ValueError(
                f"profile={profile!r} measures the traced loop, but the model was compiled with "
                "run_eagerly=True. Compile it without, or leave profile out."
            )
        return Profiler(self._programs.waits(), trace=folder if self.is_chief else None)

    def _tell(self, profiler: Profiler, options: LoopOptions, *, verbose: Any) -> None:
        rounds, trained = self._programs.rounds(options), self.model.trainable_variables
        every = rounds.size if rounds else 1
        profile = profiler.profile(self.strategy, trained, options.reduction, every=every)
        self.model.history.profile = profile
        if self.is_chief and verbose:
            print(f"profile: {profile}", flush=True)

    def _shapes(self, static_shapes: bool | None, length_buckets: Any) -> Shapes:
        return parse_shapes(static_shapes, length_buckets, is_tpu=is_tpu(self.strategy))

    def _check(self, check: Any, **given: Any) -> str | bool:
        """Returns the option `check` of a method other than `fit`, if it can be had."""
        refuse_whole(check, **given)
        return parse_check(check, is_tpu=is_tpu(self.strategy))

    def _build(self, feed: Feed, method: str, *, builds_optimizer: bool = True) -> None:
        if method == "train_step" and not self.model.compiled:
            return  # a custom rule creates what it needs
        spec = building.spec_of(feed.source, self.model, method=method)
        building.build(
            self.model, self.strategy, spec, method=method, builds_optimizer=builds_optimizer
        )

    def _events(self, callbacks: Any, **params: Any) -> Any:
        return shared_events.events_of(
            callbacks, model=self.model, workers=self._workers,
            comparison=self._comparison, **params,
        )


def trainer_of(model: keras.Model) -> Trainer:
    """Returns the model's trainer, which keeps its traces from one call to the next.

    Raises:
        ValueError: It is no model of Keras 3.
    """
    if any(kind.__module__.startswith("tf_keras.") for kind in type(model).__mro__):
        raise ValueError(
            f"The model {model!r} is one of tf_keras (Keras 2), which tf.keras stands for while "
            "TF_USE_LEGACY_KERAS=1 is set. Unset it before TensorFlow is imported, or build the "
            "model with `import keras`."
        )
    if not isinstance(model, keras_internals.trainer_class()):
        raise ValueError(
            f"A keras.Model is needed, but model={model!r} was given. Pass the compiled model "
            "first, then the data: tfdist.fit(model, x, y)."
        )
    trainer: Trainer | None = note_of(model, "trainer")
    if trainer is None:
        trainer = Trainer(model)
        set_note(model, "trainer", trainer)
    return trainer


#: Where calls of Keras's own methods are sent.
ROUTES = routing.Routes(trainer_of)


def _refuse_ignored_distribution() -> None:
    distribution = keras.distribution.distribution()
    if distribution is not None:
        raise ValueError(
            f"keras.distribution is set to {distribution!r}, which Keras ignores where TensorFlow "
            "is its backend. Take it back with keras.distribution.set_distribution(None), and make "
            "the model in the scope of tfdist.get_strategy(...)."
        )


def _strategy_of(model: keras.Model) -> tf.distribute.Strategy:
    made_under = keras_internals.made_under(model)
    if made_under is None:
        factory.refuse_outside_scope()
        return tf.distribute.get_strategy()
    return made_under
