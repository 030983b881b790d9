"""RetinaFace as supernotman/RetinaFace_Pytorch computes it: denser anchors, wider context, pixels as they are.

Deng et al., "RetinaFace: Single-stage Dense Face Localisation in the Wild", CVPR 2020.

It differs from biubug6's (``retinaface.py``) in almost every detail: three anchors a cell, **face is class 0**, RGB in
0..255 without a mean, convolutions with a bias before their batch norm, a context module that keeps the full width in
its first branch (so that the heads see twice the pyramid's width), and boxes clipped to the picture. The modules bear
the published names.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnface.models import resnet
from nnface.models.layers import DetectionNetwork, conv_norm, head_per_level, upsample_like
from nnface.spec import DetectionSpec, InputSpec

INPUT = InputSpec(size=640, multiple=1, color="rgb")

DETECTION = DetectionSpec(
    coding="ssd",
    strides=(8, 16, 32),
    anchor_sizes=tuple((side, side * 2.0**0.5, 2.0 * side) for side in (16.0, 64.0, 256.0)),
    clip_boxes=True,
    min_score=0.5,
    nms_iou=0.3,
)

ANCHORS = 3
"""Anchors of each cell."""


class Context(nn.Module):
    """Branches that see 3x3 (full width), 5x5 and 7x7 (half width each), side by side: twice the width in all."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.det_conv1 = conv_norm(width, width, bias=True)
        self.det_context_conv1 = conv_norm(width, half, slope=0.0, bias=True)
        self.det_context_conv2 = conv_norm(half, half, bias=True)
        self.det_context_conv3_1 = conv_norm(half, half, slope=0.0, bias=True)
        self.det_context_conv3_2 = conv_norm(half, half, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) to (N, 2 width, H, W)."""
        shared = self.det_context_conv1(x)
        widest = self.det_context_conv3_2(self.det_context_conv3_1(shared))
        return F.relu(torch.cat((self.det_conv1(x), self.det_context_conv2(shared), widest), 1), inplace=True)


class ContextFPN(nn.Module):
    """A feature pyramid whose every level ends in a context module."""

    def __init__(self, inputs: Sequence[int], width: int) -> None:
        super().__init__()
        self.lateral_blocks = nn.ModuleList(conv_norm(n, width, 1, slope=0.0, bias=True) for n in inputs)
        self.context_blocks = nn.ModuleList(Context(width) for _ in inputs)
        self.aggr_blocks = nn.ModuleList(conv_norm(width, width, slope=0.0, bias=True) for _ in inputs[1:])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """(N, inputs[i], Hi, Wi), fine to coarse, to (N, 2 width, Hi, Wi)."""
        fine, middle, coarse = (block(x) for block, x in zip(self.lateral_blocks, maps, strict=True))
        middle = self.aggr_blocks[1](middle + upsample_like(coarse, middle))
        fine = self.aggr_blocks[0](fine + upsample_like(middle, fine))
        return self.context_blocks[0](fine), self.context_blocks[1](middle), self.context_blocks[2](coarse)


class RetinaFaceDense(DetectionNetwork):
    """supernotman's RetinaFace on a ResNet; two classes, **face first**."""

    default_input = INPUT
    default_detection = DETECTION

    def __init__(self, body: resnet.ResNet, width: int) -> None:
        super().__init__()
        self.body = body
        self.fpn = ContextFPN(body.channels, width)
        self.ClassHead = head_per_level(3, 2 * width, ANCHORS, 2)
        self.BboxHead = head_per_level(3, 2 * width, ANCHORS, 4)
        self.LandmarkHead = head_per_level(3, 2 * width, ANCHORS, 10)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) to ``logits`` (N, A, 2), ``boxes`` (N, A, 4), ``landmarks`` (N, A, 10), raw.

        A = 3 * (ceil(H/8) * ceil(W/8) + ceil(H/16) * ceil(W/16) + ceil(H/32) * ceil(W/32)).
        """
        features = self.fpn(self.body(images))
        heads = {"logits": self.ClassHead, "boxes": self.BboxHead, "landmarks": self.LandmarkHead}
        return {
            name: torch.cat([head(x) for head, x in zip(levels, features, strict=True)], 1)
            for name, levels in heads.items()
        }

    def scores(self, logits: Tensor) -> Tensor:
        """(N, A, 2) logits to the probability of a face, (N, A) in 0..1. Class 0 is face, class 1 background."""
        return (logits[..., 0] - logits[..., 1]).sigmoid()


def resnet50() -> RetinaFaceDense:
    """The published one: 29,671,120 parameters."""
    return RetinaFaceDense(resnet.resnet50(), 256)
