"""RetinaFace: a backbone, a feature pyramid, SSH context modules, and one 1x1 head a level for each output.

Deng et al., "RetinaFace: Single-stage Dense Face Localisation in the Wild", CVPR 2020.
Najibi et al., "SSH: Single Stage Headless Face Detector", ICCV 2017.
Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017.

As biubug6/Pytorch_Retinaface computes it (MobileNet-0.25, ResNet-50), biubug6/Face-Detector-1MB-with-landmark
(MobileNet-0.25 without the leaks, smaller anchors) and yakhyo/retinaface-pytorch (wider MobileNets, MobileNetV2,
ResNet-18 and -34). The modules bear biubug6's names, so that published weights load as they are.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnface.models import resnet
from nnface.models.layers import DetectionNetwork, conv_norm, head_per_level, upsample_like
from nnface.models.mobilenet import MobileNetV1, MobileNetV2
from nnface.spec import DetectionSpec, InputSpec

INPUT = InputSpec(size=640, multiple=1, scaling="linear", color="bgr", mean=(104.0, 117.0, 123.0))

DETECTION = DetectionSpec(
    coding="ssd",
    strides=(8, 16, 32),
    anchor_sizes=((16.0, 32.0), (64.0, 128.0), (256.0, 512.0)),
    min_score=0.5,
    nms_iou=0.4,
)

SMALL_FACE_DETECTION = replace(DETECTION, anchor_sizes=((10.0, 20.0), (32.0, 64.0), (128.0, 256.0)))
"""Face-Detector-1MB's, made for pictures of 320 and 640."""

ANCHORS = 2
"""Anchors of each cell."""


class FPN(nn.Module):
    """Three maps of any widths to three of one width; each finer one is merged with the coarser one, upsampled."""

    def __init__(self, inputs: Sequence[int], width: int, slope: float) -> None:
        super().__init__()
        self.output1 = conv_norm(inputs[0], width, 1, slope=slope)
        self.output2 = conv_norm(inputs[1], width, 1, slope=slope)
        self.output3 = conv_norm(inputs[2], width, 1, slope=slope)
        self.merge1 = conv_norm(width, width, slope=slope)
        self.merge2 = conv_norm(width, width, slope=slope)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """(N, inputs[i], Hi, Wi), fine to coarse, to (N, width, Hi, Wi)."""
        c3, c4, c5 = maps
        p5 = self.output3(c5)
        lateral4 = self.output2(c4)
        p4 = self.merge2(lateral4 + upsample_like(p5, lateral4))
        lateral3 = self.output1(c3)
        p3 = self.merge1(lateral3 + upsample_like(p4, lateral3))
        return p3, p4, p5


class SSH(nn.Module):
    """Context: branches that see 3x3, 5x5 and 7x7, of 1/2, 1/4 and 1/4 of the channels, side by side."""

    def __init__(self, width: int, slope: float) -> None:
        super().__init__()
        self.conv3X3 = conv_norm(width, width // 2)
        self.conv5X5_1 = conv_norm(width, width // 4, slope=slope)
        self.conv5X5_2 = conv_norm(width // 4, width // 4)
        self.conv7X7_2 = conv_norm(width // 4, width // 4, slope=slope)
        self.conv7x7_3 = conv_norm(width // 4, width // 4)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) to the same shape."""
        shared = self.conv5X5_1(x)
        branches = self.conv3X3(x), self.conv5X5_2(shared), self.conv7x7_3(self.conv7X7_2(shared))
        return F.relu(torch.cat(branches, 1), inplace=True)


class RetinaFace(DetectionNetwork):
    """RetinaFace; two classes, background first.

    Args:
        body: the backbone, which gives three maps at strides 8, 16, 32.
        width: channels of the pyramid and of the context modules.
        slope: of their ReLUs below 0.
        detection: what the outputs mean.
    """

    default_input = INPUT

    def __init__(
        self,
        body: MobileNetV1 | MobileNetV2 | resnet.ResNet,
        width: int,
        slope: float = 0.0,
        detection: DetectionSpec = DETECTION,
    ) -> None:
        super().__init__()
        self.default_detection = detection
        self.body = body
        self.fpn = FPN(body.channels, width, slope)
        self.ssh1 = SSH(width, slope)
        self.ssh2 = SSH(width, slope)
        self.ssh3 = SSH(width, slope)
        self.ClassHead = head_per_level(3, width, ANCHORS, 2)
        self.BboxHead = head_per_level(3, width, ANCHORS, 4)
        self.LandmarkHead = head_per_level(3, width, ANCHORS, 10)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) to ``logits`` (N, A, 2), ``boxes`` (N, A, 4), ``landmarks`` (N, A, 10), raw.

        A = 2 * (ceil(H/8) * ceil(W/8) + ceil(H/16) * ceil(W/16) + ceil(H/32) * ceil(W/32)).
        """
        p3, p4, p5 = self.fpn(self.body(images))
        features = self.ssh1(p3), self.ssh2(p4), self.ssh3(p5)
        heads = {"logits": self.ClassHead, "boxes": self.BboxHead, "landmarks": self.LandmarkHead}
        return {
            name: torch.cat([head(x) for head, x in zip(levels, features, strict=True)], 1)
            for name, levels in heads.items()
        }


def mobilenet025() -> RetinaFace:
    """biubug6's small one: 426,608 parameters."""
    return RetinaFace(MobileNetV1(0.25), 64, slope=0.1)


def mobilenet025_relu() -> RetinaFace:
    """Face-Detector-1MB's: the same tensors, so that a file does not tell, but ReLU throughout and smaller anchors."""
    return RetinaFace(MobileNetV1(0.25, slope=0.0), 64, detection=SMALL_FACE_DETECTION)


def mobilenet050() -> RetinaFace:
    """yakhyo's ``mobilenetv1_0.50``."""
    return RetinaFace(MobileNetV1(0.5), 128)


def mobilenet100() -> RetinaFace:
    """yakhyo's ``mobilenetv1``."""
    return RetinaFace(MobileNetV1(1.0), 128)


def mobilenetv2() -> RetinaFace:
    """yakhyo's ``mobilenetv2``."""
    return RetinaFace(MobileNetV2(), 128)


def resnet18() -> RetinaFace:
    """yakhyo's ``resnet18``."""
    return RetinaFace(resnet.resnet18(), 128)


def resnet34() -> RetinaFace:
    """yakhyo's ``resnet34``."""
    return RetinaFace(resnet.resnet34(), 128)


def resnet50() -> RetinaFace:
    """biubug6's large one: 27,293,600 parameters."""
    return RetinaFace(resnet.resnet50(), 256)


def resnet101() -> RetinaFace:
    """By the rule of ResNet-50; nobody has published weights."""
    return RetinaFace(resnet.resnet101(), 256)


def resnet152() -> RetinaFace:
    """By the rule of ResNet-50; nobody has published weights."""
    return RetinaFace(resnet.resnet152(), 256)
