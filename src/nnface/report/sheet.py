"""A contact sheet: many small pictures with a line of text below each, as one PNG."""

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

_TEXT = 18
_GAP = 6
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def sheet(pictures: Iterable[tuple[str, NDArray[np.uint8]]], *, columns: int = 4, side: int = 300) -> bytes:
    """The pictures in rows, from left to right, as PNG.

    Args:
        pictures: a line of text (cut where it does not fit; what is not ASCII becomes ?) and an image
            (H, W, 3) uint8 BGR, which is scaled into a square.
        columns: pictures a row.
        side: of a square, in pixels.
    """
    cells = [_cell(text, image, side) for text, image in pictures]
    rows = max(-(-len(cells) // columns), 1)
    height, width = side + _TEXT + _GAP, side + _GAP
    canvas = np.full((rows * height + _GAP, columns * width + _GAP, 3), 255, np.uint8)
    for number, cell in enumerate(cells):
        top, left = _GAP + number // columns * height, _GAP + number % columns * width
        canvas[top : top + cell.shape[0], left : left + side] = cell
    _, data = cv2.imencode(".png", canvas)
    return bytes(data)


def _cell(text: str, image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    cell = np.full((side + _TEXT, side, 3), 255, np.uint8)
    small = fit(image, side)
    top, left = (side - small.shape[0]) // 2, (side - small.shape[1]) // 2
    cell[top : top + small.shape[0], left : left + small.shape[1]] = small
    shown = "".join(c if " " <= c <= "~" else "?" for c in text)
    width = max(cv2.getTextSize(shown, _FONT, 0.36, 1)[0][0], 1)
    scale = max(0.36 * min(1, side / width), 0.26)
    cv2.putText(cell, shown, (0, side + _TEXT - 5), _FONT, scale, (40, 40, 40), 1, cv2.LINE_AA)
    return cell


def fit(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The image scaled so that its long side is ``side``."""
    scale = side / max(image.shape[:2])
    size = (max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size, interpolation=way), np.uint8)
