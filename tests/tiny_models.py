"""Tiny ONNX detectors and parsers with a Spec, built with onnx.helper, for everybody's tests.

:func:`bright_detector` really detects: each cell's score is the brightness of its pixels, so a white square on black
is a face, wherever the picture is moved, turned or scaled to. :func:`palette_parser` really labels: by the colours of
the palette of label images.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from nnface import draw
from nnface.spec import CELEBAMASK_LABELS, AlignmentSpec, DetectionSpec, InputSpec, SegmentationSpec, Spec

STRIDE = 16


def detection_spec(
    *, size: int = 128, width: int | None = None, height: int | None = None, fit: str = "letterbox", **detection: object
) -> Spec:
    """A Spec that fits :func:`bright_detector`."""
    return Spec(
        task="detect",
        architecture="tiny",
        licence="Apache-2.0",
        input=InputSpec(
            size=size, width=width, height=height, multiple=STRIDE, fit=fit, mean=(0, 0, 0), std=(255, 255, 255)
        ),
        detection=DetectionSpec(**{"coding": "distance", "strides": (STRIDE,), "landmarks": True, **detection}),
        provenance={"data": "none", "data_licence": "none", "command": "true"},
    )


def bright_detector(path: Path, spec: Spec | None = None, text: str | None = None, **changes: object) -> Path:
    """Write a detector to ``path``: score = (mean brightness of the cell, green) ** 2, box = the cell, eyes at left.

    Args:
        path: of the ONNX file.
        spec: by default :func:`detection_spec`; its coding may be ``distance`` or ``ssd`` with one anchor a cell.
        text: the metadata instead of the Spec's JSON; "" leaves it out.
        changes: ``anchors`` repeats the outputs so many times (a lie), ``nan`` makes the scores 0 / 0, ``rank`` wraps
            the scores in one more axis, ``fixed`` gives the input's sides.
    """
    spec = spec or detection_spec()
    assert spec.detection is not None
    landmarks = spec.detection.landmarks
    weights = np.zeros((1, 3, STRIDE, STRIDE), np.float32)
    weights[:, 1] = 1 / STRIDE**2
    # Zero deltas are the anchor itself in ssd; in distance half a stride to each side is the cell.
    delta = np.full((1, 4, 1, 1), 0.5 if spec.detection.coding == "distance" else 0.0, np.float32)
    points = np.array([-0.2, -0.2, 0.2, -0.2, 0, 0, -0.15, 0.2, 0.15, 0.2], np.float32).reshape(1, 10, 1, 1)
    constants = {
        "weights": weights,
        "delta": delta,
        "points": points,
        "zero": np.array(0, np.float32),
        "shape1": np.array([0, -1], np.int64),
        "shape4": np.array([0, 4, -1], np.int64),
        "shape10": np.array([0, 10, -1], np.int64),
        "axis": np.array([2], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["input", "weights"], ["mean"], strides=[STRIDE, STRIDE]),
        helper.make_node("Mul", ["mean", "mean"], ["square"]),
        helper.make_node("Reshape", ["square", "shape1"], ["flat"]),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
    ]
    last = "flat"
    if changes.get("nan"):
        nodes.append(helper.make_node("Div", [last, "zero"], ["divided"]))
        nodes.append(helper.make_node("Mul", ["divided", "zero"], ["not_a_number"]))
        last = "not_a_number"
    if count := changes.get("anchors"):
        nodes.append(helper.make_node("Concat", [last] * int(str(count)), ["repeated"], axis=1))
        last = "repeated"
    if changes.get("rank"):
        nodes.append(helper.make_node("Unsqueeze", [last, "axis"], ["deeper"]))
        last = "deeper"
    nodes.append(helper.make_node("Identity", [last], ["scores"]))
    for name, constant, shape in [("boxes", "delta", "shape4"), ("landmarks", "points", "shape10")][: 1 + landmarks]:
        nodes += [
            helper.make_node("Add", ["nothing", constant], [f"{name}_map"]),
            helper.make_node("Reshape", [f"{name}_map", shape], [f"{name}_rows"]),
            helper.make_node("Transpose", [f"{name}_rows"], [name], perm=[0, 2, 1]),
        ]
    sides = changes.get("fixed", [spec.input.height or "height", spec.input.width or "width"])
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, *sides])],  # type: ignore[misc]
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            for name in ["scores", "boxes", "landmarks"][: 2 + landmarks]
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    text = spec.to_json() if text is None else text
    if text:
        helper.set_model_props(model, {"nnface": text})
    onnx.save(model, path)
    return path


def squares(width: int, height: int, *corners: tuple[int, int], side: int = STRIDE) -> np.ndarray:
    """A black picture with white squares: a face each where they fill a cell."""
    image = np.zeros((height, width, 3), np.uint8)
    for x, y in corners:
        image[y : y + side, x : x + side] = 255
    return image


def save_safetensors(path: Path, spec: Spec | None = None, tensors: int = 1) -> Path:
    """A safetensors file with a Spec and a little data, written by hand (no torch, no safetensors)."""
    import json

    spec = spec or detection_spec()
    header: dict[str, object] = {"__metadata__": {"nnface": spec.to_json()}}
    for number in range(tensors):
        header[f"w{number}"] = {"dtype": "F32", "shape": [2], "data_offsets": [8 * number, 8 * number + 8]}
    content = json.dumps(header).encode()
    path.write_bytes(len(content).to_bytes(8, "little") + content + bytes(8 * tensors))
    return path


PARSER_POINTS = ((0.36, 0.45), (0.64, 0.45), (0.5, 0.6), (0.4, 0.75), (0.6, 0.75))
"""Where :func:`palette_parser` has the landmarks, unless told otherwise."""


def segmentation_spec(
    *,
    size: int = 64,
    labels: tuple[str, ...] = CELEBAMASK_LABELS,
    fit: str = "stretch",
    color: str = "bgr",
    width: int | None = None,
    points: tuple[tuple[float, float], ...] | None = PARSER_POINTS,
    correction: tuple[tuple[float, ...], ...] = (),
) -> Spec:
    """A Spec that fits :func:`palette_parser`."""
    return Spec(
        task="segment",
        architecture="tiny",
        licence="Apache-2.0",
        input=InputSpec(size=size, width=width or size, height=size, fit=fit, color=color, std=(255, 255, 255)),
        segmentation=SegmentationSpec(labels=labels),
        alignment=None if points is None else AlignmentSpec(points=points, margin=0.25, correction=correction),
        provenance={"data": "none", "data_licence": "none", "command": "true"},
    )


def palette_parser(path: Path, spec: Spec | None = None, *, stride: int = 2, nan: bool = False) -> Path:
    """Write a parser to ``path`` that labels each place with the nearest colour of ``draw.PALETTE``.

    Logits are 40 (2 c . p - p . p) for the colour c, in 0..1, and each label's colour p: linear in the colour, so that
    enlarging them is enlarging the picture. ``stride``: their grid is so many times coarser than the input.
    """
    spec = spec or segmentation_spec()
    assert spec.segmentation is not None
    numbers = [CELEBAMASK_LABELS.index(name) if name in CELEBAMASK_LABELS else 0 for name in spec.segmentation.labels]
    colors = draw.PALETTE[numbers].astype(np.float32)[:, :: -1 if spec.input.color == "bgr" else 1] / 255
    weights = np.repeat(80 * colors[:, :, None, None], stride, 2).repeat(stride, 3) / stride**2
    bias = np.full(len(colors), np.nan) if nan else -40 * (colors**2).sum(1)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["input", "weights", "bias"], ["logits"], strides=[stride, stride])],
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, spec.input.height, spec.input.width])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(np.asarray(value, np.float32), name)
            for name, value in {"weights": weights, "bias": bias}.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"nnface": spec.to_json()})
    onnx.save(model, path)
    return path
