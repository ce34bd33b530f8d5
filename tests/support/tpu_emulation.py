"""Runs what a TPUStrategy would run on a TPU: its programs, as XLA compiles them, on the CPU.

`tf.distribute.TPUStrategy.run` makes a graph by `tpu.replicate`, which only a TPU executes. Here
the operations that belong to the program are taken out of that graph as they are, lowered to
StableHLO, and executed for all replicas at once by xla_replicas.py. Everything around a program,
such as the loop, the reading of metrics and checkpoints, is done by TensorFlow itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tpu_standin
from xla_replicas import Replicas

_OF_TPUS = ("_tpu_replicate", "_xla_compile_id", "_tpu_compilation_status")


def strategy(replicas: Replicas) -> tf.distribute.TPUStrategy:
    """Returns a TPUStrategy whose programs run.

    Args:
        replicas: What runs them.
    """
    made = tpu_standin.strategy(replicas.num_replicas)
    made._enable_packed_variable_in_eager_mode = False  # a handle each is what can be told apart
    trace = made.extended.tpu_run

    def run(fn: Any, args: Any, kwargs: Any, options: Any = None) -> Any:
        def program() -> Any:
            return trace(fn, args, kwargs, options)

        traced = tf.function(program, autograph=False)
        return _Program(traced.get_concrete_function(), replicas).run()

    made.extended.tpu_run = run
    return made


class _Program:
    """A program, taken out of the graph that it was traced in."""

    def __init__(self, concrete: Any, replicas: Replicas) -> None:
        self._concrete, self._replicas = concrete, replicas
        operations = concrete.graph.get_operations()
        self._inside = [op for op in operations if _is_inside(op)]
        names = {op.name for op in self._inside}
        entering = [t for op in self._inside for t in op.inputs if t.op.name not in names]
        self._entering = list({tensor.name: tensor for tensor in entering}.values())
        self._values = [tensor for tensor in self._entering if tensor.dtype != tf.resource]
        # Each replica's variable, by the name of the tensor that stands for it.
        self._variables = {
            t.name: self._sources(t) for t in self._entering if t.dtype == tf.resource
        }
        self._outputs = [_output_of(tensor) for tensor in concrete.outputs]

    def run(self) -> Any:
        """Runs it, from inside the graph around it; returns what `strategy.run` does."""
        with tf.init_scope():
            execute = self._compiled()
        inputs = [part for tensor in self._values for part in self._sources(tensor)]
        outputs = self._concrete.outputs
        done = tf.py_function(execute, inputs, [tensor.dtype for tensor in outputs])
        flat = done if outputs else []
        for value, like in zip(flat, outputs, strict=True):
            value.set_shape(like.shape)
        structure = self._concrete.structured_outputs
        return tf.nest.pack_sequence_as(structure, list(flat), expand_composites=True)

    def _compiled(self) -> Callable[..., list[Any]]:
        lifted = tf.function(self._lifted, autograph=False, jit_compile=True)
        specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in self._values]
        captured = lifted.get_concrete_function(*specs).captured_inputs
        lowered = lifted.experimental_get_compiler_ir(*specs)(stage="stablehlo_serialized")
        number, aliases = self._replicas.compile(lowered)
        order = [next(v for v in self._variables.values() if v[0] is first) for first in captured]

        def execute(*flat: Any) -> list[Any]:
            count = self._replicas.num_replicas
            arguments = [
                [*(value.numpy() for value in flat[r::count]), *(_read(v[r]) for v in order)]
                for r in range(count)
            ]
            results = self._replicas.execute(number, arguments)
            for result, argument in aliases.items():
                for r, handle in enumerate(order[argument - len(specs)]):
                    _write(handle, results[r][result])
            return [results[r][index] for index, r in self._outputs]

        return execute

    def _lifted(self, *values: tf.Tensor) -> list[tf.Tensor]:
        """Computes what one replica does, as a function of what enters its program."""
        inner = {tensor.name: v for tensor, v in zip(self._values, values, strict=True)}
        graph: Any = tf.compat.v1.get_default_graph()
        inner |= {name: graph.capture(handles[0]) for name, handles in self._variables.items()}
        leaving = sorted({index: None for index, _ in self._outputs})
        names = [_replicated_output(self._concrete.graph, index).name for index in leaving]
        return tf.graph_util.import_graph_def(
            self._graph_def(), input_map=inner, return_elements=names, name=""
        )

    def _graph_def(self) -> Any:
        """Returns the program alone, without what enters it."""
        whole = self._concrete.graph.as_graph_def()
        inside = {op.name for op in self._inside}
        found = tf.compat.v1.GraphDef(library=whole.library, versions=whole.versions)
        for node in whole.node:
            if node.name in inside:
                found.node.add().CopyFrom(node)
        for node in (*found.node, *(n for f in found.library.function for n in f.node_def)):
            node.device = ""
            kept = [i for i in node.input if not i.startswith("^") or i[1:] in inside]
            if node in found.node:
                node.input[:] = kept
            for name in _OF_TPUS:
                node.attr.pop(name, None)
        return found

    def _sources(self, tensor: tf.Tensor) -> list[Any]:
        """Returns what a tensor that enters the program is outside of its graph, by replica."""
        is_own = tensor.op.type == "TPUReplicatedInput"
        parts = list(tensor.op.inputs) if is_own else [tensor] * self._replicas.num_replicas
        return [_outside(part) for part in parts]


def _is_inside(operation: tf.Operation) -> bool:
    is_marked = "_tpu_replicate" in operation.node_def.attr
    return is_marked and operation.type not in ("TPUReplicateMetadata", "TPUCompilationResult")


def _output_of(tensor: tf.Tensor) -> tuple[int, int]:
    """Returns the number of an output of the program, and the replica that it is of."""
    while tensor.op.type != "TPUReplicatedOutput":
        tensor = tensor.op.inputs[0]
    outputs = [op for op in tensor.graph.get_operations() if op.type == "TPUReplicatedOutput"]
    return outputs.index(tensor.op), tensor.value_index


def _replicated_output(graph: Any, index: int) -> tf.Tensor:
    outputs = [op for op in graph.get_operations() if op.type == "TPUReplicatedOutput"]
    return outputs[index].inputs[0]


def _outside(tensor: tf.Tensor) -> Any:
    """Returns the tensor that a captured one stands for; a variable's handle, wherever it is."""
    value = tf.get_static_value(tensor)
    if value is not None:
        return tf.constant(value)
    for source, inner in tensor.graph.captures:
        if inner is tensor:
            return _outside(source) if _is_symbolic_handle(source) else source
    raise ValueError(f"{tensor} is computed beside the program, which the emulation does not do")


def _is_symbolic_handle(tensor: Any) -> bool:
    return tensor.dtype == tf.resource and not hasattr(tensor, "numpy")


def _read(handle: Any) -> np.ndarray:
    return tf.raw_ops.ReadVariableOp(resource=handle, dtype=_dtype_of(handle)).numpy()


def _write(handle: Any, value: np.ndarray) -> None:
    tf.raw_ops.AssignVariableOp(resource=handle, value=tf.constant(value, _dtype_of(handle)))


def _dtype_of(handle: Any) -> tf.DType:
    return tf.as_dtype(handle._handle_data.shape_and_type[0].dtype)
