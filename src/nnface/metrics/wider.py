"""Average precision by the rules of the WIDER FACE evaluation (Yang et al., CVPR 2016).

The rules are those of the evaluator in wide use (wondervictor/WiderFace-Evaluation, as in biubug6/Pytorch_Retinaface),
and the numbers equal its own:

* IoU counts both border pixels (``+1``); a prediction belongs to the face that it overlaps most, if by ``iou``.
* Scores are stretched over the whole set of predictions to 0..1 and cut at 1,000 thresholds, ``1 - (t + 1) / 1000``.
* At a threshold, a picture's list is cut after the *last* prediction that reaches it: lists should be sorted.
* A prediction on a face that does not count in a setting counts neither for nor against; a second one on a face that
  was found is a false positive.
* A picture without any face or without predictions adds no false positives, but its faces count as missed.
* Average precision is the area under the precision envelope.

Boxes are ``x1 y1 x2 y2`` in pixels with ``x2 = x1 + width``; the arrays may be of any float type, and are computed in
float64. Nothing here sorts or rounds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Scalar = TypeVar("Scalar", bound=np.generic)
Prediction = tuple[NDArray[np.floating], NDArray[np.floating]]
"""A picture's predictions: boxes (n, 4) and scores (n,), by falling score."""

THRESHOLDS = 1000
HEIGHTS = {"easy": 50.0, "medium": 30.0, "hard": 10.0}
"""The settings' heights in pixels: a setting's faces are higher than this (to some 98 % of WIDER's own lists)."""
BUCKETS = (0.0, 16.0, 32.0, 64.0, 128.0, float("inf"))
"""Bounds of the face heights, in pixels of the original picture, that average precision is broken down by."""


@dataclass(frozen=True, slots=True)
class Truth:
    """The faces of a set of pictures, and which of them each setting counts."""

    boxes: Mapping[str, Floats]
    """Key of a picture to its faces, (m, 4) x1 y1 x2 y2; the order of the keys is the set's."""
    counted: Mapping[str, Mapping[str, Flags]]
    """Name of a setting to key to (m,) bool."""

    def subset(self, keys: Sequence[str]) -> "Truth":
        """The same for some of the pictures, in the order of ``keys``; KeyError for one that is not there."""
        counted = {name: {key: flags[key] for key in keys} for name, flags in self.counted.items()}
        return Truth({key: self.boxes[key] for key in keys}, counted)


@dataclass(frozen=True, slots=True)
class Curve:
    """What was counted at each of the 1,000 thresholds, from the highest to the lowest."""

    counted: Ints
    """(1000,) predictions that count, right or wrong."""
    found: Ints
    """(1000,) faces found."""
    faces: int
    """Faces that count."""

    @property
    def precision(self) -> Floats:
        """(1000,): faces found by predictions that count; 0 where there are none."""
        return self.found / np.maximum(self.counted, 1)

    @property
    def recall(self) -> Floats:
        """(1000,): faces found by faces that count; NaN where none counts."""
        return self.found / self.faces if self.faces else np.full(len(self.found), np.nan)

    @property
    def average_precision(self) -> float:
        """0..1; NaN where no face counts."""
        return float(_area(self.counted, self.found, np.array(self.faces)))


@dataclass(frozen=True, slots=True)
class Matches:
    """Predictions of a set of pictures, one after the other, and the faces that they belong to.

    Made once by :func:`match`, and enough for every setting.
    """

    picture: Ints
    """(n,) number of the picture."""
    threshold: Ints
    """(n,) the first threshold, 0..999, that keeps the prediction; 1000 for one below all."""
    face: Ints
    """(n,) number of the face over the whole set, or -1."""
    first: Flags
    """(n,) whether it is the first prediction of its picture on that face."""
    height: Floats
    """(n,) of the predicted box, in pixels."""
    face_picture: Ints
    """(m,) number of the picture of each face."""
    pictures: int


