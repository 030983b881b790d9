"""What several networks share: the contract of a detector, and its smallest blocks."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnface.spec import FAIRFACE_HEADS, FAIRFACE_HEADS_4, AlignmentSpec, DetectionSpec, InputSpec


class DetectionNetwork(nn.Module):
    """A network that finds faces, raw: nothing is decoded and no softmax is taken.

    ``forward(images)`` takes (N, 3, H, W) float, normalised as the Spec says, any H and W from 32 up, odd ones too.
    It returns, for A anchors in the order level (fine to coarse), row, column, anchor of the cell::

        {"logits": (N, A, C), "boxes": (N, A, 4), "landmarks": (N, A, 10)}

    without ``landmarks`` where the network has none.
    """

    default_input: InputSpec
    """How pictures become its input, unless the Spec of its weights says otherwise."""
    default_detection: DetectionSpec
    """What its outputs mean, likewise. Coding, strides, anchors a cell and landmarks are the network's own; the sizes
    of the anchors and the thresholds may differ from one set of weights to the next."""

    def scores(self, logits: Tensor) -> Tensor:
        """(N, A, 2) logits to the probability of a face, (N, A) in 0..1. Class 0 is background, class 1 face."""
        return (logits[..., 1] - logits[..., 0]).sigmoid()  # the softmax of two classes, in one cheap step


class ClassificationNetwork(nn.Module):
    """A network that tells the perceived attributes of one face, raw: no softmax is taken.

    ``forward(images)`` takes (N, 3, H, W) float, normalised as the Spec says, any H and W from 32 up, and returns for
    each of its heads (N, number of labels).
    """

    default_input: InputSpec
    """How face chips become its input, unless the Spec of its weights says otherwise."""
    default_alignment: AlignmentSpec
    """Where the landmarks lie in the chips that it was trained on, likewise."""
    heads: Mapping[str, tuple[str, ...]]
    """Each output's labels, in order."""

    def split(self, logits: Tensor) -> dict[str, Tensor]:
        """(N, all labels) of a last layer that all heads share, cut into the heads."""
        parts = torch.split(logits, [len(labels) for labels in self.heads.values()], 1)
        return dict(zip(self.heads, parts, strict=True))


class SegmentationNetwork(nn.Module):
    """A network that labels the pixels of one face, raw: no softmax is taken.

    ``forward(images)`` takes (N, 3, H, W) float, normalised as the Spec says, any H and W from 32 up, and returns
    ``{"logits": (N, labels, h, w)}`` on a grid of its own that covers the input. In training mode it may return more of
    the kind, named ``auxiliary_*``, which the loss counts too.
    """

    default_input: InputSpec
    """How portraits become its input, unless the Spec of its weights says otherwise."""
    default_alignment: AlignmentSpec
    """Where the landmarks lie in the portraits that it was trained on, likewise."""
    labels: tuple[str, ...]
    """The labels, in order."""


def fairface_heads(races: int) -> Mapping[str, tuple[str, ...]]:
    """FairFace's heads with 7 or 4 races.

    Raises:
        ValueError: another number.
    """
    if races not in (4, 7):
        raise ValueError(f"FairFace has 7 races, or 4 where they are joined, not {races}")
    return FAIRFACE_HEADS if races == 7 else FAIRFACE_HEADS_4


def pooled(maps: Tensor) -> Tensor:
    """(N, C, H, W) to (N, C): the mean over all places."""
    return torch.flatten(F.adaptive_avg_pool2d(maps, 1), 1)


def activation(slope: float) -> nn.Module:
    """ReLU, or leaky ReLU where the slope is not 0."""
    return nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True)


def conv_norm(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, slope: float | None = None, bias: bool = False
) -> nn.Sequential:
    """Convolution, batch norm and, unless ``slope`` is None, (leaky) ReLU: (N, inputs, H, W) to (N, outputs, H/s, W/s).

    Padding keeps the size at stride 1 and rounds it up, ceil(size / 2), at stride 2.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=bias),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers) if slope is None else nn.Sequential(*layers, activation(slope))


def depthwise_separable(inputs: int, outputs: int, stride: int, slope: float = 0.0) -> nn.Sequential:
    """MobileNet's block: 3x3 depthwise, then 1x1, each with batch norm and (leaky) ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        activation(slope),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        activation(slope),
    )


def upsample_like(coarse: Tensor, fine: Tensor) -> Tensor:
    """(N, C, h, w) to the height and width of ``fine``, nearest: not by 2, which fails for odd sizes."""
    return F.interpolate(coarse, size=fine.shape[-2:], mode="nearest")


def per_anchor(maps: Tensor, values: int) -> Tensor:
    """(N, anchors * values, H, W) to (N, H * W * anchors, values): rows, then columns, then the anchors of a cell."""
    return maps.permute(0, 2, 3, 1).reshape(maps.shape[0], -1, values)


class Head(nn.Module):
    """A 1x1 convolution that predicts ``values`` numbers an anchor: (N, C, H, W) to (N, H * W * anchors, values)."""

    def __init__(self, inputs: int, anchors: int, values: int) -> None:
        super().__init__()
        self.values = values
        self.conv1x1 = nn.Conv2d(inputs, anchors * values, 1)

    def forward(self, features: Tensor) -> Tensor:
        """One level's features to one level's predictions."""
        return per_anchor(self.conv1x1(features), self.values)


def head_per_level(levels: int, inputs: int, anchors: int, values: int) -> nn.ModuleList:
    """A :class:`Head` of its own for each level."""
    return nn.ModuleList(Head(inputs, anchors, values) for _ in range(levels))
