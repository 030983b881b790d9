"""Pictures that are nearly the same: re-encoded, resized, a little brighter.

A perceptual hash (the signs of the lowest frequencies of the cosine transform, as in Zauner, "Implementation and
Benchmarking of Perceptual Image Hash Functions", 2010) proposes pairs, and the correlation of small grey copies
decides. The hash alone would not do for face chips, which all look alike at its resolution.
"""

from collections.abc import Iterator
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
"""Copies that are transformed at once."""
_CELLS = 2**18
"""Pairs that are compared at once, so that they stay in a core's own cache."""
_COSINES = np.asarray(cv2.dct(np.eye(SMALL, dtype=np.float32), flags=cv2.DCT_ROWS), np.float32).T[:LOW]
"""The lowest rows of the cosine transform's matrix."""


@dataclass(frozen=True, slots=True)
class Prints:
    """What is compared of many pictures."""

    bits: NDArray[np.uint64]
    """(n, 2): the hash, 64 bits and the rest."""
    copies: NDArray[np.uint8]
    """(n, SMALL, SMALL): the grey copies."""


def small(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The grey copy (SMALL, SMALL) of a grey picture (H, W) uint8 of any size."""
    while min(grey.shape) >= 4 * SMALL:  # halves are quick, the last step by any factor is not
        height, width = grey.shape[0] // 2, grey.shape[1] // 2
        halved = cv2.resize(grey[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
        grey = np.asarray(halved, np.uint8)
    return np.asarray(cv2.resize(grey, (SMALL, SMALL), interpolation=cv2.INTER_AREA), np.uint8)


def prints(copies: NDArray[np.uint8]) -> Prints:
    """The prints of pictures, from their grey copies (n, SMALL, SMALL)."""
    bits = np.zeros((len(copies), 16), np.uint8)
    for start in range(0, len(copies), _ROWS):
        low = (_COSINES @ copies[start : start + _ROWS].astype(np.float32) @ _COSINES.T).reshape(-1, LOW * LOW)[:, 1:]
        packed = np.packbits(low > np.median(low, axis=1, keepdims=True), axis=1)
        bits[start : start + _ROWS, : packed.shape[1]] = packed
    return Prints(bits.view(np.uint64), copies)


def pairs(first: Prints, second: Prints) -> Iterator[tuple[int, int, float]]:
    """Pairs that are nearly the same: number in the first, number in the second, correlation."""
    step = max(_CELLS // max(len(second.bits), 1), 1)
    for start in range(0, len(first.bits), step):
        some = first.bits[start : start + step]
        near = np.bitwise_count(some[:, None, 0] ^ second.bits[None, :, 0]) <= MOST_BITS
        for number in np.flatnonzero(near).tolist():  # of rows and columns at once it takes four times as long
            row, other = divmod(number, len(second.bits))
            if np.bitwise_count(some[row] ^ second.bits[other]).sum() <= MOST_BITS:
                correlation = float(_centred(first.copies[start + row]) @ _centred(second.copies[other]))
                if correlation >= LEAST_CORRELATION:
                    yield start + row, other, correlation


def _centred(copy: NDArray[np.uint8]) -> NDArray[np.float32]:
    """With mean 0 and length 1; zeros for a picture of one colour, which is like no other."""
    centred = copy.ravel() - copy.mean(dtype=np.float32)
    length = np.linalg.norm(centred)
    return np.asarray(centred / length if length > 1 else np.zeros_like(centred), np.float32)
