"""The score from which on a detector's boxes are worth reporting: the lowest at which enough of them are faces."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnface.metrics import wider

PRECISION = 0.975
"""So many of the reported boxes shall be faces: 39 of 40."""
SCORES = np.arange(0.15, 0.85, 0.01)
"""What is tried, from the lowest on."""
FEWEST = 100
"""Faces that it takes to tell 39 of 40 from chance."""
SETTING = "medium"
"""Faces higher than 30 pixels: people leave tiny ones unlabelled, and such a box is no mistake."""
SMALLEST = 24.0
"""Boxes up to this height, in pixels, do not count: they may be of faces that are not in the setting."""


class OperatingPoint(NamedTuple):
    """A score, and what a detector that reports from there on does."""

    score: float
    """0..1, to two digits."""
    precision: float
    """The share of the boxes that are faces."""
    recall: float
    """The share of the faces that are found."""


def operating_point(
    predictions: Mapping[str, wider.Prediction], truth: wider.Truth, precision: float = PRECISION
) -> OperatingPoint | None:
    """The lowest score at which ``precision`` of the boxes are faces (overlap 0.5, faces higher than 30 pixels).

    Args:
        predictions: key of a picture to boxes (n, 4) x1 y1 x2 y2 in pixels and scores (n,), by falling score, down
            to 0.15 or lower.
        truth: the faces of the same pictures, by height (:func:`nnface.metrics.wider.by_height`).
        precision: 0..1.

    Returns:
        None where there are fewer than 100 faces, or where no score up to 0.84 is enough.
    """
    if sum(int(flags.sum()) for flags in truth.counted[SETTING].values()) < FEWEST:
        return None
    for score in SCORES:
        point = at_score(predictions, truth, float(score))
        if point.precision >= precision:
            return point
    return None


def at_score(predictions: Mapping[str, wider.Prediction], truth: wider.Truth, score: float) -> OperatingPoint:
    """What a detector does that reports boxes from ``score`` on, as :func:`operating_point` counts.

    The precision is NaN where nothing is reported, the recall where there is no face.
    """
    keys, flags = list(truth.boxes), list(truth.counted[SETTING].values())
    cut = [_tall(*predictions[key], score) for key in keys]
    curve = wider.curve(wider.match(cut, [truth.boxes[key] for key in keys]), flags)
    found = int(curve.found[-1])
    # The rules of WIDER FACE leave out what is found in a picture without faces; here it is as wrong as anywhere.
    strays = sum(len(scores) for key, (_, scores) in zip(keys, cut, strict=True) if not len(truth.boxes[key]))
    counted = int(curve.counted[-1]) + strays
    return OperatingPoint(round(score, 2), _share(found, counted), _share(found, curve.faces))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _tall(boxes: NDArray[np.floating], scores: NDArray[np.floating], least: float) -> wider.Prediction:
    keep = (scores >= least) & (boxes[:, 3] - boxes[:, 1] > SMALLEST)
    return boxes[keep], scores[keep]
