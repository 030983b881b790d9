"""Variations of face chips: arrays in, arrays out, all from one generator.

The crop is laid as another detector or another aligner would lay it (people see a person's attributes change with the
crop); the rest is what cameras, small pictures and codecs do.
"""

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from nnface.training.recipe import ChipAugment

Chip = NDArray[np.uint8]


def vary(image: Chip, size: int, rng: Generator, plan: ChipAugment) -> Chip:
    """A variation of a face chip (H, W, 3) as (size, size, 3)."""
    chip = jitter(image, size, rng, plan)
    if rng.random() < plan.reduce:
        side = int(size * rng.uniform(1 / 3, 1))
        small = cv2.resize(chip, (side, side), interpolation=cv2.INTER_AREA)
        chip = np.asarray(cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR), np.uint8)
    if rng.random() < plan.blur:
        chip = np.asarray(cv2.GaussianBlur(chip, (0, 0), rng.uniform(0.4, 1.6)), np.uint8)
    if rng.random() < plan.grey:
        chip = np.asarray(cv2.cvtColor(cv2.cvtColor(chip, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR), np.uint8)
    if plan.color:
        chip = recolour(chip, rng, plan.color)
    if rng.random() < plan.erase:
        height, width = (rng.uniform(0.15, 0.4, 2) * size).astype(int)
        top, left = int(rng.integers(size - height)), int(rng.integers(size - width))
        chip[top : top + height, left : left + width] = rng.integers(0, 256, 3)
    return chip


def jitter(image: Chip, size: int, rng: Generator, plan: ChipAugment) -> Chip:
    """The chip cut anew: shifted, scaled, turned and perhaps mirrored. New edges repeat the last pixel, or are black.

    Deviations are normal and cut at 2.5 standard deviations, so that the face stays in the chip.
    """
    height, width = image.shape[:2]
    shift_x, shift_y, scale, turn = np.clip(rng.standard_normal(4), -2.5, 2.5)
    zoom = float(np.exp(scale * plan.scale))
    angle = np.deg2rad(turn * plan.rotate)
    mirror = -1.0 if plan.flip and rng.random() < 0.5 else 1.0
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * zoom
    linear = turned @ np.diag([mirror * size / width, size / height])
    centre = size / 2 + np.array([shift_x, shift_y]) * plan.shift * size
    shift = centre - linear @ np.array([width / 2, height / 2])
    centred = np.column_stack([linear, shift + linear.sum(1) / 2 - 0.5])  # OpenCV counts from the centres of pixels
    border = cv2.BORDER_REPLICATE if rng.random() < 0.5 else cv2.BORDER_CONSTANT
    return np.asarray(cv2.warpAffine(image, centred, (size, size), flags=cv2.INTER_LINEAR, borderMode=border), np.uint8)


def recolour(chip: Chip, rng: Generator, most: float) -> Chip:
    """Another brightness, contrast and white balance, in one look-up table a channel."""
    brightness, contrast = rng.uniform(-most, most, 2)
    gains = 1 + rng.uniform(-most, most, 3) / 3
    levels = np.arange(256, dtype=np.float32)
    curve = (levels - 127.5) * (1 + contrast) + 127.5 + 127.5 * brightness
    table = np.clip(curve[:, None] * gains, 0, 255).astype(np.uint8)[None]
    return np.asarray(cv2.LUT(chip, table), np.uint8)
