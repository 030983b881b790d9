"""A model file to ONNX: one file with weights and Spec inside, checked against torch before it gets its name."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from nnface.errors import NnfaceError, UsageError
from nnface.export.graph import example
from nnface.files import atomic_path
from nnface.header import open_header
from nnface.models import file
from nnface.runtime.onnx import OnnxRunner
from nnface.spec import METADATA_KEY, InputSpec, Spec, Task
from nnface.version import __version__

OPSET = 17
"""What ONNX Runtime, OpenVINO and TensorRT have all read for years; our networks need nothing newer."""

SCORE_TOLERANCE = 1e-4
VALUE_TOLERANCE = 1e-3
"""Largest difference from torch of a coded value, absolute, or relative to the largest one where that exceeds 1."""


Reference = Callable[[NDArray[np.float32]], Mapping[str, NDArray[np.float32]]]
"""What a network gives for a batch, by output."""


def export(
    model: str | Path,
    out: str | Path,
    *,
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    opset: int | None = None,
) -> Spec:
    """Write a model file as ONNX; ``out`` is replaced atomically, and only by what computes as torch does.

    The input is ``input`` (batch, 3, height, width), float32, normalised as the Spec says; height and width are free
    unless the Spec or ``size`` fixes them. The outputs are ``scores`` (batch, anchors), ``boxes`` (batch, anchors, 4)
    and, if the network has them, ``landmarks`` (batch, anchors, 10), as :class:`nnface.spec.DetectionSpec` defines
    them; of a classifier the logits of each head (batch, labels), by its name; of a parser ``logits`` (batch, labels,
    rows, columns), as :class:`nnface.spec.SegmentationSpec` defines them, without what only training needs. The Spec is
    in the metadata under the key ``nnface``.

    Args:
        model: a model file of ours; of an ONNX file the shapes are fixed, and it is compared with itself.
        out: the file to write.
        size: width and height that the input is fixed to; None: as free as the network is.
        batch: pictures that the input is fixed to; None: any number.
        opset: of ONNX's operators; None: 17, or what an ONNX file has.

    Raises:
        ModelFileError: ``model`` is no model file of ours.
        UsageError: ``out`` is the model file itself, or the network has a fixed input of another size.
        NnfaceError: ``out`` cannot be written, or the exported network computes something else than torch.
    """
    kind, spec = open_header(Path(model))
    if Path(out).exists() and Path(out).samefile(model):
        raise UsageError(f"{out} is the model file itself; name another file for --out")
    spec = _sized(spec, size, str(model))
    with atomic_path(out) as temporary:
        if kind == "safetensors":
            module, _ = file.load(model)
            network = _Runner(module, spec.task).eval()
            proto = _simplified(_trace(network, spec.input, temporary, batch, opset or OPSET))
            shapes = {
                name: tuple(v.shape) for name, v in network.run(example(spec.input, 1, *_side(spec.input))).items()
            }
            _describe(proto, shapes, spec, batch)
            reference: Reference = network.run
        else:
            runner = OnnxRunner(model, threads=1)
            if runner.batch not in (None, batch):
                raise UsageError(f"{model} is fixed to batches of {runner.batch}")
            proto = onnx.load(model, load_external_data=False)
            if opset not in (None, _opset(proto)):
                raise UsageError(f"{model} has opset {_opset(proto)}; for another export its .safetensors file")
            _fix(proto, runner, spec, batch)
            reference = runner.run
        onnx.save(proto, temporary)
        _verify(temporary, reference, spec.input, str(out), batch)
    return spec


def _sized(spec: Spec, size: tuple[int, int] | None, origin: str) -> Spec:
    """The Spec with the input fixed to (width, height)."""
    if size is None or size == (spec.input.width, spec.input.height):
        return spec
    if spec.input.width is not None:
        raise UsageError(f"{origin} has a fixed input of {spec.input.width} x {spec.input.height} and takes no --size")
    if not all(16 <= side <= 8192 for side in size):
        raise UsageError(f"the size {size[0]}x{size[1]} is none to look for faces in; give 16 to 8192 pixels a side")
    return replace(spec, input=replace(spec.input, size=max(size), width=size[0], height=size[1]))


class _Runner(nn.Module):
    """The network with the outputs of a runner: of a detector scores instead of logits, of a parser logits alone."""

    def __init__(self, module: nn.Module, task: Task) -> None:
        super().__init__()
        self.module = module
        self.task = task

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        outputs = dict(self.module(images))
        if self.task == "segment":
            return {"logits": outputs["logits"]}
        if self.task == "classify":
            return outputs
        return {"scores": self.module.scores(outputs.pop("logits")), **outputs}  # type: ignore[operator]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.outputs(images).values())

    def run(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        with torch.inference_mode():
            return {name: values.numpy() for name, values in self.outputs(torch.from_numpy(images)).items()}


def _trace(network: _Runner, spec: InputSpec, path: Path, batch: int | None, opset: int) -> onnx.ModelProto:
    """What torch makes of the network, batch norms folded into the convolutions.

    By torch's older exporter: the newer one (dynamo) writes each level's number of cells as arithmetic on the input's
    size, excludes inputs of a single cell, keeps three times as many nodes that are no convolutions, and takes 30
    times as long.
    """
    first = {} if batch else {0: "batch"}
    sides = {} if spec.width else {2: "height", 3: "width"}
    maps = {} if spec.width else {2: "rows", 3: "columns"}
    images = torch.from_numpy(example(spec, batch or 2, *_side(spec)))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # that it is the older one, and that Python numbers become constants
        outputs = network.outputs(images)
        torch.onnx.export(
            network,
            (images,),
            str(path),
            dynamo=False,
            opset_version=opset,
            input_names=["input"],
            output_names=list(outputs),
            dynamic_axes={
                "input": first | sides,
                **{name: first | (maps if value.ndim == 4 else {}) for name, value in outputs.items()},
            },
        )
    return onnx.load(path)


def _simplified(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with less around the convolutions: constants as initializers, plain shapes, no dead nodes."""
    graph = proto.graph
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(node.attribute[0].t), node.output[0]))
        graph.node.remove(node)
    # The exporter stores equal weights once and gives them their other names by nodes.
    same = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Identity"}
    for node in graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}

    # A Reshape that computes "the first dimensions as they are, then these numbers": zeros say the same.
    for place, node in enumerate(graph.node):
        shape = makers.get(node.input[1]) if node.op_type == "Reshape" else None
        if shape is None or shape.op_type != "Concat":
            continue
        kept_dimensions = _leading(shape.input[0], node.input[0], makers, constants)
        rest = [constants.get(name) for name in shape.input[1:]]
        if kept_dimensions and all(rest):
            numbers = [int(n) for part in rest if part for n in numpy_helper.to_array(part).ravel()]
            node.input[1] = f"shape_{place}"
            graph.initializer.append(
                numpy_helper.from_array(np.array([0] * kept_dimensions + numbers, np.int64), node.input[1])
            )

    # ReLU moves from behind a Concat into its branches, where a runtime fuses it with the convolution.
    nodes = []
    uses = [name for node in graph.node for name in node.input]
    for node in graph.node:
        joint = makers.get(node.input[0]) if node.op_type == "Relu" else None
        if joint is None or joint.op_type != "Concat" or uses.count(node.input[0]) > 1:
            nodes.append(node)
            continue
        nodes.remove(joint)
        branches = [f"{name}_relu" for name in joint.input]
        nodes += [onnx.helper.make_node("Relu", [a], [b], b) for a, b in zip(joint.input, branches, strict=True)]
        nodes.append(onnx.helper.make_node("Concat", branches, node.output, node.name, axis=joint.attribute[0].i))

    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(nodes):
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(weights)
    return proto


