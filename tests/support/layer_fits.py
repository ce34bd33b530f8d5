"""Do the fits of Keras's own layer tests give through tfdist what they give on one device?

    python -m support.layer_fits                  all of them
    python -m support.layer_fits 3/20             part 3 (from 0) of 20
    python -m support.layer_fits 0/1 "*.dense_*"  those of this name, the excluded ones too

Keras's layer tests train their layers, and look at no number of it. So each test runs twice from
one seed: as it is, on one device, and through tfdist on two replicas. What its fits come to is
recorded, and compared: all variables, those of the optimizer too, and the history.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import functools
import gc
import importlib.util
import inspect
import pathlib
import sys
import types
import unittest
import unittest.mock
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import tfdist

_STRATEGY = tfdist.get_strategy("2xcpu")  # before Keras starts TensorFlow
import keras  # noqa: E402
from keras.src.testing import test_case  # noqa: E402
from parity import harness  # noqa: E402

from tfdist.compat import keras_internals, trainer_methods  # noqa: E402

# What cannot be compared here, by the name of the test, and why.
EXCLUDED = {
    "*_float8_*": "refused on several replicas",
    "*_argument_float8": "refused on several replicas",
    "*.aug_mix_test.*": "refused on several replicas",
    "*.cut_mix_test.*": "refused on several replicas",
    "*.equalization_test.*": "refused on several replicas",
    "*.mix_up_test.*": "refused on several replicas",
    "*.rand_augment_test.*": "refused on several replicas, for the Equalization in it",
    "*test_mel_spectrogram_basics": "its input is one example, without a dimension of the batch",
    "*.random_posterization_test.*test_layer": (
        "its images are negative, and TensorFlow leaves open what becomes of that in an integer"
    ),
}
# The largest difference, relative to the larger of 1 and the number, in the coarsest dtype.
_TOLERANCES = {"float64": 1e-9, "float32": 1e-5, "bfloat16": 1e-2, "float16": 1e-2}
_SEED = 7
_LAYERS = pathlib.Path(keras.__file__).parent / "src" / "layers"


@dataclasses.dataclass(frozen=True)
class Fit:
    """What one call of `fit` came to.

    Attributes:
        outcome: Variables and history, or the error.
        tolerance: How far another one may be from it.
    """

    outcome: harness.Outcome
    tolerance: float


class OfRows(keras.losses.Loss):
    """The loss in the place of the one that Keras's layer tests are trained by.

    That one is the sum of the output, over the whole batch, by a `__call__` of its own. This one
    has a value a row, and its gradient is not the same wherever a layer normalizes.
    """

    def call(self, y_true: Any, y_pred: Any) -> Any:
        errors = keras.ops.square(y_pred - 0.1)
        return keras.ops.mean(errors, axis=-1) if len(errors.shape) > 1 else errors


def tests() -> Iterator[unittest.TestCase]:
    """Gives Keras's tests of layers in whose source something is trained."""
    # Some files import these for tests that need them, or for Keras's own configuration alone.
    sys.modules["conftest"] = types.ModuleType("conftest")
    for name in ("jax", "grain"):
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = types.ModuleType(name)
    sys.modules["conftest"].skip_if_backend = lambda *_: lambda test: test
    for path in sorted(_LAYERS.rglob("*_test.py")):
        names = path.relative_to(_LAYERS).with_suffix("").parts
        module = importlib.import_module(".".join(["keras.src.layers", *names]))
        for kind in vars(module).values():
            is_here = inspect.isclass(kind) and kind.__module__ == module.__name__
            if is_here and issubclass(kind, unittest.TestCase):
                yield from filter(_trains, unittest.defaultTestLoader.loadTestsFromTestCase(kind))


def fits_of(test: unittest.TestCase, *, floatx: str) -> tuple[list[Fit], str]:
    """Runs a test from the seed; returns its fits, and what it failed with, if anything."""
    keras.utils.clear_session(free_memory=False)
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(floatx)
    keras.utils.set_random_seed(_SEED)
    result, fits = unittest.TestResult(), []
    with warnings.catch_warnings(), _recorded(fits), _little_else():
        warnings.simplefilter("ignore")
        type(test)(_name_of(test)).run(result)
    gc.collect()  # traced functions are cycles
    problems = [text for _, text in result.errors + result.failures]
    return fits, problems[0] if problems else ""


