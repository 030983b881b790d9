"""Generated portraits with label images, in the layout of images/ and masks/."""

from pathlib import Path

import cv2
import numpy as np

from nnface.spec import CELEBAMASK_LABELS

SKIN, LEFT, RIGHT, HAIR, HAT = (CELEBAMASK_LABELS.index(n) for n in ("skin", "l_eye", "r_eye", "hair", "hat"))
COLOURS = {0: (20, 20, 20), SKIN: (120, 160, 220), LEFT: (250, 40, 40), RIGHT: (250, 40, 40), HAIR: (10, 60, 90)}


def portrait(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A picture and its labels: hair around skin, and two blue eyes that only their side tells apart."""
    labels = np.zeros((96, 96), np.uint8)
    x, y = rng.integers(40, 57, 2).tolist()
    cv2.ellipse(labels, (x, y), (34, 40), 0, 0, 360, HAIR, -1)
    cv2.ellipse(labels, (x, y + 6), (24, 30), 0, 0, 360, SKIN, -1)
    cv2.circle(labels, (x - 10, y), 6, RIGHT, -1)  # the subject's right eye is on the picture's left
    cv2.circle(labels, (x + 10, y), 6, LEFT, -1)
    image = np.zeros((96, 96, 3), np.uint8)
    for label, colour in COLOURS.items():
        image[labels == label] = colour
    return np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8), labels


def portraits(root: Path, count: int = 60) -> Path:
    """So many of them; the first five wear a hat."""
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for number in range(count):
        image, labels = portrait(rng)
        if number < 5:
            labels[:6] = HAT
        cv2.imwrite(str(root / f"images/{number:03}.png"), image)
        cv2.imwrite(str(root / f"masks/{number:03}.png"), labels)
    return root
