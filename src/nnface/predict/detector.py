"""Faces in a picture: letterbox, network, decode, non-maximum suppression, letterbox back.

The three stages of :class:`Detector` (``prepare``, ``run``, ``select``) can be called on their own, so that a stream
reads and prepares in some threads while the network runs in another; none of them keeps state.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from nnface.errors import ModelFileError, UsageError
from nnface.geometry import anchors, boxes, letterbox
from nnface.geometry.letterbox import Letterbox
from nnface.image import ImageLike, Picture, Pixels, as_array, check_color, read_reduced, require_many
from nnface.predict import tiles
from nnface.predict.opening import opened
from nnface.results import Faces
from nnface.runtime import Runner
from nnface.spec import DetectionSpec

Size: TypeAlias = int | Literal["original"] | None
Outputs: TypeAlias = dict[str, NDArray[np.float32]]

CANDIDATES = 5000
"""The most boxes of a picture, best first, that go into non-maximum suppression."""
KEPT = 750
"""The most faces that a picture gets."""

_BATCH_PIXELS = 8 * 640 * 640
_BATCH_PICTURES = 64


@dataclass(frozen=True, slots=True)
class Prepared:
    """A picture as the network takes it."""

    input: NDArray[np.float32]
    """(1, 3, height, width), normalised."""
    letterbox: Letterbox
    """Where the full picture lies in it."""
    width: int
    """Width of the full, upright picture."""
    height: int


class Detector:
    """Finds faces with any model file whose Spec says ``detect``; everything about the network is read from the Spec.

    >>> from nnface import Detector, read_image  # doctest: +SKIP
    >>> faces = Detector()(read_image("team.jpg"))  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | Path | Runner = "default",
        *,
        device: str = "cpu",
        threads: int | None = None,
        size: Size = None,
        min_score: float | None = None,
        tile: int | None = None,
    ) -> None:
        """Open the model.

        Args:
            model: a file, a name of the zoo, or a runner (a module in training, say), which has its own device.
            device: ``cpu``, ``cuda``, ``cuda:N``, ``tensorrt`` or ``openvino``; see :func:`nnface.runtime.open_model`.
            threads: of the network; None: the physical cores that this process may use.
            size: the long side, in pixels, that the network sees; small pictures are enlarged to it. ``original``:
                pictures as they are. None: what the network was made for.
            min_score: the lowest score of a face that is reported; None: the one that the Spec recommends.
            tile: also look through overlapping tiles of this many pixels, for small faces in very large pictures;
                see :mod:`nnface.predict.tiles`.

        Raises:
            UsageError: a size that the network cannot take, a score outside 0..1, an impossible tile.
            ModelFileError: no such model, a damaged one, or one of another task.
            DeviceError: the device is not there.
        """
        self.runner, self.name = opened(model, device, threads)
        self.spec = self.runner.spec
        if self.spec.detection is None:
            raise ModelFileError(f"{self.name} is a model to {self.spec.task}, not to detect faces")
        self._coding: DetectionSpec = self.spec.detection
        self.size = self._checked_size(size)
        self.min_score = self._coding.min_score if min_score is None else min_score
        if not 0 <= self.min_score <= 1:
            raise UsageError(f"min_score is {min_score}; it must lie between 0 and 1")
        if tile is not None and tile < 64:
            raise UsageError(f"tile is {tile}; tiles have at least 64 pixels")
        if tile is not None and size == "original":
            raise UsageError("tiles are scaled to a size, so tile and size 'original' exclude each other")
        self.tile = tile
        plan = self.spec.input
        self._channels = (0, 1, 2) if plan.color == "bgr" else (2, 1, 0)
        self._mean = tuple(np.float32(value) for value in plan.mean)
        self._scale = tuple(np.float32(1 / value) for value in plan.std)

    @property
    def needed_side(self) -> int | None:
        """The long side below which a picture must not be reduced; None where it must not be reduced at all."""
        plan = self.spec.input
        return self.size if plan.fit == "letterbox" and plan.scaling == "exact" else None

    def __call__(self, image: ImageLike | Picture, color: Literal["bgr", "rgb"] = "bgr") -> Faces:
        """The faces of one picture, best first.

        Args:
            image: a path, a PIL image, or an array (H, W, 3) uint8, upright. A JPEG on disk is decoded at a reduced
                scale where the network needs less than its full size; coordinates are of the full picture always.
            color: the order of an array's channels: **bgr**, OpenCV's, unless told otherwise.

        Returns:
            boxes and landmarks in pixels of the full, upright picture.

        Raises:
            ImageError: the path cannot be read.
            UsageError: not a picture.
            ModelFileError: the network's outputs are not what its Spec says.
        """
        if self.tile is not None:
            return tiles.detect(self, _picture(image, color, None), self.tile, self._coding.nms_iou, KEPT)
        return self.run([self.prepare(image, color)])[0]

    def batch(self, images: Iterable[ImageLike | Picture], color: Literal["bgr", "rgb"] = "bgr") -> list[Faces]:
        """The faces of many pictures, in their order, each as :meth:`__call__` gives them.

        Pictures whose inputs have one shape run together. Memory is bounded: 64 pictures are prepared at a time.
        """
        require_many(images)
        if self.tile is not None:
            return [self(image, color) for image in images]
        results: list[Faces] = []
        waiting = iter(images)
        while chosen := list(islice(waiting, _BATCH_PICTURES)):
            results += self.run([self.prepare(image, color) for image in chosen])
        return results

    def prepare(self, image: ImageLike | Picture, color: Literal["bgr", "rgb"] = "bgr") -> Prepared:
        """The first stage: read, scale, pad and normalise. Safe in many threads at once; errors as :meth:`__call__`."""
        picture = _picture(image, color, self.needed_side)
        pixels = picture.pixels
        factor, left, top = picture.factor, picture.left, picture.top
        plan = self.spec.input
        if plan.fit == "letterbox" and plan.scaling == "exact" and self.size is not None:
            # Bilinear sampling skips pixels below a half; whole blocks of pixels are averaged first, as a JPEG's
            # reduced decoding does.
            blocks = _blocks(max(pixels.shape[:2]), self.needed_side or 0)
            if blocks > 1 and min(pixels.shape[:2]) >= blocks:
                height, width = (side // blocks for side in pixels.shape[:2])
                whole = pixels[: height * blocks, : width * blocks]
                pixels = np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
                factor *= blocks
        place = self._place(pixels.shape[1], pixels.shape[0])
        return Prepared(self._normalised(pixels, place), place.within(factor, left, top), picture.width, picture.height)

    def run(self, prepared: Sequence[Prepared]) -> list[Faces]:
        """The second and third stage: the network and :meth:`select`; results in the order of ``prepared``.

        Inputs of one shape run in one batch, of bounded size.
        """
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, item in enumerate(prepared):
            groups[item.input.shape].append(number)
        results: dict[int, Faces] = {}
        for shape, numbers in groups.items():
            most = max(1, _BATCH_PIXELS // (shape[2] * shape[3]))
            for start in range(0, len(numbers), most):
                chosen = numbers[start : start + most]
                inputs = [prepared[n].input for n in chosen]
                outputs = self.runner.run(inputs[0] if len(inputs) == 1 else np.concatenate(inputs))
                for row, number in enumerate(chosen):
                    results[number] = self.select({k: v[row] for k, v in outputs.items()}, prepared[number])
        return [results[number] for number in range(len(prepared))]

    def select(self, outputs: Outputs, prepared: Prepared) -> Faces:
        """The third stage: from the network's outputs for one picture (without the batch axis) to its faces.

        Only what passes the threshold is decoded.

        Raises:
            ModelFileError: outputs that are not numbers, or not as many as the Spec's anchors.
        """
        place, coding = prepared.letterbox, self._coding
        # Counted before they are made: a file may ask for more than fit into memory.
        count = anchors.count(place.height, place.width, coding.strides, coding.anchor_sizes)
        scores = outputs["scores"]
        if any(len(values) != count for values in outputs.values()):
            raise ModelFileError(
                f"{self.name} is not what its nnface metadata says: {len(scores)} scores for {count} anchors "
                f"at {place.width} x {place.height}"
            )
        cells = anchors.grid(place.height, place.width, coding.strides, coding.anchor_sizes, coding.clip_anchors)
        chosen = np.flatnonzero(scores >= self.min_score)
        if np.isnan(scores.sum()):
            raise ModelFileError(f"{self.name} gives scores that are not numbers; the file or its training is damaged")
        if len(chosen) == 0:
            return Faces.empty(prepared.width, prepared.height, landmarks=coding.landmarks)
        if len(chosen) > CANDIDATES:
            best = np.argpartition(-scores[chosen], CANDIDATES)[:CANDIDATES]
            chosen = np.sort(chosen[best])
        scores, cells = scores[chosen], cells[chosen]
        if coding.coding == "ssd":
            found = boxes.decode(outputs["boxes"][chosen], cells, coding.variances)
        else:
            found = boxes.decode_distance(outputs["boxes"][chosen], cells)
        if coding.clip_boxes:
            found = np.clip(found, 0, np.array([place.width, place.height] * 2, np.float32))
        kept = boxes.nms(found, scores, coding.nms_iou, limit=KEPT)
        points = None
        if coding.landmarks:
            coded = outputs["landmarks"][chosen[kept]]
            if coding.coding == "ssd":
                points = boxes.decode_points(coded, cells[kept], coding.variances)
            else:
                points = boxes.decode_points_distance(coded, cells[kept])
            if coding.clip_boxes:
                points = np.clip(points, 0, np.array([place.width, place.height], np.float32))
            points = place.points_back(points)
        return Faces(
            width=prepared.width,
            height=prepared.height,
            boxes=place.boxes_back(found[kept]),
            scores=np.clip(scores[kept], 0, 1),
            landmarks=points,
        )

    def _checked_size(self, size: Size) -> int | None:
        """The long side to scale to; None where pictures keep their scale."""
        plan = self.spec.input
        size = int(size) if isinstance(size, np.integer) else size
        if isinstance(size, bool) or not (size is None or size == "original" or isinstance(size, int)):
            raise UsageError(f"size is {size!r}; it must be a number of pixels or 'original'")
        if plan.width is not None and plan.height is not None:
            if size not in (None, plan.size, max(plan.width, plan.height)):
                raise UsageError(
                    f"{self.name} has a fixed input of {plan.width} x {plan.height} and takes no size {size}"
                )
            return max(plan.width, plan.height)
        if isinstance(size, int) and not 16 <= size <= 16384:
            raise UsageError(f"size is {size}; it must lie between 16 and 16384 pixels, or be 'original'")
        return plan.size if size is None else None if isinstance(size, str) else size

    def _place(self, width: int, height: int) -> Letterbox:
        plan = self.spec.input
        if plan.width is None or plan.height is None:
            return letterbox.fit(width, height, self.size, plan.multiple)
        if plan.fit == "stretch":
            return letterbox.stretch(width, height, plan.width, plan.height)
        return letterbox.fit_fixed(width, height, plan.width, plan.height)

    def _normalised(self, pixels: Pixels, place: Letterbox) -> NDArray[np.float32]:
        """(1, 3, height, width) float32; the padding is the mean, which is 0 here."""
        inner = (place.inner_height, place.inner_width)
        scaled: NDArray[Any] = pixels
        plan = self.spec.input
        if plan.fit == "stretch" or plan.scaling == "plain" or place.scale_x != place.scale_y:
            if inner != pixels.shape[:2]:
                scaled = np.asarray(cv2.resize(pixels, inner[::-1], interpolation=cv2.INTER_LINEAR))
        elif place.scale_x != 1:
            # In float32, as the reference projects do it: rounding to whole grey levels moves scores by up to 0.01.
            scale = place.scale_x
            scaled = np.asarray(cv2.resize(pixels.astype(np.float32), None, fx=scale, fy=scale))
        padded = inner != (place.height, place.width)
        result = (np.zeros if padded else np.empty)((1, 3, place.height, place.width), np.float32)
        for index, channel in enumerate(self._channels):
            target = result[0, index, : inner[0], : inner[1]]
            np.subtract(cv2.extractChannel(scaled, channel), self._mean[index], out=target)
            target *= self._scale[index]
        return result


def _picture(image: ImageLike | Picture, color: Literal["bgr", "rgb"], needed: int | None) -> Picture:
    """Any picture with its place in the full one; a file is read no larger than ``needed``."""
    check_color(color)
    if isinstance(image, Picture):
        return image
    if isinstance(image, str | Path) and needed is not None:
        return read_reduced(image, needed)
    pixels = as_array(image, color)
    return Picture(pixels, pixels.shape[1], pixels.shape[0])


def _blocks(side: int, needed: int) -> int:
    """The largest of 1, 2, 4, 8 that a side can be divided by and still have ``needed`` pixels."""
    return max(blocks for blocks in (1, 2, 4, 8) if blocks == 1 or side // blocks >= needed)
