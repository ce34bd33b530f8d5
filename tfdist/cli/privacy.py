"""What promise does private training keep, and how much noise does a promise take?

    tfdist privacy --examples=60000 --batch_size=256 --epochs=15 --noise_multiplier=1.1
    tfdist privacy --examples=60000 --batch_size=256 --epochs=15 --epsilon=3 --delta=1e-5

Calculates for `fit(..., privacy=tfdist.privacy.DPSGD(...))`, without training: the epsilon of a
noise multiplier, or the least noise multiplier for an epsilon. Needs the extra [privacy]. Exit code
0 where there is an answer, 2 for wrong flags.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from tfdist.launch.command_line import CommandLine


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Its arguments; those of this process by default.

    Returns:
        The exit code, as the file's docstring says.
    """
    from tfdist.privacy import accountant
    from tfdist.privacy.dpsgd import DPSGD

    line = _make_line()
    line.parse_flags_alone(argv)
    given = line.flags
    for name in ("examples", "batch_size"):
        if given[name].value is None:
            line.refuse(f"give --{name}=N")
    try:
        asked = DPSGD(
            l2_norm_clip=1.0, delta=given.delta, expected_batch_size=given.batch_size,
            noise_multiplier=given.noise_multiplier, target_epsilon=given.epsilon,
            batch_cap=given.batch_cap,
        )
        asked.refuse_data(given.examples)
        steps = -(-given.examples // given.batch_size) * given.epochs
        mechanism = asked.mechanism(given.examples, steps=steps)
        spent = accountant.epsilon([(mechanism, steps)], delta=given.delta)
    except (ValueError, ImportError) as error:
        return line.failed(error)
    print(
        f"noise_multiplier={mechanism.noise_multiplier:.4f}: epsilon={spent:.4f} at "
        f"delta={given.delta:g} over {steps} steps, each of which draws {given.examples} examples "
        f"with probability {mechanism.sampling_probability:.4g}, {mechanism.cap} at most"
    )
    return 0


def _make_line() -> CommandLine:
    line = CommandLine(
        "tfdist privacy", "--examples=N --batch_size=N --noise_multiplier=X|--epsilon=X [flags]",
        text=__doc__,
    )
    own = {"flag_values": line.flags}
    flags.DEFINE_integer("examples", None, "Examples of the data.", lower_bound=1, **own)
    flags.DEFINE_integer(
        "batch_size", None, "Examples of a step in the mean.", lower_bound=1, **own
    )
    flags.DEFINE_integer(
        "epochs", 1, "How often each example is drawn, in the mean.", lower_bound=1, **own
    )
    flags.DEFINE_float("delta", 1e-5, "Probability with which the promise need not hold.", **own)
    flags.DEFINE_float("noise_multiplier", None, "Noise, in clipping norms.", **own)
    flags.DEFINE_float("epsilon", None, "The promise that noise is looked for.", **own)
    flags.DEFINE_integer(
        "batch_cap", None, "Most examples of a step; by default so many that it costs nothing.",
        lower_bound=1, **own,
    )
    return line
