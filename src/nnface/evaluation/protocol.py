"""At which sizes a detector sees a picture when it is measured: the protocol, whose name stands beside each figure.

Figures of different protocols cannot be compared: one and the same RetinaFace MobileNet-0.25 reaches 47.3, 73.8 and
81.0 on hard at ``vga``, ``original`` and ``1600``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from nnface.errors import UsageError
from nnface.geometry.boxes import iou
from nnface.image import Pixels
from nnface.metrics.wider import Prediction
from nnface.predict.detector import Detector
from nnface.results import Faces
from nnface.runtime import Runner

MIN_SCORE = 0.02
"""Everything from here on is kept, for the low end of the precision-recall curve."""
MULTISCALE = (480, 640, 960, 1280, 1920)
"""Long sides of ``multiscale``; each is seen as it is and mirrored."""
KEEP = 750


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a picture is brought to size."""

    name: str
    """As it is printed beside a figure."""
    size: int | Literal["original"]
    """The size that the detector is opened with."""
    factors: Callable[[int, int], Sequence[float]] | None = None
    """Width and height of a picture to the factors that it is enlarged by before the detector sees it at its original
    size; None: the detector brings it to ``size`` itself."""
    flip: bool = False
    """Each of them mirrored too."""


def parse_protocol(text: str) -> Protocol:
    """``vga``, ``original``, ``1600``, ``multiscale``, or a number N of pixels for the long side.

    Raises:
        UsageError: anything else.
    """
    if text == "vga":
        return Protocol("vga (long side 640)", 640)
    if text == "original":
        return Protocol("original size", "original")
    if text == "1600":
        return Protocol("1600 (short side 1600, long at most 2150)", "original", lambda w, h: [factor_1600(w, h)])
    if text == "multiscale":
        sides = ", ".join(map(str, MULTISCALE))
        name = f"multi-scale with flip (long sides {sides}; box voting)"
        return Protocol(name, "original", lambda w, h: [side / max(w, h) for side in MULTISCALE], flip=True)
    if text.isdecimal() and 16 <= int(text) <= 8192:
        return Protocol(f"long side {int(text)}", int(text))
    raise UsageError(
        f"no protocol {text!r}: choose vga, original, 1600, multiscale, or a long side of 16 to 8192 pixels"
    )


def factor_1600(width: int, height: int) -> float:
    """The factor that brings the short side to 1600, but the long one to at most 2150."""
    factor = 1600 / min(width, height)
    return 2150 / max(width, height) if round(factor * max(width, height)) > 2150 else factor


class Measured:
    """A detector under a protocol: pictures in, predictions out, from a score of 0.02 on.

    A network of fixed input shape sees pictures at its own size whatever the protocol, and ``name`` says so.
    """

    def __init__(
        self, model: "str | Runner", protocol: Protocol, device: str = "cpu", threads: int | None = None
    ) -> None:
        """Open the model; see :class:`nnface.predict.Detector` for the arguments and errors."""
        detector = Detector(model, device=device, threads=threads, min_score=MIN_SCORE)
        given = detector.spec.input
        self.spec = detector.spec
        if given.width is not None:
            protocol = Protocol(f"fixed {given.width}x{given.height}", given.size)
        else:
            detector = Detector(detector.runner, size=protocol.size, min_score=MIN_SCORE)
        self.detector = detector
        self.protocol = protocol
        self.name = protocol.name
        self.device = detector.runner.device

    def __call__(self, images: Sequence[Pixels]) -> list[Prediction]:
        """Predictions for each upright BGR picture, at most 750, by falling score."""
        if self.protocol.factors is None:
            return [_prediction(faces) for faces in self.detector.batch(images)]
        return [self._at_scales(image, self.protocol.factors) for image in images]

    def _at_scales(self, image: Pixels, factors: Callable[[int, int], Sequence[float]]) -> Prediction:
        height, width = image.shape[:2]
        all_boxes, all_scores = [], []
        for factor in factors(width, height):
            size = max(1, round(width * factor)), max(1, round(height * factor))
            resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
            scale = np.array([width / size[0], height / size[1]] * 2)
            for mirrored in (False, True) if self.protocol.flip else (False,):
                seen = np.ascontiguousarray(resized[:, ::-1]) if mirrored else resized
                boxes, scores = _prediction(self.detector(seen))
                if mirrored:
                    boxes = np.stack([size[0] - boxes[:, 2], boxes[:, 1], size[0] - boxes[:, 0], boxes[:, 3]], 1)
                all_boxes.append(boxes * scale)
                all_scores.append(scores)
        if len(all_boxes) == 1:
            return all_boxes[0], all_scores[0]
        detection = self.spec.detection
        return vote(np.concatenate(all_boxes), np.concatenate(all_scores), detection.nms_iou if detection else 0.4)


def vote(boxes: np.ndarray, scores: np.ndarray, overlap: float, keep: int = KEEP) -> Prediction:
    """Box voting (Gidaris and Komodakis, ICCV 2015): overlapping boxes become their mean, weighted by the scores.

    Args:
        boxes: (n, 4) of several passes over one picture.
        scores: (n,).
        overlap: IoU from which boxes are one face; the best box gathers first, and the face has its score.
        keep: the most faces that come back.

    Returns:
        boxes (m, 4) and scores (m,), by falling score.
    """
    order = np.argsort(-scores, kind="stable")
    boxes, scores = boxes[order].astype(np.float64), scores[order].astype(np.float64)
    merged: list[np.ndarray] = []
    best: list[float] = []
    while len(boxes) and len(merged) < keep:
        same = iou(boxes[:1].astype(np.float32), boxes.astype(np.float32))[0] >= overlap
        same[0] = True
        weights = scores[same]
        merged.append((boxes[same] * weights[:, None]).sum(0) / max(weights.sum(), 1e-12))
        best.append(float(scores[0]))
        boxes, scores = boxes[~same], scores[~same]
    return np.array(merged).reshape(-1, 4), np.array(best)


def _prediction(faces: Faces) -> Prediction:
    assert faces.scores is not None  # a detector always scores
    return faces.boxes.astype(np.float64), faces.scores.astype(np.float64)
