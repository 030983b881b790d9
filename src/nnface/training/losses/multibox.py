"""MultiBox loss: SSD's (Liu et al. 2016), as biubug6's RetinaFace and Ultra-Light train with it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from nnface.training.matching import BACKGROUND, Matching, Target, encode, encode_points, match


def ultra_light_matching(width: int, height: int) -> Matching:
    """Ultra-Light's rule for inputs of width x height: every face gets its best anchor; its IoU has a term 1e-5."""
    return Matching(positive=0.35, forced=0.0, union=1e-5 * width * height)


@dataclass(frozen=True, kw_only=True)
class MultiBoxLoss:
    """Boxes and landmarks by smooth L1 over positives, classes by cross-entropy over positives and hard negatives.

    The defaults are biubug6's; Ultra-Light has ``ultra_light_matching``, ``negatives=3`` and no landmarks.
    """

    matching: Matching = field(default_factory=Matching)
    negatives: int = 7
    """So many negatives for each positive of a picture, those of the highest loss; a picture without faces has none."""
    variances: tuple[float, float] = (0.1, 0.2)
    face: int = 1
    """The class of faces; the other one of two is background."""
    weights: Mapping[str, float] = field(default_factory=lambda: {"box": 2.0, "class": 1.0, "landmark": 1.0})
    """What the caller multiplies the losses with before it adds them."""
    normaliser: Callable[[Tensor], Tensor] = lambda counts: counts
    """Turns this process's counts, (positives, positives with landmarks), into those that the sums are divided by:
    with several processes their mean over processes, since gradients are averaged over processes too."""

    def __call__(self, outputs: Mapping[str, Tensor], anchors: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The losses of a batch, still unweighted; 0 (and no NaN) where there is nothing to learn from.

        Args:
            outputs: ``logits`` (N, A, 2), ``boxes`` (N, A, 4) and, if the network has them, ``landmarks`` (N, A, 10).
            anchors: (A, 4) float32: centre x, centre y, width, height in pixels of the input.
            targets: N, in the same pixels.

        Returns:
            scalars ``box``, ``class`` and, if the network has landmarks, ``landmark``.
        """
        matched = torch.stack([match(target, anchors, self.matching) for target in targets])
        positive = matched >= 0
        picture, anchor = torch.nonzero(positive, as_tuple=True)
        # Faces of all pictures in one list; each positive knows its place in it.
        starts = torch.tensor([0, *(len(t.boxes) for t in targets)], device=anchors.device).cumsum(0)
        face = starts[picture] + matched[positive]
        place = anchors[anchor]
        points = torch.cat([t.landmarks for t in targets])[face]
        marked = points.isfinite().flatten(1).all(1)
        positives, with_points = self.normaliser(torch.stack([positive.sum(), marked.sum()]).float())

        goal = encode(torch.cat([t.boxes for t in targets])[face], place, self.variances)
        box = F.smooth_l1_loss(outputs["boxes"][positive].float(), goal, reduction="sum")
        losses = {"box": _divide(box, positives), "class": _divide(self._classes(outputs, matched), positives)}
        if "landmarks" in outputs:
            goal = encode_points(points[marked], place[marked], self.variances)
            landmark = F.smooth_l1_loss(outputs["landmarks"][positive][marked].float(), goal, reduction="sum")
            losses["landmark"] = _divide(landmark, with_points)
        return losses

    def _classes(self, outputs: Mapping[str, Tensor], matched: Tensor) -> Tensor:
        """The summed cross-entropy of positives and mined negatives."""
        entropy = -outputs["logits"].float().log_softmax(-1)
        positive = matched >= 0
        as_background = entropy[..., 1 - self.face]
        chosen = mine(as_background.detach(), positive, matched == BACKGROUND, self.negatives)
        return entropy[..., self.face][positive].sum() + as_background[chosen].sum()


def mine(losses: Tensor, positive: Tensor, negative: Tensor, ratio: int) -> Tensor:
    """Hard negatives: of each picture the ``ratio`` negatives per positive that have the highest loss.

    Args:
        losses: (N, A), each anchor's loss if it were background.
        positive: (N, A) bool.
        negative: (N, A) bool, those to choose from.
        ratio: negatives per positive.

    Returns:
        (N, A) bool, a part of ``negative``.
    """
    ranked = losses.masked_fill(~negative, -torch.inf)
    rank = ranked.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    chosen: Tensor = negative & (rank < ratio * positive.sum(1, keepdim=True))
    return chosen


def _divide(total: Tensor, count: Tensor) -> Tensor:
    return total / torch.where(count > 0, count, 1.0)
