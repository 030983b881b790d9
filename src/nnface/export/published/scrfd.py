"""SCRFD as ONNX: deepinsight/insightface's detectors, with or without landmarks.

Guo et al., "Sample and Computation Redistribution for Efficient Face Detection", ICLR 2022. Two points a cell, both at
its upper left corner, from which the sides lie so many strides away. RGB, (pixel - 127.5) / 128, padded with black:
the graph normalises, so that the padding of a letterbox is black here too.
"""

from pathlib import Path

import numpy as np

from nnface.errors import ModelFileError
from nnface.export.published.rewiring import Decoded, Floats, Rewiring, read, write
from nnface.spec import DetectionSpec, InputSpec, Spec

STRIDES = (8, 16, 32)
EACH = 2
"""Anchors of each cell."""

LICENCE = "non-commercial research only (the models of deepinsight/insightface, whose code is MIT)"

INPUT = InputSpec(size=640, multiple=32, scaling="plain", color="rgb")

MEAN, STD = 127.5, 128.0


def import_scrfd(path: str | Path, out: str | Path) -> tuple[Spec, bool]:
    """Write SCRFD as ONNX of ours, for any batch and size.

    Returns:
        the Spec that was written, and whether the file is one that nnface knows by its SHA-256.

    Raises:
        ModelFileError: no SCRFD of three levels, damaged, or known to be something else.
        NnfaceError: ``out`` cannot be written.
    """
    original = read(path, "scrfd")
    names = original.outputs
    levels = len(STRIDES)
    if len(names) not in (2 * levels, 3 * levels):
        raise ModelFileError(
            f"{path} has {len(names)} outputs; SCRFD has scores, boxes and, in most files, points for each of the "
            f"strides {', '.join(map(str, STRIDES))}"
        )
    landmarks = len(names) == 3 * levels
    graph = Rewiring(original)
    graph.normalise(MEAN, STD)
    # From the cell's corner to its middle, which is where our distances start.
    shift = graph.constant([0.5, 0.5, -0.5, -0.5])
    outputs = {
        "scores": graph.calculate("Sigmoid", graph.flat(graph.rows(names[:levels], 1))),
        "boxes": graph.calculate("Add", graph.rows(names[levels : 2 * levels], 4), shift),
    }
    if landmarks:
        outputs["landmarks"] = graph.calculate("Sub", graph.rows(names[2 * levels :], 10), graph.constant(0.5))
    spec = Spec(
        task="detect",
        architecture="scrfd",
        input=INPUT,
        detection=DetectionSpec(
            coding="distance",
            strides=STRIDES,
            anchor_sizes=tuple((float(stride),) * EACH for stride in STRIDES),
            landmarks=landmarks,
            min_score=0.5,
            nms_iou=0.45,
        ),
        licence=f"{LICENCE}; {original.provenance['terms']}",
        provenance=original.provenance,
    )
    write(out, graph.finish(outputs, spec), spec, original, _decode, lambda pixels: (pixels - MEAN) / STD)
    return spec, original.known is not None


def _decode(arrays: list[Floats], width: int) -> Decoded:
    """What the original's outputs mean, as its own project reads them."""
    flat = [array.reshape(-1, array.shape[-1]) for array in arrays]
    levels = len(STRIDES)
    corners, points = [], []
    for level, stride in enumerate(STRIDES):
        cell = np.repeat(np.arange(len(flat[level]) // EACH), EACH)
        corner = np.stack(np.divmod(cell, width // stride)[::-1], 1) * stride
        reach = flat[levels + level] * stride
        corners.append(np.concatenate([corner - reach[:, :2], corner + reach[:, 2:]], 1))
        if len(flat) > 2 * levels:
            points.append(corner[:, None] + flat[2 * levels + level].reshape(-1, 5, 2) * stride)
    scores = np.concatenate([level[:, 0] for level in flat[:levels]])
    return Decoded(scores, np.concatenate(corners), np.concatenate(points) if points else None)
