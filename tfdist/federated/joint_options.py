"""Which options need each other, which exclude each other, and what do they come to?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfdist.federated.channel import Channel
from tfdist.federated.collecting import Collecting, Plain
from tfdist.federated.learner import Learner
from tfdist.federated.rounds import Plan
from tfdist.federated.secure_sums import Secure, SecureSums
from tfdist.federated.user_privacy import Releasing, UserPrivacy


def refuse(
    secure: Any, privacy: Any, *, plan: Plan, validation_clients: Any = None,
    carries_local: bool = False,
) -> None:
    """Raises a ValueError where options exclude each other.

    Args:
        secure: As in `fit`.
        privacy: As in `fit`.
        plan: The rounds.
        validation_clients: As in `fit`.
        carries_local: Whether weights stay with clients of one job.
    """
    for name, value, kind in (("secure", secure, SecureSums), ("privacy", privacy, UserPrivacy)):
        if value is not None and not isinstance(value, kind):
            raise ValueError(
                f"{name}={value!r} must be a tfdist.federated.{kind.__name__}, or None. Give one."
            )
    if validation_clients is not None and (secure or privacy):
        raise ValueError(
            "validation_clients was given with secure or privacy, and the metrics of a client tell "
            "of its data. Evaluate on data of the server, with validation_data."
        )
    if secure is not None and carries_local:
        raise ValueError(
            "keep_local was given with secure, and here the job carries what stays with a client "
            "through the server. Leave out one of the two, or run the clients as sites, with "
            "tfdist.federated.serve and join."
        )
    refuse_clip(secure, privacy)
    if privacy is not None and plan.min_clients > 1:
        raise ValueError(
            f"min_clients={plan.min_clients} was given with privacy, and a round that ends for "
            "want of clients would tell how many there were. Leave min_clients out."
        )


def refuse_clip(secure: SecureSums | None, privacy: UserPrivacy | None) -> None:
    """Raises a ValueError where a clipped change may be out of the bounds of secure sums.

    A client with such a change would end the run, which tells that it took part.
    """
    if secure is not None and privacy is not None and secure.largest < privacy.clip:
        raise ValueError(
            f"largest={secure.largest:g} of SecureSums is below clip={privacy.clip:g} of "
            "UserPrivacy, so a client with one large change would end the run, and show that it "
            "took part. Give largest the value of clip."
        )


def collecting(
    channel: Channel,
    learner: Learner,
    secure: SecureSums | None,
    privacy: UserPrivacy | None,
    *,
    carries_local: bool = False,
    pinned: Mapping[str, bytes] | None = None,
) -> Collecting:
    """Returns how the server gets the sum of what its clients have learnt."""
    if secure is None:
        clip = privacy.clip if privacy else None
        return Plain(channel, learner.shared, carries_local=carries_local, clip=clip)
    shapes = {name: learner.shapes[name] for name in learner.shared}
    return Secure(channel, shapes, secure, pinned, may_be_empty=privacy is not None)


def releasing(
    privacy: UserPrivacy | None, plan: Plan, *, population: int
) -> Releasing | None:
    """Returns the server's part of private training, or None."""
    if privacy is None:
        return None
    mechanism = privacy.mechanism(fraction=float(plan.fraction), rounds=plan.rounds)
    return Releasing(privacy, mechanism, population=population)


def told(
    secure: SecureSums | None, privacy: UserPrivacy | None, found: Releasing | None
) -> dict[str, Any]:
    """Returns what must be the same when a run goes on."""
    facts: dict[str, Any] = {"secure": None, "privacy": None}
    if secure is not None:
        facts["secure"] = [float(secure.largest), secure.max_examples, secure.threshold]
    if privacy is not None and found is not None:
        # What was spent is composed of equal rounds, however many there are.
        facts["privacy"] = [privacy.clip, privacy.delta, found.mechanism.noise_multiplier]
    return facts