def match(predictions: Sequence[Prediction], truths: Sequence[NDArray[np.floating]], iou: float = 0.5) -> Matches:
    """Match the predictions of each picture to its faces.

    Args:
        predictions: for each picture boxes (n, 4) and scores (n,), in the order in which the list is to be cut.
        truths: for each picture all its faces (m, 4), those too that a setting does not count.
        iou: the least overlap, 0..1.
    """
    if len(predictions) != len(truths):
        raise ValueError(f"{len(predictions)} pictures predicted, {len(truths)} with truth")
    scores = [np.asarray(score, np.float64) for _, score in predictions]
    flat = np.concatenate([*scores, np.zeros(0)])
    low, high = min(1.0, flat.min(initial=1.0)), max(0.0, flat.max(initial=0.0))
    sizes = np.array([len(truth) for truth in truths], np.int64)
    starts = np.cumsum(sizes) - sizes
    pictures, reached, faces, heights = [], [], [], []
    for number, ((boxes, _), score, truth) in enumerate(zip(predictions, scores, truths, strict=True)):
        if not len(score) or not len(truth):
            continue
        box = np.asarray(boxes, np.float64)
        overlap = _iou(box, np.asarray(truth, np.float64))
        best = overlap.argmax(1)
        faces.append(np.where(overlap[np.arange(len(box)), best] >= iou, best + starts[number], -1))
        # All equal scores would divide by zero: they are kept from the first threshold on.
        stretched = (score - low) / (high - low) if high > low else np.ones_like(score)
        # The last prediction that reaches a threshold cuts the list, so each lasts as long as the best behind it.
        reached.append(np.maximum.accumulate(stretched[::-1])[::-1])
        heights.append(box[:, 3] - box[:, 1])
        pictures.append(np.full(len(box), number))
    face = _join(faces, np.int64)
    first = np.zeros(len(face), bool)
    hit = np.flatnonzero(face >= 0)
    first[hit[np.unique(face[hit], return_index=True)[1]]] = True
    thresholds = 1 - np.arange(1, THRESHOLDS + 1) / THRESHOLDS
    kept = np.searchsorted(thresholds[::-1], _join(reached, np.float64), side="right")
    return Matches(
        picture=_join(pictures, np.int64),
        threshold=THRESHOLDS - kept.astype(np.int64),
        face=face,
        first=first,
        height=_join(heights, np.float64),
        face_picture=np.repeat(np.arange(len(truths)), sizes),
        pictures=len(truths),
    )


def curve(matches: Matches, counted: Sequence[Flags], heights: tuple[float, float] | None = None) -> Curve:
    """Count predictions and faces at each threshold.

    Args:
        matches: of :func:`match`.
        counted: for each picture (m,) bool: the faces that count.
        heights: lower (included) and upper bound in pixels; a prediction outside them that belongs to no face does
            not count (as in COCO's evaluation by size). None: every such prediction is a false positive, the rule of
            WIDER FACE.
    """
    flags = _join(counted, np.bool_)
    counts, found = _counts(matches, flags, heights)
    totals = [np.bincount(matches.threshold[which], minlength=THRESHOLDS + 1) for which in (counts, found)]
    right = [np.cumsum(total[:THRESHOLDS]) for total in totals]
    return Curve(counted=right[0], found=right[1], faces=int(flags.sum()))


def average_precision(
    predictions: Sequence[Prediction],
    truths: Sequence[NDArray[np.floating]],
    counted: Sequence[Flags],
    iou: float = 0.5,
) -> float:
    """Average precision over pictures, 0..1; NaN where no face counts.

    Args:
        predictions: for each picture boxes (n, 4) and scores (n,), sorted by falling score.
        truths: for each picture all its faces, (m, 4).
        counted: for each picture (m,) bool: the faces that count; the others count neither way.
        iou: the least overlap of a hit.
    """
    return curve(match(predictions, truths, iou), counted).average_precision


def score(predictions: Mapping[str, Prediction], truth: Truth, iou: float = 0.5) -> dict[str, Curve]:
    """The curve of every setting of ``truth``; each picture of it must have its predictions (KeyError)."""
    keys = list(truth.boxes)
    matches = match([predictions[key] for key in keys], [truth.boxes[key] for key in keys], iou)
    return {name: curve(matches, [flags[key] for key in keys]) for name, flags in truth.counted.items()}


def by_height(boxes: Mapping[str, ArrayLike], invalid: Mapping[str, ArrayLike] | None = None) -> Truth:
    """A truth for pictures without WIDER's own lists, its settings made by the face's height (:data:`HEIGHTS`).

    Args:
        boxes: key to faces (m, 4).
        invalid: key to (m,) bool: faces that no setting counts.
    """
    arrays = {key: np.asarray(box, np.float64).reshape(-1, 4) for key, box in boxes.items()}
    bad = {key: np.asarray((invalid or {}).get(key, np.zeros(len(box))), bool) for key, box in arrays.items()}
    counted = {
        name: {key: (box[:, 3] - box[:, 1] > height) & ~bad[key] for key, box in arrays.items()}
        for name, height in HEIGHTS.items()
    }
    return Truth(arrays, counted)


