"""What a detector is trained towards: the loss that belongs to its coding, with counts that many processes can share.

``counts`` follow from the labels alone, so the loop can sum them over processes and accumulated parts before any
loss is computed; ``losses`` are divided by those sums.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from nnface.errors import RecipeError
from nnface.geometry.anchors import grid
from nnface.spec import DetectionSpec
from nnface.training.losses import anchorfree
from nnface.training.losses.multibox import MultiBoxLoss, ultra_light_matching
from nnface.training.losses.supernotman import SupernotmanLoss
from nnface.training.matching import Target, match
from nnface.training.recipe import DetectionLoss


class Objective(Protocol):
    """One way to judge a detector's raw outputs for inputs of one size."""

    def counts(self, targets: Sequence[Target]) -> dict[str, float]:
        """What the losses are divided by, for these pictures."""
        ...

    def losses(
        self, outputs: Mapping[str, Tensor], targets: Sequence[Target], counts: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """The weighted parts, scalars, divided by the counts of the whole step."""
        ...


def objective(
    part: DetectionLoss, detection: DetectionSpec, height: int, width: int, device: torch.device
) -> Objective:
    """The objective of a recipe for inputs of height x width.

    Raises:
        RecipeError: the loss is not one for this network's coding.
    """
    if (part.kind == "anchorfree") != (detection.coding == "distance"):
        raise RecipeError(f"loss.kind {part.kind} is not for a network whose coding is {detection.coding}")
    sizes = detection.anchor_sizes or tuple((float(stride),) for stride in detection.strides)
    anchors = _grid(height, width, detection.strides, sizes, detection.clip_anchors, str(device))
    weights = {"score": part.score, "class": part.score, "box": part.box, "landmark": part.landmark}
    if part.kind == "anchorfree":
        return AnchorFree(anchors[:, :3], weights)
    if part.kind == "supernotman":
        return Supernotman(anchors, SupernotmanLoss(weights=weights, variances=detection.variances))
    loss = MultiBoxLoss(weights=weights, variances=detection.variances)
    if part.kind == "ultralight":
        loss = replace(loss, matching=ultra_light_matching(width, height), negatives=3)
    return MultiBox(anchors, loss)


@dataclass(frozen=True, slots=True)
class AnchorFree:
    """SimOTA, quality focal loss and EIoU, by the number of faces."""

    cells: Tensor
    weights: Mapping[str, float]

    def counts(self, targets: Sequence[Target]) -> dict[str, float]:
        """The faces."""
        return {"faces": float(sum(int((~target.ignore).sum()) for target in targets))}

    def losses(
        self, outputs: Mapping[str, Tensor], targets: Sequence[Target], counts: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """See :func:`nnface.training.losses.anchorfree.losses`."""
        parts = anchorfree.losses(outputs, self.cells, targets, counts["faces"])
        return {name: self.weights[name] * value for name, value in parts.items()}

    def taught(
        self, outputs: Mapping[str, Tensor], scores: Tensor, boxes: Tensor, counts: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """See :func:`nnface.training.losses.anchorfree.taught`; the parts are ``taught_score`` and ``taught_box``."""
        parts = anchorfree.taught(outputs, self.cells, scores, boxes, counts["faces"])
        return {f"taught_{name}": self.weights[name] * value for name, value in parts.items()}


@dataclass(frozen=True, slots=True)
class MultiBox:
    """The reference projects' MultiBox, by the number of positive anchors."""

    anchors: Tensor
    loss: MultiBoxLoss

    def counts(self, targets: Sequence[Target]) -> dict[str, float]:
        """The positive anchors, and those of faces with landmarks."""
        positives = marked = 0
        for target in targets:
            matched = match(target, self.anchors, self.loss.matching)
            faces = matched[matched >= 0]
            positives += len(faces)
            marked += int(target.landmarks[faces].isfinite().flatten(1).all(1).sum())
        return {"positives": float(positives), "with_points": float(marked)}

    def losses(
        self, outputs: Mapping[str, Tensor], targets: Sequence[Target], counts: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """See :class:`nnface.training.losses.multibox.MultiBoxLoss`."""
        shared = torch.tensor([counts["positives"], counts["with_points"]], device=self.anchors.device)
        parts = replace(self.loss, normaliser=lambda _: shared)(outputs, self.anchors, targets)
        return {name: self.loss.weights[name] * value for name, value in parts.items()}


@dataclass(frozen=True, slots=True)
class Supernotman:
    """supernotman's loss, by the number of pictures."""

    anchors: Tensor
    loss: SupernotmanLoss

    def counts(self, targets: Sequence[Target]) -> dict[str, float]:
        """The pictures."""
        return {"pictures": float(len(targets))}

    def losses(
        self, outputs: Mapping[str, Tensor], targets: Sequence[Target], counts: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """See :class:`nnface.training.losses.supernotman.SupernotmanLoss`."""
        share = len(targets) / counts["pictures"]
        parts = self.loss(outputs, self.anchors, targets)
        return {name: self.loss.weights[name] * value * share for name, value in parts.items()}


@lru_cache(maxsize=16)
def _grid(
    height: int, width: int, strides: tuple[int, ...], sizes: tuple[tuple[float, ...], ...], clip: bool, device: str
) -> Tensor:
    return torch.from_numpy(grid(height, width, strides, sizes, clip).copy()).to(device)
