"""A detector's ONNX file with the selection inside: score cut, top-k, decoding, non-maximum suppression, landmarks.

Standard operators only, so that the file runs where there is no nnface. What it computes is what
:meth:`nnface.predict.Detector.select` does, and it is compared with that before it gets its name.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from nnface.errors import NnfaceError, UsageError
from nnface.export.graph import example
from nnface.files import atomic_path
from nnface.geometry import anchors
from nnface.geometry.letterbox import Letterbox
from nnface.predict.detector import KEPT, Detector, Prepared
from nnface.results import Faces
from nnface.runtime.onnx import OnnxRunner
from nnface.spec import METADATA_KEY, DetectionSpec, Spec

CANDIDATES = 3840
"""The most boxes of a picture, best first, that go into non-maximum suppression: TensorRT sorts no more."""
OUTPUT = "detections"

_CUT = "selection_cut"
_AGREE = 0.98
"""So many of the boxes must be the same; on random pixels a few overlaps lie at the threshold to the last bit."""


def add_selection(plain: str | Path, out: str | Path, min_score: float | None = None) -> Spec:
    """Write the detector ``plain``, an ONNX file of ours, with the selection inside.

    Its one output is ``detections`` (n, 16) float32, or (n, 6) without landmarks, for all pictures of the batch
    together: the picture's number in the batch; x1, y1, x2, y2; the score; and x and y of the five points. Coordinates
    are pixels of the network's input. Rows are sorted by picture, then by falling score, and at most 750 of a picture.

    Args:
        plain: the file without.
        out: replaced atomically, and only by what selects as nnface does.
        min_score: the lowest score of a row; None: the one that the Spec recommends.

    Raises:
        UsageError: not a detector, or a score outside 0..1.
        ModelFileError: no ONNX file of ours.
        NnfaceError: ``out`` cannot be written, or selects something else.
    """
    runner = OnnxRunner(plain, threads=1)
    detection = runner.spec.detection
    if detection is None:
        raise UsageError(f"{plain} is a model to {runner.spec.task}; only detectors have boxes to select")
    cut = detection.min_score if min_score is None else min_score
    if not 0 <= cut <= 1:
        raise UsageError(f"min_score is {cut}; it must lie between 0 and 1")
    spec = replace(runner.spec, detection=replace(detection, min_score=cut, selected=True))
    proto = onnx.load(plain, load_external_data=False)
    _append(proto, spec, replace(detection, min_score=cut))
    helper.set_model_props(proto, {METADATA_KEY: spec.to_json()})
    with atomic_path(out) as temporary:
        onnx.save(proto, temporary)
        try:
            onnx.checker.check_model(str(temporary), full_check=True)
        except onnx.checker.ValidationError as error:
            raise NnfaceError(f"cannot write {out}: the graph is not valid ONNX: {error}") from error
        _verify(proto, runner, str(out))
    return spec


class _Graph:
    """Appends nodes and constants, with names of their own."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.count = 0

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> list[str]:
        self.count += 1
        names = [f"selection_{self.count}{'abcd'[i] if outputs > 1 else ''}" for i in range(outputs)]
        node = helper.make_node(operator, inputs, names, f"/selection/{operator}_{self.count}", **attributes)
        self.graph.node.append(node)
        return names

    def one(self, operator: str, *inputs: str, **attributes: Any) -> str:
        return self.add(operator, *inputs, **attributes)[0]

    def floats(self, value: float | Sequence[float] | NDArray[np.float32]) -> str:
        return self._constant(np.asarray(value, np.float32))

    def integers(self, value: int | Sequence[int]) -> str:
        return self._constant(np.asarray(value, np.int64))

    def _constant(self, array: NDArray[Any]) -> str:
        self.count += 1
        name = f"selection_constant_{self.count}"
        self.graph.initializer.append(numpy_helper.from_array(array, name))
        return name


