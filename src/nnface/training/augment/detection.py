"""Augmentation for detection: pictures in uint8 with OpenCV, labels that follow to the fraction of a pixel.

Every function takes its random numbers from the generator that it is given, so a sample is a pure function of
(seed, number): that is what makes a resumed training exact. A crop is cut at whole pixels and *then* resized, with
the factor that the resize really has: labels moved by another offset than the pixels cost 1 to 2 AP.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

MIRRORED = [1, 0, 2, 4, 3]
"""Where the five points come from after a flip: the eyes and the corners of the mouth change places."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A picture in memory with its faces, in its own pixels."""

    image: NDArray[np.uint8]
    """(H, W, 3) BGR."""
    boxes: NDArray[np.float32]
    """(n, 4): x1, y1, x2, y2."""
    landmarks: NDArray[np.float32]
    """(n, 5, 2), NaN where a face has none."""
    ignored: NDArray[np.bool_]
    """(n,)."""
    names: tuple[str, ...] = ()
    """Keys of the pictures that this was made of."""

    @property
    def sizes(self) -> NDArray[np.float32]:
        """(n,): the square root of each box's area."""
        sides = np.clip(self.boxes[:, 2:] - self.boxes[:, :2], 0, None)
        return np.asarray(np.sqrt(sides.prod(1)), np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A cut in whole pixels of the source picture; it may reach beyond it."""

    x: int
    y: int
    width: int
    height: int


def cut(source: Labelled, window: Window, width: int, height: int, fill: int, interpolation: int) -> Labelled:
    """What the window shows, resized to width x height; beyond the source lies grey of value ``fill``.

    Faces whose centre lies in the window stay and are clipped to it; those that only reach into it become ignore
    regions.
    """
    rows, columns = source.image.shape[:2]
    x1, y1 = max(window.x, 0), max(window.y, 0)
    x2, y2 = min(window.x + window.width, columns), min(window.y + window.height, rows)
    sx, sy = width / window.width, height / window.height
    image = np.full((height, width, 3), fill, np.uint8)
    if x2 > x1 and y2 > y1:
        # The part inside is resized on its own (no large canvas is needed), to whole target pixels; the residue of
        # that rounding is below half a pixel only where the window crosses the border, so the labels use its factor.
        tx1, ty1 = round((x1 - window.x) * sx), round((y1 - window.y) * sy)
        tx2, ty2 = max(round((x2 - window.x) * sx), tx1 + 1), max(round((y2 - window.y) * sy), ty1 + 1)
        tx2, ty2 = min(tx2, width), min(ty2, height)
        tx1, ty1 = min(tx1, tx2 - 1), min(ty1, ty2 - 1)
        patch = cv2.resize(source.image[y1:y2, x1:x2], (tx2 - tx1, ty2 - ty1), interpolation=interpolation)
        image[ty1:ty2, tx1:tx2] = patch
        sx, sy = (tx2 - tx1) / (x2 - x1), (ty2 - ty1) / (y2 - y1)
        scale, shift = np.array([sx, sy], np.float32), np.array([tx1 - x1 * sx, ty1 - y1 * sy], np.float32)
    else:
        scale, shift = np.array([sx, sy], np.float32), np.array([-window.x * sx, -window.y * sy], np.float32)
    boxes = source.boxes * np.tile(scale, 2) + np.tile(shift, 2)
    points = source.landmarks * scale + shift
    limits = np.array([width, height], np.float32)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    clipped = np.concatenate([np.clip(boxes[:, :2], 0, limits), np.clip(boxes[:, 2:], 0, limits)], 1)
    visible = (clipped[:, 2:] > clipped[:, :2]).all(1)
    centred = ((centres >= 0) & (centres < limits)).all(1)
    ignored = source.ignored | ~centred
    return Labelled(
        image=image, boxes=clipped[visible], landmarks=points[visible], ignored=ignored[visible], names=source.names
    )


def flip(source: Labelled) -> Labelled:
    """The mirror image; eyes and corners of the mouth change places with their sides."""
    width = source.image.shape[1]
    boxes = source.boxes.copy()
    boxes[:, [0, 2]] = width - source.boxes[:, [2, 0]]
    landmarks = source.landmarks[:, MIRRORED].copy()
    landmarks[..., 0] = width - landmarks[..., 0]
    return replace(source, image=np.ascontiguousarray(source.image[:, ::-1]), boxes=boxes, landmarks=landmarks)


def ignore_small(source: Labelled, smallest: float) -> Labelled:
    """Faces whose size (the root of the area) is below ``smallest`` pixels become ignore regions."""
    return replace(source, ignored=source.ignored | (source.sizes < smallest))


def photometric(image: NDArray[Any], rng: Generator) -> NDArray[np.uint8]:
    """Brightness, contrast, gamma, a colour cast, and now and then grey, blur, noise or the blocks of a JPEG."""
    if rng.random() < 0.8:
        # One table a channel does brightness, contrast, gamma and the cast at once.
        ramp = np.linspace(0, 1, 256)
        gamma = np.exp(rng.uniform(-0.4, 0.4))
        gain = rng.uniform(0.7, 1.3) * (1 + rng.uniform(-0.12, 0.12, 3) * (rng.random() < 0.6))
        offset = rng.uniform(-0.12, 0.12)
        table = ((ramp[:, None] ** gamma - 0.5) * gain + 0.5 + offset) * 255
        image = cv2.LUT(image, np.clip(table, 0, 255).astype(np.uint8)[None])
    choice = rng.random()
    if choice < 0.07:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    elif choice < 0.25:
        grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
        saturation = rng.uniform(0.3, 1.6)
        image = cv2.addWeighted(image, saturation, grey, 1 - saturation, 0)
    choice = rng.random()
    if choice < 0.06:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.6))
    elif choice < 0.10:
        noise = rng.normal(0, rng.uniform(2, 10), image.shape[:2]).astype(np.int16)
        image = np.clip(image.astype(np.int16) + noise[..., None], 0, 255).astype(np.uint8)
    elif choice < 0.16:
        quality = int(rng.integers(25, 80))
        blocks = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)
        return np.asarray(blocks, np.uint8)
    return image


def occlude(source: Labelled, rng: Generator, share: float) -> Labelled:
    """Cover a part of some faces with a plain or noisy patch, as masks, hands and microphones do; labels stay."""
    image = source.image.copy()
    for box, size, ignored in zip(source.boxes, source.sizes, source.ignored, strict=True):
        if ignored or size < 14 or rng.random() >= share:
            continue
        x1, y1, x2, y2 = box
        w, h = x2 - x1, y2 - y1
        top = y1 + h * rng.uniform(0.5, 0.7) if rng.random() < 0.5 else y1 + h * rng.uniform(-0.1, 0.6)
        left = x1 + w * rng.uniform(-0.1, 0.5)
        right, bottom = left + w * rng.uniform(0.3, 0.9), top + h * rng.uniform(0.25, 0.5)
        corners = np.clip([left, top, right, bottom], 0, [*image.shape[1::-1], *image.shape[1::-1]]).astype(int)
        patch = image[corners[1] : corners[3], corners[0] : corners[2]]
        patch[:] = rng.integers(0, 256, 3 if rng.random() < 0.7 else patch.shape, np.uint8)
    return replace(source, image=image)


def limbs(source: Labelled, rng: Generator, share: float) -> Labelled:
    """Lay bands across some faces, as the raised arms of a crowd lie; labels stay.

    A band is straight with round ends, tapers, is darker towards its edges, and has the colour of the skin of one of
    the faces.
    """
    image = source.image.copy()
    fit = np.flatnonzero(~source.ignored & (source.sizes >= 14))
    for face in fit:
        if rng.random() >= share:
            continue
        box, size = source.boxes[face], float(source.sizes[face])
        skin = _skin(source, int(rng.choice(fit))) * rng.uniform(0.7, 1.15)
        middle = box[:2] + (box[2:] - box[:2]) * rng.uniform(0.1, 0.9, 2)
        angle = rng.uniform(0, 2 * np.pi)
        along = np.array([np.cos(angle), np.sin(angle)])
        before, after = size * rng.uniform(0.2, 2.5, 2)
        _band(image, middle - before * along, middle + after * along, size * rng.uniform(0.12, 0.35, 2), skin, rng)
    return replace(source, image=image)


def _skin(source: Labelled, face: int) -> NDArray[np.float64]:
    """(3,): the middle colour of a face's middle."""
    x1, y1, x2, y2 = source.boxes[face]
    left, right = (int(x1 + (x2 - x1) * part) for part in (0.3, 0.7))
    top, bottom = (int(y1 + (y2 - y1) * part) for part in (0.3, 0.7))
    middle = source.image[max(top, 0) : bottom + 1, max(left, 0) : right + 1].reshape(-1, 3)
    return np.median(middle, 0) if len(middle) else np.full(3, 128.0)


def _band(
    image: NDArray[np.uint8],
    start: NDArray[np.floating],
    end: NDArray[np.floating],
    halves: NDArray[np.floating],
    color: NDArray[np.floating],
    rng: Generator,
) -> None:
    """Paint a band from ``start`` to ``end`` (x, y), in place; ``halves`` are half its widths at the two ends."""
    most = float(halves.max()) + 1
    rows, columns = image.shape[:2]
    left, top = np.maximum(np.floor(np.minimum(start, end) - most), 0).astype(int)
    right, bottom = np.minimum(np.ceil(np.maximum(start, end) + most), (columns, rows)).astype(int)
    if right <= left or bottom <= top:
        return
    y, x = np.mgrid[top:bottom, left:right] + 0.5
    axis = end - start
    place = ((x - start[0]) * axis[0] + (y - start[1]) * axis[1]) / float(axis @ axis)
    place = np.clip(place, 0, 1)  # of the nearest point, so that the ends are round
    away = np.hypot(x - start[0] - place * axis[0], y - start[1] - place * axis[1])
    half = halves[0] + (halves[1] - halves[0]) * place
    inside = np.clip(half - away + 0.5, 0, 1)
    shade = 1 - 0.45 * np.clip(away / np.maximum(half, 1e-6), 0, 1) ** 2
    paint = color * shade[..., None] + rng.normal(0, 5, (*shade.shape, 1))
    part = image[top:bottom, left:right]
    part[:] = np.clip(part + inside[..., None] * (paint - part), 0, 255).astype(np.uint8)


def random_window(source: Labelled, width: int, height: int, rng: Generator, policy: "CropPolicy") -> Window:
    """A window of the target's aspect ratio, chosen around a face or freely over the picture."""
    rows, columns = source.image.shape[:2]
    aspect = width / height
    faces = np.flatnonzero(~source.ignored & (source.sizes > 1))
    if len(faces) and rng.random() < policy.anchored:
        face = int(rng.choice(faces))
        wanted = float(np.exp(rng.uniform(np.log(policy.face_min), np.log(policy.face_max))))
        # Not so small that the picture leaves most of the crop empty.
        least = policy.cover * min(width / columns, height / rows)
        factor = min(max(wanted / float(source.sizes[face]), least), policy.enlarge)
        w, h = width / factor, height / factor
        centre = (source.boxes[face, :2] + source.boxes[face, 2:]) / 2
        x = float(centre[0]) - w * rng.uniform(0.1, 0.9)
        y = float(centre[1]) - h * rng.uniform(0.1, 0.9)
    elif policy.window is not None:
        return _contained_window(source, aspect, rng, policy)
    else:
        short = min(rows, columns) * float(np.exp(rng.uniform(np.log(policy.side_min), np.log(policy.side_max))))
        h = max(short, height / policy.enlarge)
        w = h * aspect
        x = rng.uniform(min(0, columns - w), max(0, columns - w))
        y = rng.uniform(min(0, rows - h), max(0, rows - h))
    return Window(x=round(x), y=round(y), width=max(round(w), 1), height=max(round(h), 1))


def _contained_window(source: Labelled, aspect: float, rng: Generator, policy: "CropPolicy") -> Window:
    """biubug6's window (``inside``), which is never beyond the picture and holds a whole face; or the whole picture."""
    rows, columns = source.image.shape[:2]
    faces = source.boxes[~source.ignored]
    largest = min(rows, columns / aspect)
    for _ in range(250 if policy.window == "inside" and len(faces) else 0):
        share = policy.side_max if rng.random() < 0.2 else rng.uniform(policy.side_min, policy.side_max)
        height = max(int(largest * min(share, 1.0)), 1)
        width = min(max(int(height * aspect), 1), columns)
        x, y = int(rng.integers(columns - width + 1)), int(rng.integers(rows - height + 1))
        if ((faces[:, :2] >= (x, y)) & (faces[:, 2:] <= (x + width, y + height))).all(1).any():
            return Window(x=x, y=y, width=width, height=height)
    height = max(rows, round(columns / aspect))
    return Window(x=0, y=0, width=max(round(height * aspect), columns), height=height)


@dataclass(frozen=True, slots=True, kw_only=True)
class CropPolicy:
    """How crops are chosen. Faces are measured by the root of their area, in pixels of the crop."""

    anchored: float = 0.5
    """Share of crops that are laid around a face, which gets a size from face_min to face_max (even in the log)."""
    face_min: float = 8.0
    face_max: float = 200.0
    enlarge: float = 2.0
    """The largest magnification of a source picture."""
    cover: float = 0.85
    """The least share of the crop's width or height that the picture covers, however small the face should be."""
    side_min: float = 0.3
    """Other crops: their height in short sides of the picture, from side_min to side_max (even in the log)."""
    side_max: float = 2.0
    window: Literal["inside", "whole"] | None = None
    """``inside``: other crops lie in the picture, a fifth of them at side_max, and hold a whole face; ``whole``: they
    are the whole picture, padded; None: freely."""


Draw = Callable[[Generator], Labelled]
"""Gives a source picture for a crop."""


def random_crop(draw: Draw, width: int, height: int, rng: Generator, policy: CropPolicy) -> Labelled:
    """One crop of a drawn picture, flipped half of the time."""
    source = draw(rng)
    window = random_window(source, width, height, rng, policy)
    shrinks = window.width > 1.5 * width
    interpolation = cv2.INTER_AREA if shrinks and rng.random() < 0.6 else cv2.INTER_LINEAR
    result = cut(source, window, width, height, int(rng.integers(0, 256)) if rng.random() < 0.3 else 114, interpolation)
    return flip(result) if rng.random() < 0.5 else result


def mosaic(draw: Draw, side: int, rng: Generator, policy: CropPolicy) -> Labelled:
    """Four crops of different pictures that meet in a random point (YOLOv4's mosaic)."""
    x, y = (int(v) for v in rng.integers(round(side * 0.3), round(side * 0.7), 2))
    tiles = []
    image = np.empty((side, side, 3), np.uint8)
    for left, top, right, bottom in ((0, 0, x, y), (x, 0, side, y), (0, y, x, side), (x, y, side, side)):
        tile = random_crop(draw, right - left, bottom - top, rng, policy)
        image[top:bottom, left:right] = tile.image
        tiles.append(_moved(tile, left, top))
    return _joined(image, tiles)


def sheet(draw: Draw, side: int, rng: Generator, face_min: float, face_max: float) -> Labelled:
    """A sheet of portraits, each reduced so that its face has a common small size: many different small faces."""
    size = float(np.exp(rng.uniform(np.log(face_min), np.log(face_max))))
    cell = max(int(size * rng.uniform(1.5, 2.2)), 8)
    count = min(side // cell, 8)
    margin = side - count * cell
    image = np.full((side, side, 3), int(rng.integers(0, 256)), np.uint8)
    left, top = (int(v) for v in rng.integers(0, margin + 1, 2))
    tiles = []
    for row in range(count):
        for column in range(count):
            source = draw(rng)
            faces = np.flatnonzero(~source.ignored)
            if not len(faces) or rng.random() < 0.1:
                continue
            face = int(faces[source.sizes[faces].argmax()])
            w = max(round(cell * float(source.sizes[face]) / (size * float(np.exp(rng.uniform(-0.2, 0.2))))), 4)
            x, y = (source.boxes[face, :2] + source.boxes[face, 2:]) / 2 - w * rng.uniform(0.4, 0.6, 2)
            tile = cut(source, Window(x=round(x), y=round(y), width=w, height=w), cell, cell, 114, cv2.INTER_AREA)
            tile = flip(tile) if rng.random() < 0.5 else tile
            cx, cy = left + column * cell, top + row * cell
            image[cy : cy + cell, cx : cx + cell] = tile.image
            tiles.append(_moved(tile, cx, cy))
    return _joined(image, tiles)


def paste(source: Labelled, draw: Draw, rng: Generator, face_min: float, face_max: float) -> Labelled:
    """One to three portraits laid over the picture, each with its own edges, as on screens, walls and collages.

    A face that a portrait covers by more than half becomes an ignore region, one that it covers whole is gone.
    """
    height, width = source.image.shape[:2]
    result = replace(source, image=source.image.copy())
    for _ in range(int(rng.integers(1, 4))):
        portrait = draw(rng)
        faces = np.flatnonzero(~portrait.ignored & (portrait.sizes > 1))
        if not len(faces):
            continue
        face = int(faces[portrait.sizes[faces].argmax()])
        rows, columns = portrait.image.shape[:2]
        size = float(np.exp(rng.uniform(np.log(face_min), np.log(face_max))))
        factor = min(size / float(portrait.sizes[face]), width / columns, height / rows)
        w, h = max(round(columns * factor), 1), max(round(rows * factor), 1)
        shrinks = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        tile = cut(portrait, Window(x=0, y=0, width=columns, height=rows), w, h, 114, shrinks)
        tile = flip(tile) if rng.random() < 0.5 else tile
        x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
        result.image[y : y + h, x : x + w] = tile.image
        below = _covered(result, x, y, x + w, y + h)
        result = _joined(result.image, [below, _moved(tile, x, y)])
    return result


def _covered(source: Labelled, x1: int, y1: int, x2: int, y2: int) -> Labelled:
    """The faces that are left when something lies over a rectangle."""
    overlap = np.minimum(source.boxes[:, 2:], (x2, y2)) - np.maximum(source.boxes[:, :2], (x1, y1))
    share = np.clip(overlap, 0, None).prod(1) / np.maximum(source.sizes**2, 1e-6)
    kept = share < 0.99
    return replace(
        source,
        boxes=source.boxes[kept],
        landmarks=source.landmarks[kept],
        ignored=(source.ignored | (share > 0.5))[kept],
    )


def _moved(tile: Labelled, x: int, y: int) -> Labelled:
    shift = np.array([x, y], np.float32)
    return replace(tile, boxes=tile.boxes + np.tile(shift, 2), landmarks=tile.landmarks + shift)


def _joined(image: NDArray[np.uint8], tiles: list[Labelled]) -> Labelled:
    none = (np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32), np.zeros(0, bool))
    return Labelled(
        image=image,
        boxes=np.concatenate([none[0], *(t.boxes for t in tiles)]),
        landmarks=np.concatenate([none[1], *(t.landmarks for t in tiles)]),
        ignored=np.concatenate([none[2], *(t.ignored for t in tiles)]),
        names=tuple(name for t in tiles for name in t.names),
    )
