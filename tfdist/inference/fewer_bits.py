"""How does a trained model become cheaper to predict with, at the price of some digits?

Synopsis:

    >>> import keras, numpy as np, tfdist
    >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64)])
    >>> small = tfdist.inference.reduced(model, "int8")
    >>> small.layers[0].kernel.dtype, model.layers[0].kernel.dtype
    ('int8', 'float32')
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import keras

_KINDS = ("int8", "bfloat16")


def reduced(model: keras.Model, weights: str) -> keras.Model:
    """Returns a copy of a model for predictions, with its weights in fewer bits.

    "int8" is Keras's `quantize`: kernels of dense layers and embeddings are rounded, by a scale for
    each output, and the inputs of each row as they come. Other layers stay as they are. "bfloat16"
    holds all weights in 16 bits and computes in them. docs/inference.md has what is faster with
    which, and how far outputs are from those of the model.

    Args:
        model: A built model that Keras can save. It stays as it is.
        weights: "int8" or "bfloat16".

    Returns:
        The copy, not compiled, made under the strategy of the model.

    Raises:
        ValueError: `weights` is none of these, or no layer of the model can be rounded.
    """
    if weights not in _KINDS:
        raise ValueError(f"weights={weights!r} is unknown. Give one of {', '.join(_KINDS)}.")
    policy = "bfloat16" if weights == "bfloat16" else None
    with model.distribute_strategy.scope(), _made_in(policy):
        copy = keras.saving.deserialize_keras_object(
            _in_policy(_without_compilation(keras.saving.serialize_keras_object(model)), policy)
        )
        if not copy.built:
            copy.build_from_config(model.get_build_config())
        for old, new in zip(model.variables, copy.variables, strict=True):
            new.assign(keras.ops.cast(old, new.dtype))
        if weights == "int8":
            _round(copy)
    return copy


def _round(model: keras.Model) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Layer .* does not have a `quantize`")
        model.quantize("int8")
    if not any(variable.dtype == "int8" for variable in model.variables):
        raise ValueError(
            f"No layer of {model.name!r} can be rounded to int8: it has no dense layer and no "
            "embedding. Use bfloat16, or the model as it is."
        )


@contextlib.contextmanager
def _made_in(policy: str | None) -> Iterator[None]:
    """Lets layers that layers make get this policy too, which no configuration shows."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy or before)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _without_compilation(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "compile_config"}


def _in_policy(config: Any, policy: str | None) -> Any:
    """Returns a configuration with another policy in the place of each of its floats'."""
    if policy is None:
        return config
    if isinstance(config, (list, tuple)):
        return type(config)(_in_policy(part, policy) for part in config)
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "DTypePolicy" and "float" in config["config"]["name"]:
        return {**config, "config": {**config["config"], "name": policy}}
    return {name: _in_policy(part, policy) for name, part in config.items()}
