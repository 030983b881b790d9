"""The loss of :class:`nnface.models.anchorfree.AnchorFree`: dynamic assignment, quality scores, boxes and points.

* Assignment: SimOTA (YOLOX, Ge et al. 2021, https://arxiv.org/abs/2107.08430): for each face the k cells of least cost,
  k being the sum of its best IoUs; a cell wanted by several goes to the cheapest.
* Scores: quality focal loss (Li et al. 2020, https://arxiv.org/abs/2006.04388), whose target is the box's IoU.
* Boxes: EIoU (Zhang et al. 2021, https://arxiv.org/abs/2101.08158).
* Landmarks: the mean distance in units of the face's size.
* A teacher (Hinton et al. 2015, https://arxiv.org/abs/1503.02531) is learned in every cell, as it is in dense detectors
  (Zheng et al. 2022, https://arxiv.org/abs/2102.12252): its score as the quality, its box where it sees a face.

Everything is divided by the number of faces of the step (over all processes and accumulated parts), which follows from
the labels alone: so several processes, or several parts, give the gradient of one.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from nnface.training.matching import Target


def decode(distances: Tensor, grid: Tensor) -> Tensor:
    """Distances (..., A, 4) in strides to boxes x1, y1, x2, y2 in pixels."""
    lengths = distances * grid[:, 2:3]
    return torch.cat([grid[:, :2] - lengths[..., :2], grid[:, :2] + lengths[..., 2:]], -1)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """(n, 4) and (m, 4) to (n, m)."""
    sides = (torch.minimum(a[:, None, 2:], b[:, 2:]) - torch.maximum(a[:, None, :2], b[:, :2])).clamp(min=0)
    inside = sides.prod(-1)
    areas = [(x[:, 2:] - x[:, :2]).clamp(min=0).prod(-1) for x in (a, b)]
    return inside / (areas[0][:, None] + areas[1] - inside).clamp(min=1e-9)


def eiou_loss(boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Row by row: the EIoU loss (n,) and the plain IoU (n,) of (n, 4) boxes."""
    sides = (torch.minimum(boxes[:, 2:], targets[:, 2:]) - torch.maximum(boxes[:, :2], targets[:, :2])).clamp(min=0)
    inside = sides.prod(-1)
    size, target_size = boxes[:, 2:] - boxes[:, :2], targets[:, 2:] - targets[:, :2]
    iou = inside / (size.prod(-1) + target_size.prod(-1) - inside).clamp(min=1e-6)
    hull = torch.maximum(boxes[:, 2:], targets[:, 2:]) - torch.minimum(boxes[:, :2], targets[:, :2])
    hull_squared = hull.square().clamp(min=1e-6)
    shift = ((boxes[:, :2] + boxes[:, 2:] - targets[:, :2] - targets[:, 2:]) / 2).square().sum(-1)
    stretch = ((size - target_size).square() / hull_squared).sum(-1)
    return 1 - iou + shift / hull_squared.sum(-1) + stretch, iou


def quality_focal(logits: Tensor, quality: Tensor) -> Tensor:
    """The quality focal loss of each logit towards a score in 0..1; both of one shape."""
    focus = (quality - logits.sigmoid()).square()
    return F.binary_cross_entropy_with_logits(logits, quality, reduction="none") * focus


def assign(
    logits: Tensor, boxes: Tensor, grid: Tensor, faces: Tensor, radius: float = 2.5, candidates: int = 10
) -> Tensor:
    """SimOTA for one picture.

    Args:
        logits: (A,) of a face.
        boxes: (A, 4) decoded, in pixels of the input.
        grid: (A, 3): centre x, centre y and stride of every cell, likewise.
        faces: (n, 4) boxes of the faces.
        radius: cells whose centre lies within this many strides of a face's centre may be chosen, and those inside its
            box.
        candidates: the best IoUs that are summed to a face's number of cells.

    Returns:
        (A,) the face's number for each chosen cell, -1 elsewhere.
    """
    chosen = torch.full((len(grid),), -1, dtype=torch.long, device=grid.device)
    if not len(faces):
        return chosen
    centres = (faces[:, :2] + faces[:, 2:]) / 2
    offset = (grid[:, None, :2] - centres).abs().amax(-1)
    near = offset < radius * grid[:, 2:3]
    inside = ((grid[:, None, :2] > faces[:, :2]) & (grid[:, None, :2] < faces[:, 2:])).all(-1)
    rows = (near | inside).any(1).nonzero()[:, 0]
    if not len(rows):
        return chosen
    near, inside, offset = near[rows], inside[rows], offset[rows] / grid[rows, 2:3]
    overlap = pairwise_iou(boxes[rows], faces)
    score_cost = F.binary_cross_entropy_with_logits(logits[rows, None].expand_as(overlap), overlap, reduction="none")
    # Cells outside of both regions only as a last resort; the small term of distance settles ties of a fresh network.
    cost = score_cost + 3 * -(overlap + 1e-7).log() + 1e4 * ~(near & inside) + 1e5 * ~(near | inside) + 0.1 * offset
    top = overlap.topk(min(candidates, len(rows)), 0).values.sum(0).int().clamp(min=1)
    ranks = cost.argsort(stable=True, dim=0).argsort(stable=True, dim=0)
    wanted = (ranks < top) & (cost < 1e5)
    # A cell that several faces want goes to the one that it costs least.
    best = torch.where(wanted, cost, cost.new_tensor(float("inf"))).argmin(1)
    taken = wanted.any(1)
    chosen[rows[taken]] = best[taken]
    return chosen


