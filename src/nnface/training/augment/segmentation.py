"""Variations of portraits with their label images: arrays in, arrays out, all from one generator."""

import cv2
import numpy as np
from numpy.random import Generator

from nnface.spec import CELEBAMASK_LABELS, mirrored_labels
from nnface.training.augment.faces import Image, laid, placement, worsened
from nnface.training.recipe import PortraitAugment

IGNORED = 255
"""The label of what lies outside the portrait: it counts nothing."""


MIRRORED: Image = np.arange(256, dtype=np.uint8)
"""(256,) the label that each of CelebAMask-HQ's labels becomes in a mirror image; :data:`IGNORED` stays."""
MIRRORED[: len(CELEBAMASK_LABELS)] = mirrored_labels(CELEBAMASK_LABELS)


def vary(image: Image, labels: Image, rng: Generator, plan: PortraitAugment) -> tuple[Image, Image]:
    """A variation of a portrait.

    Args:
        image: (H, W, 3).
        labels: (h, w), the same portrait in any resolution, in CelebAMask-HQ's order.
        rng: decides everything.
        plan: how much varies.

    Returns:
        (size, size, 3), and its labels (label_size, label_size), 255 outside the portrait.
    """
    place, mirror = placement(image.shape[0], image.shape[1], rng, plan)
    varied = worsened(laid(image, place, plan.size, cv2.INTER_LINEAR, cv2.BORDER_CONSTANT), rng, plan)
    # The same place, for a label image of another resolution: its pixels are larger or smaller.
    scale = np.array([image.shape[1] / labels.shape[1], image.shape[0] / labels.shape[0], 1.0])
    truth = laid(labels, place * scale, plan.label_size, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT, IGNORED)
    return varied, MIRRORED[truth] if mirror else truth