def _append(proto: onnx.ModelProto, spec: Spec, coding: DetectionSpec) -> None:
    graph = proto.graph
    g = _Graph(graph)
    shape = g.one("Shape", "input")
    height, width = (g.one("Gather", shape, g.integers([axis])) for axis in (2, 3))  # (1,) each
    size = g.one("Cast", g.one("Concat", width, height, axis=0), to=TensorProto.FLOAT)  # (2,)
    grid = _grid(g, spec, coding, height, width, size)

    # The best of each picture, (N, k), and of them what the boxes' coding needs.
    total = g.one("Gather", g.one("Shape", "scores"), g.integers([1]))
    limit = g.one("Min", total, g.integers([CANDIDATES]))
    if spec.input.width and spec.input.height:
        count = anchors.count(spec.input.height, spec.input.width, coding.strides, coding.anchor_sizes)
        limit = g.integers([min(count, CANDIDATES)])
    scores, places = g.add("TopK", "scores", limit, outputs=2, axis=1)
    cells = g.one("Gather", grid, places, axis=0)  # (N, k, 4)
    rows = g.one("Unsqueeze", places, g.integers([2]))
    deltas = _bounded(g, g.one("GatherND", "boxes", rows, batch_dims=1))
    boxes = _boxes(g, coding, deltas, cells)
    if coding.clip_boxes:
        boxes = _clipped(g, boxes, g.one("Concat", size, size, axis=0))

    # Non-maximum suppression keeps what is above the cut; ours keeps the cut itself too.
    cut = np.nextafter(np.float32(coding.min_score), np.float32(-1))
    graph.initializer.append(numpy_helper.from_array(np.array([cut], np.float32), _CUT))
    chosen = g.one(
        "NonMaxSuppression",
        boxes,
        g.one("Unsqueeze", scores, g.integers([1])),
        g.integers([KEPT]),
        g.floats([coding.nms_iou]),
        _CUT,
    )  # (n, 3): picture, class, which of its k
    pick = g.one("Gather", chosen, g.integers([0, 2]), axis=1)
    picture = g.one("Gather", chosen, g.integers([0]), axis=1)
    kept = [
        g.one("Cast", picture, to=TensorProto.FLOAT),
        g.one("GatherND", boxes, pick),
        g.one("Unsqueeze", g.one("GatherND", scores, pick), g.integers([1])),
    ]
    if coding.landmarks:
        place = g.one("GatherND", places, pick)  # (n,)
        row = g.one("Concat", picture, g.one("Unsqueeze", place, g.integers([1])), axis=1)
        coded = _bounded(g, g.one("GatherND", "landmarks", row))
        centre, side = g.add("Split", g.one("Gather", grid, place, axis=0), g.integers([2, 2]), outputs=2, axis=1)
        scale = 1.0 if coding.coding == "distance" else coding.variances[0]
        times = g.integers([1, 5])
        reach = g.one("Mul", g.one("Mul", coded, g.floats(scale)), g.one("Tile", side, times))
        points = g.one("Add", g.one("Tile", centre, times), reach)
        if coding.clip_boxes:
            points = _clipped(g, points, g.one("Tile", size, g.integers([5])))
        kept.append(points)
    graph.node.append(helper.make_node("Concat", kept, [OUTPUT], "/selection/detections", axis=1))
    del graph.output[:]
    columns = 16 if coding.landmarks else 6
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["detections", columns]))


def _grid(g: _Graph, spec: Spec, coding: DetectionSpec, height: str, width: str, size: str) -> str:
    """:func:`nnface.geometry.anchors.grid`: (A, 4), a constant where the input is fixed."""
    fixed = spec.input
    if fixed.width and fixed.height:
        return g.floats(
            anchors.grid(fixed.height, fixed.width, coding.strides, coding.anchor_sizes, coding.clip_anchors)
        )
    levels = []
    for number, stride in enumerate(coding.strides):
        sides = coding.anchor_sizes[number] if coding.anchor_sizes else (float(stride),)
        cells = {}
        axes = {}
        for axis, (name, index) in enumerate({height: 1, width: 0}.items()):
            cells[axis] = g.one("Div", g.one("Add", name, g.integers([stride - 1])), g.integers([stride]))
            numbers = g.one("Range", g.integers(0), g.one("Squeeze", cells[axis]), g.integers(1))
            middle = g.one("Add", g.one("Cast", numbers, to=TensorProto.FLOAT), g.floats(0.5))
            step = g.floats([stride])
            if coding.clip_anchors:
                side = g.one("Gather", size, g.integers([index]))
                step = g.one("Div", side, g.one("Cast", cells[axis], to=TensorProto.FLOAT))
            shape = g.integers([-1, 1, 1, 1] if axis == 0 else [1, -1, 1, 1])
            axes[axis] = g.one("Reshape", g.one("Mul", middle, step), shape)
        whole = g.one("Concat", cells[0], cells[1], g.integers([len(sides), 1]), axis=0)
        parts = [axes[1], axes[0]]  # x, y
        for index in (0, 1):
            length = g.floats(np.array(sides, np.float32).reshape(1, 1, -1, 1))
            if coding.clip_anchors:
                length = g.one("Min", length, g.one("Gather", size, g.integers([index])))
            parts.append(length)
        level = g.one("Concat", *(g.one("Expand", part, whole) for part in parts), axis=3)
        levels.append(g.one("Reshape", level, g.integers([-1, 4])))
    return g.one("Concat", *levels, axis=0)


