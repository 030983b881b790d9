"""Small faces in very large pictures: a pyramid of overlapping tiles, merged.

The picture is looked at in tiles of T pixels, then of 2 T, 4 T, ..., and at last as a whole, each scaled to the
detector's size; all levels together cost a third more than the first alone. Tiles overlap by a quarter. A face that a
tile's inner border cuts is dropped there: one no larger than the overlap is whole in the neighbour, a larger one is
whole on a coarser level.
"""

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nnface.geometry import boxes
from nnface.image import Picture
from nnface.results import Faces

if TYPE_CHECKING:
    from nnface.predict.detector import Detector

_BATCH = 8


def detect(detector: "Detector", picture: Picture, tile: int, iou: float, limit: int) -> Faces:
    """The faces of a picture that is decoded at full size, best first.

    Args:
        detector: does the work; a tile is a picture to it.
        picture: the whole; one that was decoded at a reduced scale is looked at in tiles of its own pixels.
        tile: side of the finest tiles, in pixels.
        iou: the largest overlap of two faces from different tiles.
        limit: the most faces that are kept.
    """
    pixels = picture.pixels
    height, width = pixels.shape[:2]
    found: list[Faces] = []
    spots = windows(width, height, tile)
    while chosen := list(islice(spots, _BATCH)):
        parts = [
            Picture(np.ascontiguousarray(pixels[y1:y2, x1:x2]), width, height, left=x1, top=y1)
            for x1, y1, x2, y2 in chosen
        ]
        results = detector.run([detector.prepare(part) for part in parts])
        found += [
            faces[whole(faces.boxes, window, width, height)] for faces, window in zip(results, chosen, strict=True)
        ]
    shift = np.array([picture.left, picture.top], np.float32)
    together = np.concatenate([faces.boxes for faces in found]) * picture.factor + np.tile(shift, 2)
    scores = np.concatenate([faces.scores for faces in found if faces.scores is not None])
    landmarks = [faces.landmarks for faces in found if faces.landmarks is not None]
    kept = boxes.nms(together, scores, iou, limit=limit)
    return Faces(
        width=picture.width,
        height=picture.height,
        boxes=together[kept],
        scores=scores[kept],
        landmarks=np.concatenate(landmarks)[kept] * picture.factor + shift if landmarks else None,
    )


def windows(width: int, height: int, tile: int) -> Iterator[tuple[int, int, int, int]]:
    """x1, y1, x2, y2 of every tile, fine to coarse; the last is the whole picture."""
    while tile < max(width, height):
        for top in _starts(height, tile):
            for left in _starts(width, tile):
                yield left, top, min(width, left + tile), min(height, top + tile)
        tile *= 2
    yield 0, 0, width, height


def whole(found: NDArray[np.float32], window: tuple[int, int, int, int], width: int, height: int) -> NDArray[np.bool_]:
    """Which boxes (n, 4) of a tile keep clear of its inner borders, by a hundredth of the tile."""
    x1, y1, x2, y2 = window
    gap = max(x2 - x1, y2 - y1) / 100
    clear: NDArray[np.bool_] = (
        ((found[:, 0] > x1 + gap) | (x1 == 0))
        & ((found[:, 1] > y1 + gap) | (y1 == 0))
        & ((found[:, 2] < x2 - gap) | (x2 == width))
        & ((found[:, 3] < y2 - gap) | (y2 == height))
    )
    return clear


def _starts(side: int, tile: int) -> list[int]:
    """Where tiles begin along a side: evenly, with an overlap of at least a quarter."""
    if side <= tile:
        return [0]
    count = -(-(side - tile) // (tile - tile // 4)) + 1
    return [round(number * (side - tile) / (count - 1)) for number in range(count)]
