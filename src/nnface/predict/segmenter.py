"""Parts of faces: label a chip of each face, and put the labels back into the photograph's own pixels.

What is enlarged is the network's logits, bilinear, and the likeliest label is taken at each pixel of the photograph, so
that edges are as smooth as the photograph. The stages of :class:`Segmenter` (``places``, ``chips``, ``prepare``,
``logits``, and :class:`Canvas`, which puts back) can be called on their own; none of them keeps state.

Where faces meet, each pixel belongs to one: among the faces that see a part there, to the one whose middle is nearest,
measured in units of its own chip. So a neighbour's hair does not cover a face, whichever of the two is larger.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from nnface.errors import ModelFileError, UsageError
from nnface.geometry.align import Transform, chip_of_box
from nnface.image import ImageLike, Pixels, as_array, require_many
from nnface.predict.chips import check_batch, check_chip, normalised, places, resized, warp, whole
from nnface.predict.opening import opened
from nnface.results import Faces
from nnface.runtime import Runner
from nnface.spec import CELEBAMASK_LABELS, mirrored_labels

BATCH = 8
"""Chips that go through the network together, unless told otherwise."""
PARTS = CELEBAMASK_LABELS[1:]
"""The names of the parts."""
HEAD = tuple(part for part in PARTS if part not in ("neck", "neck_l", "cloth"))
"""The parts of the head, with hair and what is worn on it."""
_TILE = 1024
"""The photograph is labelled in tiles of so many pixels a side, which bounds the memory."""
_CHUNK = 1 << 13
"""Pixels whose logits are interpolated at a time."""
_MIXED = 255
"""Marks the cells of the grid between whose corners a border runs."""
_SOFT_RIM = 1 / 32
"""Soft edges fade out towards the chip's border over this share of its side."""


