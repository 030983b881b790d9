"""Boxes and points: overlap, non-maximum suppression, and the two codings of a detector's outputs.

Boxes are x1, y1, x2, y2 and anchors centre x, centre y, width, height, all in pixels of the network's input, float32.
The codings are defined in :class:`nnface.spec.DetectionSpec`. Leading axes may be any, as long as they broadcast.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_LIMIT = np.float32(1e6)
"""Coded values are clamped to this, so that an untrained or hostile network cannot make a coordinate infinite."""

_MAX_LOG = np.float32(20.0)
"""The largest magnitude of the logarithm of a box's size over its anchor's; exp overflows in float32 at 88."""

_MIN_SIZE = np.float32(1e-3)
"""Smaller sides, in pixels, are coded as this: the logarithm of zero is not a number to learn."""


def iou(a: Floats, b: Floats) -> Floats:
    """Intersection over union of every pair: (N, 4) and (M, 4) give (N, M) float32.

    Sides are x2 - x1, without the old +1; the IoU of two boxes without area is 0.
    """
    shared = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    shared = np.maximum(shared, 0)
    intersection: Floats = shared[..., 0] * shared[..., 1]
    union = area(a)[:, None] + area(b)[None, :] - intersection
    overlap: Floats = np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)
    return overlap


def area(boxes: Floats) -> Floats:
    """Areas of boxes (..., 4), in square pixels; 0 where x2 < x1 or y2 < y1."""
    sides = np.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    areas: Floats = sides[..., 0] * sides[..., 1]
    return areas


def encode(boxes: Floats, anchors: Floats, variances: tuple[float, float] = (0.1, 0.2)) -> Floats:
    """Boxes (..., 4) in the ``ssd`` coding relative to ``anchors`` (..., 4); sides below 0.001 pixel count as that."""
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2 - anchors[..., :2]
    size = np.maximum(boxes[..., 2:] - boxes[..., :2], _MIN_SIZE) / anchors[..., 2:]
    deltas = np.concatenate([centre / (variances[0] * anchors[..., 2:]), np.log(size) / variances[1]], axis=-1)
    return deltas.astype(np.float32, copy=False)


def decode(deltas: Floats, anchors: Floats, variances: tuple[float, float] = (0.1, 0.2)) -> Floats:
    """The boxes (..., 4) of ``ssd``-coded ``deltas`` (..., 4); always finite, whatever the network says."""
    deltas = _bounded(deltas)
    centre = anchors[..., :2] + deltas[..., :2] * np.float32(variances[0]) * anchors[..., 2:]
    size = anchors[..., 2:] * np.exp(np.clip(deltas[..., 2:] * np.float32(variances[1]), -_MAX_LOG, _MAX_LOG))
    corner = centre - size / 2
    return np.concatenate([corner, corner + size], axis=-1)


def encode_points(points: Floats, anchors: Floats, variances: tuple[float, float] = (0.1, 0.2)) -> Floats:
    """Points (..., P, 2) in the ``ssd`` coding, as (..., 2 P); NaN stays NaN."""
    deltas = (points - anchors[..., None, :2]) / (np.float32(variances[0]) * anchors[..., None, 2:])
    return deltas.reshape(*deltas.shape[:-2], -1).astype(np.float32, copy=False)


def decode_points(deltas: Floats, anchors: Floats, variances: tuple[float, float] = (0.1, 0.2)) -> Floats:
    """The points (..., P, 2) of ``ssd``-coded ``deltas`` (..., 2 P); always finite."""
    pairs = _bounded(deltas).reshape(*deltas.shape[:-1], deltas.shape[-1] // 2, 2)
    return anchors[..., None, :2] + pairs * np.float32(variances[0]) * anchors[..., None, 2:]


def decode_distance(deltas: Floats, anchors: Floats) -> Floats:
    """The boxes (..., 4) of ``distance``-coded ``deltas`` (..., 4); always finite.

    They are left, top, right and bottom from the anchor's centre, in anchor sizes.
    """
    reach = _bounded(deltas) * _twice(anchors[..., 2:])
    return np.concatenate([anchors[..., :2] - reach[..., :2], anchors[..., :2] + reach[..., 2:]], axis=-1)


def decode_points_distance(deltas: Floats, anchors: Floats) -> Floats:
    """The points (..., P, 2) of ``distance``-coded ``deltas`` (..., 2 P); always finite."""
    return decode_points(deltas, anchors, (1.0, 1.0))


def nms(boxes: Floats, scores: Floats, iou: float, offset: float = 0.0, limit: int | None = None) -> NDArray[np.intp]:
    """Greedy non-maximum suppression: a box goes where a kept one of higher score overlaps it by more than ``iou``.

    Args:
        boxes: (N, 4) float32, finite.
        scores: (N,) float32; of equal ones the first counts as higher.
        iou: the largest overlap that two kept boxes may have.
        offset: added to every width and height; 1 is the convention of biubug6's published figures.
        limit: stop when so many are kept.

    Returns:
        (K,) indices of the kept boxes, best first.
    """
    order = np.argsort(-scores, kind="stable")
    corners = np.array(boxes[order].T, order="C")  # rows of coordinates, so that whole rows are compared at once
    corners[2:] += np.float32(offset)
    areas = np.maximum(corners[2] - corners[0], 0) * np.maximum(corners[3] - corners[1], 0)
    rows = np.concatenate([corners, areas[None]])
    limit = len(order) if limit is None else limit
    kept = np.zeros(0, np.intp)
    # A block at a time, best first: against all that is kept, then among themselves. With a limit, the long tail of
    # low scores is never looked at.
    for start in range(0, len(order), _NMS_BLOCK):
        if len(kept) >= limit:
            break
        block = np.arange(start, min(start + _NMS_BLOCK, len(order)))
        if len(kept):
            block = block[~_clash(rows[:, block], rows[:, kept], iou).any(1)]
        clash = np.triu(_clash(rows[:, block], rows[:, block], iou), 1)
        alive = np.ones(len(block), bool)
        for row in np.flatnonzero(clash.any(1)):
            if alive[row]:
                alive &= ~clash[row]
        kept = np.concatenate([kept, block[alive]])
    return order[kept[:limit]]


_NMS_BLOCK = 128


def _clash(a: Floats, b: Floats, iou: float) -> NDArray[np.bool_]:
    """Which pairs of (5, N) and (5, M) rows x1, y1, x2, y2, area overlap by more than ``iou``: (N, M)."""
    a = a[:, :, None]
    shared = np.minimum(a[2], b[2])
    shared -= np.maximum(a[0], b[0])
    np.maximum(shared, 0, out=shared)
    height = np.minimum(a[3], b[3])
    height -= np.maximum(a[1], b[1])
    np.maximum(height, 0, out=height)
    shared *= height
    union = a[4] + b[4]
    union -= shared
    union *= np.float32(iou)
    clash: NDArray[np.bool_] = shared > union
    return clash


def _twice(sizes: Floats) -> Floats:
    return np.concatenate([sizes, sizes], axis=-1)


def _bounded(deltas: Floats) -> Floats:
    if np.abs(deltas).max(initial=0) <= _LIMIT:  # false for NaN too
        return deltas
    return np.clip(np.nan_to_num(deltas, nan=0.0), -_LIMIT, _LIMIT)
