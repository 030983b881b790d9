"""Pictures that are nearly the same: re-encoded, resized, a little brighter.

A perceptual hash (the signs of the lowest frequencies of the cosine transform, as in Zauner, "Implementation and
Benchmarking of Perceptual Image Hash Functions", 2010) proposes pairs, and the correlation of small grey copies
decides. The hash alone would not do for face chips, which all look alike at its resolution.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

SMALL = 32
"""Side of the grey copies."""
LOW = 9
"""Frequencies in each direction; without the constant one they make 80 bits."""
MOST_BITS = 14
"""Pairs that differ in more bits of the hash are not looked at."""
LEAST_CORRELATION = 0.97
_ROWS = 512


@dataclass(frozen=True, slots=True)
class Prints:
    """What is compared of many pictures."""

    signs: NDArray[np.float32]
    """(n, bits) of -1 and 1."""
    grey: NDArray[np.float32]
    """(n, SMALL * SMALL), each with mean 0 and length 1 (0 for a picture of one colour)."""


def prints(images: Iterable[NDArray[np.uint8]]) -> Prints:
    """The prints of pictures (H, W, 3) uint8 BGR, one at a time."""
    signs, grey = [], []
    for image in images:
        small = cv2.resize(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), (SMALL, SMALL), interpolation=cv2.INTER_AREA)
        pixels = small.astype(np.float32)
        low = np.asarray(cv2.dct(pixels), np.float32)[:LOW, :LOW].ravel()[1:]
        signs.append(np.where(low > np.median(low), 1, -1).astype(np.float32))
        centred = pixels.ravel() - pixels.mean()
        length = float(np.linalg.norm(centred))
        grey.append(centred / length if length > 1 else np.zeros_like(centred))
    bits = LOW * LOW - 1
    return Prints(np.array(signs, np.float32).reshape(-1, bits), np.array(grey, np.float32).reshape(-1, SMALL * SMALL))


def pairs(first: Prints, second: Prints) -> Iterator[tuple[int, int, float]]:
    """Pairs that are nearly the same: number in the first, number in the second, correlation."""
    bits = first.signs.shape[1]
    for start in range(0, len(first.signs), _ROWS):
        agreeing = first.signs[start : start + _ROWS] @ second.signs.T
        for row, column in np.argwhere(agreeing >= bits - 2 * MOST_BITS):
            one, other = start + int(row), int(column)
            correlation = float(first.grey[one] @ second.grey[other])
            if correlation >= LEAST_CORRELATION:
                yield one, other, correlation
