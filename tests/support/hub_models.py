"""A language model of KerasHub's that is made from its configuration, as small as can be."""

import keras_hub
import numpy as np

_LENGTH = 14


def make_model(sampler="greedy"):
    """A model with drawn weights, large enough that texts differ."""
    # Not 0 for the end: KerasHub fills up with zeros, and would see an end there at once.
    tokens = ["!", "a", "b", "c", "d", "\u0120", "ab", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = keras_hub.models.GPT2Tokenizer(vocabulary, ["a b"])
    backbone = keras_hub.models.GPT2Backbone(
        tokenizer.vocabulary_size(), num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=16,
        max_sequence_length=_LENGTH,
    )
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(tokenizer, _LENGTH)
    model = keras_hub.models.GPT2CausalLM(backbone, preprocessor)
    rng = np.random.default_rng(3)
    model.set_weights([rng.normal(size=weight.shape) for weight in model.get_weights()])
    table = backbone.token_embedding.embeddings
    table.assign(table.numpy() * [*[[1.0]] * 7, [0.3]])  # a text seldom ends at once
    model.compile(sampler=sampler)
    return model


def make_sampler(seed):
    return keras_hub.samplers.TopKSampler(k=4, seed=seed, temperature=2.0)
