"""Ultra-Light slim and RFB: a narrow MobileNet with SSD heads on four levels.

Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB, without landmarks, and biubug6/Face-Detector-1MB-with-landmark,
the same networks with five points.
Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016.
Liu et al., "Receptive Field Block Net for Accurate and Fast Object Detection", ECCV 2018.

The modules bear Ultra-Light's names, so that its weights load as they are. Face-Detector-1MB's ``conv1`` to ``conv13``
are ``base_net.0`` to ``.12`` here, ``conv14`` is ``extras.0``, and ``conf``, ``loc``, ``landm`` are
``classification_headers``, ``regression_headers`` and ``landmark_headers``.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnface.models.layers import DetectionNetwork, conv_norm, depthwise_separable, per_anchor
from nnface.spec import DetectionSpec, InputSpec

INPUT = InputSpec(
    size=320,
    width=320,
    height=240,
    fit="stretch",
    color="rgb",
    mean=(127.0, 127.0, 127.0),
    std=(128.0, 128.0, 128.0),
)
"""Ultra-Light squashes every picture to 4:3; its other inputs are 128x96, 160x120, 480x360, 640x480 and 1280x960."""

DETECTION = DetectionSpec(
    coding="ssd",
    strides=(8, 16, 32, 64),
    anchor_sizes=((10.0, 16.0, 24.0), (32.0, 48.0), (64.0, 96.0), (128.0, 192.0, 256.0)),
    clip_anchors=True,
    landmarks=False,
    min_score=0.6,
    nms_iou=0.3,
)

LANDMARK_INPUT = InputSpec(size=640, multiple=1, color="bgr", mean=(104.0, 117.0, 123.0))
LANDMARK_DETECTION = replace(DETECTION, clip_anchors=False, landmarks=True, min_score=0.5, nms_iou=0.4)

ANCHORS = tuple(len(level) for level in DETECTION.anchor_sizes)
"""Anchors of a cell, for each level."""
CHANNELS = (64, 128, 256, 256)
"""Width of each level."""
SOURCES = (7, 10, 12)
"""The layers of ``base_net`` whose outputs are the first three levels."""


class BasicConv(nn.Module):
    """Convolution that keeps the size, batch norm and, on request, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int = 1, relu: bool = False) -> None:
        super().__init__()
        padding = dilation * (kernel // 2)
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False)
        self.bn = nn.BatchNorm2d(outputs, momentum=0.01)
        self.relu = nn.ReLU(inplace=True) if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        out: Tensor = self.relu(self.bn(self.conv(x)))
        return out


class RFB(nn.Module):
    """Receptive field block: three branches of growing dilation, mixed and added to a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        narrow, wide = width // 8, width // 4
        self.branch0 = nn.Sequential(
            BasicConv(width, narrow, 1),
            BasicConv(narrow, wide, 3, relu=True),
            BasicConv(wide, wide, 3, dilation=2),
        )
        self.branch1 = nn.Sequential(
            BasicConv(width, narrow, 1),
            BasicConv(narrow, wide, 3, relu=True),
            BasicConv(wide, wide, 3, dilation=3),
        )
        self.branch2 = nn.Sequential(
            BasicConv(width, narrow, 1),
            BasicConv(narrow, narrow // 2 * 3, 3, relu=True),
            BasicConv(narrow // 2 * 3, wide, 3, relu=True),
            BasicConv(wide, wide, 3, dilation=5),
        )
        self.ConvLinear = BasicConv(3 * wide, width, 1)
        self.shortcut = BasicConv(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) to the same shape."""
        mixed = self.ConvLinear(torch.cat((self.branch0(x), self.branch1(x), self.branch2(x)), 1))
        return F.relu(mixed + self.shortcut(x), inplace=True)


class UltraLight(DetectionNetwork):
    """Ultra-Light, slim or with an RFB as its eighth layer; two classes, background first."""

    def __init__(self, *, rfb: bool, landmarks: bool) -> None:
        super().__init__()
        self.default_input = LANDMARK_INPUT if landmarks else INPUT
        self.default_detection = LANDMARK_DETECTION if landmarks else DETECTION
        self.base_net = nn.Sequential(
            conv_norm(3, 16, stride=2, slope=0.0),
            depthwise_separable(16, 32, 1),
            depthwise_separable(32, 32, 2),
            depthwise_separable(32, 32, 1),
            depthwise_separable(32, 64, 2),
            depthwise_separable(64, 64, 1),
            depthwise_separable(64, 64, 1),
            RFB(64) if rfb else depthwise_separable(64, 64, 1),
            depthwise_separable(64, 128, 2),
            depthwise_separable(128, 128, 1),
            depthwise_separable(128, 128, 1),
            depthwise_separable(128, 256, 2),
            depthwise_separable(256, 256, 1),
        )
        extra = nn.Sequential(nn.Conv2d(256, 64, 1), nn.ReLU(), _separable(64, 256, stride=2), nn.ReLU())
        self.extras = nn.ModuleList([extra])
        self.classification_headers = _heads(2)
        self.regression_headers = _heads(4)
        self.landmark_headers = _heads(10) if landmarks else None
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) to ``logits`` (N, A, 2), ``boxes`` (N, A, 4) and, with points, ``landmarks`` (N, A, 10), raw.

        A sums anchors * ceil(H/s) * ceil(W/s) over strides 8, 16, 32, 64 with 3, 2, 2, 3 anchors.
        """
        levels, x = [], images
        for index, layer in enumerate(self.base_net):
            x = layer(x)
            if index in SOURCES:
                levels.append(x)
        levels.append(self.extras[0](x))
        outputs = {
            "logits": _predict(self.classification_headers, levels, 2),
            "boxes": _predict(self.regression_headers, levels, 4),
        }
        if self.landmark_headers is not None:
            outputs["landmarks"] = _predict(self.landmark_headers, levels, 10)
        return outputs


def _separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, 1),
    )


def _heads(values: int) -> nn.ModuleList:
    *separable, last = zip(CHANNELS, ANCHORS, strict=True)
    heads: list[nn.Module] = [_separable(channels, anchors * values) for channels, anchors in separable]
    return nn.ModuleList([*heads, nn.Conv2d(last[0], last[1] * values, 3, padding=1)])


def _predict(heads: nn.ModuleList, levels: list[Tensor], values: int) -> Tensor:
    return torch.cat([per_anchor(head(x), values) for head, x in zip(heads, levels, strict=True)], 1)


def slim() -> UltraLight:
    """Ultra-Light slim: 260,188 parameters."""
    return UltraLight(rfb=False, landmarks=False)


def rfb() -> UltraLight:
    """Ultra-Light RFB: 276,292 parameters."""
    return UltraLight(rfb=True, landmarks=False)


def slim_landmarks() -> UltraLight:
    """Face-Detector-1MB's slim: 343,488 parameters."""
    return UltraLight(rfb=False, landmarks=True)


def rfb_landmarks() -> UltraLight:
    """Face-Detector-1MB's RFB: 359,592 parameters."""
    return UltraLight(rfb=True, landmarks=True)