def losses(outputs: Mapping[str, Tensor], grid: Tensor, targets: Sequence[Target], faces: float) -> dict[str, Tensor]:
    """The parts of the loss, scalars, unweighted: ``score``, ``box`` and, if the network has them, ``landmark``.

    Args:
        outputs: ``logits`` (N, A, 1), ``boxes`` (N, A, 4) in strides, ``landmarks`` (N, A, 10) in strides.
        grid: (A, 3): centre x, centre y and stride of every cell, pixels of the input.
        targets: one for each picture.
        faces: the number of faces in the whole step; the parts are divided by it (by 1 where there are none).
    """
    logits, boxes = outputs["logits"][..., 0].float(), decode(outputs["boxes"].float(), grid)
    quality = torch.zeros_like(logits)
    counted = torch.ones_like(logits, dtype=torch.bool)
    zero = logits.sum() * 0 + boxes.sum() * 0
    box_loss, landmark_loss = zero, zero
    for i, target in enumerate(targets):
        valid = ~target.ignore
        faces_here, points_here = target.boxes[valid], target.landmarks[valid]
        with torch.no_grad():
            chosen = assign(logits[i], boxes[i], grid, faces_here)
            regions = target.boxes[target.ignore]
            within = ((grid[:, None, :2] >= regions[:, :2]) & (grid[:, None, :2] <= regions[:, 2:])).all(-1).any(1)
            counted[i] = ~within | (chosen >= 0)
        cell = (chosen >= 0).nonzero()[:, 0]
        if not len(cell):
            continue
        face = chosen[cell]
        each, iou = eiou_loss(boxes[i, cell], faces_here[face])
        quality[i, cell] = iou.detach().clamp(0, 1)
        # A large face has ten cells and a tiny one a single one: the root balances them.
        share = torch.bincount(face, minlength=len(faces_here))[face].float().rsqrt()
        box_loss = box_loss + (each * share).sum()
        if "landmarks" in outputs:
            known = ~points_here[face].isnan().flatten(1).any(1)
            if known.any():
                at = grid[cell[known]]
                points = outputs["landmarks"][i, cell[known]].float().view(-1, 5, 2)
                wanted = points_here[face[known]]
                size = (faces_here[face[known], 2:] - faces_here[face[known], :2]).prod(-1).sqrt()
                distance = (points * at[:, None, 2:] + at[:, None, :2] - wanted).abs().mean((1, 2)) / size
                landmark_loss = landmark_loss + (distance * share[known]).sum()
    score_loss = (quality_focal(logits, quality) * counted).sum()
    parts = {"score": score_loss, "box": box_loss}
    if "landmarks" in outputs:
        parts["landmark"] = landmark_loss + outputs["landmarks"].sum() * 0
    return {name: part / max(faces, 1.0) for name, part in parts.items()}


TAUGHT_FROM = 0.3
"""From this score of a teacher on its box is learned, by the score; below it says little of where a face ends."""

SAME_FACE = 0.5
"""Boxes of a teacher that overlap by this IoU tell of one face."""


def taught(
    outputs: Mapping[str, Tensor], grid: Tensor, scores: Tensor, boxes: Tensor, faces: float
) -> dict[str, Tensor]:
    """The difference from a teacher, scalars, unweighted: ``score`` and ``box``.

    Args:
        outputs: as :func:`losses` takes them.
        grid: (A, 3), likewise.
        scores: (N, A) of the teacher in 0..1.
        boxes: (N, A, 4) of the teacher, pixels of the input.
        faces: the number of faces in the whole step; the parts are divided by it (by 1 where there are none).
    """
    logits, found = outputs["logits"][..., 0].float(), decode(outputs["boxes"].float(), grid)
    box_loss = found.sum() * 0
    for i, sure in enumerate(scores >= TAUGHT_FROM):
        each, _ = eiou_loss(found[i, sure], boxes[i, sure])
        # As for the labels: a large face has more cells, and the root balances them.
        cells = (pairwise_iou(boxes[i, sure], boxes[i, sure]) >= SAME_FACE).sum(1)
        box_loss = box_loss + (each * scores[i, sure] * cells.float().rsqrt()).sum()
    parts = {"score": quality_focal(logits, scores).sum(), "box": box_loss}
    return {name: part / max(faces, 1.0) for name, part in parts.items()}