def _leading(name: str, data: str, makers: dict[str, onnx.NodeProto], constants: dict[str, onnx.TensorProto]) -> int:
    """How many leading dimensions of ``data`` the value ``name`` is, as far as its making tells; 0: something else."""

    def numbers(node: onnx.NodeProto) -> list[list[int]]:
        return [numpy_helper.to_array(constants[i]).ravel().tolist() if i in constants else [] for i in node.input[1:]]

    def shape_of(node: onnx.NodeProto) -> str | None:
        maker = makers.get(node.input[0])
        return maker.input[0] if maker is not None and maker.op_type == "Shape" else None

    maker = makers.get(name)
    if maker is not None and maker.op_type == "Unsqueeze" and (gather := makers.get(maker.input[0])) is not None:
        # Whatever the tensor: its first dimension is the batch, as that of all others.
        return int(gather.op_type == "Gather" and numbers(gather) == [[0]] and shape_of(gather) is not None)
    if maker is not None and maker.op_type == "Slice" and shape_of(maker) == data:
        starts, ends, axes, *steps = numbers(maker)
        return ends[0] if starts == axes == [0] and steps in ([], [[1]]) and len(ends) == 1 and ends[0] > 0 else 0
    return 0


def _describe(proto: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], spec: Spec, batch: int | None) -> None:
    """Names, readable shapes (``shapes``: of the outputs for the traced size), and the Spec."""
    proto.producer_name, proto.producer_version, proto.graph.name = "nnface", __version__, spec.architecture
    onnx.helper.set_model_props(proto, {METADATA_KEY: spec.to_json()})
    del proto.graph.output[:]
    for name, sides in shapes.items():
        shape: list[str | int] = [batch or "batch", *sides[1:]]
        if not spec.input.width and spec.task == "detect":
            shape[1] = "anchors"
        if not spec.input.width and spec.task == "segment":
            shape[2:] = ["rows", "columns"]
        proto.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))


