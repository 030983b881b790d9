"""The plain samples that the data sets yield, and how a set is split for choosing."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionSample:
    """A picture and its faces. Coordinates are pixels of the upright picture, x to the right and y down."""

    key: str
    """The picture's name inside its data set, without a suffix; it decides the split for choosing."""
    path: Path
    boxes: NDArray[np.float32]
    """(n, 4): x1, y1, x2, y2."""
    landmarks: NDArray[np.float32]
    """(n, 5, 2): eyes, nose, mouth corners, the picture's left first; NaN where a face has none."""
    ignored: NDArray[np.bool_]
    """(n,): regions that count neither as a face nor as background (invalid, unlabelled, too doubtful)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributeSample:
    """A face chip, or a picture of one face, and what people perceived in it."""

    key: str
    """The picture's name inside its data set, without a suffix; it decides the split for choosing."""
    path: Path
    labels: Mapping[str, int]
    """For each head the number of its label; -1 where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentationSample:
    """A portrait and its label image."""

    key: str
    """The picture's name inside its data set, without a suffix; it decides the split for choosing."""
    path: Path
    mask: Path
    """A label image, 8-bit, one number of CelebAMask-HQ's order a pixel (grey or palette PNG), often smaller than the
    picture and of the same shape."""


class _Keyed(Protocol):
    @property
    def key(self) -> str: ...


Sample = TypeVar("Sample", bound=_Keyed)


def is_chosen(key: str, parts: int = 10) -> bool:
    """Whether a picture belongs to the fixed tenth of train that is kept for choosing, never trained on.

    The split goes by the key's CRC32, so that it stays the same whatever else is in the set.
    """
    return zlib.crc32(key.encode()) % parts == 0


def empty_landmarks(count: int) -> NDArray[np.float32]:
    """(count, 5, 2) of NaN: faces without landmarks."""
    return np.full((count, 5, 2), np.nan, np.float32)


def split(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """The pictures to train on, and the tenth that is kept for choosing."""
    return [s for s in samples if not is_chosen(s.key)], [s for s in samples if is_chosen(s.key)]
