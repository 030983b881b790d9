"""Which anchor answers for which face: the matching of SSD (Liu et al. 2016) as the face detectors vary it, and coding.

Everything here works in any one unit for anchors and faces; nnface trains in pixels of the network's input.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

BACKGROUND = -1
"""In place of a face's index: the anchor is a negative."""

IGNORED = -2
"""In place of a face's index: the anchor is neither a positive nor a negative."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The n faces of one picture, in the units of the anchors; n may be 0."""

    boxes: Tensor
    """(n, 4) float32: x1, y1, x2, y2."""
    landmarks: Tensor
    """(n, 5, 2) float32: x, y; NaN where a face has none."""
    ignore: Tensor
    """(n,) bool: the face is neither to be found nor to be taken for background."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """The rule. The defaults are biubug6's (Pytorch_Retinaface)."""

    positive: float = 0.35
    """An anchor is a positive of the face that it overlaps most, from this IoU on."""
    negative: float | None = None
    """Below this IoU an anchor is a negative, between the two it is ignored; None: as ``positive``."""
    forced: float | None = 0.2
    """A face's best anchor is its positive whatever the IoU, if that is at least this much; None: no such rule."""
    union: float = 0.0
    """Added to the union of each pair, in square units of the anchors (Ultra-Light: 1e-5 of the input's area)."""
    ignore_share: float = 0.2
    """A negative with at least this share of its area in an ignored face is ignored."""


def match(target: Target, anchors: Tensor, rule: Matching) -> Tensor:
    """The face of each anchor.

    Where two faces have the same best anchor the later one gets it, and it gets it even where its IoU is too low for
    the rule ``forced``, if another reason makes the anchor a positive: biubug6's code does so, and the published
    figures come from it.

    Args:
        target: the faces of one picture.
        anchors: (A, 4) float32: centre x, centre y, width, height.
        rule: the thresholds.

    Returns:
        (A,) int64: the index of a face, ``BACKGROUND`` or ``IGNORED``.
    """
    faces = torch.nonzero(~target.ignore)[:, 0]
    result = torch.full((len(anchors),), BACKGROUND, device=anchors.device)
    corners = torch.cat([anchors[:, :2] - anchors[:, 2:] / 2, anchors[:, :2] + anchors[:, 2:] / 2], 1)
    if len(faces):
        shared, areas, anchor_areas = _intersection(target.boxes[faces], corners)
        overlap = shared / (areas[:, None] + anchor_areas - shared + rule.union)
        best_overlap, best_face = overlap.max(0)
        if rule.forced is not None:
            face_overlap, face_anchor = overlap.max(1)
            best_overlap[face_anchor[face_overlap >= rule.forced]] = 2.0
            # The largest index wins, which is the last face; a plain scatter has no order.
            last = torch.full_like(best_face, -1).scatter_reduce(
                0, face_anchor, torch.arange(len(faces), device=anchors.device), "amax"
            )
            best_face = torch.where(last >= 0, last, best_face)
        if rule.negative is not None:
            result[best_overlap >= rule.negative] = IGNORED
        result = torch.where(best_overlap >= rule.positive, faces[best_face], result)
    if target.ignore.any():
        shared, _, anchor_areas = _intersection(target.boxes[target.ignore], corners)
        covered = (shared / anchor_areas).amax(0) >= rule.ignore_share
        result[covered & (result == BACKGROUND)] = IGNORED
    return result


def encode(boxes: Tensor, anchors: Tensor, variances: tuple[float, float]) -> Tensor:
    """Boxes (M, 4) in the ``ssd`` coding relative to anchors (M, 4), as :func:`nnface.geometry.boxes.encode`."""
    centre = ((boxes[:, :2] + boxes[:, 2:]) / 2 - anchors[:, :2]) / (variances[0] * anchors[:, 2:])
    size = ((boxes[:, 2:] - boxes[:, :2]) / anchors[:, 2:]).clamp(min=1e-6)
    return torch.cat([centre, size.log() / variances[1]], 1)


def encode_points(points: Tensor, anchors: Tensor, variances: tuple[float, float]) -> Tensor:
    """Points (M, P, 2) in the ``ssd`` coding, as (M, 2 P); NaN stays NaN."""
    return ((points - anchors[:, None, :2]) / (variances[0] * anchors[:, None, 2:])).flatten(1)


def _intersection(boxes: Tensor, corners: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shared areas (n, A), and the areas of both (n,), (A,)."""
    low = torch.maximum(boxes[:, None, :2], corners[None, :, :2])
    sides = (torch.minimum(boxes[:, None, 2:], corners[None, :, 2:]) - low).clamp(min=0)
    return sides[..., 0] * sides[..., 1], *((b[:, 2:] - b[:, :2]).prod(1) for b in (boxes, corners))  # type: ignore[return-value]
