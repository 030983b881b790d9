"""From pictures as they are kept to what a network takes."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from nnface.models.create import default_spec
from nnface.spec import InputSpec, Spec
from nnface.training.recipe import AttributesRecipe, SegmentationRecipe


def square_spec(recipe: AttributesRecipe | SegmentationRecipe, origin: Mapping[str, str]) -> Spec:
    """What a model file of the recipe says of itself: its input is the square that the recipe trains on.

    Args:
        recipe: what is trained.
        origin: lines of provenance that the recipe does not hold itself.
    """
    spec = default_spec(recipe.model.architecture, licence=recipe.licence, **recipe.model.settings)
    size = recipe.augment.size
    plan = replace(spec.input, size=size, width=size, height=size)
    return replace(spec, input=plan, provenance={"recipe": recipe.name, **origin, **recipe.provenance})


def normalised(images: Tensor, plan: InputSpec) -> Tensor:
    """(N, H, W, 3) uint8 BGR to (N, 3, H, W) float32 as the Spec says, in channels-last memory."""
    pixels = images if plan.color == "bgr" else images.flip(-1)
    mean, std = (pixels.new_tensor(values, dtype=torch.float32) for values in (plan.mean, plan.std))
    # In place: each further copy of a batch of large crops costs as much as a layer of the network.
    return pixels.float().sub_(mean).div_(std).permute(0, 3, 1, 2)
