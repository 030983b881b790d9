"""The pictures of a training and their decoded copies; what number n sees is a pure function of (seed, n)."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from nnface.datasets.samples import DetectionSample
from nnface.errors import DataError
from nnface.files import atomic_path
from nnface.image import Picture, read, read_reduced, read_sized
from nnface.training.augment.detection import Labelled
from nnface.zoo.registry import home

Cache = Literal["none", "ram", "disk"]


class PictureCache:
    """Decoded pictures with a bounded long side.

    ``disk`` keeps raw arrays in the user's cache folder (``NNFACE_HOME``) and maps them into memory: a crop then
    touches only the pages that it shows, and two trainings on one machine share them.
    """

    def __init__(self, kind: Cache, side: int) -> None:
        self.kind, self.side = kind, side
        self.folder = home() / "pictures"
        self.memory: dict[Path, tuple[NDArray[np.uint8], float]] = {}
        self.known: dict[Path, tuple[Path, float]] = {}
        if kind == "disk":
            self.folder.mkdir(parents=True, exist_ok=True)

    def load(self, path: Path) -> tuple[NDArray[np.uint8], float]:
        """The picture (H, W, 3) BGR and the factor by which it was reduced."""
        if self.kind == "none":
            return read(path), 1.0
        if self.kind == "disk":
            return self._from_disk(path)
        if path not in self.memory:
            self.memory[path] = self._decode(path)
        return self.memory[path]

    def _decode(self, path: Path) -> tuple[NDArray[np.uint8], float]:
        picture = read_reduced(path, self.side)  # a large JPEG is decoded at a half, a quarter or an eighth
        if picture.left or picture.top:  # the rare one whose turned edge is a part of a pixel
            picture = Picture(read(path), picture.width, picture.height)
        factor = min(1.0, self.side / max(picture.width, picture.height))
        rows, columns = (side * picture.factor for side in picture.pixels.shape[:2])
        size = (max(round(columns * factor), 1), max(round(rows * factor), 1))
        if factor == 1:
            return picture.pixels, factor
        return np.asarray(cv2.resize(picture.pixels, size, interpolation=cv2.INTER_AREA), np.uint8), factor

    def _from_disk(self, path: Path) -> tuple[NDArray[np.uint8], float]:
        if path not in self.known:
            width, height = read_sized(path)
            # The reduced size is rounded; labels take the exact factor.
            self.known[path] = self._place(path), min(1.0, self.side / max(width, height))
        place, factor = self.known[path]
        if not place.exists():
            image, factor = self._decode(path)
            with atomic_path(place) as temporary:
                np.save(temporary, image)
            return image, factor
        return np.load(place, mmap_mode="r", allow_pickle=False), factor

    def _place(self, path: Path) -> Path:
        about = path.stat()
        name = f"{path.resolve()} {about.st_mtime_ns} {about.st_size} {self.side}"
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()}.npy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Pictures of one origin."""

    name: str
    samples: Sequence[DetectionSample]
    weight: float


class Pictures:
    """Draws labelled pictures: each once an epoch, or by the sources' weights."""

    def __init__(self, sources: Sequence[Source], cache: PictureCache, seed: int, weighted: bool) -> None:
        used = [source for source in sources if source.weight > 0 and source.samples]
        if not used:
            raise DataError("there is no picture to train on: every source is empty or has no weight")
        self.sources, self.cache, self.seed, self.weighted = used, cache, seed, weighted
        weights = np.array([s.weight for s in used])
        self.shares = np.cumsum(weights / weights.sum())
        self.everything = [sample for source in used for sample in source.samples]
        self._order = (-1, np.zeros(0, np.int64))

    def draw(self, rng: Generator) -> Labelled:
        """A random picture, by the sources' weights."""
        return self.load(self._random(rng))

    def nth(self, number: int, rng: Generator) -> Labelled:
        """What sample ``number`` is about: by weight, or its place in the epoch's permutation."""
        if self.weighted:
            return self.draw(rng)
        epoch, place = divmod(number, len(self.everything))
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self.seed, 1, epoch]).permutation(len(self.everything))
        return self.load(self.everything[int(self._order[1][place])])

    def load(self, sample: DetectionSample) -> Labelled:
        """The picture in memory with its labels in the pixels of the cached copy."""
        image, factor = self.cache.load(sample.path)
        return Labelled(
            image=image,
            boxes=sample.boxes * np.float32(factor),
            landmarks=sample.landmarks * np.float32(factor),
            ignored=sample.ignored,
            names=(sample.key,),
        )

    def _random(self, rng: Generator) -> DetectionSample:
        source = self.sources[
            int(np.searchsorted(self.shares, rng.random(), side="right").clip(0, len(self.sources) - 1))
        ]
        return source.samples[int(rng.integers(len(source.samples)))]