def _fix(proto: onnx.ModelProto, runner: OnnxRunner, spec: Spec, batch: int | None) -> None:
    """Write fixed shapes into a graph that computes for any; what it computes of shapes, runtimes fold."""
    images = example(spec.input, batch or 1, *_side(spec.input))
    outputs = {name: values.shape for name, values in runner.run(images).items()}
    first = proto.graph.input[0].name
    del proto.graph.input[:], proto.graph.value_info[:]
    sides = [spec.input.height or "height", spec.input.width or "width"]
    shape = [batch or "batch", 3, *sides]
    proto.graph.input.append(onnx.helper.make_tensor_value_info(first, onnx.TensorProto.FLOAT, shape))
    _describe(proto, outputs, spec, batch)


def _opset(proto: onnx.ModelProto) -> int:
    return next((int(o.version) for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)


def _verify(path: Path, reference: Reference, spec: InputSpec, out: str, batch: int | None = None) -> None:
    """Run the file in ONNX Runtime beside torch, for one and two pictures and, where sizes are free, at odd ones.

    Raises:
        NnfaceError: the file is not valid, or the outputs differ.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except onnx.checker.ValidationError as error:
        raise NnfaceError(f"cannot write {out}: torch exported a graph that is not valid ONNX: {error}") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the pictures are small, and several threads spin where the machine is busy
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    sides = [_side(spec)] if spec.width else [_side(spec), (64, 96), (97, 131)]
    for count, (height, width) in [(batch or 2, sides[0]), *((batch or 1, side) for side in sides)]:
        images = example(spec, count, height, width)
        expected = reference(images)
        found = session.run(list(expected), {"input": images})
        for (name, values), array in zip(expected.items(), found, strict=True):
            difference = _difference(array, values, name)
            if not difference <= (SCORE_TOLERANCE if name == "scores" else VALUE_TOLERANCE):
                raise NnfaceError(
                    f"cannot write {out}: for {count} pictures of {width}x{height} its {name} differ from torch's by "
                    f"{difference:.2g}; please report this"
                )


def _difference(found: NDArray[np.float32], expected: NDArray[np.float32], name: str) -> float:
    if found.shape != expected.shape:
        return float("inf")
    scale = 1.0 if name == "scores" else max(1.0, float(np.abs(expected).max(initial=0)))
    return float(np.abs(found - expected).max(initial=0)) / scale


def _side(spec: InputSpec) -> tuple[int, int]:
    """Height and width to trace and test with."""
    return (spec.height, spec.width) if spec.height and spec.width else (128, 160)
