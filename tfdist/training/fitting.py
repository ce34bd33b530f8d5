"""Where are `fit`, `evaluate` and `predict` as functions?  Each model has one trainer behind them.

Synopsis:

    >>> import keras, numpy as np, tfdist
    >>> with tfdist.get_strategy("2xcpu").scope():
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    ...     model.compile("adam", "mse")
    >>> history = tfdist.fit(model, np.ones((5, 4)), np.ones(5), batch_size=3, epochs=2, verbose=0)
    >>> sorted(history.history), history.epoch
    (['loss'], [0, 1])
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

import keras

from tfdist.training.trainer import Trainer


def fit(model: keras.Model, x: Any = None, y: Any = None, **kwargs: Any) -> keras.callbacks.History:
    """Trains a compiled Keras model, with the result that one device gives.

    Works inside and outside `strategy.scope()`. Takes what `keras.Model.fit` takes, by name, with
    the same defaults.

    Args:
        model: A compiled model; made inside `strategy.scope()` where it trains on several replicas.
        x: Inputs: arrays, a `tf.data.Dataset` of *global* batches, a `PyDataset`, a generator, ...
        y: Targets, where `x` is arrays.
        **kwargs: As in `keras.Model.fit`. `batch_size` is the *global* batch: examples per step,
            summed over all replicas of all workers. And `checkpoint_dir`: a folder, or a
            `Checkpointer`, from which training goes on where it ended, in the midst of an epoch
            too, and to which it is saved at the end of each epoch, or, with `save_every`, after so
            many steps (100) or so much time ("10m"), and at the end. SIGTERM, or SIGUSR1, to any
            worker then makes all of them save, and leave with exit code 75.
            `fingerprint_every`: after so many steps, compare the weights over the replicas.
            `on_nan`: where the loss or a gradient is infinite or not a number, "warn" (the default)
            trains on as Keras does, and says once where that began; "raise" ends at the step, and
            names the gradient; "skip" leaves the step out, and its batch out of the metrics;
            "ignore" does not look. `reduction`: how gradients travel between replicas, a
            `tfdist.Reduction` or its type, "bfloat16" or "float16", which halve what is sent and
            round it; by default nothing is lost. `already_sharded=True`: each worker gives its own
            examples alone, for validation too; what they give in a step is the global batch.
            `local_steps=H`: replicas train apart for H steps, and go on from the mean of their
            weights, for networks that a sum a step is too much for; `outer_optimizer`, such as
            `SGD(0.7, momentum=0.9, nesterov=True)`, updates by what such a round has changed. The
            result is not one device's, but for H = 1 and SGD. See `step/local_steps.py`.
            `profile=True`: measure where the time goes, and print it at the end; a folder in its
            place gets a TensorBoard trace of some of the chief's steps too. See `profiling.py`.
            `static_shapes=True`: every batch is padded to the shape of a full one by rows that do
            not count, so that a step is traced and compiled once; None means on a TPU alone.
            `length_buckets=(32, 64, 128)`, which asks for static shapes by itself: batches whose
            second dimension varies (`.padded_batch`) are padded to the next of these lengths, by
            0, "" or False as `padded_batch` does, so that a step is traced once for each length.
            The model has to mask what is padded (`Embedding(mask_zero=True)`, `Masking`), which is
            tried before the first step. Draws of random layers are those of the padded length.

    Returns:
        The `History` of the whole run, the same on every worker. With `profile`, `history.profile`
        is the `Profile` of this worker.

    Raises:
        ValueError: The model was not compiled, or the data cannot be used.
        RuntimeError: The model was made outside the scope of the strategy it is to train on.
    """
    return trainer_of(model).fit(x, y, **_known(Trainer.fit, kwargs))


def evaluate(model: keras.Model, x: Any = None, y: Any = None, **kwargs: Any) -> Any:
    """Returns the loss and metrics over all examples, each once, the same on every worker.

    Args:
        model: A compiled model.
        x: As in `fit`.
        y: As in `fit`.
        **kwargs: As in `keras.Model.evaluate`; `batch_size` is global. And `already_sharded`,
            `static_shapes` and `length_buckets`, as in `fit`.

    Returns:
        What `keras.Model.evaluate` returns: a scalar, a list, or with `return_dict=True` a dict.
    """
    return trainer_of(model).evaluate(x, y, **_known(Trainer.evaluate, kwargs))


def predict(model: keras.Model, x: Any, **kwargs: Any) -> Any:
    """Returns the model's outputs for `x`, in input order, on every worker.

    Args:
        model: A Keras model; it need not be compiled.
        x: As in `fit`.
        **kwargs: As in `keras.Model.predict`; `batch_size` is global. With `already_sharded=True` a
            worker gives its own inputs, and gets their outputs alone. `static_shapes` and
            `length_buckets` as in `fit`: outputs come back as long as their batch was.

    Returns:
        NumPy arrays of the model's output structure, with one row an example. Outputs of which
        batches have several lengths are ragged tensors, as those of `keras.Model.predict`.
    """
    return trainer_of(model).predict(x, **_known(Trainer.predict, kwargs))


def _known(method: Callable[..., Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments by name; raises where there is none of a name."""
    names = list(inspect.signature(method).parameters)[1:]
    for name in kwargs:
        if name not in names:
            alike = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {alike[0]!r}?" if alike else f"it takes {', '.join(names)}."
            raise TypeError(f"tfdist.{method.__name__} has no argument {name!r}; {hint}")
    return kwargs


def trainer_of(model: keras.Model) -> Trainer:
    """Returns the model's trainer, which keeps its traces from one call to the next."""
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"A keras.Model is needed, but model={model!r} was given. Pass the compiled model "
            "first, then the data: tfdist.fit(model, x, y)."
        )
    trainer = vars(model).get("_tfdist_trainer")
    if trainer is None:
        trainer = Trainer(model)
        vars(model)["_tfdist_trainer"] = trainer  # past Keras's tracking of attributes
    return trainer
