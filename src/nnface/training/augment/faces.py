"""Variations of pictures that show one face: how it lies in them, and how good they are. All from one generator.

The face is laid as another detector or another aligner would lay it (people see a person's attributes change with the
crop); the rest is what cameras, small pictures and codecs do.
"""

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from nnface.geometry.align import Transform
from nnface.training.recipe import ChipAugment, PortraitAugment

Image = NDArray[np.uint8]
Augment = ChipAugment | PortraitAugment


def placement(height: int, width: int, rng: Generator, plan: Augment) -> tuple[Transform, bool]:
    """Where a picture comes to lie in the unit square, (2, 3): shifted, scaled, turned; and whether it is mirrored.

    Deviations are normal and cut at 2.5 standard deviations, so that the face stays inside.
    """
    shift_x, shift_y, scale, turn = np.clip(rng.standard_normal(4), -2.5, 2.5)
    zoom = float(np.exp(scale * plan.scale))
    angle = np.deg2rad(turn * plan.rotate)
    mirrored = bool(plan.flip and rng.random() < 0.5)
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * zoom
    linear = turned @ np.diag([(-1.0 if mirrored else 1.0) / width, 1 / height])
    centre = 0.5 + np.array([shift_x, shift_y]) * plan.shift
    shift = centre - linear @ np.array([width / 2, height / 2])
    return np.column_stack([linear, shift]), mirrored


def laid(image: Image, place: Transform, size: int, method: int, border: int, fill: int = 0) -> Image:
    """The picture at its place in a square of ``size`` pixels; OpenCV's interpolation, border mode and border value."""
    linear, shift = place[:, :2] * size, place[:, 2] * size
    centred = np.column_stack([linear, shift + linear.sum(1) / 2 - 0.5])  # OpenCV counts from the centres of pixels
    placed = cv2.warpAffine(image, centred, (size, size), flags=method, borderMode=border, borderValue=(fill,) * 3)
    return np.asarray(placed, np.uint8)


def worsened(image: Image, rng: Generator, plan: Augment) -> Image:
    """The square picture (S, S, 3) as a worse camera gives it: small, blurred, grey, in other colours."""
    size = image.shape[0]
    if rng.random() < plan.reduce:
        side = int(size * rng.uniform(1 / 3, 1))
        small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
        image = np.asarray(cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR), np.uint8)
    if rng.random() < plan.blur:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.6)), np.uint8)
    if rng.random() < plan.grey:
        image = np.asarray(cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR), np.uint8)
    return _recoloured(image, rng, plan.color) if plan.color else image


def _recoloured(image: Image, rng: Generator, most: float) -> Image:
    """Another brightness, contrast and white balance, in one look-up table a channel."""
    brightness, contrast = rng.uniform(-most, most, 2)
    gains = 1 + rng.uniform(-most, most, 3) / 3
    levels = np.arange(256, dtype=np.float32)
    curve = (levels - 127.5) * (1 + contrast) + 127.5 + 127.5 * brightness
    table = np.clip(curve[:, None] * gains, 0, 255).astype(np.uint8)[None]
    return np.asarray(cv2.LUT(image, table), np.uint8)
