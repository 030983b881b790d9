"""Other people's ONNX detectors, rewired: the same convolutions, and outputs that are ours.

Such a file lays out each level's maps as lists, decodes nothing and says nothing. Everything behind the last maps is
cut off and written anew, so that a file of fixed shape too takes any batch and size.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, shape_inference, version_converter

from nnface.errors import ModelFileError
from nnface.export.onnx import OPSET
from nnface.export.published.checkpoint import WIDER_FACE, Known, recognise
from nnface.files import write_atomic
from nnface.geometry import anchors, boxes
from nnface.header import check_onnx, read_content
from nnface.spec import METADATA_KEY, DetectionSpec, Spec
from nnface.version import __version__

Floats = NDArray[np.float32]

IR_VERSION = 8
"""Of ONNX's files: the one that came with the opset."""

SCORE_TOLERANCE = 1e-4
PIXEL_TOLERANCE = 1e-2
"""How far a rewired network's boxes and points may lie from the original's, in pixels."""

_LAYOUTS = ([0, 2, 3, 1], [2, 3, 0, 1])
"""The transpositions that bring maps into the order row, column, anchor; the second for a batch of one."""


@dataclass(frozen=True, slots=True)
class Original:
    """A published ONNX file."""

    path: Path
    sha256: str
    known: Known | None
    content: bytes
    model: onnx.ModelProto

    @property
    def outputs(self) -> list[str]:
        """The names of its outputs, in order."""
        return [output.name for output in self.model.graph.output]

    @property
    def provenance(self) -> dict[str, str]:
        """Where the network comes from, as the Spec keeps it."""
        source = self.known.source if self.known else f"an unknown file named {self.path.name}"
        return {"source": source, "sha256": self.sha256, "data": "WIDER FACE", "terms": WIDER_FACE}


def read(path: str | Path, format: str) -> Original:
    """Read an ONNX file of other people, within bounds.

    Raises:
        ModelFileError: absent, too large, not ONNX, naming other files, with more than one input, or known to be of
            another FORMAT than ``format``.
    """
    digest, known = recognise(path, format)
    content = read_content(path)
    if content.startswith((b"PK\x03\x04", b"\x80\x02")):
        raise ModelFileError(f"{path} is a PyTorch checkpoint; {format} reads ONNX files")
    check_onnx(memoryview(content), str(path))
    try:
        model = onnx.load_model_from_string(content)
        if all(opset.version != OPSET for opset in model.opset_import if opset.domain in ("", "ai.onnx")):
            model = version_converter.convert_version(model, OPSET)
    except Exception as error:  # the converter raises almost anything
        raise ModelFileError(f"{path} cannot be brought to ONNX opset {OPSET}: {_sentence(error)}") from error
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1 or len(inputs[0].type.tensor_type.shape.dim) != 4:
        raise ModelFileError(f"{path} does not have one input of pictures; it is no {format} detector")
    del model.graph.input[:]
    model.graph.input.append(inputs[0])
    return Original(Path(path), digest, known, content, model)


