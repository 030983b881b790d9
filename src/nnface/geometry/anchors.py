"""The anchors of a detector, as SSD (Liu et al. 2016) lays them out and RetinaFace and Ultra-Light use them."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def count(height: int, width: int, strides: tuple[int, ...], sizes: tuple[tuple[float, ...], ...] = ()) -> int:
    """How many anchors :func:`grid` makes."""
    levels = [len(level) for level in sizes] or [1] * len(strides)
    return sum(-(-height // s) * -(-width // s) * each for s, each in zip(strides, levels, strict=True))


@lru_cache(maxsize=32)
def grid(
    height: int,
    width: int,
    strides: tuple[int, ...],
    sizes: tuple[tuple[float, ...], ...] = (),
    clip: bool = False,
) -> NDArray[np.float32]:
    """The square anchors of an input of height x width pixels.

    A level of stride s has ceil(height / s) x ceil(width / s) cells with centres at (i + 0.5) * s, and in each cell one
    anchor for each size of the level.

    Args:
        height: of the network's input, in pixels.
        width: likewise.
        strides: of the levels, fine to coarse.
        sizes: sides of the anchors in pixels, a tuple for each stride; empty: one anchor a cell, as large as the
            stride, which is what the ``distance`` coding counts in.
        clip: the layout of Ultra-Light: the cells of a level share the input evenly, so that centres are at
            (i + 0.5) * side / cells, and no anchor is wider or higher than the input.

    Returns:
        (A, 4) float32: centre x, centre y, width, height in pixels; order level, row, column, size. The array is
        shared between callers and read-only.
    """
    levels = [
        _level(height, width, stride, level, clip)
        for stride, level in zip(strides, sizes or [(float(stride),) for stride in strides], strict=True)
    ]
    anchors = np.concatenate(levels) if levels else np.zeros((0, 4), np.float32)
    anchors.flags.writeable = False
    return anchors


def _level(height: int, width: int, stride: int, sizes: Sequence[float], clip: bool) -> NDArray[np.float32]:
    rows, columns = -(-height // stride), -(-width // stride)
    step_x, step_y = (width / columns, height / rows) if clip else (stride, stride)
    anchors = np.empty((rows, columns, len(sizes), 4), np.float32)
    anchors[..., 0] = ((np.arange(columns) + 0.5) * step_x)[None, :, None]
    anchors[..., 1] = ((np.arange(rows) + 0.5) * step_y)[:, None, None]
    anchors[..., 2] = np.minimum(sizes, width) if clip else sizes
    anchors[..., 3] = np.minimum(sizes, height) if clip else sizes
    return anchors.reshape(-1, 4)
