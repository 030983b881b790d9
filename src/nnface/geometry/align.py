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


LIMITS = np.array([0.2, 0.2, 0.3, 0.2])
"""A correction goes no further, whatever points it is given: sides, sides, logarithm of the side, radians."""


def readings(
    transform: Transform, landmarks: NDArray[np.floating], box: NDArray[np.floating], size: int
) -> NDArray[np.float64]:
    """How a face lies in a chip, in sides of the chip and from its middle: what :func:`corrected` goes by.

    Args:
        transform: from the picture to the chip of ``size`` pixels.
        landmarks: (5, 2) in pixels of the picture.
        box: x1, y1, x2, y2, likewise, with an extent.

    Returns:
        (15,): x and y of each landmark, of the box's middle, the logarithms of its width and height, and 1.
    """
    middle = (np.asarray(box[:2], np.float64) + box[2:]) / 2
    points = np.vstack([landmarks, middle]) @ transform[:, :2].T + transform[:, 2]
    scale = float(np.hypot(transform[0, 0], transform[1, 0])) / size
    return np.concatenate([(points / size - 0.5).ravel(), np.log((box[2:] - box[:2]) * scale), [1.0]])


def corrected(
    transform: Transform, values: NDArray[np.float64], rows: Sequence[Sequence[float]], size: int
) -> Transform:
    """The chip moved, enlarged and turned by linear functions of how the face lies in it.

    What fits five points best is not where another detector, with other points, saw the face: a face seen from the
    side has its nose and mouth beside the middle, and the box knows more of the face's height.

    Args:
        transform: from the picture to a chip of ``size`` pixels.
        values: its :func:`readings`.
        rows: (4, 15): weights of the values for the shift of the chip's middle along its x and its y, in sides, the
            logarithm of what its side is multiplied by, and the turn of its content from x to y in radians. Each
            result is bounded by :data:`LIMITS`.
    """
    x, y, growth, turn = np.clip(np.asarray(rows, np.float64) @ values, -LIMITS, LIMITS)
    middle = size / 2 * (1 + 1j)
    factor = np.exp(1j * turn - growth)
    start = middle - factor * (middle + size * (x + 1j * y))
    moved = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    return np.column_stack([moved @ transform[:, :2], moved @ transform[:, 2] + (start.real, start.imag)])


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
