"""Has every file of the package a test file of its name, in the folder of its name?"""

from __future__ import annotations

import pathlib

import pytest

import tfdist

_PACKAGE = pathlib.Path(tfdist.__file__).parent
_TESTS = pathlib.Path(__file__).parents[1]
_PARITY = "parity/table.py"  # what it does shows in the results of whole trainings alone

# The files without a test file of their name, and which one goes through them instead.
_TESTED_BY = {
    "__main__.py": "cli/test_run.py",
    "cli/first_fit.py": "cli/test_looked_at.py",
    "cli/timing.py": "cli/test_benchmark.py",
    "cli/render.py": "launch/test_render.py",
    "cli/gpu_check/card.py": "cli/gpu_check/test_check.py",
    "cli/gpu_check/logical.py": "cli/gpu_check/test_check.py",
    "cli/gpu_check/models.py": "cli/gpu_check/test_check.py",
    "cli/gpu_check/parity.py": "cli/gpu_check/test_check.py",
    "cli/gpu_check/probes.py": "cli/gpu_check/test_check.py",
    "cli/gpu_check/rates.py": "cli/gpu_check/test_check.py",
    "cli/gpu_check/replicas.py": "cli/gpu_check/test_check.py",
    "cli/gpu_check/setting.py": "cli/gpu_check/test_check.py",
    "cli/gpu_check/workers.py": "cli/gpu_check/test_check.py",
    "cli/gpu_check/rows.py": "cli/gpu_check/test_training.py",
    "cli/health/rule.py": "cli/health/test_rules.py",
    "cli/health/signs.py": "cli/health/test_rules.py",
    "checkpoint/contents.py": "checkpoint/test_checkpointer.py",
    "checkpoint/rng_state.py": "step/test_variables.py",  # where all that a run holds is compared
    "cluster/roll_call_client.py": "cluster/test_roll_call.py",  # both sides of one conversation
    "communication/together.py": "training/test_saving.py",
    "communication/collectives.py": "tpu/test_program.py",
    "communication/compression.py": "communication/test_reduction.py",
    "compat/keras_internals.py": _PARITY,
    "compat/model_files.py": "encryption/test_models.py",
    "compat/other_seed.py": "federated/test_fitting.py",
    "compat/replacing.py": _PARITY,
    "compat/tf_internals.py": "communication/test_reduction.py",
    "compat/trainer_methods.py": "training/test_routing.py",
    "compat/untraced.py": "loop/test_waits.py",
    "data/inputs.py": "data/test_feed.py",
    "data/numbered_rows.py": "data/test_rows_dataset.py",
    "data/padding_check.py": "data/test_lengths.py",
    "data/rows.py": "data/test_adapters.py",
    "data/source.py": "data/test_adapters.py",  # a record
    "data/pipelines/tf_data.py": "data/test_adapters.py",
    "diagnostics/recording.py": "diagnostics/test_verification.py",
    "federated/averaging.py": "federated/test_fitting.py",
    "federated/channel.py": "federated/test_fitting.py",
    "federated/clients.py": "federated/test_fitting.py",
    "federated/collecting.py": "federated/test_fitting.py",
    "federated/draws.py": "federated/test_fitting.py",
    "federated/joint_options.py": "federated/test_secure_sums.py",
    "federated/learner.py": "federated/test_fitting.py",
    "federated/record/kept.py": "federated/test_fitting.py",
    "federated/secure/setup.py": "federated/secure/test_client.py",
    "federated/server.py": "federated/test_fitting.py",
    "federated/site.py": "federated/test_rounds.py",
    "federated/secure/texts.py": "federated/secure/test_server.py",
    "federated/sites/joining.py": "federated/sites/test_serving.py",
    "federated/task.py": "federated/test_fitting.py",
    "global_batch/activity_losses.py": _PARITY,
    "global_batch/padded_rows.py": "data/test_padding.py",
    "global_batch/padded_timesteps.py": "data/test_lengths.py",
    "global_batch/row_losses.py": _PARITY,
    "global_batch/tracing.py": _PARITY,
    "cluster/worker_number.py": "test_parquet.py",
    "data/files/parquet_files.py": "test_parquet.py",
    "inference/writing.py": "inference/test_predicting_to.py",
    "launch/attempt.py": "launch/test_failures.py",
    "launch/child.py": "launch/test_main.py",
    "launch/command.py": "launch/test_main.py",
    "launch/command_line.py": "cli/test_commands.py",
    "launch/engine.py": "launch/engines/test_engines.py",
    "launch/engines/agent.py": "launch/engines/test_remote.py",
    "launch/engines/dask.py": "launch/engines/test_engines.py",
    "launch/engines/local.py": "launch/test_main.py",
    "launch/engines/mpi.py": "launch/engines/test_engines.py",
    "launch/engines/ray.py": "launch/engines/test_engines.py",
    "launch/engines/slurm.py": "launch/engines/test_engines.py",
    "launch/engines/spark.py": "launch/engines/test_engines.py",
    "launch/engines/starter.py": "launch/engines/test_engines.py",
    "launch/guardian.py": "launch/test_failures.py",
    "launch/job.py": "launch/test_main.py",
    "launch/processes.py": "launch/test_failures.py",
    "launch/stop.py": "launch/test_failures.py",
    "launch/supervise.py": "launch/test_failures.py",
    "loop/loop_options.py": "training/test_trainer.py",  # a record
    "loop/branches.py": "data/test_lengths.py",
    "compat/optimizer_slices.py": "sharding/test_adopting.py",
    "communication/exchange.py": "communication/test_slices.py",
    "sharding/by_owner.py": _PARITY,
    "sharding/in_slices.py": _PARITY,
    "sharding/owned_state.py": "sharding/test_adopting.py",
    "sharding/shards.py": _PARITY,
    "sharding/sliced_state.py": "sharding/test_adopting.py",
    "sharding/stand_in.py": _PARITY,  # a protocol, and how it is kept
    "sharding/sums.py": "sharding/test_allowed.py",
    "global_batch/example_losses.py": "privacy/test_update.py",
    "privacy/dpsgd.py": "privacy/test_allowed.py",
    "privacy/ghost.py": "privacy/test_layer_rules.py",
    "privacy/ledger.py": "training/test_private.py",
    "privacy/one_by_one.py": "privacy/test_update.py",
    "privacy/recording.py": "privacy/test_layer_rules.py",
    "privacy/ruled.py": "privacy/test_layer_rules.py",
    "step/dependence.py": "step/test_lookups.py",
    "global_batch/blocks.py": "global_batch/test_randomness.py",
    "global_batch/philox.py": "global_batch/test_randomness.py",
    "first_step/rows.py": "first_step/test_checking.py",
    "step/from_replica.py": "training/test_custom_loop.py",
    "step/jit_compile.py": "step/test_update.py",
    "loop/recorded.py": "first_step/test_checking.py",
    "step/replicas.py": "step/test_update.py",
    "step/rounds.py": "step/test_local_steps.py",  # a protocol, and how it is kept
    "step/rules.py": _PARITY,
    "step/uses.py": "step/test_own_gradients.py",
    "tpu/compiler_process.py": "tpu/test_preflighting.py",
    "tracking/config.py": "tracking/test_watch.py",
    "tpu/limits.py": "tpu/test_linting.py",
    "first_step/both_ways.py": "first_step/test_checking.py",
    "training/predicting.py": "training/test_trainer.py",
    "first_step/differences.py": "first_step/test_checking.py",
    "training/checks/guard.py": "training/checks/test_fingerprints.py",
    "first_step/likely_cause.py": "first_step/test_checking.py",
}
# Test files in mirrored folders that are of no one file.
_OF_SEVERAL = {
    "launch/engines/test_engines.py",  # each engine against "local"
    "tpu/test_fit.py",  # fit on a TPUStrategy
    "tpu/test_notebook.py",
    "tpu/test_numbers.py",  # the program that preflight compiles, executed
    "tpu/test_pair.py",  # the pins of the extra
}
_BESIDE = ("faults", "house", "parity", "programs", "scripts", "support")

_FILES = sorted(
    path.relative_to(_PACKAGE).as_posix()
    for path in _PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
)


def _test_of(file: str) -> str:
    path = pathlib.PurePosixPath(file)
    return (path.parent / f"test_{path.stem.strip('_')}.py").as_posix()


@pytest.mark.parametrize("file", _FILES)
def test_file_has_its_test(file):
    is_there = (_TESTS / _test_of(file)).exists()
    assert is_there != (file in _TESTED_BY), "give it a test file of its name, or say what tests it"
    assert is_there or (_TESTS / _TESTED_BY[file]).exists()


def test_exceptions_are_files():
    assert set(_TESTED_BY) <= set(_FILES)


def test_tests_are_of_files():
    there = {path.relative_to(_TESTS).as_posix() for path in _TESTS.rglob("test_*.py")}
    mirrored = {name for name in there if name.partition("/")[0] not in _BESIDE}
    of_packages = {"test_datasets.py"}
    assert mirrored == {_test_of(file) for file in _FILES} & there | _OF_SEVERAL | of_packages
