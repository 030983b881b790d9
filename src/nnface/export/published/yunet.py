"""YuNet as ONNX: ShiqiYu/libfacedetection.train, and OpenCV Zoo's face_detection_yunet_2023mar.

Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research 2023. One point a cell, at its
upper left corner; the score is the geometric mean of a class and an objectness; sides are coded as logarithms.
"""

from pathlib import Path

import numpy as np

from nnface.errors import ModelFileError
from nnface.export.published.rewiring import Decoded, Floats, Rewiring, read, write
from nnface.spec import DetectionSpec, InputSpec, Spec

STRIDES = (8, 16, 32)
KINDS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
"""The kinds of outputs, one of each a level (``cls_8``, ...), and the numbers of each a cell."""

LICENCE = "Apache-2.0 or BSD (ShiqiYu/libfacedetection.train; MIT as OpenCV Zoo passes it on)"

INPUT = InputSpec(size=640, multiple=32, scaling="plain", color="bgr")
"""Pixels as they are."""

DETECTION = DetectionSpec(coding="distance", strides=STRIDES, min_score=0.6, nms_iou=0.45)


def import_yunet(path: str | Path, out: str | Path) -> tuple[Spec, bool]:
    """Write YuNet as ONNX of ours, for any batch and size.

    Returns:
        the Spec that was written, and whether the file is one that nnface knows by its SHA-256.

    Raises:
        ModelFileError: no YuNet, damaged, or known to be something else.
        NnfaceError: ``out`` cannot be written.
    """
    original = read(path, "yunet")
    names = [f"{kind}_{stride}" for kind in KINDS for stride in STRIDES]
    if sorted(original.outputs) != sorted(names):
        raise ModelFileError(
            f"{path} has the outputs {', '.join(repr(n)[1:-1][:40] for n in original.outputs[:12])}; "
            f"YuNet of 2023 has {', '.join(names)}"
        )
    graph = Rewiring(original)
    rows = {kind: graph.rows([f"{kind}_{stride}" for stride in STRIDES], n) for kind, n in KINDS.items()}
    face, there = (graph.calculate("Sigmoid", graph.flat(rows[kind])) for kind in ("cls", "obj"))
    # From the cell's corner to its middle, which is where our distances start.
    centre, logarithms = graph.add("Split", rows["bbox"], graph.constant([2, 2], np.int64), outputs=2, axis=2)
    half = graph.constant(0.5)
    offset = graph.calculate("Sub", centre, half)
    reach = graph.calculate("Mul", graph.calculate("Exp", logarithms), half)
    outputs = {
        "scores": graph.calculate("Sqrt", graph.calculate("Mul", face, there)),
        "boxes": graph.calculate(
            "Concat", graph.calculate("Sub", reach, offset), graph.calculate("Add", reach, offset), axis=2
        ),
        "landmarks": graph.calculate("Sub", rows["kps"], half),
    }
    spec = Spec(
        task="detect",
        architecture="yunet",
        input=INPUT,
        detection=DETECTION,
        licence=f"{LICENCE}; {original.provenance['terms']}",
        provenance=original.provenance,
    )

    def decode(arrays: list[Floats], width: int) -> Decoded:
        named = dict(zip(original.outputs, arrays, strict=True))
        return _decode({kind: [named[f"{kind}_{stride}"][0] for stride in STRIDES] for kind in KINDS}, width)

    write(out, graph.finish(outputs, spec), spec, original, decode)
    return spec, original.known is not None


def _decode(levels: dict[str, list[Floats]], width: int) -> Decoded:
    """What the original's outputs mean, as its own project reads them."""
    scores, corners, points = [], [], []
    for cls, obj, bbox, kps, stride in zip(*(levels[kind] for kind in KINDS), STRIDES, strict=True):
        cell = np.stack(np.divmod(np.arange(len(cls)), width // stride)[::-1], 1)
        middle, side = (cell + bbox[:, :2]) * stride, np.exp(bbox[:, 2:]) * stride
        scores.append(np.sqrt(np.clip(cls[:, 0], 0, 1) * np.clip(obj[:, 0], 0, 1)))
        corners.append(np.concatenate([middle - side / 2, middle + side / 2], 1))
        points.append((cell[:, None] + kps.reshape(-1, 5, 2)) * stride)
    return Decoded(np.concatenate(scores), np.concatenate(corners), np.concatenate(points))
