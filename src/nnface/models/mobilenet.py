"""MobileNet as a backbone: three feature maps at strides 8, 16 and 32.

V1: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017; the
variant of biubug6/Pytorch_Retinaface with leaky ReLU, whose ImageNet weights exist for width 0.25.
V2: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018; layout of torchvision.

State-dict keys are those of the published weights (without the classifier).
"""

from collections.abc import Callable

from torch import Tensor, nn

from nnface.models.layers import conv_norm, depthwise_separable


class MobileNetV1(nn.Module):
    """(N, 3, H, W) to (N, 256w, H/8, W/8), (N, 512w, H/16, W/16), (N, 1024w, H/32, W/32) for width w.

    Args:
        width: what the channels are multiplied with.
        slope: of the leaky ReLUs; 0: plain ones.
        block: makes the layers after the first, of input channels, output channels, stride and slope.
    """

    def __init__(
        self,
        width: float,
        slope: float = 0.1,
        block: Callable[[int, int, int, float], nn.Module] = depthwise_separable,
    ) -> None:
        super().__init__()
        c = [int(channels * width) for channels in (32, 64, 128, 256, 512, 1024)]
        self.channels = (c[3], c[4], c[5])
        self.stage1 = nn.Sequential(
            conv_norm(3, c[0], stride=2, slope=slope),
            block(c[0], c[1], 1, slope),
            block(c[1], c[2], 2, slope),
            block(c[2], c[2], 1, slope),
            block(c[2], c[3], 2, slope),
            block(c[3], c[3], 1, slope),
        )
        self.stage2 = nn.Sequential(
            block(c[3], c[4], 2, slope),
            *(block(c[4], c[4], 1, slope) for _ in range(5)),
        )
        self.stage3 = nn.Sequential(
            block(c[4], c[5], 2, slope),
            block(c[5], c[5], 1, slope),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 3, H, W) to the maps at strides 8, 16, 32; sides are rounded up."""
        c3 = self.stage1(images)
        c4 = self.stage2(c3)
        return c3, c4, self.stage3(c4)


class InvertedResidual(nn.Module):
    """MobileNetV2's block: 1x1 expansion (unless it is 1), 3x3 depthwise, linear 1x1; a shortcut where sizes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            *([_conv_norm_relu6(inputs, hidden, 1)] if expansion != 1 else []),
            _conv_norm_relu6(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H/stride, W/stride)."""
        out: Tensor = self.conv(x)
        return x + out if self.shortcut else out


class MobileNetV2(nn.Module):
    """(N, 3, H, W) to (N, 32, H/8, W/8), (N, 96, H/16, W/16), (N, 1280, H/32, W/32)."""

    channels = (32, 96, 1280)
    taps = (6, 13, 18)
    """The layers whose outputs are the three maps: the last before each halving."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv_norm_relu6(3, 32, 3, 2)]
        inputs = 32
        for expansion, outputs, repeats, stride in (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ):
            for repeat in range(repeats):
                layers.append(InvertedResidual(inputs, outputs, stride if repeat == 0 else 1, expansion))
                inputs = outputs
        self.features = nn.Sequential(*layers, _conv_norm_relu6(inputs, 1280, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) to the maps at strides 8, 16, 32; sides are rounded up."""
        maps, x = [], images
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                maps.append(x)
        return tuple(maps)


def _conv_norm_relu6(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True),
    )
