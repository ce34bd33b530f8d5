"""What would train here, what is known to break with it, and what is to be done?

    tfdist doctor                          this host, its packages, and this process's environment
    tfdist doctor --json > report.json     the same, to send to somebody
    tfdist doctor --from=report.json       somebody else's report
    tfdist doctor --environ=dump.txt       only: which place in a job these variables give
    tfdist doctor --tpu                    only: which TPU is here, and which packages it needs
    tfdist doctor --gpu-check              only: whether all of tfdist works on the GPU that is here

TensorFlow is started in a process of its own, which may crash (--notrial leaves it out). A dump is
what `env`, `env -0`, `export -p` or `declare -x` prints, or a JSON object. --gpu-check takes up to
ten minutes, trains small and larger models on the GPU, and prints one block of text to send back;
with --device=cpu it tests itself. Exit code 0 where training can start, or nothing was wrong, 1
where it cannot, 2 for wrong flags.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from tfdist.cli import env
from tfdist.cli.health import facts, place, rules, trial
from tfdist.cli.health.facts import Facts
from tfdist.cli.health.rule import Finding
from tfdist.cli.health.trial import Trial
from tfdist.launch.command_line import CommandLine


@dataclasses.dataclass(frozen=True)
class Report:
    """What the doctor found.

    Attributes:
        facts: What is known of the host.
        findings: The rules that apply.
        place: Lines on the place in a job, and whether that is fine.
        links: Lines on the other workers, and whether nothing is in the way.
        trial: How TensorFlow started; None where that was not tried.
    """

    facts: Facts
    findings: tuple[Finding, ...]
    place: tuple[list[str], bool]
    links: tuple[list[str], bool]
    trial: Trial | None

    @property
    def can_start(self) -> bool:
        """Whether training can start."""
        stops = any(finding.rule.severity == "stops" for finding in self.findings)
        is_tried = self.trial is None or not self.trial.problem
        return is_tried and not stops and self.place[1] and self.links[1]

    def __str__(self) -> str:
        found = [str(finding) for finding in self.findings]
        tried = _lines_of(self.trial)
        return "\n".join(
            [
                *env.describe(self.facts), "", "What is known to break:",
                *(found or ["none of it is here"]), "", "The place in a job:",
                *(told for told in self.place[0] if not told.endswith(": not set") and told),
                *self.links[0], "", "What would train:", *tried, "",
                "Training can start." if self.can_start else
                "Training CANNOT start: do what is said above after ERROR and STOPS.",
            ]
        )  # fmt: skip

    def to_json(self) -> str:
        """Returns the report, to be read by a program or by `--from`."""
        found = [
            {"name": f.rule.name, "severity": f.rule.severity, "evidence": f.evidence,
             "symptom": f.rule.symptom, "cure": f.rule.cure, "issue": f.rule.issue}
            for f in self.findings
        ]
        tried = None if self.trial is None else dataclasses.asdict(self.trial)
        whole = {
            "can_start": self.can_start, "findings": found, "place": self.place[0],
            "links": self.links[0], "trial": tried, "facts": dataclasses.asdict(self.facts),
        }
        return json.dumps(whole, indent=1)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Its arguments; those of this process by default.

    Returns:
        The exit code, as the file's docstring says.
    """
    line = _make_line()
    line.parse_flags_alone(argv)
    given = line.flags
    if given.tpu:
        from tfdist.tpu import doctor

        print("\n".join(doctor.main_lines()))
        return 0
    if given["gpu-check"].value:
        return _check_gpu(line)
    if given.environ is not None:
        lines, is_fine = place.diagnose(_read(line, "environ", place.read_dump))
        print("\n".join(lines))
        return 0 if is_fine else 1
    report = _read(line, "from", read_report) if given["from"].value else examine(
        device=given.device, tries=given.trial, trial_secs=given.trial_secs
    )
    print(report.to_json() if given.json else report)
    return 0 if report.can_start else 1


def _check_gpu(line: CommandLine) -> int:
    from tfdist.cli.gpu_check import check, part

    given = line.flags
    kind = "gpu" if given.device == "auto" else given.device
    if kind not in ("cpu", "gpu"):
        line.refuse(
            f"--device={given.device!r} with --gpu-check must be gpu, or cpu to test itself"
        )
    if unknown := [name for name in given.parts if name not in part.PARTS]:
        line.refuse(f"--parts={unknown[0]!r} is none of {', '.join(part.PARTS)}")
    tried = trial.run_trial(kind, timeout_secs=given.trial_secs)
    if tried.problem:
        told = [*_lines_of(tried), "With --device=cpu this check tests itself."]
        print("\n".join(told), file=sys.stderr)
        return 1
    return 0 if check.run(kind, given.parts) else 1


def examine(*, device: str, tries: bool, trial_secs: float) -> Report:
    """Looks at this host and this process's environment.

    Args:
        device: What would be trained on, as in `tfdist.get_strategy`.
        tries: Whether to start TensorFlow.
        trial_secs: Longest time for that, in seconds.
    """
    found = facts.collect()
    return Report(
        facts=found,
        findings=tuple(rules.find(found)),
        place=place.diagnose(os.environ),
        links=place.look_at_links(os.environ),
        trial=trial.run_trial(device, timeout_secs=trial_secs) if tries else None,
    )


def read_report(text: str) -> Report:
    """Reads a report of `--json`, and judges its facts by the rules of this tfdist.

    Raises:
        ValueError: It is none.
    """
    found = facts.from_json(text)
    tried: Any = json.loads(text).get("trial")
    return Report(
        facts=found,
        findings=tuple(rules.find(found)),
        place=place.diagnose(found.environ),
        links=([], True),  # they can be tried there alone
        trial=Trial(tuple(tried["chosen"]), tried["problem"], tried["cure"]) if tried else None,
    )


def _read(line: CommandLine, flag: str, reads: Any) -> Any:
    path = line.flags[flag].value
    try:
        return reads(pathlib.Path(path).read_text())
    except (OSError, ValueError, KeyError, TypeError) as error:
        line.refuse(f"--{flag}={path!r} cannot be read: {error}")


def _lines_of(tried: Trial | None) -> list[str]:
    if tried is None:
        return ["not tried"]
    if tried.problem:
        return [f"ERROR: {tried.problem}", f"    do: {tried.cure}"]
    return list(tried.chosen)


def _make_line() -> CommandLine:
    line = CommandLine("tfdist doctor", "[--json] [--from=report.json] [flags]", text=__doc__)
    own = {"flag_values": line.flags}
    flags.DEFINE_boolean("json", False, "Whether to write JSON.", **own)
    flags.DEFINE_string("from", None, "A report of --json, or of tfdist env --json, to read.",
                        **own)
    flags.DEFINE_string("environ", None, "File with a dump of variables; says which place in a job "
                        "they give, and nothing else.", **own)
    flags.DEFINE_boolean("tpu", False, "Look for a TPU and what can use it, and nothing else.",
                         **own)
    flags.DEFINE_boolean("gpu-check", False, "Try everything on the GPU, and nothing else.", **own)
    flags.DEFINE_alias("gpu_check", "gpu-check", flag_values=line.flags)
    flags.DEFINE_list("parts", [], "Parts of --gpu-check; all of them by default.", **own)
    flags.DEFINE_string("device", "auto", "What would be trained on, as in tfdist.get_strategy.",
                        **own)
    flags.DEFINE_boolean("trial", True, "Whether to start TensorFlow, in a process of its own.",
                         **own)
    flags.DEFINE_float("trial_secs", trial.SECS, "Longest time for that, in seconds.",
                       lower_bound=0.0, **own)
    return line