def differences(test: unittest.TestCase) -> tuple[int, list[str]]:
    """Returns how many fits a test has that can be compared, and how they differ."""
    for floatx in ("float64", "float32"):  # some tests say which dtype they expect
        expected, problem = fits_of(test, floatx=floatx)
        if not problem:
            break
    else:
        return 0, []
    if not expected:
        return 0, []
    assert tfdist.patch_keras("2xcpu") is _STRATEGY
    assert _STRATEGY.num_replicas_in_sync == 2
    try:
        found, problem = fits_of(test, floatx=floatx)
    finally:
        tfdist.unpatch_keras()
    if len(found) != len(expected):
        return len(expected), [f"{len(found)} of {len(expected)} fits: {problem}"]
    pairs = zip(found, expected, strict=True)
    differ = [harness.differences(a.outcome, b.outcome, b.tolerance) for a, b in pairs]
    return len(expected), [text for of_fit in differ for text in of_fit]


def main(part: str = "0/1", name: str = "") -> None:
    """Compares a part of the tests, and fails where fits differ."""
    number, parts = map(int, part.split("/"))
    compared, wrong = 0, []
    for test in tests():
        is_in_part = zlib.crc32(test.id().encode()) % parts == number
        is_excluded = any(fnmatch.fnmatch(test.id(), one) for one in EXCLUDED)
        if is_in_part and (fnmatch.fnmatch(test.id(), name) if name else not is_excluded):
            num_fits, found = differences(test)
            compared += num_fits
            wrong += [f"{test.id()}: {'; '.join(found[:3])}"] * bool(found)
            print(num_fits, test.id(), *found[:3], flush=True)
    print(f"{compared} fits compared, those of {len(wrong)} tests differ")
    if wrong:
        raise SystemExit("\n".join(wrong))


def _name_of(test: unittest.TestCase) -> str:
    return test._testMethodName


def _trains(test: unittest.TestCase) -> bool:
    source = inspect.getsource(inspect.unwrap(getattr(test, _name_of(test))))
    return "run_layer_test" in source or ".fit(" in source


@contextlib.contextmanager
def _recorded(fits: list[Fit]) -> Iterator[None]:
    """Records each call of `fit`, in which rows keep their order."""
    fit = trainer_methods.trainer_class().fit

    @functools.wraps(fit)
    def recorded(model: Any, *args: Any, **kwargs: Any) -> Any:
        if type(model.loss).__module__ == test_case.__name__:
            model.compile("sgd", OfRows(), jit_compile=model.jit_compile)
        for layer in keras_internals.flat_layers(model):
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True  # on one device it changes nothing
        try:
            history = fit(model, *args, **{**kwargs, "shuffle": False, "verbose": 0})
        except Exception as error:
            fits.append(Fit(harness.Outcome(error=(type(error).__name__, str(error))), 0.0))
            raise
        outcome = harness.Outcome(
            variables=harness.variables_of(model), histories=[dict(history.history)]
        )
        fits.append(Fit(outcome, _tolerance(model)))
        return history

    with trainer_methods.replaced({"fit": recorded}):
        yield


def _tolerance(model: Any) -> float:
    dtypes = {layer.compute_dtype for layer in keras_internals.flat_layers(model)}
    return max(_TOLERANCES.get(dtype, 0.0) for dtype in dtypes)


@contextlib.contextmanager
def _little_else() -> Iterator[None]:
    """Leaves out most of what Keras's test of a layer does beside training it."""
    run = test_case.TestCase.run_layer_test

    @functools.wraps(run)
    def quicker(self: Any, *args: Any, **kwargs: Any) -> None:
        run(self, *args, **{**kwargs, "run_mixed_precision_check": False})

    changed = {"run_layer_test": quicker, "run_class_serialization_test": lambda *_, **__: None}
    with unittest.mock.patch.multiple(test_case.TestCase, **changed):
        yield


if __name__ == "__main__":
    main(*sys.argv[1:])