def _boxes(g: _Graph, coding: DetectionSpec, deltas: str, cells: str) -> str:
    """(N, k, 4) x1 y1 x2 y2; see :mod:`nnface.geometry.boxes`."""
    halves = g.integers([2, 2])
    centre, side = g.add("Split", cells, halves, outputs=2, axis=2)
    first, second = g.add("Split", deltas, halves, outputs=2, axis=2)
    if coding.coding == "distance":
        low = g.one("Sub", centre, g.one("Mul", first, side))
        return g.one("Concat", low, g.one("Add", centre, g.one("Mul", second, side)), axis=2)
    shift = g.one("Mul", g.one("Mul", first, g.floats(coding.variances[0])), side)
    logarithm = g.one("Clip", g.one("Mul", second, g.floats(coding.variances[1])), g.floats(-20), g.floats(20))
    length = g.one("Mul", side, g.one("Exp", logarithm))
    low = g.one("Sub", g.one("Add", centre, shift), g.one("Div", length, g.floats(2)))
    return g.one("Concat", low, g.one("Add", low, length), axis=2)


def _bounded(g: _Graph, deltas: str) -> str:
    return g.one("Clip", deltas, g.floats(-1e6), g.floats(1e6))


def _clipped(g: _Graph, values: str, limits: str) -> str:
    return g.one("Min", g.one("Max", values, g.floats(0)), limits)


def _verify(proto: onnx.ModelProto, runner: OnnxRunner, out: str) -> None:
    """Run the file beside :meth:`Detector.select`, with a cut at which random pixels have boxes.

    Raises:
        NnfaceError: they select different boxes.
    """
    plan = runner.spec.input
    batches = [runner.batch] if runner.batch else [1, 3]
    sides = [(plan.height, plan.width)] if plan.width and plan.height else [(128, 160), (97, 131)]
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads, session_options.log_severity_level = 1, 4
    for batch, (height, width) in [(batches[-1], sides[0]), (batches[0], sides[-1])]:
        images = example(plan, batch, height, width)
        outputs = runner.run(images)
        flat = np.sort(outputs["scores"].ravel())
        cut = float(flat[max(0, len(flat) - 200 * batch)])
        trial = onnx.ModelProto()
        trial.CopyFrom(proto)
        value = next(tensor for tensor in trial.graph.initializer if tensor.name == _CUT)
        value.CopyFrom(numpy_helper.from_array(np.array([np.nextafter(np.float32(cut), -1)], np.float32), _CUT))
        session = onnxruntime.InferenceSession(
            trial.SerializeToString(), session_options, providers=["CPUExecutionProvider"]
        )
        (found,) = session.run([OUTPUT], {"input": images})
        detector = Detector(runner, min_score=cut)
        place = Letterbox(width, height, width, height, 1.0, 1.0)
        for number in range(batch):
            prepared = Prepared(images[number : number + 1], place, width, height)
            expected = _rows(detector.select({k: v[number] for k, v in outputs.items()}, prepared))
            rows = found[found[:, 0] == number, 1:]
            if not _same(expected, rows):
                raise NnfaceError(
                    f"cannot write {out}: for a picture of {width} x {height} it selects {len(rows)} boxes, which are "
                    f"not the {len(expected)} that nnface selects; please report this"
                )


def _rows(faces: Faces) -> NDArray[np.float32]:
    """(n, 5 or 15): boxes, scores, points."""
    assert faces.scores is not None
    parts = [faces.boxes, faces.scores[:, None]]
    if faces.landmarks is not None:
        parts.append(faces.landmarks.reshape(len(faces), 10))
    return np.concatenate(parts, 1)


def _same(expected: NDArray[np.float32], rows: NDArray[np.float32]) -> bool:
    """Whether nearly every row has its like on the other side."""
    if not len(expected) or not len(rows):
        return len(expected) == len(rows)
    scale = np.maximum(1, np.abs(expected))[:, None]
    alike = (np.abs(expected[:, None] - rows[None]) <= 1e-3 * scale).all(-1)
    return bool(min(alike.any(0).mean(), alike.any(1).mean()) >= _AGREE)
