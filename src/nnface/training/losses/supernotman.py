"""The loss of supernotman's RetinaFace_Pytorch: two thresholds, and means taken in each picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from nnface.training.losses.multibox import mine
from nnface.training.matching import BACKGROUND, Matching, Target, encode, encode_points, match


@dataclass(frozen=True, kw_only=True)
class SupernotmanLoss:
    """Like MultiBox, but with ignored anchors between the thresholds, and every picture counts the same.

    Each loss is a mean over the picture's positives (for classes: plus the mean over its mined negatives), and the
    batch's loss is the mean over pictures; a picture without a positive counts as 0. With several processes of equal
    batches the mean over processes is therefore already that of one.
    """

    matching: Matching = field(default_factory=lambda: Matching(positive=0.5, negative=0.3, forced=None))
    negatives: int = 3
    variances: tuple[float, float] = (0.1, 0.2)
    face: int = 0
    """The class of faces, which is the first one here."""
    weights: Mapping[str, float] = field(default_factory=lambda: {"box": 1.0, "class": 1.0, "landmark": 1.0})

    def __call__(self, outputs: Mapping[str, Tensor], anchors: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The losses ``box``, ``class`` and ``landmark`` of a batch, unweighted; arguments as for ``MultiBoxLoss``."""
        pictures = [
            self.picture({name: output[i].float() for name, output in outputs.items()}, anchors, target)
            for i, target in enumerate(targets)
        ]
        return {name: torch.stack([losses[name] for losses in pictures]).mean() for name in pictures[0]}

    def picture(self, outputs: Mapping[str, Tensor], anchors: Tensor, target: Target) -> dict[str, Tensor]:
        """The losses of one picture, whose outputs have no batch axis."""
        matched = match(target, anchors, self.matching)
        positive = matched >= 0
        face, place = matched[positive], anchors[positive]
        entropy = -outputs["logits"].log_softmax(-1)
        as_background = entropy[:, 1 - self.face]
        negative = mine(as_background.detach()[None], positive[None], (matched == BACKGROUND)[None], self.negatives)[0]
        box = F.smooth_l1_loss(
            outputs["boxes"][positive], encode(target.boxes[face], place, self.variances), reduction="none"
        )
        losses = {
            "box": _mean(box),
            "class": _mean(entropy[:, self.face][positive]) + _mean(as_background[negative]),
        }
        if "landmarks" in outputs:
            points = target.landmarks[face]
            marked = points.isfinite().flatten(1).all(1)
            goal = encode_points(points[marked], place[marked], self.variances)
            losses["landmark"] = _mean(F.smooth_l1_loss(outputs["landmarks"][positive][marked], goal, reduction="none"))
        return losses


def _mean(values: Tensor) -> Tensor:
    """The mean; of nothing it is 0, with a gradient of 0."""
    return values.sum() / max(values.numel(), 1)
