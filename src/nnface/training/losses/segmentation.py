"""Losses over the pixels of portraits. Pixels labelled 255 lie outside the portrait and count nothing."""

import torch
from torch import Tensor
from torch.nn import functional as F

from nnface.training.augment.segmentation import IGNORED


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor, outline: float = 0.0) -> Tensor:
    """The sum over the portraits of each one's mean over its pixels.

    Args:
        logits: (N, C, H, W).
        labels: (N, H, W) int64.
        weights: (C,) what a pixel of each label counts, in pixels.
        outline: how much more a pixel on the outline of a part counts, in these weights.
    """
    losses = F.cross_entropy(logits, labels, weights, ignore_index=IGNORED, reduction="none")
    if outline:
        losses = losses * (1 + outline * outlines(labels))
    pixels = (labels != IGNORED).sum((1, 2)).clamp(min=1)
    return (losses.sum((1, 2)) / pixels).sum()


def outlines(labels: Tensor) -> Tensor:
    """(N, H, W) bool: pixels that have another label beside, above or below them, on both sides of each outline.

    Args:
        labels: (N, H, W) int64; where one of two is 255 there is no outline.
    """
    found = torch.zeros_like(labels, dtype=torch.bool)
    for dimension in (1, 2):
        length = labels.shape[dimension] - 1
        near, far = labels.narrow(dimension, 0, length), labels.narrow(dimension, 1, length)
        differ = (near != far) & (near != IGNORED) & (far != IGNORED)
        found.narrow(dimension, 0, length).logical_or_(differ)
        found.narrow(dimension, 1, length).logical_or_(differ)
    return found


def ohem_cross_entropy(logits: Tensor, labels: Tensor, threshold: float, least: int) -> Tensor:
    """The mean cross-entropy of the pixels whose label has less than a probability, or of the ``least`` hardest.

    Online hard example mining as face-parsing.PyTorch has it for BiSeNet: over the whole batch, pixels that are ignored
    among those that are sorted, with a loss of 0.

    Args:
        logits: (N, C, H, W).
        labels: (N, H, W) int64.
        threshold: the probability.
        least: how many pixels count at least; all where there are fewer.
    """
    losses, _ = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none").flatten().sort(descending=True)
    hard = losses > -torch.log(losses.new_tensor(threshold))
    least = min(least, len(losses))
    # The reference compares the loss at place ``least``, so that with exactly so many hard ones the hardest count.
    kept = losses[hard] if len(losses) > least and bool(hard[least]) else losses[:least]
    return kept.mean()


def dice(logits: Tensor, labels: Tensor) -> Tensor:
    """The sum over the portraits of 1 - the mean Dice coefficient of the parts that each one shows, background too.

    Milletari et al., "V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image Segmentation", 3DV 2016,
    with sums instead of squares below.

    Args:
        logits: (N, C, H, W).
        labels: (N, H, W) int64.
    """
    there = (labels != IGNORED)[:, None]
    found = logits.softmax(1) * there
    truth = torch.zeros_like(found).scatter_(1, labels.clamp(max=logits.shape[1] - 1)[:, None], 1.0) * there
    both = (found * truth).sum((2, 3))
    sizes = truth.sum((2, 3))
    coefficients = (2 * both + 1) / (found.sum((2, 3)) + sizes + 1)
    shown = (sizes > 0).float()
    return (1 - (coefficients * shown).sum(1) / shown.sum(1).clamp(min=1)).sum()
