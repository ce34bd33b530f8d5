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

import functools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, Concatenate, ParamSpec, TypeVar

import keras
import tensorflow as tf

from tfdist.checkpoint.run import Run
from tfdist.communication.compression import Reduction, parse_reduction
from tfdist.communication.link_check import check_links
from tfdist.communication.presence import Presence
from tfdist.communication.share import is_tpu, share_of
from tfdist.communication.workers import Agreement, Exchange
from tfdist.compat import keras_internals
from tfdist.data.feed import limited
from tfdist.data.inputs import Inputs
from tfdist.data.shapes import Shapes, parse_shapes
from tfdist.global_batch import batch_norm
from tfdist.loop.programs import Programs, Way
from tfdist.step import error_feedback
from tfdist.step import local_steps as local_steps_lib
from tfdist.strategy import factory
from tfdist.training import bucket_tuning, callback_files, profiling, shared_events
from tfdist.training.epochs import Epochs, Training, predicted
from tfdist.training.fingerprints import Comparison
from tfdist.training.guard import Guard, parse_on_nan
from tfdist.training.profiling import Profiler

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _seen(
    method: Callable[Concatenate[Trainer, _P], _T],
) -> Callable[Concatenate[Trainer, _P], _T]:
    """Lets the launcher and the other workers see a method of a trainer while it runs."""

    @functools.wraps(method)
    def seen(self: Trainer, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        is_alone = method.__name__ == "predict" and kwargs.get("already_sharded")
        with self._presence.run(is_shared=not is_alone):
            return method(self, *args, **kwargs)

    return seen


class Trainer:
    """The object behind `fit`, `evaluate` and `predict`: a model, its strategy, its traced loops.

    Args:
        model: A compiled Keras model. Where it is to train on several replicas, it was made and
            compiled inside `strategy.scope()`.
        replica_step: A training rule in the place of Keras's: `replica_step(batch) -> logs` runs on
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
        self.model = model
        self.strategy = _strategy_of(model)
        self._share = share_of(self.strategy)
        self._agreement = Agreement(self.strategy, has_others=self._share.has_others)
        self._exchange = Exchange(self.strategy, self._share)
        self._comparison = Comparison(model, self.strategy, self._agreement)
        self._inputs = Inputs(self._share, self._agreement, self._exchange, model)
        self._programs = Programs(model, self.strategy, replica_step=replica_step)
        self._replica_step = replica_step
        self._presence = Presence(self.strategy, self._agreement, self._exchange)
        self._epochs = Epochs(model, self._programs, self._agreement, self._presence)

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one that writes files and shows progress."""
        return self._share.first_replica == 0

    @_seen
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
        already_sharded: bool = False,
        static_shapes: bool | None = None,
        length_buckets: Sequence[int] | None = None,
        checkpoint_dir: Any = None,
        save_every: Any = None,
        fingerprint_every: int | None = None,
        on_nan: str = "warn",
        reduction: Reduction | str | None = None,
        local_steps: int | None = None,
        outer_optimizer: Any = None,
        profile: Any = False,
    ) -> keras.callbacks.History:
        """Trains the model; see `tfdist.fit`."""
        model = self.model
        has_own_step = keras_internals.overrides(model, "train_step")
        is_own_rule = self._replica_step is not None or has_own_step
        on_nan = parse_on_nan(on_nan, is_own_rule=is_own_rule)
        how = self._agreed(reduction)
        local_steps_lib.refuse(
            model, self.strategy, self._agreement, local_steps=local_steps,
            outer_optimizer=outer_optimizer, is_own_rule=is_own_rule, on_nan=on_nan,
        )
        if self._replica_step is None:
            keras_internals.assert_compiled(model, "fit")
        epochs = limited(epochs, "epochs") or epochs
        shapes = self._shapes(static_shapes, length_buckets)
        profiler = self._profiler(profile)
        if validation_split and validation_data is None:
            (x, y, sample_weight), validation_data = keras_internals.validation_split(
                (x, y, sample_weight), validation_split
            )
        with Run(model, checkpoint_dir, save_every=save_every) as run, profiler or nullcontext():
            check_links(self.strategy, self._share)
            guard = Guard(
                model, self.strategy, self._agreement, fingerprint_every=fingerprint_every,
                on_nan=on_nan, watch=self._programs.watch(on_nan),
            )
            seed = run.seed(self._agreement)
            feed = self._inputs.feed(
                x, y, sample_weight=sample_weight, class_weight=class_weight, batch_size=batch_size,
                steps=steps_per_epoch, shuffle=shuffle, seed=seed, first_pass=initial_epoch,
                already_sharded=already_sharded, shapes=shapes,
            )
            validation = self._inputs.validation_feed(
                validation_data, batch_size=validation_batch_size or batch_size,
                steps=validation_steps, already_sharded=already_sharded, shapes=shapes,
            )
            self._build(feed.source.spec)
            for data in filter(None, (feed, validation)):
                self._programs.followed(data.source)
            local_steps_lib.adopt(model, self.strategy, outer_optimizer)
            error_feedback.adopt(
                model, self.strategy, how, is_own_rule=is_own_rule, local_steps=local_steps,
                on_nan=on_nan,
            )
            trained = model.trainable_variables
            how = bucket_tuning.settled(how, self.strategy, trained, self._agreement, run)
            batch_norm.warn_of_plain(model, self._share.num_replicas)
            feed.rewind()
            run.note(shuffle=shuffle, class_weight=class_weight, initial_epoch=initial_epoch)
            if how.wire_dtype:
                run.note(wire_dtype=how.wire_dtype)
            if local_steps:
                run.note(local_steps=local_steps)
            way = Way(
                is_share=feed.source.is_share, padding=feed.source.padding, on_nan=on_nan,
                reduction=how, local_steps=local_steps, outer_optimizer=outer_optimizer,
                is_timed=profiler is not None,
            )
            with callback_files.files_of_chief_alone(callbacks, is_chief=self.is_chief):
                events = self._events(
                    callbacks, add_history=True, verbose=verbose, epochs=epochs,
                    steps=feed.num_batches,
                )
                self._epochs.train(
                    Training(
                        feed=feed, validation=validation, events=events, epochs=epochs,
                        initial_epoch=initial_epoch, validation_freq=validation_freq,
                        run=run, guard=guard, way=way, profiler=profiler,
                    )
                )
            if profiler:
                self._tell(profiler, way, verbose=verbose)
        return model.history

    @_seen
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
    ) -> Any:
        """Returns the loss and metrics over the data; see `tfdist.evaluate`."""
        keras_internals.assert_compiled(self.model, "evaluate")
        feed = self._inputs.feed(
            x, y, sample_weight=sample_weight, batch_size=batch_size, steps=steps,
            already_sharded=already_sharded, shapes=self._shapes(static_shapes, length_buckets),
        )
        self._build(feed.source.spec)
        self._programs.followed(feed.source)
        with callback_files.files_of_chief_alone(callbacks, is_chief=self.is_chief):
            events = self._events(callbacks, verbose=verbose, epochs=1, steps=feed.num_batches)
            logs = self._epochs.evaluate(feed, events)
        return logs if return_dict else keras_internals.flat_results(self.model, logs)

    @_seen
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
    ) -> Any:
        """Returns the outputs for `x` in input order; see `tfdist.predict`."""
        feed = self._inputs.feed(
            x, batch_size=batch_size, steps=steps, already_sharded=already_sharded, is_alone=True,
            shapes=self._shapes(static_shapes, length_buckets),
        )
        way = Way(is_share=already_sharded, padding=feed.source.padding)
        followed = self._programs.followed(feed.source, predicts=True)
        loop = self._presence.ticking(self._programs.predict(way, followed))
        with callback_files.files_of_chief_alone(callbacks, is_chief=self.is_chief):
            events = self._events(
                callbacks, verbose=verbose, epochs=1, steps=feed.num_batches, is_alone=True
            )
            agreement = None if already_sharded else self._agreement
            return predicted(self.model, feed, events, loop, agreement=agreement)

    def _profiler(self, profile: Any) -> Profiler | None:
        folder = profiling.folder_of(profile)
        # Measuring the sum of gradients takes all workers.
        if not self._agreement.any(bool(profile)):
            return None
        if self.model.compiled and self.model.run_eagerly:
            raise ValueError(
                f"profile={profile!r} measures the traced loop, but the model was compiled with "
                "run_eagerly=True. Compile it without, or leave profile out."
            )
        return Profiler(self._programs.waits(), trace=folder if self.is_chief else None)

    def _tell(self, profiler: Profiler, way: Way, *, verbose: Any) -> None:
        rounds, trained = self._programs.rounds(way), self.model.trainable_variables
        every = rounds.size if rounds else 1
        profile = profiler.profile(self.strategy, trained, way.reduction, every=every)
        self.model.history.profile = profile
        if self.is_chief and verbose:
            print(f"profile: {profile}", flush=True)

    def _agreed(self, reduction: Any) -> Reduction:
        """Returns how gradients travel, which has to be the same on all workers."""
        how = parse_reduction(reduction)
        if reduction is not None and self._replica_step is not None:
            raise ValueError(
                f"reduction={reduction!r} was given to fit, but gradients are summed by "
                "replica_step. Give it there: tfdist.apply_gradients(..., reduction=...)."
            )
        if (self._agreement.gather(*how.numbers) != how.numbers).any():
            raise ValueError(
                f"reduction={reduction!r} is not the same on all workers. Give every worker the "
                "same."
            )
        return how

    def _shapes(self, static_shapes: bool | None, length_buckets: Any) -> Shapes:
        return parse_shapes(static_shapes, length_buckets, is_tpu=is_tpu(self.strategy))

    def _build(self, spec: Any) -> None:
        if not self.model.compiled:
            return  # a rule of the user's own brings what it needs
        states = getattr(self.model.optimizer, "variables", [])
        factory.refuse_variables_outside(self.strategy, states)
        with self.strategy.scope():
            keras_internals.symbolic_build(self.model, spec)

    def _events(self, callbacks: Any, **params: Any) -> Any:
        return shared_events.events_of(
            callbacks, model=self.model, agreement=self._agreement, exchange=self._exchange,
            comparison=self._comparison, **params,
        )


def _strategy_of(model: keras.Model) -> tf.distribute.Strategy:
    made_under = keras_internals.made_under(model)
    if made_under is None:
        factory.refuse_outside_scope()
        return tf.distribute.get_strategy()
    return made_under
