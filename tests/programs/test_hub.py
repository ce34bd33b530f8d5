"""Do models of KerasHub, made from their configurations, train adapters as on one device?

Their tasks prepare texts in a `fit` of their own, and hand Keras a dataset of Grain. Backbones are
frozen but for LoRA's adapters, which Keras makes in float32 in a model of float64 too, so that they
agree to float32's rounding. Each model costs some ten seconds of a core; only these see what
KerasHub's layers and preprocessors do.
"""

from __future__ import annotations

import types
from typing import Any

import keras
import numpy as np
import pytest

import tfdist

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning"),  # of sentencepiece
]
_TOLERANCE = 1e-6
_WORDS = ["good", "bad", "film", "plot", "great", "awful", "very"]
_SMALL = {"num_layers": 1, "hidden_dim": 8, "intermediate_dim": 16}


@pytest.fixture(scope="module")
def hub() -> types.ModuleType:
    return pytest.importorskip(
        "keras_hub", reason="needs KerasHub: scripts/setup_env.py --extras=hub"
    ).models


def _texts(rows: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(_WORDS, size=rng.integers(2, 7))) for _ in range(rows)]


def _bert(hub: Any) -> tuple[Any, dict[str, Any]]:
    """A classifier of texts, with its preprocessor."""
    tokenizer = hub.BertTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDS])
    backbone = hub.BertBackbone(
        tokenizer.vocabulary_size(), num_heads=2, max_sequence_length=10, **_SMALL
    )
    preprocessor = hub.BertTextClassifierPreprocessor(tokenizer, sequence_length=10)
    backbone.enable_lora(2)
    task = hub.BertTextClassifier(backbone, 3, preprocessor=preprocessor)
    labels = np.random.default_rng(1).integers(3, size=13)
    return task, {"x": _texts(13), "y": labels, "batch_size": 5}


def _gpt2(hub: Any) -> tuple[Any, dict[str, Any]]:
    """A language model of letters, with its preprocessor, which makes targets and weights."""
    letters = {letter: number for number, letter in enumerate("abcdefgilmnoprtuvwy\u0120", 1)}
    tokenizer = hub.GPT2Tokenizer({"<|endoftext|>": 0, **letters}, [])
    backbone = hub.GPT2Backbone(
        tokenizer.vocabulary_size(), num_heads=2, max_sequence_length=12, **_SMALL
    )
    preprocessor = hub.GPT2CausalLMPreprocessor(tokenizer, sequence_length=12)
    backbone.enable_lora(2)
    return hub.GPT2CausalLM(backbone, preprocessor), {"x": _texts(11), "batch_size": 4}


def _gemma(hub: Any) -> tuple[Any, dict[str, Any]]:
    """A language model of numbers, with weights that leave padding out."""
    backbone = hub.GemmaBackbone(
        12, num_query_heads=2, num_key_value_heads=1, head_dim=4, dropout=0.1, **_SMALL
    )
    backbone.enable_lora(2)
    rng = np.random.default_rng(2)
    ids, lengths = rng.integers(1, 12, size=(11, 7)), rng.integers(3, 8, size=(11, 1))
    mask = np.arange(7) < lengths
    return hub.GemmaCausalLM(backbone, preprocessor=None), {
        "x": {"token_ids": ids[:, :-1], "padding_mask": mask[:, :-1]}, "y": ids[:, 1:],
        "sample_weight": mask[:, 1:].astype(float), "batch_size": 4,
    }  # fmt: skip


@pytest.mark.parametrize("make", [_bert, _gpt2, _gemma])
def test_adapters_train_as_on_one_device(make, hub, float64):
    outcomes = []
    for device in ("cpu", "2xcpu"):
        keras.utils.set_random_seed(17)
        strategy = tfdist.get_strategy(device)
        with strategy.scope():
            model, data = make(hub)
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
            model.compile(keras.optimizers.AdamW(0.01), loss, weighted_metrics=[accuracy])
        # The second factor of each begins with zeros, and so is the first one to move.
        adapters = [one for one in model.trainable_variables if one.path.endswith("lora_kernel_b")]
        before = [one.numpy() for one in adapters]
        fit = model.fit if device == "cpu" else _distributed(model)
        history = fit(**data, epochs=2, shuffle=False, verbose=0).history
        assert len(adapters) >= 2  # of queries and values
        for one, old in zip(adapters, before, strict=True):
            assert np.abs(one.numpy() - old).max() > 100 * _TOLERANCE
        outcomes.append([*model.get_weights(), *history.values()])
    for one, two in zip(*outcomes, strict=True):
        np.testing.assert_allclose(two, one, atol=_TOLERANCE, rtol=_TOLERANCE)


def _distributed(model: Any) -> Any:
    assert model.distribute_strategy.num_replicas_in_sync == 2
    return lambda **arguments: tfdist.fit(model, **arguments)