def ranges(bounds: Sequence[float] = BUCKETS) -> list[tuple[float, float]]:
    """The ranges of face heights between ``bounds``, the lower one included."""
    return list(pairwise(bounds))


def in_range(truth: Truth, setting: str, heights: tuple[float, float]) -> list[Flags]:
    """For each picture (m,) bool: the faces of ``setting`` whose height is in the range, for :func:`curve`."""
    inside = []
    for key, flags in truth.counted[setting].items():
        height = truth.boxes[key][:, 3] - truth.boxes[key][:, 1]
        inside.append(flags & (height >= heights[0]) & (height < heights[1]))
    return inside


def bootstrap(
    matches: Matches,
    counted: Sequence[Flags],
    heights: tuple[float, float] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Floats:
    """Average precision of ``draws`` sets of pictures, each drawn from the set with replacement: (draws,).

    The same seed draws the same pictures, so the difference of two detectors' results over one list of pictures is
    paired. The stretch of the scores stays that of the whole set. Takes 16 kB a picture.
    """
    flags = _join(counted, np.bool_)
    tables = []
    for which in _counts(matches, flags, heights):
        cell = matches.picture[which] * (THRESHOLDS + 1) + matches.threshold[which]
        table = np.bincount(cell, minlength=matches.pictures * (THRESHOLDS + 1))
        tables.append(np.cumsum(table.reshape(matches.pictures, THRESHOLDS + 1)[:, :THRESHOLDS], 1).astype(np.float64))
    faces = np.bincount(matches.face_picture[flags], minlength=matches.pictures).astype(np.float64)
    share = np.full(matches.pictures, 1 / matches.pictures)
    drawn = np.random.default_rng(seed).multinomial(matches.pictures, share, size=draws).astype(np.float64)
    return _area(drawn @ tables[0], drawn @ tables[1], drawn @ faces)


def interval(samples: Floats, level: float = 0.95) -> tuple[float, float]:
    """The middle ``level`` of bootstrap samples; NaN samples (no face drawn) are left out."""
    samples = samples[~np.isnan(samples)]
    if not len(samples):
        return float("nan"), float("nan")
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _counts(matches: Matches, flags: Flags, heights: tuple[float, float] | None) -> tuple[Flags, Flags]:
    """Which predictions count, and which find a face."""
    on_face = matches.face >= 0
    wanted = np.zeros(len(on_face), bool)
    wanted[on_face] = flags[matches.face[on_face]]
    stray = ~on_face
    if heights is not None:
        stray &= (matches.height >= heights[0]) & (matches.height < heights[1])
    return wanted | stray, wanted & matches.first


def _area(counted: NDArray[np.number], found: NDArray[np.number], faces: NDArray[np.number]) -> Floats:
    """The area under the precision envelope, over the last axis; NaN where there are no faces."""
    precision = found / np.maximum(counted, 1)
    envelope = np.maximum.accumulate(precision[..., ::-1], -1)[..., ::-1]
    steps = np.diff(found, axis=-1, prepend=0)
    with np.errstate(invalid="ignore"):
        area: Floats = np.sum(steps * envelope, -1) / faces
    return area


def _iou(boxes: Floats, faces: Floats) -> Floats:
    """(n, m) overlap by union, widths and heights counted with both border pixels."""
    width = np.minimum(boxes[:, None, 2], faces[:, 2]) - np.maximum(boxes[:, None, 0], faces[:, 0]) + 1
    height = np.minimum(boxes[:, None, 3], faces[:, 3]) - np.maximum(boxes[:, None, 1], faces[:, 1]) + 1
    both = np.maximum(width, 0) * np.maximum(height, 0)
    box_area = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    face_area = (faces[:, 2] - faces[:, 0] + 1) * (faces[:, 3] - faces[:, 1] + 1)
    overlap: Floats = both / (box_area[:, None] + face_area - both)
    return overlap


def _join(parts: Sequence[NDArray[Any]], dtype: type[Scalar]) -> NDArray[Scalar]:
    return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype)
