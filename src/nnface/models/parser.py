"""A compact parser of portraits: residual 3x3 convolutions down to a sixteenth, then back up to a half of the input.

Ours. Dense 3x3 convolutions: multiplication for multiplication, CPUs train them in bfloat16 a fifth quicker than
depthwise ones, and ONNX Runtime runs both alike (``benchmarks/segmentation.py``). The way back is that of a feature
pyramid (Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017): lateral 1x1 convolutions, sums, one
3x3 convolution a level. The logits lie on a grid of half the input: with perfect labels that would score 98.8 mean F1
at 512 for an input of 256.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnface.models.layers import SegmentationNetwork, conv_norm
from nnface.models.resnet import BasicBlock
from nnface.spec import CELEBAMASK_LABELS, AlignmentSpec, InputSpec

PORTRAIT_INPUT = InputSpec(size=256, width=256, height=256, fit="stretch", mean=(127.5,) * 3, std=(64.0,) * 3)

CELEBAMASK_ALIGNMENT = AlignmentSpec(
    points=((0.374, 0.484), (0.626, 0.484), (0.5, 0.631), (0.397, 0.747), (0.603, 0.747)), margin=0.167
)
"""CelebAMask-HQ's portraits: medians of what our detector finds in them and in their mirror images. They were taken on
a black margin; laid into scenes, as ``tools/fit_alignment.py`` does now, points lie up to 0.011 higher."""


class Parser(SegmentationNetwork):
    """Encoder and decoder.

    Args:
        stem: channels at a half of the input's sides, where the labels are decided.
        widths: channels at a quarter, an eighth, a sixteenth and a thirty-second.
        depths: residual blocks of each.
        neck: channels of the way back.
    """

    default_input = PORTRAIT_INPUT
    default_alignment = CELEBAMASK_ALIGNMENT
    labels = CELEBAMASK_LABELS

    def __init__(
        self,
        stem: int = 32,
        widths: Sequence[int] = (64, 128, 160, 192),
        depths: Sequence[int] = (1, 1, 2, 1),
        neck: int = 64,
    ) -> None:
        super().__init__()
        self.stem = conv_norm(3, stem, stride=2, slope=0.0)
        self.stages = nn.ModuleList()
        inputs = stem
        for width, depth in zip(widths, depths, strict=True):
            first = BasicBlock(inputs, width, 2)
            self.stages.append(nn.Sequential(first, *(BasicBlock(width, width, 1) for _ in range(depth - 1))))
            inputs = width
        self.context = conv_norm(widths[-1], neck, kernel=1, slope=0.0)
        self.laterals = nn.ModuleList(conv_norm(width, neck, kernel=1) for width in widths)
        self.merges = nn.ModuleList(conv_norm(neck, neck, slope=0.0) for _ in widths)
        self.detail = conv_norm(stem, stem, kernel=1)
        self.reduce = conv_norm(neck, stem, kernel=1)
        self.last = conv_norm(stem, stem, slope=0.0)
        self.classify = nn.Conv2d(stem, len(self.labels), 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) to ``logits`` (N, 19, ceil(H / 2), ceil(W / 2))."""
        fine = self.stem(images)
        maps = []
        features = fine
        for stage in self.stages:
            features = stage(features)
            maps.append(features)
        context = self.context(torch.mean(features, (2, 3), keepdim=True))  # the whole portrait, at every place
        merged = None
        for level in range(len(maps) - 1, -1, -1):
            lateral = self.laterals[level](maps[level])
            above = context if merged is None else enlarged(merged, lateral)
            merged = self.merges[level](F.relu(lateral + above))
        assert merged is not None  # there is at least one stage
        features = F.relu(enlarged(self.reduce(merged), fine) + self.detail(fine))
        return {"logits": self.classify(self.last(features))}


def enlarged(coarse: Tensor, fine: Tensor) -> Tensor:
    """(N, C, h, w) to the height and width of ``fine``, bilinear."""
    return F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
