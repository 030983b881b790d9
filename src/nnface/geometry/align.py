"""Face chips: where five landmarks, or a box, come to lie in a small square picture (numpy)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Transform = NDArray[np.float64]
"""(2, 3): a point (x, y) goes to T[:, :2] @ (x, y) + T[:, 2]."""


def similarity(source: NDArray[np.floating], target: NDArray[np.floating]) -> Transform | None:
    """The turn, scale and shift that brings points closest to others in the least-squares sense; no mirroring.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns", PAMI 1991; in the
    plane it is a linear problem in complex numbers.

    Args:
        source: (n, 2).
        target: (n, 2).

    Returns:
        the transform, or None where the points do not determine it (all in one place, or not numbers).
    """
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        return None
    a = np.asarray(source, np.float64) @ (1, 1j)
    b = np.asarray(target, np.float64) @ (1, 1j)
    centred = a - a.mean()
    spread = float(np.vdot(centred, centred).real)
    if spread < 1e-12:
        return None
    factor = np.vdot(centred, b - b.mean()) / spread
    if abs(factor) < 1e-12:
        return None
    shift = b.mean() - factor * a.mean()
    return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])


def chip_of_landmarks(
    landmarks: NDArray[np.floating], template: Sequence[tuple[float, float]], size: int
) -> Transform | None:
    """From the picture to a chip of ``size`` pixels in which the landmarks lie as the template says.

    Args:
        landmarks: (5, 2) in pixels of the picture, x to the right and y down.
        template: the five points in units of the chip's side.

    Returns:
        the transform, or None for landmarks that are no face: all in one place, or not finite.
    """
    return similarity(landmarks, np.asarray(template, np.float64) * size)


def between(first: Transform, second: Transform, share: float, size: int) -> Transform:
    """The chip whose middle and side lie between those of two others, turned as the first.

    Args:
        first: from the picture to a chip of ``size`` pixels; turn, scale and shift.
        second: likewise.
        share: how much the second counts, 0 to 1. Sides are weighed as logarithms.
        size: of the chips.
    """
    middle = size / 2 * (1 + 1j)
    (turn, shift), (turn_2, shift_2) = ((complex(t[0, 0], t[1, 0]), complex(t[0, 2], t[1, 2])) for t in (first, second))
    centre = (1 - share) * (middle - shift) / turn + share * (middle - shift_2) / turn_2  # in the picture
    factor = turn * (abs(turn_2) / abs(turn)) ** share
    start = middle - factor * centre
    return np.array([[factor.real, -factor.imag, start.real], [factor.imag, factor.real, start.imag]])


def chip_of_box(box: NDArray[np.floating], margin: float, size: int) -> Transform | None:
    """From the picture to a chip of ``size`` pixels that shows the box, made square and enlarged by a margin.

    Args:
        box: x1, y1, x2, y2.
        margin: share of the longer side that is added on each side.

    Returns:
        the transform, or None for a box without extent.
    """
    x1, y1, x2, y2 = (float(v) for v in box)
    side = max(x2 - x1, y2 - y1) * (1 + 2 * margin)
    if not np.isfinite([x1, y1, x2, y2]).all() or side <= 0:
        return None
    scale = size / side
    return np.array(
        [[scale, 0, size / 2 - scale * (x1 + x2) / 2], [0, scale, size / 2 - scale * (y1 + y2) / 2]], np.float64
    )
