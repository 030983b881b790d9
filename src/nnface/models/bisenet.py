"""BiSeNet: a parser with a context path that sees the whole portrait, joined with fine features at an eighth.

Yu et al., "BiSeNet: Bilateral Segmentation Network for Real-time Semantic Segmentation", ECCV 2018, as
zllrunning/face-parsing.PyTorch has it for faces: the backbone's own map at stride 8 stands for the spatial path. With
ResNet-18 the names of the tensors are that project's, so that its published weights load as they are. The mobile
variant is ours: MobileNet's separable blocks in body and neck, or dense 3x3 convolutions in their places, so that the
two can be measured against each other (``benchmarks/segmentation.py``).
"""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnface.models.classifier import IMAGENET_INPUT
from nnface.models.layers import SegmentationNetwork, conv_norm, depthwise_separable, upsample_like
from nnface.models.mobilenet import MobileNetV1
from nnface.models.parser import CELEBAMASK_ALIGNMENT
from nnface.models.resnet import ResNet
from nnface.models.resnet import resnet18 as resnet18_body
from nnface.models.resnet import resnet34 as resnet34_body
from nnface.spec import LABEL_ORDERS


class BiSeNet(SegmentationNetwork):
    """Context path, feature fusion, and three outputs, of which two help only in training.

    Training needs at least two pictures a batch: batch norms of globally pooled features stand in its way otherwise.

    Args:
        body: gives maps at strides 8, 16 and 32.
        labels: the order of the labels, a name of :data:`nnface.spec.LABEL_ORDERS`.
        neck: channels of the context path; fused features have twice as many.
        separable: depthwise separable convolutions in the place of the dense 3x3 ones.

    Raises:
        ValueError: no such order of labels.
    """

    default_input = replace(IMAGENET_INPUT, size=512, width=512, height=512)
    default_alignment = CELEBAMASK_ALIGNMENT

    def __init__(self, body: ResNet | MobileNetV1, labels: str, neck: int = 128, separable: bool = False) -> None:
        super().__init__()
        if labels not in LABEL_ORDERS:
            raise ValueError(f"no order of labels is named {labels!r}; there are {', '.join(LABEL_ORDERS)}")
        self.labels = LABEL_ORDERS[labels]
        self.cp = ContextPath(body, neck, separable)
        self.ffm = FeatureFusion(body.channels[0] + neck, 2 * neck)
        count = len(self.labels)
        self.conv_out = Output(2 * neck, 2 * neck, count, separable)
        self.conv_out16 = Output(neck, neck // 2, count, separable)
        self.conv_out32 = Output(neck, neck // 2, count, separable)
        bodies = set(self.cp.resnet.modules())  # which have begun as their papers say
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module not in bodies:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) to ``logits`` (N, 19, H, W), in training ``auxiliary_16`` and ``auxiliary_32`` of that size too.

        They are named as the reference names them: its ``out16`` is made at stride 8, its ``out32`` at 16.
        """
        fine, context8, context16 = self.cp(images)
        outputs = {"logits": self.conv_out(self.ffm(fine, context8))}
        if self.training:
            outputs |= {"auxiliary_16": self.conv_out16(context8), "auxiliary_32": self.conv_out32(context16)}
        return {
            name: F.interpolate(values, size=images.shape[-2:], mode="bilinear", align_corners=True)
            for name, values in outputs.items()
        }


class ContextPath(nn.Module):
    """The backbone, and its coarse maps refined on the way up."""

    def __init__(self, body: ResNet | MobileNetV1, neck: int, separable: bool) -> None:
        super().__init__()
        _, middle, coarse = body.channels
        self.resnet = body  # the published name, whatever the body
        self.arm16 = AttentionRefinement(middle, neck, separable)
        self.arm32 = AttentionRefinement(coarse, neck, separable)
        self.conv_head32 = convolution(neck, neck, separable)
        self.conv_head16 = convolution(neck, neck, separable)
        self.conv_avg = ConvNorm(coarse, neck, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 3, H, W) to the body's map at stride 8 and the context (N, neck, ...) at strides 8 and 16."""
        c3, c4, c5 = self.resnet(images)
        context = self.arm32(c5) + self.conv_avg(everywhere(c5))
        context16 = self.conv_head32(upsample_like(context, c4))
        context8 = self.conv_head16(upsample_like(self.arm16(c4) + context16, c3))
        return c3, context8, context16


class AttentionRefinement(nn.Module):
    """A 3x3 convolution whose channels are weighed by what they are on the whole map."""

    def __init__(self, inputs: int, outputs: int, separable: bool) -> None:
        super().__init__()
        self.conv = convolution(inputs, outputs, separable)
        self.conv_atten = nn.Conv2d(outputs, outputs, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        features: Tensor = self.conv(x)
        weights: Tensor = self.bn_atten(self.conv_atten(everywhere(features)))
        return features * weights.sigmoid()


class FeatureFusion(nn.Module):
    """Fine and context features joined by a 1x1 convolution, plus themselves weighed by channel."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convblk = ConvNorm(inputs, outputs, 1)
        self.conv1 = nn.Conv2d(outputs, outputs // 4, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs // 4, outputs, 1, bias=False)

    def forward(self, fine: Tensor, context: Tensor) -> Tensor:
        """Two maps of one size to (N, outputs, H, W)."""
        features: Tensor = self.convblk(torch.cat([fine, context], 1))
        weights: Tensor = self.conv2(F.relu(self.conv1(everywhere(features))))
        return features + features * weights.sigmoid()


class Output(nn.Module):
    """A 3x3 convolution, then the labels: (N, inputs, H, W) to (N, labels, H, W)."""

    def __init__(self, inputs: int, hidden: int, labels: int, separable: bool) -> None:
        super().__init__()
        self.conv = convolution(inputs, hidden, separable)
        self.conv_out = nn.Conv2d(hidden, labels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the same grid."""
        logits: Tensor = self.conv_out(self.conv(x))
        return logits


class ConvNorm(nn.Module):
    """Convolution, batch norm, ReLU, under the published names."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


def convolution(inputs: int, outputs: int, separable: bool) -> nn.Module:
    """3x3 at stride 1 with batch norm and ReLU, dense or depthwise separable."""
    return depthwise_separable(inputs, outputs, 1) if separable else ConvNorm(inputs, outputs, 3)


def everywhere(maps: Tensor) -> Tensor:
    """(N, C, H, W) to (N, C, 1, 1): the mean over all places, as a plain mean, which every runtime has."""
    return torch.mean(maps, (2, 3), keepdim=True)


def resnet18(labels: str = "zllrunning") -> BiSeNet:
    """The reference's: 13 million parameters, two of the outputs included."""
    return BiSeNet(resnet18_body(), labels)


def resnet34(labels: str = "zllrunning") -> BiSeNet:
    """23 million parameters."""
    return BiSeNet(resnet34_body(), labels)


def mobile(labels: str = "zllrunning", width: float = 0.5, neck: int = 64, separable: bool = True) -> BiSeNet:
    """MobileNet of half the width and a neck of half the channels: 1 million parameters.

    Args:
        labels: the order of the labels.
        width: of the body's layers, 1 for MobileNet's own.
        neck: see :class:`BiSeNet`.
        separable: False puts dense 3x3 convolutions in the places of the separable ones, in the body too.
    """
    return BiSeNet(MobileNetV1(width, 0.0, depthwise_separable if separable else dense_block), labels, neck, separable)


def dense_block(inputs: int, outputs: int, stride: int, slope: float) -> nn.Sequential:
    """What stands in the place of a separable block: one dense 3x3 convolution with batch norm and ReLU."""
    return conv_norm(inputs, outputs, 3, stride, slope)
