"""Weights of an ONNX file stored in 16 bits and computed with in 32.

Half the file at the same speed, for runtimes widen them when they open it.
"""

import numpy as np
import onnx
from onnx import numpy_helper

SMALLEST = 1024
"""Tensors of fewer numbers stay as they are."""


def halved(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with its large float32 weights in float16, each behind a Cast; changed in place.

    Raises:
        ValueError: a weight is beyond what float16 holds.
    """
    casts = []
    for tensor in proto.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < SMALLEST:
            continue
        with np.errstate(over="ignore"):
            small = values.astype(np.float16)
        if not np.isfinite(small).all():
            raise ValueError(f"{tensor.name} is beyond what 16 bits hold")
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(small, f"{name}_half"))
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], f"widen_{name}", to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return proto


def is_halved(proto: onnx.ModelProto) -> bool:
    """Whether a weight is stored as :func:`halved` does it."""
    stored = {t.name for t in proto.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16}
    return any(node.op_type == "Cast" and node.input[0] in stored for node in proto.graph.node)


def widened(proto: onnx.ModelProto) -> onnx.ModelProto:
    """What :func:`halved` made, with plain float32 weights again, for whoever looks into the graph; in place."""
    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    kept = []
    for node in proto.graph.node:
        tensor = stored.get(node.input[0]) if node.op_type == "Cast" else None
        if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT16:
            kept.append(node)
            continue
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), node.output[0]))
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    return proto
