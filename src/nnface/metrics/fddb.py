"""The discrete ROC of FDDB (Jain and Learned-Miller, 2010): ellipses against boxes.

At every score, each picture's detections from that score on are matched one to one to its faces, so that the sum of
the overlaps is largest; a pair with an IoU over 0.5 is a true positive, every other detection a false one. Overlap is
that of areas on the picture's pixels, the ellipse filled.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnface.errors import DependencyError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Roc:
    """The curve, from the highest score to the lowest."""

    scores: Floats
    """(k,) falling: from this score on."""
    false_positives: NDArray[np.int64]
    """(k,) over the whole set."""
    true_positives: NDArray[np.int64]
    faces: int

    @property
    def rate(self) -> Floats:
        """(k,): faces found, 0..1."""
        return self.true_positives / max(self.faces, 1)

    def rate_at(self, false_positives: int) -> float:
        """The best rate with at most so many false positives, 0..1."""
        within = self.rate[self.false_positives <= false_positives]
        return float(within.max(initial=0.0))


def discrete_roc(
    predictions: Sequence[tuple[NDArray[np.floating], NDArray[np.floating]]],
    truths: Sequence[Floats],
    overlap: float = 0.5,
) -> Roc:
    """The discrete ROC over pictures.

    Args:
        predictions: for each picture boxes (n, 4) x1 y1 x2 y2 and scores (n,), in any order.
        truths: for each picture ellipses (m, 5): major radius, minor radius, angle in radians, centre x, centre y.
        overlap: a pair of at most this IoU is no match.

    Raises:
        DependencyError: scipy is not installed.
    """
    changes: list[tuple[float, int, int]] = []  # score, change of true positives, change of false positives
    for (boxes, scores), ellipses in zip(predictions, truths, strict=True):
        order = np.argsort(-scores, kind="stable")
        overlaps = ellipse_iou(np.asarray(boxes, np.float64)[order], ellipses)
        ranked = np.asarray(scores, np.float64)[order]
        before = (0, 0)
        for end in range(1, len(ranked) + 1):
            if end < len(ranked) and ranked[end] == ranked[end - 1]:
                continue  # equal scores come in together
            right = _matched(overlaps[:end], overlap)
            changes.append((float(ranked[end - 1]), right - before[0], end - right - before[1]))
            before = right, end - right
    scores = np.array([change[0] for change in changes])
    levels, place = np.unique(-scores, return_inverse=True)
    totals = [
        np.cumsum(np.bincount(place, weights=[c[k] for c in changes], minlength=len(levels))).round().astype(np.int64)
        for k in (1, 2)
    ]
    return Roc(-levels, totals[1], totals[0], sum(len(ellipses) for ellipses in truths))


def ellipse_iou(boxes: Floats, ellipses: Floats, grid: int = 128) -> Floats:
    """(n, m) overlap of boxes with filled ellipses, each ellipse sampled at ``grid`` x ``grid`` points of its frame."""
    overlaps = np.zeros((len(boxes), len(ellipses)))
    steps = (np.arange(grid) + 0.5) / grid * 2 - 1
    along, across = (axis.ravel() for axis in np.meshgrid(steps, steps))
    inside = along**2 + across**2 <= 1
    along, across = along[inside], across[inside]
    box_area = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), 1)
    for number, (major, minor, angle, x, y) in enumerate(ellipses):
        cosine, sine = np.cos(angle), np.sin(angle)
        points_x = x + along * major * cosine - across * minor * sine
        points_y = y + along * major * sine + across * minor * cosine
        area = np.pi * major * minor
        for box_number, (x1, y1, x2, y2) in enumerate(boxes):
            if x2 <= x - major or x1 >= x + major or y2 <= y - major or y1 >= y + major:
                continue
            share = ((points_x >= x1) & (points_x < x2) & (points_y >= y1) & (points_y < y2)).mean()
            both = share * area
            overlaps[box_number, number] = both / (box_area[box_number] + area - both)
    return overlaps


def _matched(overlaps: Floats, least: float) -> int:
    """True positives of the one-to-one matching with the largest sum of overlaps."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise DependencyError("FDDB's matching needs scipy: pip install 'nnface[eval]'") from error
    rows, columns = linear_sum_assignment(overlaps, maximize=True)
    return int((overlaps[rows, columns] > least).sum())
