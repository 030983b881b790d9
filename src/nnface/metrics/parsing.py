"""How well label images agree: F1 and IoU of each part, counted over the pixels of the whole set.

Label images are (H, W) of whole numbers, truth first. Counts of pictures add up; scores are taken from the sum, so that
a part of few pixels in a picture weighs no more than its pixels, and a part that a picture lacks harms nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnface.spec import CELEBAMASK_LABELS

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

RARE = ("hat", "neck_l", "ear_r", "eye_g")
"""Parts that few faces have; the mean over the others is told beside the mean over all."""


def confusion(truth: NDArray[np.integer], found: NDArray[np.integer], labels: int) -> Counts:
    """Pixels of each true label (row) by the label that was found (column), (labels, labels) int64.

    Args:
        truth: any shape, 0..labels-1.
        found: the same shape.
        labels: how many there are.
    """
    if truth.shape != found.shape:
        raise ValueError(f"shapes differ: {truth.shape} and {found.shape}")
    pairs = truth.ravel().astype(np.int64) * labels + found.ravel()
    return np.bincount(pairs, minlength=labels * labels).reshape(labels, labels).astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The figures of one confusion matrix; every field 0..1, NaN where nothing is to be told."""

    f1: Floats
    """(labels,): of each label, background too; NaN where it is neither true nor found anywhere."""
    iou: Floats
    """(labels,)."""
    mean_f1: float
    """Over all labels but the background."""
    frequent_f1: float
    """Over those without hat, necklace, earring and eyeglasses."""
    mean_iou: float
    """Over all labels, the background too, as segmentation benchmarks have it."""
    accuracy: float
    """The share of pixels that are right."""


def scores(counts: Counts, names: Sequence[str] = CELEBAMASK_LABELS) -> Scores:
    """F1 and IoU of each label and their means; labels that occur nowhere are left out of the means.

    Args:
        counts: of :func:`confusion`, summed over the pictures; label 0 is the background.
        names: the labels, which tell the rare ones.
    """
    f1, iou = f1_iou(counts)
    frequent = [n for n, name in enumerate(names) if n and name not in RARE]
    total = int(counts.sum())
    return Scores(
        f1=f1,
        iou=iou,
        mean_f1=_mean(f1[1:]),
        frequent_f1=_mean(f1[frequent]),
        mean_iou=_mean(iou),
        accuracy=float(np.trace(counts) / total) if total else float("nan"),
    )


def f1_iou(counts: NDArray[np.integer]) -> tuple[Floats, Floats]:
    """F1 and IoU of each label, (..., labels); NaN where a label is neither true nor found.

    Args:
        counts: (..., labels, labels).
    """
    right = np.diagonal(counts, axis1=-2, axis2=-1).astype(np.float64)
    both = counts.sum(-1).astype(np.float64) + counts.sum(-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(both > 0, 2 * right / both, np.nan), np.where(both > 0, right / (both - right), np.nan)


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
