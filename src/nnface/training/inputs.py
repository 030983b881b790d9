"""From pictures as they are kept to what a network takes."""

import torch
from torch import Tensor

from nnface.spec import InputSpec


def normalised(images: Tensor, plan: InputSpec) -> Tensor:
    """(N, H, W, 3) uint8 BGR to (N, 3, H, W) float32 as the Spec says, in channels-last memory."""
    pixels = images if plan.color == "bgr" else images.flip(-1)
    mean, std = (pixels.new_tensor(values, dtype=torch.float32) for values in (plan.mean, plan.std))
    return ((pixels.float() - mean) / std).permute(0, 3, 1, 2)
