"""Face attributes: one backbone, one linear layer, cut into the heads race, gender and age.

Karkkainen and Joo, "FairFace: Face Attribute Dataset for Balanced Race, Gender, and Age", WACV 2021: a ResNet-34 whose
last layer has 7 + 2 + 9 outputs. The ResNets bear torchvision's names with ``fc``, so that FairFace's published weights
load as they are. The compact network is ours: dense 3x3 convolutions, which CPUs run in bfloat16 far quicker than
depthwise ones.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import torch
from torch import Tensor, nn

from nnface.models.layers import ClassificationNetwork, conv_norm, fairface_heads, pooled
from nnface.models.mobilenet import MobileNetV2
from nnface.models.resnet import BasicBlock, Bottleneck, ResNet
from nnface.spec import AlignmentSpec, InputSpec

IMAGENET_INPUT = InputSpec(
    size=224,
    width=224,
    height=224,
    fit="stretch",
    color="rgb",
    mean=(123.675, 116.28, 103.53),
    std=(58.395, 57.12, 57.375),
)
COMPACT_INPUT = replace(IMAGENET_INPUT, size=96, width=96, height=96, color="bgr", mean=(127.5,) * 3, std=(64.0,) * 3)

FAIRFACE_ALIGNMENT = AlignmentSpec(
    points=((0.319, 0.301), (0.681, 0.301), (0.5, 0.512), (0.348, 0.678), (0.652, 0.678)),
    margin=0.024,
    correction=(
        (0.0319, 0.0171, 0.0319, -0.0171, -0.0366, 0.0, -0.0136, 0.0387, -0.0136, -0.0387,
         0.2051, 0.0, 0.0, 0.0, 0.0),
        (0.0005, 0.0869, -0.0005, 0.0869, 0.0, 0.0008, -0.0434, -0.0872, 0.0434, -0.0872,
         0.0, 0.2329, 0.0706, -0.0364, 0.0734),
        (0.1771, 0.3269, -0.1771, 0.3269, 0.0, -0.2308, 0.0532, -0.2115, -0.0532, -0.2115,
         0.0, -0.4392, 0.4965, 0.545, 0.4167),
        (-0.0423, -0.0086, -0.0423, 0.0086, 0.1699, 0.0, -0.0427, -0.0019, -0.0427, 0.0019,
         -0.0495, 0.0, 0.0, 0.0, 0.0),
    ),
)  # fmt: skip
"""FairFace's chips of padding 0.25, which dlib cut: what our detector finds in them, and what brings a chip by its
landmarks nearest to them (``tools/fit_alignment.py``). dlib's own mean face has its eyes at 0.318 and 0.669, 0.314."""


class CompactClassifier(ClassificationNetwork):
    """Residual blocks of 3x3 convolutions behind a stem of stride 2; each stage begins with stride 2.

    Args:
        stem: channels of the first convolution.
        widths: channels of each stage.
        depths: blocks of each stage.
        races: 7, or 4.
        dropout: share of the pooled features that is dropped in training.
    """

    default_input = COMPACT_INPUT
    default_alignment = FAIRFACE_ALIGNMENT

    def __init__(
        self,
        stem: int = 32,
        widths: Sequence[int] = (64, 96, 128, 192),
        depths: Sequence[int] = (1, 1, 2, 1),
        races: int = 7,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads = fairface_heads(races)
        self.stem = conv_norm(3, stem, stride=2, slope=0.0)
        blocks: list[nn.Module] = []
        inputs = stem
        for width, depth in zip(widths, depths, strict=True):
            for index in range(depth):
                blocks.append(BasicBlock(inputs, width, 2 if index == 0 else 1))
                inputs = width
        self.body = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(inputs, sum(map(len, self.heads.values())))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) to the logits of each head, (N, labels)."""
        features = self.dropout(pooled(self.body(self.stem(images))))
        return self.split(self.fc(features))


class ClassifierEnsemble(ClassificationNetwork):
    """Compact classifiers of one shape side by side; the mean of their logits.

    Lakshminarayanan, Pritzel and Blundell, "Simple and scalable predictive uncertainty estimation using deep
    ensembles", NeurIPS 2017: each member is trained by itself from random numbers of its own, and they err apart.
    ``tools/join_classifiers.py`` joins them.

    Args:
        members: how many.
        stem, widths, depths, races, dropout: of each, see :class:`CompactClassifier`.
    """

    default_input = COMPACT_INPUT
    default_alignment = FAIRFACE_ALIGNMENT

    def __init__(
        self,
        members: int = 2,
        stem: int = 32,
        widths: Sequence[int] = (64, 96, 128, 192),
        depths: Sequence[int] = (1, 1, 2, 1),
        races: int = 7,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if members < 1:
            raise ValueError(f"{members} members answer nothing")
        self.heads = fairface_heads(races)
        self.members = nn.ModuleList(CompactClassifier(stem, widths, depths, races, dropout) for _ in range(members))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) to the logits of each head, (N, labels)."""
        answers: list[dict[str, Tensor]] = [member(images) for member in self.members]
        # A sum, for ncnn has no mean of stacked logits.
        return {head: reduce(torch.add, (each[head] for each in answers)) / len(answers) for head in self.heads}


class ResNetClassifier(ResNet, ClassificationNetwork):
    """A ResNet with one linear layer; keys as torchvision's and FairFace's."""

    default_input = IMAGENET_INPUT
    default_alignment = FAIRFACE_ALIGNMENT

    def __init__(self, block: type[BasicBlock] | type[Bottleneck], depths: Sequence[int], races: int) -> None:
        super().__init__(block, depths)
        self.heads = fairface_heads(races)
        self.fc = nn.Linear(self.channels[-1], sum(map(len, self.heads.values())))

    def forward(self, images: Tensor) -> dict[str, Tensor]:  # type: ignore[override] # the last map, and on from it
        """(N, 3, H, W) to the logits of each head, (N, labels)."""
        return self.split(self.fc(pooled(super().forward(images)[-1])))


class MobileNetV2Classifier(MobileNetV2, ClassificationNetwork):
    """MobileNetV2 with one linear layer; the backbone's keys as torchvision's."""

    default_input = IMAGENET_INPUT
    default_alignment = FAIRFACE_ALIGNMENT

    def __init__(self, races: int = 7) -> None:
        super().__init__()
        self.heads = fairface_heads(races)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, sum(map(len, self.heads.values()))))

    def forward(self, images: Tensor) -> dict[str, Tensor]:  # type: ignore[override] # the last map, and on from it
        """(N, 3, H, W) to the logits of each head, (N, labels)."""
        return self.split(self.classifier(pooled(super().forward(images)[-1])))


def mobilenetv2(races: int = 7) -> MobileNetV2Classifier:
    """2.2 million parameters."""
    return MobileNetV2Classifier(races)


def resnet18(races: int = 7) -> ResNetClassifier:
    """11 million parameters."""
    return ResNetClassifier(BasicBlock, (2, 2, 2, 2), races)


def resnet34(races: int = 7) -> ResNetClassifier:
    """FairFace's own: 21 million parameters."""
    return ResNetClassifier(BasicBlock, (3, 4, 6, 3), races)


def resnet50(races: int = 7) -> ResNetClassifier:
    """24 million parameters."""
    return ResNetClassifier(Bottleneck, (3, 4, 6, 3), races)
