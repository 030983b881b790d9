"""Accuracy by group: how well answers fit labels, for whom they fail, and how far they are to be trusted.

Arrays in, numbers out. Labels and answers are numbers of labels, (n,) int; a label of -1 is none and counts nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer]
Floats = NDArray[np.floating]
Z = 1.959963984540054
"""Two-sided 95 % of the normal distribution."""


@dataclass(frozen=True, slots=True)
class Share:
    """Hits among tries."""

    hits: int
    count: int

    @property
    def value(self) -> float:
        """0..1, NaN without tries."""
        return self.hits / self.count if self.count else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of Wilson (1927), which keeps to 0..1 and holds for small counts; NaN without tries."""
        return wilson(self.hits, self.count)


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share."""
    if count == 0:
        return float("nan"), float("nan")
    share = hits / count
    centre = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * float(np.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2)))
    return max(0.0, centre - half), min(1.0, centre + half)


def accuracy(labels: Ints, answers: Ints) -> Share:
    """Exact agreement."""
    there = labels >= 0
    return Share(int((labels == answers)[there].sum()), int(there.sum()))


def within(labels: Ints, answers: Ints, bins: int) -> Share:
    """Agreement to so many labels up or down, for labels that are ordered."""
    there = labels >= 0
    return Share(int((abs(labels - answers) <= bins)[there].sum()), int(there.sum()))


def mean_error(labels: Ints, answers: Ints) -> float:
    """Mean absolute difference in labels, for labels that are ordered."""
    there = labels >= 0
    return float(abs(labels - answers)[there].mean()) if there.any() else float("nan")


def confusion(labels: Ints, answers: Ints, count: int) -> NDArray[np.int64]:
    """(count, count): row is the label, column the answer."""
    there = labels >= 0
    table = np.zeros((count, count), np.int64)
    np.add.at(table, (labels[there], answers[there]), 1)
    return table


def balanced_accuracy(table: NDArray[np.int64]) -> float:
    """The mean recall of the labels that occur, from :func:`confusion`."""
    rows = table.sum(1)
    there = rows > 0
    return float((np.diag(table)[there] / rows[there]).mean()) if there.any() else float("nan")


def by_group(labels: Ints, answers: Ints, groups: Ints, count: int) -> list[Share]:
    """Accuracy for each of ``count`` groups; ``groups`` (n,) with -1 for none."""
    return [accuracy(labels[groups == g], answers[groups == g]) for g in range(count)]


def cells(labels: Ints, answers: Ints, axes: Sequence[tuple[Ints, int]]) -> dict[tuple[int, ...], Share]:
    """Accuracy for each combination of groups, such as race x gender x age; each axis is (groups, how many)."""
    result = {}
    for place in product(*(range(count) for _, count in axes)):
        chosen = np.ones(len(labels), bool)
        for (groups, _), number in zip(axes, place, strict=True):
            chosen &= groups == number
        result[place] = accuracy(labels[chosen], answers[chosen])
    return result


@dataclass(frozen=True, slots=True)
class Gap:
    """Between the group that fares best and the one that fares worst."""

    best: int
    worst: int
    value: float
    interval: tuple[float, float]
    """95 %, bootstrap over faces within each group; the same two groups in each draw."""


def gap(shares: Sequence[Share], least: int = 20, draws: int = 2000, seed: int = 0) -> Gap | None:
    """The gap between the best and the worst of the groups with at least ``least`` faces; None for fewer than two."""
    known = [g for g, share in enumerate(shares) if share.count >= least]
    if len(known) < 2:
        return None
    best = max(known, key=lambda g: shares[g].value)
    worst = min(known, key=lambda g: shares[g].value)
    rng = np.random.default_rng(seed)
    high, low = (rng.binomial(shares[g].count, shares[g].value, draws) / shares[g].count for g in (best, worst))
    bounds = np.percentile(high - low, [2.5, 97.5])
    return Gap(best, worst, shares[best].value - shares[worst].value, (float(bounds[0]), float(bounds[1])))


def calibration(confidence: Floats, right: NDArray[np.bool_], bins: int = 15) -> tuple[float, Floats]:
    """The expected calibration error (Guo et al., ICML 2017) over bins of equal width, and what it is made of.

    Returns:
        the error 0..1, and (bins, 3): mean confidence, accuracy and count of each bin, NaN where it is empty.
    """
    place = np.clip((confidence * bins).astype(int), 0, bins - 1)
    rows = np.full((bins, 3), np.nan)
    error = 0.0
    for number in range(bins):
        inside = place == number
        count = int(inside.sum())
        rows[number, 2] = count
        if count:
            rows[number, :2] = confidence[inside].mean(), right[inside].mean()
            error += count / len(confidence) * abs(rows[number, 0] - rows[number, 1])
    return float(error), rows


def selective(confidence: Floats, right: NDArray[np.bool_], least: float) -> tuple[float, Share]:
    """What happens where answers below a confidence are held back: the share held back, accuracy of the others."""
    kept = confidence >= least
    held = float(1 - kept.mean()) if len(kept) else float("nan")
    return held, Share(int(right[kept].sum()), int(kept.sum()))


def paired(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> tuple[float, tuple[float, float]]:
    """By how much one answerer is better than another on the same faces, with a 95 % interval.

    The interval is the normal one of the mean difference, which McNemar's table gives: only faces on which the two
    differ count.
    """
    count = len(first)
    if count == 0:
        return float("nan"), (float("nan"), float("nan"))
    difference = first.astype(float) - second.astype(float)
    mean = float(difference.mean())
    half = Z * float(difference.std()) / float(np.sqrt(count))
    return mean, (mean - half, mean + half)


def fit_temperature(logits: Floats, labels: Ints) -> float:
    """The temperature that makes softmax(logits / T) most likely for the labels (Guo et al., ICML 2017).

    The likelihood has one maximum in 1/T; it is narrowed down by golden sections from 0.05 to 20.
    """
    there = labels >= 0
    logits, labels = np.asarray(logits, np.float64)[there], labels[there]

    def loss(inverse: float) -> float:
        scaled = logits * inverse
        top = scaled.max(1, keepdims=True)
        return float((np.log(np.exp(scaled - top).sum(1)) + top[:, 0] - scaled[np.arange(len(labels)), labels]).mean())

    low, high = np.log(0.05), np.log(20.0)
    ratio = (np.sqrt(5) - 1) / 2
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(float(np.exp(left))) < loss(float(np.exp(right))):
            high = right
        else:
            low = left
    return float(np.exp(-(low + high) / 2))


def fit_confidence(confidence: Floats, right: NDArray[np.bool_], wanted: float) -> float:
    """The least confidence at which the answers from it on are right in the ``wanted`` share; 1 where none is."""
    order = np.argsort(-confidence, kind="stable")
    falling = confidence[order]
    shares = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    # Answers of one confidence go together: only the last of them may be the end.
    last = np.diff(falling, append=-1.0) < 0
    good = np.flatnonzero((shares >= wanted) & last)
    return float(falling[good[-1]]) if len(good) else 1.0
