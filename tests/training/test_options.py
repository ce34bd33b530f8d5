"""Are the options of fit checked, each by its name?"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import pytest
import tensorflow as tf

from tfdist.communication.workers import Workers
from tfdist.training import options as options_lib
from tfdist.training.options import options_of

_GIVEN: dict[str, Any] = {
    "replica_step": None, "already_sharded": False, "static_shapes": None, "length_buckets": None,
    "checkpoint_dir": None, "encrypt_to": None, "save_every": None, "fingerprint_every": None,
    "on_nan": "warn", "check": "auto", "reduction": None, "local_steps": None,
    "outer_optimizer": None,
    "sharded_optimizer": False, "profile": False, "privacy": None, "batch_size": None,
    "shuffle": True,
}


def _model() -> keras.Model:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def _given(**changed: Any) -> dict[str, Any]:
    return {**_GIVEN, **changed}


def test_what_is_the_same_passes():
    found = options_of(_model(), Workers(tf.distribute.get_strategy()), **_given(save_every=3))
    assert (found.on_nan, found.save_every, found.shapes.are_static) == ("warn", 3, False)
    assert not found.is_own_rule
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.on_nan = "raise"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"on_nan": "explode"}, "on_nan='explode' must be one of 'warn', 'raise'"),
        ({"check": True}, "check=True must be one of 'auto', 'raise', 'warn', False"),
        ({"check": "never"}, "check='never' must be one of"),
        ({"check": "whole", "already_sharded": True}, "check='whole'.*already_sharded=True"),
        ({"check": "whole", "static_shapes": True}, "check='whole'.*static_shapes=True"),
        ({"check": "whole", "length_buckets": (4,)}, "check='whole'.*length_buckets"),
        ({"check": "whole", "local_steps": 2}, "local_steps=2 .*check='whole'"),
        ({"check": "whole", "replica_step": print}, "check='whole'.*replica_step"),
        ({"fingerprint_every": 0}, "fingerprint_every=0 must be a whole number"),
        ({"replica_step": print, "on_nan": "raise"}, "trains by a rule of its own"),
        ({"replica_step": print, "reduction": "bfloat16"}, "gradients are summed by replica_step"),
        ({"local_steps": -1}, "local_steps=-1 must be a whole number"),
        ({"static_shapes": False, "length_buckets": (4,)}, "Leave static_shapes out"),
        ({"save_every": "soon"}, "save_every='soon' must be"),
    ],
)
def test_what_is_invalid_is_refused(changed, told):
    with pytest.raises(ValueError, match=told):
        options_of(_model(), Workers(tf.distribute.get_strategy()), **_given(**changed))


def test_every_option_of_fit_is_here():
    import inspect

    from tfdist import Trainer

    of_fit = list(inspect.signature(Trainer.fit).parameters)
    own = of_fit[of_fit.index("validation_freq") + 1 :]
    own.remove("trackers")  # who is told of the run, which decides nothing of it
    assert own == [name for name in inspect.signature(options_of).parameters if name in own]
    assert set(own) == set(_GIVEN) - {"replica_step", "batch_size", "shuffle"}
    assert {field.name for field in dataclasses.fields(options_lib.Options)} >= set(own) - {
        "static_shapes", "length_buckets"
    }
