"""Does a language model write the same texts on any number of workers, in the order of the prompts?

The model is KerasHub's GPT-2, made from a configuration, with tokens of a letter or two.
"""

from __future__ import annotations

import json
import os

import keras
import launching
import numpy as np
import pytest

from tfdist.inference import generate

_PROMPTS = ["a", "bad cab", "cab", "dab a", "b", "ada", "bacd"]


@pytest.fixture(scope="module")
def models():
    pytest.importorskip("keras_hub", reason="needs KerasHub: scripts/setup_env.py --extras=hub")
    import hub_models

    return hub_models


def test_greedy_texts_are_those_of_the_model(models):
    model = models.make_model()
    expected = model.generate(_PROMPTS)
    assert len(set(expected)) == len(_PROMPTS)
    assert all(len(text) > len(prompt) for text, prompt in zip(expected, _PROMPTS, strict=True))
    assert generate(model, _PROMPTS, batch_size=3) == expected


def test_arrays_without_a_preprocessor(models):
    model = models.make_model()
    ids = model.preprocessor.generate_preprocess(_PROMPTS, sequence_length=10)
    model.preprocessor = None
    expected = model.generate(ids, stop_token_ids=None)
    ids = {name: np.asarray(part) for name, part in ids.items()}
    found = generate(model, ids, batch_size=4, stop_token_ids=None)
    assert found.keys() == expected.keys()
    for name, part in expected.items():
        assert found[name].dtype == part.dtype
        np.testing.assert_array_equal(found[name], part)


def test_drawn_texts_depend_on_the_batch_alone(models):
    model = models.make_model(models.make_sampler(5))
    found = generate(model, _PROMPTS, batch_size=3)
    assert generate(model, _PROMPTS, batch_size=3) != found  # it goes on behind what was drawn
    assert _drawn_alone(model, models) == found


def _drawn_alone(model, models):
    """Returns what the model's own `generate` gives, batch by batch."""
    model.compile(sampler=models.make_sampler(5))
    found = []
    for number, batch in enumerate([_PROMPTS[:3], _PROMPTS[3:6], [_PROMPTS[6]] * 3]):
        model.sampler.variables[0].assign([5, number * 2**16])
        found += model.generate(batch)
    return found[: len(_PROMPTS)]


def test_what_cannot_be_written_on_is_refused():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match=r"Sequential has no method generate\. Give a model that"):
        generate(model, ["a"])

    class Writer(keras.Model):
        def generate(self, prompts):
            return prompts

    with pytest.raises(ValueError, match="'a b' is one text. Give a list of texts"):
        generate(Writer(), "a b")
    with pytest.raises(ValueError, match="of 0 prompts: both must be at least one"):
        generate(Writer(), [])
    with pytest.raises(ValueError, match=r"have the lengths \[1, 2\]"):
        generate(Writer(), {"prompts": ["a"], "images": np.zeros([2, 3])})


_GENERATE = """
import json, sys
import hub_models, tfdist

with tfdist.get_strategy("cpu").scope():
    model = hub_models.make_model(hub_models.make_sampler(5))
prompts = json.loads(sys.argv[1])
texts = tfdist.inference.generate(model, prompts, batch_size=3)
model.compile(sampler="greedy")
print(json.dumps([texts, tfdist.inference.generate(model, prompts, batch_size=3)]))
try:
    tfdist.inference.generate(model, prompts[tfdist.detect_cluster().rank:])
except ValueError as error:
    print(error)
"""


@pytest.mark.slow  # 30 s of a core: that workers share prompts, and give all of them all texts
@pytest.mark.timeout(200)
def test_workers_write_the_same_texts(models, tmp_path):
    program = launching.write_program(tmp_path, _GENERATE)
    environ = launching.environ_with(PYTHONPATH=os.pathsep.join(launching.TEST_PATHS))
    done = launching.launch(
        "--workers=2", program, json.dumps(_PROMPTS), env=environ, limit_secs=180
    )
    assert done.returncode == 0, done.stderr[-3000:]
    model = models.make_model(models.make_sampler(5))
    expected = [_drawn_alone(model, models)]
    model.compile(sampler="greedy")
    expected.append(model.generate(_PROMPTS))
    for rank in (0, 1):
        texts, refused = launching.lines_of(done, rank)[-2:]
        assert json.loads(texts) == expected
        assert refused.startswith("The workers were given other prompts")
