"""Do two replicas give what one device gives, and does what watches over them see a fault?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfdist.cli.gpu_check import logical, parity, training
from tfdist.cli.gpu_check.models import small_cases
from tfdist.cli.gpu_check.rows import FOUND, OK, WRONG, Row, judged, told_of
from tfdist.cli.gpu_check.setting import Setting
from tfdist.communication import link_check
from tfdist.compat import tf_internals
from tfdist.strategy import factory
from tfdist.training.checks.fingerprints import Fingerprint, same_everywhere


def rows(setting: Setting) -> Iterator[Row]:
    """Gives the rows of this part."""
    yield Row(FOUND, "two replicas", logical.divide(setting))
    strategy = factory.get_strategy(setting.two)
    way = "copies to one device" if tf_internals.reduces_on_one_device(strategy) else "collectives"
    yield Row(
        OK if strategy.num_replicas_in_sync == 2 else WRONG, "MirroredStrategy",
        f"{factory.describe(strategy).splitlines()[0]}, which sums by {way}",
    )
    tf.config.experimental.enable_tensor_float_32_execution(False)
    for name in small_cases():
        yield compared(setting, name, "two replicas", {})
    yield compared(setting, "CNN", "two replicas, states in slices", {"sharded_optimizer": True})
    yield compared(
        setting, "CNN", "two replicas, bfloat16 on the wire", {"reduction": "bfloat16"}, limit=5e-2
    )
    yield _tried("link check", lambda: _links(strategy))
    yield _tried("fingerprint", lambda: _fingerprints(strategy))


def compared(
    setting: Setting, name: str, what: str, options: dict[str, Any], *,
    limit: float = parity.FLOAT32.limit,
) -> Row:
    """Trains a case on two replicas in float32 and compares it with its oracle.

    Args:
        setting: The setting.
        name: Of the case.
        what: On what, in words.
        options: Further ones of `fit`.
        limit: The largest error.
    """
    told = f"{name} on {what}, float32"
    expected = parity.oracle(setting, name)
    try:
        found = training.by_tfdist(
            small_cases()[name], expected.before, device=setting.two, policy="float32", **options
        )
    except Exception as error:  # of whatever kind: the other rows are wanted too
        return told_of(told, error)
    return judged(told, expected.off(found), limit=limit)


def _tried(what: str, work: Callable[[], Row]) -> Row:
    try:
        return work()
    except Exception as error:  # of whatever kind: the other rows are wanted too
        return told_of(what, error)


def _links(strategy: Any) -> Row:
    sums, found = link_check.exchanged(strategy)
    wrong = link_check.faults(sums, found, first_replica=0)
    text = "; ".join(wrong) or f"{found[0].nbytes // 2**10} KiB arrived unchanged at each replica"
    return Row(WRONG if wrong else OK, "link check", text)


def _fingerprints(strategy: Any) -> Row:
    """Compares equal replicas, and then one of which a single number was changed."""
    case = small_cases()["LSTM"]
    with strategy.scope():
        model = case.make()
    entries = same_everywhere(model)
    fingerprint = Fingerprint(entries, strategy)
    fingerprint.compare(step=0)
    wanted = model.trainable_variables[0]
    copy = strategy.experimental_local_results(wanted.value)[1]
    changed = np.array(copy)
    changed.flat[0] = np.nextafter(changed.flat[0], np.inf, dtype=changed.dtype)
    copy.assign(changed)
    try:
        fingerprint.compare(step=0)
    except RuntimeError as error:
        text = "equal replicas are equal, and the last bit of one number of a weight is seen"
        is_named = any(e.variable is wanted and repr(e.name) in str(error) for e in entries)
        return Row(OK if is_named else WRONG, "fingerprint", text if is_named else str(error))
    return Row(WRONG, "fingerprint", "a weight was changed on one replica, and nobody saw it")
