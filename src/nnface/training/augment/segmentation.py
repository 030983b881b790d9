"""Variations of portraits with their label images: arrays in, arrays out, all from one generator."""

import cv2
import numpy as np
from numpy.random import Generator

from nnface.training.augment.faces import Image, laid, placement, worsened
from nnface.training.recipe import PortraitAugment

IGNORED = 255
"""The label of what lies outside the portrait: it counts nothing."""


def vary(image: Image, labels: Image, rng: Generator, plan: PortraitAugment, mirrored: Image) -> tuple[Image, Image]:
    """A variation of a portrait.

    Args:
        image: (H, W, 3).
        labels: (h, w), the same portrait in any resolution.
        rng: decides everything.
        plan: how much varies.
        mirrored: (256,) the label that each label becomes in a mirror.

    Returns:
        (size, size, 3), and its labels (label_size, label_size), 255 outside the portrait.
    """
    place, mirror = placement(image.shape[0], image.shape[1], rng, plan)
    varied = worsened(laid(image, place, plan.size, cv2.INTER_LINEAR, cv2.BORDER_CONSTANT), rng, plan)
    # The same place, for a label image of another resolution: its pixels are larger or smaller.
    scale = np.array([image.shape[1] / labels.shape[1], image.shape[0] / labels.shape[0], 1.0])
    truth = laid(labels, place * scale, plan.label_size, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT, IGNORED)
    return varied, mirrored[truth] if mirror else truth
