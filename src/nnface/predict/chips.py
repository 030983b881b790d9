"""Chips: the small square picture of a face that a network looks at, and where its pixels lie in the photograph."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from nnface.errors import UsageError
from nnface.geometry.align import Transform, chip_of_box, chip_of_landmarks, corrected, readings
from nnface.image import Pixels
from nnface.results import Faces
from nnface.spec import InputSpec, Spec

SMALLEST = 10
"""A face whose box, or a chip, has a shorter side than this, in pixels, shows nothing to tell."""


def check_batch(batch: int) -> int:
    """The number of chips that go through the network together, which has to be one.

    Raises:
        UsageError: less than one.
    """
    if batch < 1:
        raise UsageError(f"batch is {batch}; it must be at least 1")
    return batch


def places(faces: Faces, spec: Spec) -> list[Transform | None]:
    """For each face the transform from the picture to its chip; None where the face is too small or nowhere.

    By its landmarks where it has them and the Spec has a template, corrected as the Spec says, or else by its box and
    the Spec's margin.
    """
    plan, size = spec.alignment, spec.input.size
    margin = 0.25 if plan is None else plan.margin
    result: list[Transform | None] = []
    for index, box in enumerate(faces.boxes):
        large = min(box[2] - box[0], box[3] - box[1]) >= SMALLEST
        transform = chip_of_box(box, margin, size) if large and _inside(box, faces) else None
        if transform is not None and plan is not None and faces.landmarks is not None:
            aligned = chip_of_landmarks(faces.landmarks[index], plan.points, size)
            if aligned is not None and plan.correction:
                values = readings(aligned, faces.landmarks[index], box, size)
                aligned = corrected(aligned, values, plan.correction, size)
            transform = transform if aligned is None else aligned
        result.append(transform)
    return result


def check_chip(image: Pixels) -> None:
    """Whether a picture can be a face chip.

    Raises:
        UsageError: a side has fewer than 10 pixels.
    """
    height, width = image.shape[:2]
    if min(height, width) < SMALLEST:
        raise UsageError(f"the chip is {width} x {height}; under {SMALLEST} pixels a face shows nothing to tell")


def whole(image: Pixels) -> Faces:
    """The one face of a picture that is a face chip: its box is the picture, its score None."""
    height, width = image.shape[:2]
    return Faces(width=width, height=height, boxes=np.array([[0, 0, width, height]], np.float32), scores=None)


def warp(image: Pixels, transform: Transform, size: int) -> Pixels:
    """The square chip that a transform cuts out of a picture; black outside. Reductions do not skip pixels."""
    scale = float(np.hypot(transform[0, 0], transform[1, 0]))
    blocks = int(1 / scale) if scale > 0 else 1
    if blocks >= 2:  # bilinear sampling skips pixels below a half: whole blocks are averaged first
        inverse = cv2.invertAffineTransform(transform)
        corners = np.array([[0, 0], [size, 0], [0, size], [size, size]]) @ inverse[:, :2].T + inverse[:, 2]
        left, top = np.maximum(np.floor(corners.min(0)).astype(int) - blocks, 0)
        right, bottom = np.ceil(corners.max(0)).astype(int) + blocks
        part = image[top:bottom, left:right]
        height, width = (side // blocks for side in part.shape[:2])
        if height and width:
            whole_blocks = part[: height * blocks, : width * blocks]
            image = np.asarray(cv2.resize(whole_blocks, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
            shift = transform[:, :2] @ (left, top) + transform[:, 2]
            transform = np.column_stack([transform[:, :2] * blocks, shift])
    # A pixel's centre is at 0.5 in our coordinates, at 0 in OpenCV's.
    centred = np.column_stack([transform[:, :2], transform[:, 2] + transform[:, :2].sum(1) / 2 - 0.5])
    chip = cv2.warpAffine(image, centred, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return np.asarray(chip, np.uint8)


def resized(image: Pixels, size: int) -> Pixels:
    """The picture at size x size, averaged where it is reduced."""
    if image.shape[:2] == (size, size):
        return image
    reduced = min(image.shape[:2]) >= size
    method = cv2.INTER_AREA if reduced else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size, size), interpolation=method), np.uint8)


def normalised(chips: Sequence[Pixels], plan: InputSpec) -> NDArray[np.float32]:
    """(n, size, size, 3) uint8 BGR to a network's input (n, 3, size, size), normalised as its Spec says."""
    stacked = np.stack(chips)
    pixels = stacked if plan.color == "bgr" else stacked[..., ::-1]
    scale = np.float32(1) / np.asarray(plan.std, np.float32)
    scaled = (pixels.astype(np.float32) - np.asarray(plan.mean, np.float32)) * scale
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def _inside(box: NDArray[np.float32], faces: Faces) -> bool:
    """Whether the box shows something of the picture."""
    return bool(box[0] < faces.width and box[1] < faces.height and box[2] > 0 and box[3] > 0)