class Segmenter:
    """Labels the parts of faces with any model file whose Spec says ``segment``.

    >>> from nnface import Detector, Segmenter, read_image  # doctest: +SKIP
    >>> image = read_image("team.jpg")  # doctest: +SKIP
    >>> faces = Segmenter()(image, Detector()(image))  # doctest: +SKIP
    >>> faces.labels.shape == image.shape[:2], faces[0].parts["hair"]  # doctest: +SKIP

    Labels are in CelebAMask-HQ's order (:data:`nnface.spec.CELEBAMASK_LABELS`), whatever the network's is.
    """

    def __init__(
        self,
        model: str | Path | Runner = "parser",
        *,
        device: str = "cpu",
        threads: int | None = None,
        batch: int = BATCH,
        views: Literal[1, 2] | None = None,
    ) -> None:
        """Open the model.

        Args:
            model: a file, a name of the zoo, or a runner (a module in training, say), which has its own device.
            device: ``cpu``, ``cuda``, ``cuda:N``, ``tensorrt`` or ``openvino``; see :func:`nnface.runtime.open_model`.
            threads: of the network; None: the physical cores that this process may use.
            batch: the most chips that go through the network together.
            views: 1 for speed, 2 to take the mean with the mirror image; None: as the Spec says.

        Raises:
            ModelFileError: no such model, a damaged one, one of another task, or of other labels.
            UsageError: another number of views, or less than one chip together.
            DeviceError: the device is not there.
        """
        self.runner, self.name = opened(model, device, threads)
        self.spec = self.runner.spec
        if self.spec.segmentation is None:
            raise ModelFileError(f"{self.name} is a model to {self.spec.task}, not to segment faces")
        names = self.spec.segmentation.labels
        unknown = sorted(set(names) - set(CELEBAMASK_LABELS))
        if unknown or "background" not in names or len(set(names)) < len(names):
            problem = f"names {unknown[0]}" if unknown else "names one twice, or has no background"
            raise ModelFileError(f"the labels of {self.name} are not CelebAMask-HQ's: its nnface metadata {problem}")
        plan = self.spec.input
        if (plan.width or plan.size, plan.height or plan.size) != (plan.size, plan.size):
            raise ModelFileError(f"{self.name} takes {plan.width} x {plan.height} pixels; a parser's input is a square")
        self.size = plan.size
        self.batch_size = check_batch(batch)
        self.numbers = np.array([CELEBAMASK_LABELS.index(name) for name in names], np.uint8)
        """CelebAMask-HQ's number of each label of the network."""
        self.views = self.spec.segmentation.views if views is None else views
        if self.views not in (1, 2):
            raise UsageError(f"views is {self.views}; a parser takes 1 or 2")
        self._mirrored = list(mirrored_labels(names))

    def __call__(self, image: ImageLike, faces: Faces | None = None, color: Literal["bgr", "rgb"] = "bgr") -> Faces:
        """The parts of a picture's faces.

        Args:
            image: a path, a PIL image, or an array (H, W, 3) uint8, upright.
            faces: what a detector found in it; None: the picture is a portrait itself.
            color: the order of an array's channels: **bgr**, OpenCV's, unless told otherwise.

        Returns:
            the same faces with ``parts``, the pixels of each part that is there, and ``labels``, the label image. A
            face of under 10 pixels has no parts (an empty mapping). For a portrait: one face whose box is the picture
            and whose score is None.

        Raises:
            ImageError: the path cannot be read.
            UsageError: not a picture, faces of another picture, or a portrait with a side under 10 pixels.
            ModelFileError: the network's outputs are not what its Spec says.
        """
        return self.batch([image], None if faces is None else [faces], color)[0]

    def batch(
        self,
        images: Sequence[ImageLike],
        faces: Sequence[Faces] | None = None,
        color: Literal["bgr", "rgb"] = "bgr",
    ) -> list[Faces]:
        """The parts of the faces of many pictures, each as :meth:`__call__` gives them; they share batches.

        Memory holds a label image for each picture, and the chips and logits of one batch.
        """
        require_many(images)
        if faces is not None and len(faces) != len(images):
            raise UsageError(f"{len(images)} pictures and the faces of {len(faces)} were given")
        canvases: list[Canvas] = []
        waiting: list[tuple[Canvas, int, Transform, Pixels]] = []
        for number, image in enumerate(images):
            canvas, chips = self._begun(as_array(image, color), None if faces is None else faces[number], {})
            canvases.append(canvas)
            for index, transform, chip in chips:
                waiting.append((canvas, index, transform, chip))
                if len(waiting) == self.batch_size:
                    self._paint(waiting)
        self._paint(waiting)
        return [canvas.result() for canvas in canvases]

    def labels(
        self, image: ImageLike, faces: Faces | None = None, color: Literal["bgr", "rgb"] = "bgr"
    ) -> NDArray[np.uint8]:
        """(H, W) uint8: the label image of a picture, 0 where there is no face; see :meth:`__call__`."""
        labels = self(image, faces, color).labels
        assert labels is not None
        return labels

    def soft(
        self,
        image: ImageLike,
        faces: Faces | None = None,
        groups: Mapping[str, Collection[str]] | None = None,
        color: Literal["bgr", "rgb"] = "bgr",
    ) -> dict[str, NDArray[np.float32]]:
        """Soft edges for compositing: for each group of parts how much each pixel belongs to it.

        Args:
            image: as for :meth:`__call__`.
            faces: likewise.
            groups: names of the caller's, each with the parts that it unites, such as ``{"hair": ("hair",), "lips":
                ("u_lip", "l_lip")}``; None: ``{"head": HEAD}``.
            color: the order of an array's channels.

        Returns:
            for each group (H, W) float32 in 0..1: the sigmoid of the enlarged log odds of its parts against all other
            labels, of the face that the pixel belongs to. Half is where the label image has its edge. Towards a chip's
            border inside the picture it fades out.

        Raises:
            UsageError: a part that is none, and as :meth:`__call__`.
            ImageError, ModelFileError: as :meth:`__call__`.
        """
        groups = {"head": HEAD} if groups is None else groups
        for part in [part for parts in groups.values() for part in parts]:
            if part not in PARTS:
                raise UsageError(f"{part!r} is not a part of a face; the parts are {', '.join(PARTS)}")
        canvas, chips = self._begun(as_array(image, color), faces, groups)
        while waiting := [(canvas, *chip) for chip in islice(chips, self.batch_size)]:
            self._paint(waiting)
        return canvas.planes

    def places(self, faces: Faces) -> list[Transform | None]:
        """For each face the transform from the picture to its chip; None for one that is too small or nowhere.

        A face without score whose box is the picture is a portrait: it is the chip as a whole, squashed or, where the
        Spec says ``letterbox``, padded to a square.
        """
        if not _is_portrait(faces):
            return places(faces, self.spec)
        width, height, size = faces.width, faces.height, self.size
        if self.spec.input.fit == "letterbox":
            return [chip_of_box(np.array([0, 0, width, height]), 0.0, size)]
        return [np.array([[size / width, 0, 0], [0, size / height, 0]])]

    def chips(self, image: Pixels, faces: Faces) -> Iterator[tuple[int, Transform, Pixels]]:
        """For each face that shows enough: its number, its place, and its chip (size, size, 3) uint8 BGR.

        What lies outside the picture is black.
        """
        for index, transform in enumerate(self.places(faces)):
            if transform is not None:
                squashed = _is_portrait(faces) and self.spec.input.fit == "stretch"
                yield index, transform, resized(image, self.size) if squashed else warp(image, transform, self.size)

    def prepare(self, chips: Sequence[Pixels]) -> NDArray[np.float32]:
        """(n, size, size, 3) uint8 BGR to the network's input (n, 3, size, size), normalised as the Spec says."""
        return normalised(chips, self.spec.input)

    def logits(self, chips: Sequence[Pixels]) -> NDArray[np.float32]:
        """(n, C, h, w): the mean over the views of what the network gives, on a grid that covers the chip.

        Raises:
            ModelFileError: the network's outputs are not numbers.
        """
        logits = self.mean_logits(self.prepare(chips))
        if not np.isfinite(logits).all():
            raise ModelFileError(f"{self.name} gives numbers that are not finite; the file is damaged")
        return logits

    def mean_logits(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, 3, size, size) to the mean of the logits (n, C, h, w) over the views."""
        logits = self.runner.run(inputs)["logits"]
        if self.views == 1:
            return logits
        mirrored = self.runner.run(np.ascontiguousarray(inputs[..., ::-1]))["logits"]
        return np.asarray((logits + mirrored[:, self._mirrored, :, ::-1]) / 2, np.float32)

    def _begun(
        self, image: Pixels, faces: Faces | None, groups: Mapping[str, Collection[str]]
    ) -> tuple["Canvas", Iterator[tuple[int, Transform, Pixels]]]:
        """An empty canvas for a picture, and the chips that are to be painted onto it, cut as they are asked for."""
        if faces is None:
            check_chip(image)
            faces = whole(image)
        if image.shape[:2] != (faces.height, faces.width):
            size, other = f"{image.shape[1]} x {image.shape[0]}", f"{faces.width} x {faces.height}"
            raise UsageError(f"the faces are those of a picture of {other} pixels, and this one has {size}")
        return Canvas(faces, self.numbers, self.size, groups), self.chips(image, faces)

    def _paint(self, waiting: list[tuple["Canvas", int, Transform, Pixels]]) -> None:
        """Take chips through the network and onto their canvases; the list is empty then."""
        if waiting:
            logits = self.logits([chip for *_, chip in waiting])
            for (canvas, index, transform, _), values in zip(waiting, logits, strict=True):
                canvas.paint(index, transform, values)
            waiting.clear()


class Canvas:
    """The label image of one picture while its faces are put onto it, in any order."""

    def __init__(
        self, faces: Faces, numbers: NDArray[np.uint8], size: int, groups: Mapping[str, Collection[str]]
    ) -> None:
        """An empty one.

        Args:
            faces: the picture's.
            numbers: (C,) the number of each of the network's labels in the label image.
            size: side of the chips in pixels.
            groups: of parts, whose soft edges are wanted too; see :meth:`Segmenter.soft`.
        """
        shape = (faces.height, faces.width)
        self.faces, self.numbers, self.size = faces, numbers, size
        self.labels = np.zeros(shape, np.uint8)
        self.planes = {name: np.zeros(shape, np.float32) for name in groups}
        self._groups = {
            name: np.isin(numbers, [CELEBAMASK_LABELS.index(part) for part in parts]) for name, parts in groups.items()
        }
        # Whose each pixel is (number + 1), where there are several faces, and each face's middle and chip's side.
        self._owner = np.zeros(shape, np.min_scalar_type(len(faces) + 1)) if len(faces) > 1 else None
        self._middles = np.ones((len(faces), 3))
        self._regions: dict[int, list[tuple[slice, slice]]] = {}

    def paint(self, index: int, transform: Transform, logits: NDArray[np.float32]) -> None:
        """Put a face's logits (C, h, w), on a grid that covers its chip, where its place in the picture is."""
        grid = np.array([[logits.shape[2]], [logits.shape[1]]]) / self.size * transform
        cells = _cells(logits, self.numbers)
        rows = np.ascontiguousarray(logits.reshape(len(logits), -1).T)
        odds = {name: _log_odds(logits, chosen) for name, chosen in self._groups.items()}
        x1, y1, x2, y2 = (float(v) for v in self.faces.boxes[index])
        side = self.size / np.sqrt(abs(np.linalg.det(transform[:, :2])))
        self._middles[index] = (x1 + x2) / 2, (y1 + y2) / 2, side
        self._regions[index] = _tiles(transform, self.size, self.labels.shape)
        for tile in self._regions[index]:
            labels = self._labels(cells, rows, logits.shape[1:], _of_pixels(grid, tile), tile)
            claimed = self._claim(index, labels, tile)
            if claimed is None:
                self.labels[tile] = labels
            else:
                np.copyto(self.labels[tile], labels, where=claimed)
            for name, plane in self.planes.items():
                soft = self._soft(odds[name], _of_pixels(grid, tile), transform, tile)
                if claimed is None or self._owner is None:
                    plane[tile] = soft
                else:  # where no face sees a part, the rim of the softest edge counts
                    np.copyto(plane[tile], soft, where=claimed)
                    np.maximum(plane[tile], soft, out=plane[tile], where=self._owner[tile] == 0)

    def result(self) -> Faces:
        """The faces with the pixels of their parts, and the label image."""
        return self.faces.with_parts([self._parts(index) for index in range(len(self.faces))], self.labels)

    def _parts(self, index: int) -> dict[str, int]:
        counts = np.zeros(len(CELEBAMASK_LABELS), np.int64)
        for tile in self._regions.get(index, ()):
            labels = self.labels[tile]
            mine = labels.ravel() if self._owner is None else labels[self._owner[tile] == index + 1]
            counts += np.bincount(mine, minlength=len(counts))
        return {name: int(count) for name, count in zip(PARTS, counts[1:], strict=True) if count}

    def _claim(self, index: int, labels: NDArray[np.uint8], tile: tuple[slice, slice]) -> NDArray[np.bool_] | None:
        """Take the pixels of a tile that are this face's rather than another's; None where it is the only one."""
        if self._owner is None:
            return None
        owner = self._owner[tile]
        claimed: NDArray[np.bool_] = labels > 0
        down, across = np.nonzero(claimed & (owner > 0))
        places = np.stack([across + tile[1].start, down + tile[0].start], 1) + 0.5
        mine, theirs = self._middles[index], self._middles[owner[down, across].astype(int) - 1]
        ways = [((places - m[..., :2]) ** 2).sum(1) / m[..., 2] ** 2 for m in (mine, theirs)]
        claimed[down, across] = ways[0] < ways[1]
        owner[claimed] = index + 1
        return claimed

    def _labels(
        self,
        cells: NDArray[np.uint8],
        rows: NDArray[np.float32],
        shape: tuple[int, ...],
        grid: Transform,
        tile: tuple[slice, slice],
    ) -> NDArray[np.uint8]:
        """The labels of a tile's pixels: the likeliest by the enlarged logits; 0 outside the chip.

        Where the four corners of a cell of the grid have one label, all of the cell has it, for what is between them
        is a weighted mean. So only the cells along borders are interpolated.
        """
        size = (tile[1].stop - tile[1].start, tile[0].stop - tile[0].start)
        halves = 2 * grid - [[0, 0, 0.5], [0, 0, 0.5]]  # the half cells are twice as many as the points
        flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
        labels = np.asarray(cv2.warpAffine(cells, halves, size, flags=flags, borderMode=cv2.BORDER_CONSTANT), np.uint8)
        flat = labels.ravel()
        mixed = np.flatnonzero(flat == _MIXED)
        for start in range(0, len(mixed), _CHUNK):
            chosen = mixed[start : start + _CHUNK]
            flat[chosen] = self.numbers[_interpolated(rows, shape, grid, chosen, size[0]).argmax(1)]
        return labels

    def _soft(
        self, odds: NDArray[np.float32], grid: Transform, transform: Transform, tile: tuple[slice, slice]
    ) -> NDArray[np.float32]:
        """The sigmoid of enlarged log odds at a tile's pixels, fading out at the border of a chip inside a picture."""
        size = (tile[1].stop - tile[1].start, tile[0].stop - tile[0].start)
        points = grid - [[0, 0, 0.5], [0, 0, 0.5]]
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        enlarged = cv2.warpAffine(odds, points, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        soft = np.asarray(1 / (1 + np.exp(-enlarged)), np.float32)
        if not _is_portrait(self.faces):
            place = _of_pixels(transform / self.size, tile)
            for a, b, c in place:
                along = np.add.outer(b * np.arange(size[1]), a * np.arange(size[0]) + c)
                soft *= np.clip(np.minimum(along, 1 - along) / _SOFT_RIM, 0, 1).astype(np.float32)
        return soft


def _is_portrait(faces: Faces) -> bool:
    """Whether the picture itself was given as the face; see :func:`nnface.predict.chips.whole`."""
    picture = [[0, 0, faces.width, faces.height]]
    return faces.scores is None and np.array_equal(faces.boxes, np.asarray(picture, np.float32))


def _cells(logits: NDArray[np.float32], numbers: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(2 h, 2 w) uint8: for each half cell of the grid the label that its four corners share, or ``_MIXED``.

    The points of the grid lie at the middles of h x w squares that fill the chip; a cell spans from point to point, and
    beyond the outermost points it goes on as at them.
    """
    best = numbers[logits.argmax(0)]
    padded = np.pad(best, 1, mode="edge")
    first = padded[:-1, :-1]
    shared: NDArray[np.bool_] = (first == padded[1:, :-1]) & (first == padded[:-1, 1:]) & (first == padded[1:, 1:])
    cells = np.where(shared, first, np.uint8(_MIXED))
    down, across = ((np.arange(2 * side) + 1) // 2 for side in best.shape)
    return np.asarray(cells[np.ix_(down, across)], np.uint8)


def _log_odds(logits: NDArray[np.float32], chosen: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(h, w): log of the probability of the chosen labels over that of the others, within +-30."""
    if chosen.all() or not chosen.any():
        return np.full(logits.shape[1:], 30.0 if chosen.all() else -30.0, np.float32)
    inside, others = (np.logaddexp.reduce(logits[part], axis=0) for part in (chosen, ~chosen))
    return np.asarray(np.clip(inside - others, -30, 30), np.float32)


def _interpolated(
    rows: NDArray[np.float32], shape: tuple[int, ...], grid: Transform, pixels: NDArray[np.intp], width: int
) -> NDArray[np.float32]:
    """(n, C): the logits, bilinear, at pixels of a tile.

    Args:
        rows: (h * w, C), the grid's points row by row.
        shape: h, w.
        grid: from the tile's pixels (their numbers) to the grid, whose squares are 1 x 1.
        pixels: (n,) numbers in the tile, row by row.
        width: of the tile.
    """
    down, across = np.divmod(pixels, width)
    near, weights = [], []
    for (a, b, c), side in zip(grid, shape[::-1], strict=True):
        along = np.clip(a * across + b * down + (c - 0.5), 0, side - 1)
        before = np.minimum(along.astype(np.intp), max(side - 2, 0))
        near.append(before)
        weights.append((along - before).astype(np.float32)[:, None])
    left = near[1] * shape[1] + near[0]
    right, below = (1 if shape[1] > 1 else 0), (shape[1] if shape[0] > 1 else 0)
    x, y = weights
    upper = rows[left] * (1 - x) + rows[left + right] * x
    lower = rows[left + below] * (1 - x) + rows[left + below + right] * x
    return np.asarray(upper * (1 - y) + lower * y, np.float32)


def _of_pixels(transform: Transform, tile: tuple[slice, slice]) -> Transform:
    """The transform of the picture, for the numbers of a tile's pixels, whose middles are at 0.5."""
    shift = transform[:, :2] @ (tile[1].start + 0.5, tile[0].start + 0.5) + transform[:, 2]
    return np.column_stack([transform[:, :2], shift])


def _tiles(transform: Transform, size: int, shape: tuple[int, ...]) -> list[tuple[slice, slice]]:
    """Rows and columns of the tiles that cover a chip's place in a picture of a shape."""
    inverse = cv2.invertAffineTransform(transform)
    corners = np.array([[0, 0], [size, 0], [0, size], [size, size]]) @ inverse[:, :2].T + inverse[:, 2]
    left, top = np.clip(np.floor(corners.min(0)), 0, shape[::-1]).astype(int)
    right, bottom = np.clip(np.ceil(corners.max(0)), 0, shape[::-1]).astype(int)
    return [
        (slice(y, min(y + _TILE, bottom)), slice(x, min(x + _TILE, right)))
        for y in range(top, bottom, _TILE)
        for x in range(left, right, _TILE)
    ]
