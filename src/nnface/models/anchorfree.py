"""AnchorFree: the detector that nnface ships, one prediction a cell and dense 3x3 convolutions throughout.

It stands in the line of FCOS (Tian et al. 2019, https://arxiv.org/abs/1904.01355: one point a cell, distances to the
four sides) and SCRFD (Guo et al. 2021, https://arxiv.org/abs/2105.04714: most of the computation at the fine levels,
where small faces are decided), with a top-down feature pyramid (Lin et al. 2017, https://arxiv.org/abs/1612.03144).
It differs from the mobile detectors in having no depthwise convolution: with few channels a dense 3x3 convolution does
several times more arithmetic in the same time, on a CPU in bfloat16 (training) as in float32 (ONNX Runtime).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnface.models.layers import DetectionNetwork, conv_norm, upsample_like
from nnface.spec import DetectionSpec, InputSpec

STRIDES = (8, 16, 32)
PRIOR = 0.01
"""What an untrained network says of every cell, so that the first steps are not spent on background (RetinaNet)."""


def conv(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    return conv_norm(inputs, outputs, kernel, stride, slope=0.0)


class Residual(nn.Module):
    """The basic block of ResNet: two 3x3 convolutions around which the input passes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = conv(width, width)
        self.second = conv_norm(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) to the same shape."""
        return F.relu(x + self.second(self.first(x)))


class Head(nn.Module):
    """One level's predictions: (N, neck, H, W) to (N, H * W, 1 + 4 + 10)."""

    def __init__(self, width: int, depth: int, outputs: int) -> None:
        super().__init__()
        self.tower = nn.Sequential(*(conv(width, width) for _ in range(depth)))
        self.predict = nn.Conv2d(width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Rows, then columns."""
        return self.predict(self.tower(x)).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class AnchorFree(DetectionNetwork):
    """Faces from three levels (strides 8, 16, 32).

    Args:
        stem: channels at stride 2.
        widths: channels at strides 4, 8, 16 and 32.
        depths: residual blocks at the same strides.
        neck: channels of the feature pyramid and of the heads.
        head_depth: 3x3 convolutions in each level's head.
        landmarks: whether five points come with each box.
    """

    def __init__(
        self,
        stem: int = 16,
        widths: Sequence[int] = (24, 48, 64, 96),
        depths: Sequence[int] = (1, 1, 1, 1),
        neck: int = 48,
        head_depth: int = 2,
        landmarks: bool = True,
    ) -> None:
        super().__init__()
        # Grey of 114 is what pads pictures, in training as in letterboxes: it becomes zero, as a convolution's border.
        self.default_input = InputSpec(size=640, multiple=32, mean=(114.0, 114.0, 114.0), std=(64.0, 64.0, 64.0))
        self.default_detection = DetectionSpec(coding="distance", strides=STRIDES, landmarks=landmarks, nms_iou=0.45)
        self.landmarks = landmarks
        self.stem = conv(3, stem, stride=2)
        self.stages = nn.ModuleList()
        for inputs, width, depth in zip((stem, *widths[:-1]), widths, depths, strict=True):
            self.stages.append(nn.Sequential(conv(inputs, width, stride=2), *(Residual(width) for _ in range(depth))))
        self.laterals = nn.ModuleList(conv(width, neck, kernel=1) for width in widths[1:])
        self.merges = nn.ModuleList(conv(neck, neck) for _ in STRIDES[:-1])
        self.heads = nn.ModuleList(Head(neck, head_depth, 15 if landmarks else 5) for _ in STRIDES)
        self._initialise()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Predictions for every cell, in the order level, row, column.

        Args:
            images: (N, 3, H, W), normalised; any H and W from 32 up.

        Returns:
            ``logits`` (N, A, 1); ``boxes`` (N, A, 4), distances to the left, top, right and bottom side in strides,
            positive; ``landmarks`` (N, A, 10), offsets of the five points from the cell's centre in strides.
        """
        x = self.stages[0](self.stem(images))
        levels = []
        for stage in list(self.stages)[1:]:
            x = stage(x)
            levels.append(x)
        levels = [lateral(level) for lateral, level in zip(self.laterals, levels, strict=True)]
        for i in (1, 0):
            levels[i] = self.merges[i](levels[i] + upsample_like(levels[i + 1], levels[i]))
        raw = torch.cat([head(level) for head, level in zip(self.heads, levels, strict=True)], 1).float()
        # exp keeps distances positive and their relative error even over all sizes; 7 strides in the log is no limit
        # for faces and keeps an untrained network finite.
        outputs = {"logits": raw[..., :1], "boxes": raw[..., 1:5].clamp(max=7).exp()}
        if self.landmarks:
            outputs["landmarks"] = raw[..., 5:]
        return outputs

    def scores(self, logits: Tensor) -> Tensor:
        """(N, A, 1) logits to (N, A) probabilities of a face."""
        return logits[..., 0].sigmoid()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self.modules():
            if isinstance(module, Head):
                nn.init.normal_(module.predict.weight, std=0.01)
                assert module.predict.bias is not None
                nn.init.zeros_(module.predict.bias)
                nn.init.constant_(module.predict.bias[:1], -math.log(1 / PRIOR - 1))
            if isinstance(module, Residual):  # a block begins as the identity
                norm = module.second[1]
                assert isinstance(norm, nn.BatchNorm2d)
                nn.init.zeros_(norm.weight)
