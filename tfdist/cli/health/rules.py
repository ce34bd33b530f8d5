"""What is known to break, with which versions and settings, and what helps?

A rule looks at facts alone, so it judges this host and somebody else's report in the same way.
`stops`: training cannot start. `breaks`: it starts, and something of it fails or is not used.
`slows`: it trains, and could be faster.

Synopsis:

    >>> facts = Facts(packages={"keras": "3.13.0"}, python=("3.11.2", ""))
    >>> [finding.rule.name for finding in find(facts)]
    ['no-tensorflow']
"""

from __future__ import annotations

from tfdist.cli.health import signs
from tfdist.cli.health.facts import Facts
from tfdist.cli.health.rule import Finding, Rule, Versions

_ISSUES = "https://github.com/{}/issues/{}"
_PYTHON = Versions("python", (3, 10), (3, 14))
_TENSORFLOW = Versions("tensorflow", (2, 18), (2, 23))
_KERAS = Versions("keras", (3, 13), (3, 17))

RULES = (
    Rule(
        "no-tensorflow", "stops", "importing TensorFlow fails.",
        "install exactly one: pip install 'tfdist[cpu]', 'tfdist[gpu]' or 'tfdist[tpu]'.",
        lambda facts: "" if signs.tensorflows(facts) else "no TensorFlow is installed",
    ),
    Rule(
        "no-keras", "stops", "importing Keras fails.", "pip install 'keras>=3.13,<3.17'",
        lambda facts: "" if "keras" in facts.packages else "no Keras is installed",
    ),
    Rule(
        "python", "stops", "there is no TensorFlow for it, or tfdist is not tested with it.",
        "make an environment with Python 3.10 to 3.13.", signs.outside(_PYTHON),
    ),
    Rule(
        "tensorflow", "stops", "private parts that tfdist depends on are not where they were.",
        "pip install 'tfdist[cpu]' (or gpu, tpu) into a new environment.",
        signs.outside(_TENSORFLOW),
    ),
    Rule(
        "keras", "stops", "private parts that tfdist depends on are not where they were.",
        "pip install 'keras>=3.13,<3.17'", signs.outside(_KERAS),
    ),
    Rule(
        "two-tensorflows", "breaks",
        "files of one lie over the other's; removing one removes files of both, and importing fails"
        " (module 'tensorflow' has no attribute ...).",
        "pip uninstall -y both, then install the one that you want with --force-reinstall.",
        signs.two_tensorflows, issue=_ISSUES.format("tensorflow/tensorflow", 18043),
    ),
    Rule(
        "tensorflow-text", "breaks",
        "two TensorFlows lie in one directory, as tensorflow-text asks for the distribution named "
        "tensorflow.",
        "pip uninstall -y tensorflow tensorflow-cpu; pip install --force-reinstall --no-deps "
        "tensorflow-cpu==VERSION; install tensorflow-text with --no-deps. KerasHub does without "
        "it: pip install 'tfdist[hub]'; pip install --no-deps 'keras-hub>=0.32,<0.33'.",
        signs.brought_by_text, issue=_ISSUES.format("tensorflow/text", 1393),
    ),
    Rule(
        "keras-hub", "breaks", "importing keras_hub fails.",
        "pip install 'tfdist[hub]', which has what KerasHub needs beside a TensorFlow.",
        signs.hub_alone,
    ),
    Rule(
        "libtpu", "stops", "importing TensorFlow ends the process, or finds no TPU.",
        "tfdist doctor --tpu prints the commands that install a pair that works.",
        signs.wrong_libtpu,
        Versions("tensorflow-tpu"),
    ),
    Rule(
        "legacy-keras", "breaks",
        "tf.keras is Keras 2, whose models tfdist refuses; keras stays Keras 3.",
        "unset TF_USE_LEGACY_KERAS, and import keras.",
        signs.variable("TF_USE_LEGACY_KERAS", signs.YES),
        issue=_ISSUES.format("keras-team/keras-tuner", 1039),
    ),
    Rule(
        "keras-backend", "stops", "tfdist distributes Keras on TensorFlow, and refuses another.",
        "unset KERAS_BACKEND, or set KERAS_BACKEND=tensorflow.", signs.other_backend,
    ),
    Rule(
        "keras-json", "breaks", "`import keras` before tfdist takes that backend.",
        "set KERAS_BACKEND=tensorflow, as tfdist run does, or change keras.json.",
        signs.backend_of_file,
    ),
    Rule(
        "rank-4-matmul", "breaks",
        "tf.matmul of a tensor of rank 4 that has a dimension of 1 with a matrix ends the process "
        "(free(): invalid pointer, or SIGSEGV).",
        "set TF_ENABLE_ONEDNN_OPTS=0, or reshape to rank 3 before it.", signs.onednn_on,
        Versions("tensorflow", (2, 21), (2, 22)),
        _ISSUES.format("tensorflow/tensorflow", 117700) + " and 123109",
    ),
    Rule(
        "onednn-off", "slows", "steps of large layers take up to twice as long.",
        "set TF_ENABLE_ONEDNN_OPTS=1, unless another rule tells against it.", signs.onednn_off,
    ),
    Rule(
        "ray-token", "breaks", "Ray's cluster lets nobody in: --engine=ray cannot start.",
        "give the cluster's token: export RAY_AUTH_TOKEN_PATH=FILE, or `ray get-auth-token "
        "--generate` for a cluster of your own.", signs.no_token, Versions("ray", (2, 52)),
        "https://docs.ray.io/en/latest/ray-security/token-auth.html",
    ),
    Rule(
        "proxy", "stops",
        "TensorFlow's workers ask the proxy for each other, and wait for ever.",
        "export no_proxy=127.0.0.1,localhost,HOSTS OF THE WORKERS, or unset the proxy's variables.",
        signs.proxy, issue=_ISSUES.format("tensorflow/tensorflow", 50626),
    ),
    Rule(
        "hash-seed", "breaks",
        "sets have another order on each worker, and what they reduce does not match.",
        "unset PYTHONHASHSEED (tfdist run sets it), or give it a number.",
        signs.variable("PYTHONHASHSEED", ("random",)),
    ),
    Rule(
        "open-files", "breaks", "Too many open files, with some dozens of workers or with Ray.",
        "ulimit -n 65536, or --ulimit nofile=65536 of docker run.", signs.few("open files", 1024),
        issue=_ISSUES.format("ray-project/ray", 10104),
    ),
    Rule(
        "processes", "breaks", "Resource temporarily unavailable, where a thread is started.",
        "ulimit -u 4096, or --pids-limit of docker run.", signs.few("processes", 1024),
    ),
    Rule(
        "shared-memory", "breaks", "Ray keeps objects on the disk, and NCCL fails to share memory.",
        "docker run --shm-size=2g, or a larger emptyDir with medium: Memory at /dev/shm.",
        signs.small_shm, issue=_ISSUES.format("ray-project/ray", 14616),
    ),
    Rule(
        "disk", "breaks", "No space left on device, at a save or as the workers start.",
        "make room, or export TMPDIR=A FOLDER WITH ROOM.", signs.full_disk,
    ),
    Rule(
        "memory", "breaks",
        "workers are killed (SIGKILL): each has 0.4 GB of TensorFlow, beside the model.",
        "start fewer workers, or give the container more; `tfdist estimate` tells how much.",
        signs.little_memory,
    ),
    Rule(
        "cpu-quota", "slows", "more threads than cores wait for each other, in every step.",
        "give --threads=CORES / WORKERS to tfdist run.", signs.quota,
        issue=_ISSUES.format("tensorflow/tensorflow", 17206),
    ),
    Rule(
        "idle-gpu", "slows", "training runs on the CPU, and the GPU idles.",
        "make a new environment, and pip install 'tfdist[gpu]' there.", signs.gpu_for_nobody,
        issue=_ISSUES.format("tensorflow/tensorflow", 63362),
    ),
    Rule(
        "no-avx", "stops", "Illegal instruction, as TensorFlow is imported.",
        "take another machine, or another type of virtual processor; TensorFlow's wheels need AVX.",
        signs.no_avx, issue=_ISSUES.format("tensorflow/tensorflow", 17411),
    ),
    Rule(
        "clock", "breaks", "certificates and tokens are refused, and files look newer than they "
        "are.", "set the clock, by NTP or in the host of the virtual machine.", signs.late_clock,
    ),
)  # fmt: skip


def find(facts: Facts) -> list[Finding]:
    """Returns the rules that apply to facts, the worst first."""
    order = ("stops", "breaks", "slows")
    found = [
        Finding(rule, evidence)
        for rule in RULES
        if (rule.versions is None or facts in rule.versions) and (evidence := rule.finds(facts))
    ]
    return sorted(found, key=lambda finding: order.index(finding.rule.severity))
