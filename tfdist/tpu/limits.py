"""What can a TPU not do, or only badly? Operations, by the rule that they break."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Rule:
    """Something that a step for a TPU should not have.

    Attributes:
        name: Of the rule.
        stops: Whether the step cannot run at all; else it runs, but slowly or not as meant.
        cause: What is wrong with it.
        cure: What to do instead.
    """

    name: str
    stops: bool
    cause: str
    cure: str


RULES = {
    rule.name: rule
    for rule in (
        Rule(
            "unknown_dimension",
            True,
            "its size is not fixed",
            "Pad it to a fixed size, or give keras.Input the size.",
        ),
        Rule(
            "python_function",
            True,
            "it runs Python on the host, which a step on a TPU cannot call",
            "Move it to the tf.data pipeline, or write it with keras.ops.",
        ),
        Rule(
            "host_callback",
            True,
            "it prints or writes from inside of the step",
            "Take it out, or do it in a callback between steps.",
        ),
        Rule(
            "string",
            True,
            "it handles strings, which a TPU cannot",
            "Turn strings into numbers in the tf.data pipeline.",
        ),
        Rule(
            "dynamic_shape",
            False,
            "the size of its result depends on the data; it is padded to the largest, and what"
            " follows may not compile",
            "Weigh or mask instead of selecting: keras.ops.where with three arguments, a sample"
            " weight of 0.",
        ),
        Rule(
            "float64",
            False,
            "it computes in float64, which a TPU emulates many times slower",
            "Use float32 or bfloat16.",
        ),
        Rule(
            "no_kernel",
            True,
            "there is no such operation on TPUs",
            "Replace it by operations of keras.ops, or move it to the tf.data pipeline.",
        ),
        Rule(
            "does_not_trace",
            True,
            "it cannot be traced into a graph",
            "Write it with keras.ops or TensorFlow alone, without numpy and without Python values"
            " of tensors.",
        ),
        Rule(
            "does_not_lower",
            True,
            "XLA does not take it",
            "Give every operation a shape that is fixed when the step is traced.",
        ),
        Rule(
            "pads_badly",
            False,
            "its size is padded to a multiple of the memory's tiles, most of which stay empty",
            "Choose a multiple of 128 for features, and of 8 for the rows of a replica.",
        ),
    )
}

_PYTHON = ("EagerPyFunc", "PyFunc", "PyFuncStateless")
_CALLBACKS = (
    "Print", "PrintV2", "StringFormat", "Timestamp", "WriteAudioSummary", "WriteFile",
    "WriteGraphSummary", "WriteHistogramSummary", "WriteImageSummary", "WriteRawProtoSummary",
    "WriteScalarSummary", "WriteSummary",
)  # fmt: skip
_DYNAMIC = (
    "CombinedNonMaxSuppression", "DynamicPartition", "ListDiff", "NonMaxSuppressionV3",
    "NonMaxSuppressionV5", "RaggedTensorToSparse", "SparseFillEmptyRows", "Unique", "UniqueV2",
    "UniqueWithCounts", "UniqueWithCountsV2", "Where",
)  # fmt: skip

RULE_OF_OPERATION = {
    **dict.fromkeys(_PYTHON, "python_function"),
    **dict.fromkeys(_CALLBACKS, "host_callback"),
    **dict.fromkeys(_DYNAMIC, "dynamic_shape"),
}
# Operations that XLA drops, whatever their types.
DROPPED_OPERATIONS = ("Assert", "CheckNumerics", "Const", "NoOp", "Placeholder")