class Rewiring:
    """An original's graph, to which nodes are added; its own last nodes go when it is finished."""

    def __init__(self, original: Original) -> None:
        self.original = original
        self.graph = original.model.graph
        self._makers = {output: node for node in self.graph.node for output in node.output}
        self._free_sizes()

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> list[str]:
        """Add a node; returns the names of its outputs."""
        place = f"nnface_{len(self.graph.node)}"
        names = [f"{place}_{number}" for number in range(outputs)]
        self.graph.node.append(helper.make_node(operator, list(inputs), names, place, **attributes))
        return names

    def constant(self, values: object, dtype: type = np.float32) -> str:
        """Add a constant; returns its name."""
        name = f"nnface_constant_{len(self.graph.initializer)}"
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def calculate(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node of one output; returns its name."""
        return self.add(operator, *inputs, outputs=1, **attributes)[0]

    def rows(self, outputs: Iterable[str], values: int) -> str:
        """The maps behind one output a level, (N, anchors * values, H, W), as one list (N, all anchors, values)."""
        shape = self.constant([0, -1, values], np.int64)
        levels = [
            self.calculate("Reshape", self.calculate("Transpose", self._maps(output), perm=[0, 2, 3, 1]), shape)
            for output in outputs
        ]
        return self.calculate("Concat", *levels, axis=1)

    def flat(self, rows: str) -> str:
        """(N, A, 1) to (N, A)."""
        return self.calculate("Reshape", rows, self.constant([0, -1], np.int64))

    def normalise(self, mean: float, std: float) -> None:
        """Let the network take pixels as they are: (pixel - mean) / std comes in front of it."""
        name = self.graph.input[0].name
        for node in self.graph.node:
            node.input[:] = ["nnface_normalised" if given == name else given for given in node.input]
        nodes = [
            helper.make_node("Sub", [name, self.constant(mean)], ["nnface_centred"], "nnface_centred"),
            helper.make_node("Div", ["nnface_centred", self.constant(std)], ["nnface_normalised"], "nnface_normalised"),
        ]
        for place, node in enumerate(nodes):
            self.graph.node.insert(place, node)

    def finish(self, outputs: Mapping[str, str], spec: Spec) -> onnx.ModelProto:
        """The model with these outputs alone (name to where it is calculated), and the Spec."""
        graph = self.graph
        names = {graph.input[0].name: "input", **{at: name for name, at in outputs.items()}}
        needed, kept = set(outputs), []
        for node in reversed(graph.node):
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
            if needed & set(node.output):
                needed |= set(node.input)
                kept.append(node)
        tails: dict[str, list[str | int]] = {"scores": [], "boxes": [4], "landmarks": [10]}
        model = helper.make_model(
            helper.make_graph(
                kept[::-1],
                spec.architecture,
                [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
                [
                    helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "anchors", *tails[name]])
                    for name in outputs
                ],
                [tensor for tensor in graph.initializer if tensor.name in needed],
            ),
            producer_name="nnface",
            producer_version=__version__,
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
        )
        helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
        return model

    def _maps(self, output: str) -> str:
        """What an output is laid out from: behind it are a transposition, a reshape and, of scores, a sigmoid."""
        reshape = self._makers.get(output)
        if reshape is not None and reshape.op_type == "Sigmoid":
            reshape = self._makers.get(reshape.input[0])
        transpose = self._makers.get(reshape.input[0]) if reshape is not None and reshape.op_type == "Reshape" else None
        layout = [list(a.ints) for a in transpose.attribute if a.name == "perm"] if transpose is not None else []
        if transpose is None or transpose.op_type != "Transpose" or layout[0] not in _LAYOUTS:
            raise ModelFileError(
                f"{self.original.path} makes its output {output!r:.80} in a way that nnface does not know; "
                "export it again with its project's own script"
            )
        return str(transpose.input[0])

    def _free_sizes(self) -> None:
        """Maps that are enlarged to a fixed number of pixels are enlarged by a factor."""
        arrays = {tensor.name: tensor for tensor in self.graph.initializer}
        arrays |= {n.output[0]: n.attribute[0].t for n in self.graph.node if n.op_type == "Constant" and n.attribute}
        fixed = [n for n in self.graph.node if n.op_type == "Resize" and len(n.input) == 4 and n.input[3] in arrays]
        if not fixed:
            return
        inferred = shape_inference.infer_shapes(self.original.model).graph.value_info
        shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in inferred}
        for node in fixed:
            before, after = shapes.get(node.input[0], [0]), numpy_helper.to_array(arrays[node.input[3]])
            if len(before) != 4 or 0 in before or after.shape != (4,):
                raise ModelFileError(f"{self.original.path} enlarges maps in a way that nnface does not know")
            node.input[:] = [node.input[0], "", self.constant(after / np.array(before))]


class Decoded(NamedTuple):
    """What a detector finds in one picture: a row for each of its A anchors, in our order."""

    scores: Floats
    """(A,)"""
    boxes: Floats
    """(A, 4) x1 y1 x2 y2 in pixels of the input."""
    points: Floats | None
    """(A, 5, 2) in pixels of the input."""


def write(
    out: str | Path,
    model: onnx.ModelProto,
    spec: Spec,
    original: Original,
    decode: Callable[[list[Floats], int], Decoded],
    normalise: Callable[[Floats], Floats] = lambda pixels: pixels,
) -> None:
    """Write a rewired model once it is shown to find what the original finds, and that in batches and at other sizes.

    Args:
        out: the ONNX file, replaced atomically.
        model: the rewired one.
        spec: what it says of itself.
        original: what it was made of.
        decode: the original's outputs for one picture, in its order, and the input's width to what they mean.
        normalise: pixels to the original's input, where the rewired one takes pixels.

    Raises:
        ModelFileError: it finds something else, or one of the two cannot be run.
        NnfaceError: ``out`` cannot be written.
    """
    assert spec.detection is not None
    content = model.SerializeToString()
    try:
        onnx.checker.check_model(model, full_check=True)
        theirs, ours = _session(original.content), _session(content)
        entry = theirs.get_inputs()[0]
        height, width = (side if isinstance(side, int) and side > 0 else 128 for side in entry.shape[2:])
        picture = _noise(1, height, width)
        wanted = decode(theirs.run(None, {entry.name: normalise(picture)}), width)
        found = _decoded(ours.run(None, {"input": picture}), spec.detection, height, width)[0]
        differ = _differences(found, wanted)
        pictures = _noise(2, 64, 96)
        together = _decoded(ours.run(None, {"input": pictures}), spec.detection, 64, 96)
        for number, decoded in enumerate(together):
            alone = ours.run(None, {"input": pictures[number : number + 1]})
            differ += _differences(decoded, _decoded(alone, spec.detection, 64, 96)[0])
    except Exception as error:  # ONNX Runtime and the checker have no common base class below it
        raise ModelFileError(f"{original.path} is not what it seems: {_sentence(error)}") from error
    if differ:
        raise ModelFileError(
            f"{original.path} computes otherwise than the {spec.architecture} networks that nnface knows (it differs "
            f"in {', '.join(sorted(set(differ)))}); nothing was written"
        )
    write_atomic(out, content)


def _decoded(outputs: list[Floats], detection: DetectionSpec, height: int, width: int) -> list[Decoded]:
    """What our outputs mean, for each picture."""
    grid = anchors.grid(height, width, detection.strides, detection.anchor_sizes)
    scores, coded, *points = outputs
    return [
        Decoded(
            scores[row],
            boxes.decode_distance(coded[row], grid),
            boxes.decode_points_distance(points[0][row], grid) if points else None,
        )
        for row in range(len(scores))
    ]


def _differences(found: Decoded, wanted: Decoded) -> list[str]:
    """The names of what is not equal."""
    tolerances = {"scores": SCORE_TOLERANCE, "boxes": PIXEL_TOLERANCE, "points": PIXEL_TOLERANCE}
    different = []
    for (name, tolerance), ours, theirs in zip(tolerances.items(), found, wanted, strict=True):
        if ours is None or theirs is None:
            same = ours is theirs
        else:
            same = ours.shape == theirs.shape and np.allclose(ours, theirs, rtol=1e-4, atol=tolerance)
        different += [] if same else [name]
    return different


def _session(content: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the pictures are small, and several threads spin where the machine is busy
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _noise(batch: int, height: int, width: int) -> Floats:
    """Random pixels."""
    pixels = np.random.default_rng(height * width).uniform(0, 255, (batch, 3, height, width))
    return pixels.astype(np.float32)


def _sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
