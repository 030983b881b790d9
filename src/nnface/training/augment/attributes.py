"""Variations of face chips: arrays in, arrays out, all from one generator."""

import cv2
from numpy.random import Generator

from nnface.training.augment.faces import Image, laid, placement, worsened
from nnface.training.recipe import ChipAugment


def vary(image: Image, size: int, rng: Generator, plan: ChipAugment) -> Image:
    """A variation of a face chip (H, W, 3) as (size, size, 3)."""
    chip = worsened(jitter(image, size, rng, plan), rng, plan)
    if rng.random() < plan.erase:
        height, width = (rng.uniform(0.15, 0.4, 2) * size).astype(int)
        top, left = int(rng.integers(size - height)), int(rng.integers(size - width))
        chip[top : top + height, left : left + width] = rng.integers(0, 256, 3)
    return chip


def jitter(image: Image, size: int, rng: Generator, plan: ChipAugment) -> Image:
    """The chip cut anew: shifted, scaled, turned, perhaps mirrored. New edges repeat the last pixel, or turn black."""
    place, _ = placement(image.shape[0], image.shape[1], rng, plan)
    border = cv2.BORDER_REPLICATE if rng.random() < 0.5 else cv2.BORDER_CONSTANT
    return laid(image, place, size, cv2.INTER_LINEAR, border)
