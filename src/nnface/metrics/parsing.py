"""How well label images agree: F1 and IoU of each part and of its outline, counted over the pixels of the whole set.

Label images are (H, W) of whole numbers, truth first. The counts of pictures add up and figures are taken from the sum,
so that a part weighs in a picture as many pixels as it has there, and a part that a picture lacks harms nothing.

Boundary F1 follows Csurka, Larlus and Perronnin, "What is a good evaluation measure for semantic segmentation?", BMVC
2013, with a fixed tolerance and with counts summed over the set: an outline pixel is one of the part that has another
label above, below, left or right of it (the picture's edge makes no outline), and it is right where the other label
image has an outline pixel of the same part no farther away than the tolerance, by the straight line between centres.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnface.spec import CELEBAMASK_LABELS

Labels = NDArray[np.integer]
Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

RARE = ("hat", "neck_l", "ear_r", "eye_g")
"""Parts that few faces have; the mean over the others is told beside the mean over all."""
TOLERANCE = 3.0
"""How far apart, in pixels of the scored label images (512 in our benchmark), two outlines may be."""


def confusion(truth: Labels, found: Labels, labels: int) -> Counts:
    """Pixels of each true label (row) by the label that was found (column), (labels, labels) int64.

    Args:
        truth: any shape, 0..labels-1.
        found: the same shape.
        labels: how many there are.

    Raises:
        ValueError: another shape, or a value that is no label.
    """
    if truth.shape != found.shape:
        raise ValueError(f"the label images have shapes {truth.shape} and {found.shape}")
    if truth.size and not (min(truth.min(), found.min()) >= 0 and max(truth.max(), found.max()) < labels):
        raise ValueError(f"a label image has values beyond 0 to {labels - 1}")
    pairs = truth.ravel().astype(np.int64) * labels + found.ravel()
    return np.bincount(pairs, minlength=labels * labels).reshape(labels, labels).astype(np.int64)


def outlines(truth: Labels, found: Labels, labels: int, tolerance: float = TOLERANCE) -> Counts:
    """Outline pixels of each label, (labels, 4) int64: found, of those right, true, of those right.

    Args:
        truth: (H, W), 0..labels-1.
        found: the same shape.
        labels: how many there are.
        tolerance: see the module; in pixels.

    Raises:
        ValueError: another shape.
    """
    if truth.shape != found.shape or truth.ndim != 2:
        raise ValueError(f"the label images have shapes {truth.shape} and {found.shape}")
    lines = _outline(truth), _outline(found)
    counts = np.zeros((labels, 4), np.int64)
    for column, (one, other) in zip((2, 0), (lines, lines[::-1]), strict=True):
        y, x = np.nonzero(one >= 0)
        label = one[y, x]
        counts[:, column] = np.bincount(label, minlength=labels)
        counts[:, column + 1] = np.bincount(label[_near(other, y, x, label, tolerance)], minlength=labels)
    return counts


def _outline(image: Labels) -> NDArray[np.int16]:
    """The labels of the outline pixels; -1 elsewhere."""
    edge = np.zeros(image.shape, bool)
    for axis in (0, 1):
        differs = np.diff(image.astype(np.int16), axis=axis) != 0
        first, second = (edge[:-1], edge[1:]) if axis == 0 else (edge[:, :-1], edge[:, 1:])
        first |= differs
        second |= differs
    return np.where(edge, image.astype(np.int16), np.int16(-1))


def _near(
    lines: NDArray[np.int16], y: NDArray[np.intp], x: NDArray[np.intp], label: NDArray[np.int16], tolerance: float
) -> NDArray[np.bool_]:
    """Whether an outline pixel of the same label is within the tolerance of each place, (n,)."""
    reach = int(tolerance)
    padded = np.pad(lines, reach, constant_values=-1)
    near = np.zeros(len(y), bool)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            if dy * dy + dx * dx <= tolerance * tolerance:
                near |= padded[y + reach + dy, x + reach + dx] == label
    return near


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


def scores(counts: NDArray[np.integer], names: Sequence[str] = CELEBAMASK_LABELS) -> Scores:
    """F1 and IoU of each label and their means; labels that occur nowhere are left out of the means.

    Args:
        counts: of :func:`confusion`, summed over the pictures; label 0 is the background.
        names: the labels, which tell the rare ones.
    """
    figures = _figures(_sums(counts), names)
    return Scores(
        f1=figures["f1"],
        iou=figures["iou"],
        mean_f1=float(figures["mean_f1"]),
        frequent_f1=float(figures["frequent_f1"]),
        mean_iou=float(figures["mean_iou"]),
        accuracy=float(figures["accuracy"]),
    )


def boundary_f1(counts: NDArray[np.number]) -> Floats:
    """The F1 of outlines, (..., labels): the harmonic mean of the share of found outline pixels that are right and of
    the share of true ones that are; NaN where a label has no outline in either.

    Args:
        counts: (..., labels, 4), of :func:`outlines`, summed over the pictures.
    """
    found, found_right, true, true_right = np.moveaxis(counts.astype(np.float64), -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = (
            np.where(all_ > 0, right / all_, 0.0) for right, all_ in ((found_right, found), (true_right, true))
        )
        f1 = np.where(precision + recall > 0, 2 * precision * recall / (precision + recall), 0.0)
    return np.where(found + true > 0, f1, np.nan)


def mean_boundary_f1(counts: NDArray[np.number]) -> Floats:
    """The mean of :func:`boundary_f1` over all labels but the background, (...)."""
    return _mean(boundary_f1(counts)[..., 1:])


def bootstrap(
    counts: NDArray[np.integer],
    lines: NDArray[np.integer],
    names: Sequence[str] = CELEBAMASK_LABELS,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Floats]:
    """Figures of sets of as many pictures, drawn with replacement: their spread is that of the figures.

    A label that no picture of a draw has is left out of that draw's means. With one seed and as many pictures, the
    same pictures are drawn, so that the differences of two models' draws are paired.

    Args:
        counts: (n, labels, labels), of :func:`confusion` for each picture.
        lines: (n, labels, 4), of :func:`outlines`.
        names: the labels.
        draws: how many sets.
        seed: of the drawing.

    Returns:
        ``mean_f1``, ``frequent_f1``, ``mean_iou``, ``accuracy`` and ``boundary_f1``, (draws,) each; ``f1``, ``iou``
        and ``label_boundary_f1``, (draws, labels).
    """
    pictures = len(counts)
    weights = np.random.default_rng(seed).multinomial(pictures, np.full(pictures, 1 / pictures), draws)

    def drawn(values: NDArray[np.integer]) -> Floats:
        flat = values.reshape(pictures, -1).astype(np.float64)
        return (weights.astype(np.float64) @ flat).reshape(draws, *values.shape[1:])

    figures = _figures(drawn(_sums(counts)), names)
    outline = drawn(lines)
    return figures | {
        "boundary_f1": mean_boundary_f1(outline),
        "label_boundary_f1": boundary_f1(outline),
    }


def interval(samples: Floats) -> tuple[float, float]:
    """The 95 % interval of bootstrap samples, (draws,); those that are NaN tell nothing and are left out."""
    known = samples[~np.isnan(samples)]
    if not known.size:
        return float("nan"), float("nan")
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def _sums(counts: NDArray[np.integer]) -> Counts:
    """Right, true and found pixels of each label, (..., labels, 3)."""
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    return np.stack([right, counts.sum(-1), counts.sum(-2)], -1).astype(np.int64)


def _figures(sums: NDArray[np.number], names: Sequence[str]) -> dict[str, Floats]:
    right, true, found = np.moveaxis(sums.astype(np.float64), -1, 0)
    both, total = true + found, true.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = np.where(both > 0, 2 * right / both, np.nan)
        iou = np.where(both > 0, right / (both - right), np.nan)
        accuracy = np.where(total > 0, right.sum(-1) / total, np.nan)
    frequent = [number for number, name in enumerate(names) if number and name not in RARE]
    return {
        "f1": f1,
        "iou": iou,
        "mean_f1": _mean(f1[..., 1:]),
        "frequent_f1": _mean(f1[..., frequent]),
        "mean_iou": _mean(iou),
        "accuracy": accuracy,
    }


def _mean(values: Floats) -> Floats:
    """Over the last axis, without NaN; NaN where there is nothing else."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(known, values, 0).sum(-1) / known.sum(-1), np.float64)
