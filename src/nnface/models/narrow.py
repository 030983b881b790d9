"""Weights of an ONNX file stored in 16 or 8 bits and computed with in 32.

A half or a quarter of the file at the same speed, for runtimes widen the weights once, when they open it. With 8 bits
each output channel has a step of its own; nothing but the weights is rounded, so this is not quantization of the
computation (:mod:`nnface.export.quantize`), which is faster and costs more.
"""

from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

SMALLEST = 1024
"""Tensors of fewer numbers stay as they are."""
_LARGEST = 127
"""In 8 bits; -128 is not used, so that positive and negative weights are rounded alike."""
_SHRINKS = (1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.8)
"""Steps that are tried, in those that just hold a channel's largest weight: cutting it may make the others finer."""


def narrowed(proto: onnx.ModelProto, bits: Literal[8, 16]) -> onnx.ModelProto:
    """The same graph with its large float32 weights stored in fewer bits, widened by nodes at its head; in place.

    In 16 bits a weight is a float16 behind a Cast, in 8 bits an int8 behind a Cast and a Mul with each channel's step.

    Raises:
        ValueError: a weight is not finite, or beyond what float16 holds.
    """
    heads: list[onnx.NodeProto] = []
    steps: list[onnx.TensorProto] = []
    for tensor in proto.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < SMALLEST:
            continue
        name = tensor.name
        stored, scale = _halves(values, name) if bits == 16 else _steps(values, name)
        tensor.CopyFrom(numpy_helper.from_array(stored, f"{name}_stored"))
        wide = name if scale is None else f"{name}_wide"
        heads.append(onnx.helper.make_node("Cast", [tensor.name], [wide], f"widen_{name}", to=onnx.TensorProto.FLOAT))
        if scale is not None:
            steps.append(numpy_helper.from_array(scale, f"{name}_step"))
            heads.append(onnx.helper.make_node("Mul", [wide, steps[-1].name], [name], f"scale_{name}"))
    proto.graph.initializer.extend(steps)
    nodes = [*heads, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return proto


def is_narrow(proto: onnx.ModelProto) -> bool:
    """Whether a weight is stored as :func:`narrowed` does it."""
    stored = {
        t.name for t in proto.graph.initializer if t.data_type in (onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8)
    }
    return any(node.op_type == "Cast" and node.input[0] in stored for node in proto.graph.node)


def widened(proto: onnx.ModelProto) -> onnx.ModelProto:
    """What :func:`narrowed` made, with plain float32 weights again, for whoever looks into the graph; in place."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    wide: dict[str, NDArray[np.float32]] = {}
    kept, used = [], set()
    for node in proto.graph.node:
        first = node.input[0] if node.input else ""
        if node.op_type == "Cast" and first in arrays and arrays[first].dtype in (np.float16, np.int8):
            wide[node.output[0]] = arrays[first].astype(np.float32)
            used.add(first)
        elif node.op_type == "Mul" and first in wide and node.input[1] in arrays:
            wide[node.output[0]] = wide.pop(first) * arrays[node.input[1]]
            used.add(node.input[1])
        else:
            kept.append(node)
    tensors = [tensor for tensor in proto.graph.initializer if tensor.name not in used]
    tensors += [numpy_helper.from_array(values, name) for name, values in wide.items()]
    for field, content in ((proto.graph.node, kept), (proto.graph.initializer, tensors)):
        del field[:]
        field.extend(content)
    return proto


def _halves(values: NDArray[np.float32], name: str) -> tuple[NDArray[np.float16], None]:
    with np.errstate(over="ignore"):
        small = values.astype(np.float16)
    if not np.isfinite(small).all():
        raise ValueError(f"{name} is beyond what 16 bits hold")
    return small, None


def _steps(values: NDArray[np.float32], name: str) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Whole numbers, and the step of each row of the first axis that rounds it best (least squares)."""
    if not np.isfinite(values).all():
        raise ValueError(f"{name} is not finite")
    rows = values.reshape(len(values), -1)
    most = np.maximum(np.abs(rows).max(1, keepdims=True), np.finfo(np.float32).tiny)
    best, least = most / _LARGEST, np.full(most.shape, np.inf)
    for shrink in _SHRINKS:
        step = most * np.float32(shrink / _LARGEST)
        error = ((np.clip(np.rint(rows / step), -_LARGEST, _LARGEST) * step - rows) ** 2).sum(1, keepdims=True)
        best, least = np.where(error < least, step, best), np.minimum(error, least)
    whole = np.clip(np.rint(rows / best), -_LARGEST, _LARGEST).astype(np.int8)
    return whole.reshape(values.shape), best.reshape(-1, *[1] * (values.ndim - 1)).astype(np.float32)
