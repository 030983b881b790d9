"""What people do with the parts of a face: :func:`recolor` hair, lips and the like, :func:`blur` faces or parts.

Both take the upright picture and what a predictor said of it, and give a new picture; numpy and OpenCV only.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from nnface.errors import UsageError
from nnface.image import ImageLike, Pixels, as_array
from nnface.results import Faces
from nnface.spec import CELEBAMASK_LABELS

_FACE = ("skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "mouth", "u_lip", "l_lip")

PARTS: Mapping[str, tuple[str, ...]] = {
    **{label: (label,) for label in CELEBAMASK_LABELS},
    "skin": ("skin", "nose", "l_ear", "r_ear", "neck"),
    "lips": ("u_lip", "l_lip"),
    "eyes": ("l_eye", "r_eye"),
    "eyebrows": ("l_brow", "r_brow"),
    "ears": ("l_ear", "r_ear"),
    "glasses": ("eye_g",),
    "earrings": ("ear_r",),
    "necklace": ("neck_l",),
    "face": _FACE,
    "head": (*_FACE, "l_ear", "r_ear", "ear_r", "hair", "hat"),
}
"""The words for parts, and the labels that each stands for: every label of CelebAMask-HQ by its own name, but ``skin``,
which is all bare skin here; and the words that people use for several."""

COLORS: Mapping[str, str] = {
    "aqua": "#00ffff", "black": "#000000", "blue": "#0000ff", "fuchsia": "#ff00ff", "gray": "#808080",
    "grey": "#808080", "green": "#008000", "lime": "#00ff00", "maroon": "#800000", "navy": "#000080",
    "olive": "#808000", "orange": "#ffa500", "purple": "#800080", "red": "#ff0000", "silver": "#c0c0c0",
    "teal": "#008080", "white": "#ffffff", "yellow": "#ffff00",
}  # fmt: skip
"""The basic colour names of CSS."""

_CELLS = 6
"""How many cells lie across a face that is blurred at strength 1. People know faces of their acquaintance at 7 x 10
cells (Sinha et al., "Face recognition by humans", Proc. IEEE 2006)."""
_LUMINANCE = np.array([0.0722, 0.7152, 0.2126], np.float32)
"""Of linear B, G, R (sRGB's primaries)."""
_LINEAR = np.array(
    [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in np.arange(256) / 255], np.float32
)
"""Linear light of sRGB's 256 values."""
_CODED = np.searchsorted((_LINEAR[:-1] + _LINEAR[1:]) / 2, np.arange(65536, dtype=np.float32) / 65535).astype(np.uint8)
"""The value of sRGB whose linear light is nearest, for each 65535th of it."""
_CHUNK = 1 << 20
"""Pixels that are recoloured together, which bounds the memory."""
_STEPS = 4096
"""Of a curve over the square root of luminance, which is about as fine everywhere as eyes are."""
_UNSEEN = 1 / 512
"""A share so small changes no pixel by half a step."""
_Window: TypeAlias = tuple[slice, slice]


def parse_color(text: str) -> tuple[int, int, int]:
    """Red, green, blue (0..255) of ``#rrggbb`` (the # may be left out, shells take it for a comment) or a CSS name.

    >>> parse_color("#7a3b1d"), parse_color("Navy")
    ((122, 59, 29), (0, 0, 128))

    Raises:
        UsageError: neither.
    """
    code = COLORS.get(text.strip().lower(), text.strip().lower())
    if not re.fullmatch("#?[0-9a-f]{6}", code):
        raise UsageError(f"{text!r} is no colour: write it as #rrggbb, or as one of {', '.join(COLORS)}")
    red, green, blue = bytes.fromhex(code.removeprefix("#"))
    return red, green, blue


def part_labels(part: str) -> list[int]:
    """The label numbers of a part in :data:`PARTS`.

    Raises:
        UsageError: there is no such part.
    """
    if part not in PARTS:
        raise UsageError(f"there is no part {part!r}; the parts are {', '.join(PARTS)}")
    return [CELEBAMASK_LABELS.index(label) for label in PARTS[part]]


def recolor(
    image: ImageLike,
    labels: NDArray[Any] | Mapping[str, NDArray[Any]],
    colors: Mapping[str, str],
    *,
    strength: float = 1.0,
    faces: Faces | None = None,
    color: Literal["bgr", "rgb"] = "bgr",
) -> Pixels:
    """A copy of the picture whose parts have other colours, with their texture and light.

    The colour is a pigment under the light of the picture (the dichromatic model of Shafer, 1985): shadows scale it
    down, highlights take it to white. Lightness moves on one curve in CIELAB's L*, which takes the part's mean to the
    colour's lightness and keeps the order of all pixels, black and white; so dark hair becomes light enough to show
    the colour, and a strand or a gleam that was lighter than its neighbour stays so.

    Args:
        image: a path, a PIL image, or an array (H, W, 3) uint8, upright. It is not changed.
        labels: (H, W) integer label image in the order of ``spec.CELEBAMASK_LABELS``, whose edges are feathered a
            little; or for each part its soft mask, (H, W) in 0..1 as ``Segmenter.soft`` gives it, taken as it is.
        colors: for each part, a key of :data:`PARTS`, its colour as ``#rrggbb`` or a basic CSS name. Parts that
            overlap are coloured one after the other.
        strength: 0 (no change) to 1 (all).
        faces: whose parts these are. Each face's parts then have a mean of their own, so that a blond and a dark head
            in one picture both come to the colour.
        color: the order of the array's channels, given and returned.

    Returns:
        (H, W, 3) uint8. What lies outside the parts (and their feathered edge) is equal to the picture's.

    Raises:
        UsageError: an unknown part or colour, or labels that do not fit the picture.
        ImageError: the path cannot be read.
    """
    pixels = as_array(image, color)
    if not 0 <= strength <= 1:
        raise UsageError(f"the strength is {strength}; it must be from 0 to 1")
    wanted = [(part, part_labels(part), parse_color(text)) for part, text in colors.items()]
    if faces is not None:
        _check_faces(faces, pixels)
    if not isinstance(labels, Mapping):
        _check_labels(labels, pixels)
    result = pixels.copy()
    for part, numbers, rgb in wanted:
        if isinstance(labels, Mapping):
            window, share = _soft(labels, part, pixels)
        else:
            window, share = _feathered(_among(labels, numbers), len(faces) if faces else 1)
        share *= strength
        seen = share > _UNSEEN
        if seen.any():
            target = result[window]
            target[seen] = _tint(target[seen], share[seen], _owners(faces, window, seen), rgb)
    return result if color == "bgr" else np.ascontiguousarray(result[:, :, ::-1])


def blur(
    image: ImageLike,
    faces: Faces | NDArray[Any],
    *,
    labels: NDArray[Any] | None = None,
    parts: Iterable[str] = ("face",),
    mode: Literal["blur", "pixelate"] = "blur",
    strength: float = 1.0,
    color: Literal["bgr", "rgb"] = "bgr",
) -> Pixels:
    """A copy of the picture whose faces, or chosen parts of them, cannot be made out.

    What is covered is first reduced to the means of a few cells, six across a face, and drawn from these alone: as
    they are (``pixelate``), or smoothly (``blur``). So no sharpening brings back more than 6 x 6 colours a face.

    **This is no guarantee of anonymity.** A face that was not found is not blurred; hair, clothes, place and company
    tell who somebody is; a video gives many slightly different samples; and networks that are trained to do so
    match even coarse mosaics to a known set of people (McPherson, Shokri, Shmatikov, 2016). Paint over what must never
    be known. At a strength below 1 people may be recognised.

    Args:
        image: a path, a PIL image, or an array (H, W, 3) uint8, upright. It is not changed.
        faces: what was found in the picture; or the mask itself, (H, W): bool, or numbers of which 0.5 and more count.
        labels: (H, W) label image of the whole picture, in the order of ``spec.CELEBAMASK_LABELS``; by default
            ``faces.labels``. Faces are covered along it; without it, and where it shows less than half of a face, by
            the ellipse in the box.
        parts: keys of :data:`PARTS`; ``head`` takes hair, hat and ears too. The ellipse serves for those with all of
            the face only.
        mode: ``blur`` or ``pixelate``.
        strength: 1: six cells across a face, and proportionally. 0: no change; at most 6.
        color: the order of the array's channels, given and returned.

    Returns:
        (H, W, 3) uint8. What lies further from the mask than an eighth of a face (and 2 pixels) is equal to the
        picture's.

    Raises:
        UsageError: an unknown part or mode, parts of a face without labels, faces or labels of another picture.
        ImageError: the path cannot be read.
    """
    pixels = as_array(image, color)
    if mode not in ("blur", "pixelate"):
        raise UsageError(f"mode is {mode!r}; it must be 'blur' or 'pixelate'")
    if not 0 <= strength <= _CELLS:
        raise UsageError(f"the strength is {strength}; it must be from 0 to {_CELLS}")
    numbers = sorted({number for part in parts for number in part_labels(part)})
    result = pixels.copy()
    if isinstance(faces, Faces):
        _check_faces(faces, pixels)
        labels = faces.labels if labels is None else labels
        if labels is not None:
            _check_labels(labels, pixels)
        regions = list(_face_regions(faces, labels, numbers)) if strength else []
    else:
        if faces.shape != pixels.shape[:2]:
            raise UsageError(f"the mask is {_size(faces)} pixels and the picture {_size(pixels)}; they must be equal")
        regions = [(0, 0, faces >= 0.5, _extent(faces >= 0.5))] if strength else []
    for top, left, mask, size in regions:
        _cover(result, top, left, mask, size, size / _CELLS * strength, mode)
    return result if color == "bgr" else np.ascontiguousarray(result[:, :, ::-1])


def _soft(masks: Mapping[str, NDArray[Any]], part: str, pixels: Pixels) -> tuple[_Window, NDArray[np.float32]]:
    """A part's soft mask, 0..1, in the window of the picture outside of which it is 0."""
    if part not in masks:
        raise UsageError(f"there is no soft mask of the part {part!r}")
    if masks[part].shape != pixels.shape[:2]:
        size = f"{_size(masks[part])} pixels and the picture {_size(pixels)}"
        raise UsageError(f"the soft mask of {part} is {size}; they must be equal")
    window = _window((masks[part] > _UNSEEN).astype(np.uint8), 0)
    return window, np.clip(masks[part][window].astype(np.float32), 0, 1)


def _feathered(mask: NDArray[np.uint8], count: int) -> tuple[_Window, NDArray[np.float32]]:
    """The same of a mask with hard edges, made of the parts of ``count`` faces: its edges are feathered."""
    area = cv2.countNonZero(mask)
    # Hair is wide and its edge is fuzzy, lips are small and sharp: the feather goes by the size of the part.
    sigma = float(np.clip(math.sqrt(area / max(count, 1)) / 50, 0.6, 12))
    reach = math.ceil(2.5 * sigma)
    window = _window(mask, reach)
    share = mask[window].astype(np.float32)
    if area:
        side = 2 * reach + 1
        share = np.asarray(cv2.GaussianBlur(share, (side, side), sigma, borderType=cv2.BORDER_REPLICATE), np.float32)
    return window, share


def _among(labels: NDArray[Any], numbers: Iterable[int]) -> NDArray[np.uint8]:
    """1 where a label is one of the numbers, else 0."""
    table = np.zeros(256, np.uint8)
    table[list(numbers)] = 1
    return np.asarray(table[labels])


def _window(mask: NDArray[np.uint8], reach: int) -> _Window:
    """The rows and columns of what is not 0, widened by ``reach`` inside the picture; empty where all is 0."""
    x, y, width, height = cv2.boundingRect(mask)
    if not width:
        return slice(0, 0), slice(0, 0)
    return slice(max(y - reach, 0), y + height + reach), slice(max(x - reach, 0), x + width + reach)


def _owners(faces: Faces | None, window: _Window, seen: NDArray[np.bool_]) -> NDArray[np.int32]:
    """For each pixel that is seen in a window the number of the nearest face, in units of its size; 0 without any."""
    owner = np.zeros(np.count_nonzero(seen), np.int32)
    if faces is None or len(faces) < 2:
        return owner
    rows, columns = np.nonzero(seen)
    x, y = (columns + window[1].start).astype(np.float32), (rows + window[0].start).astype(np.float32)
    best = np.full(len(owner), np.inf, np.float32)
    for number, (x1, y1, x2, y2) in enumerate(_boxes(faces).tolist()):
        side = max(math.sqrt(max(x2 - x1, 0) * max(y2 - y1, 0)), 1.0)
        distance = ((x - (x1 + x2) / 2) ** 2 + (y - (y1 + y2) / 2) ** 2) / side**2
        closer = distance < best
        owner[closer], best[closer] = number, distance[closer]
    return owner


def _tint(
    pixels: NDArray[np.uint8], alpha: NDArray[np.float32], owner: NDArray[np.int32], rgb: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Pixels (n, 3) BGR in a colour of their own light, mixed with the old ones by ``alpha`` in linear light."""
    pigment = np.maximum(_LINEAR[list(rgb[::-1])], 1e-4)  # black has a direction too: grey
    goal = float(_lightness(np.asarray(pigment @ _LUMINANCE)))
    counts = np.bincount(owner)
    curves = np.zeros((len(counts), _STEPS, 3), np.float32)
    for number in np.flatnonzero(counts).tolist():
        mine = np.flatnonzero(owner == number)
        mine = mine[:: max(1, len(mine) // 65536)]  # a mean needs no more
        curves[number] = _curve(pigment, _odds_ratio(pixels[mine], alpha[mine], goal))
    result = np.empty_like(pixels)
    for begin in range(0, len(pixels), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        linear = _LINEAR[pixels[part]]
        step = np.rint(np.sqrt(linear @ _LUMINANCE) * (_STEPS - 1)).astype(np.int32)
        linear += (curves[owner[part], step] - linear) * alpha[part, None]
        result[part] = _encode(linear)
    return result


def _curve(pigment: NDArray[np.float32], ratio: float) -> NDArray[np.float32]:
    """(_STEPS, 3): what becomes of a grey pixel whose luminance is (step / last step) squared, in linear light.

    Args:
        pigment: the colour in linear light.
        ratio: what the odds of the lightness, L / (1 - L), are multiplied by.
    """
    lightness = _lightness(np.linspace(0, 1, _STEPS, dtype=np.float32) ** 2)
    light = _luminance(ratio * lightness / (1 + (ratio - 1) * lightness))[:, None]
    # Lit stronger than in the sample, a dark pigment is brighter and as saturated, up to a quarter of the way to where
    # a channel is full; only from there on highlights mix with white. All the way, brown hair would shine orange.
    purest = pigment * (1 + (1 / float(pigment.max()) - 1) / 4)
    limit = float(purest @ _LUMINANCE)
    white = np.clip((light - limit) / max(1 - limit, 1e-6), 0, 1)
    return np.asarray(np.where(light <= limit, light / limit * purest, purest + (1 - purest) * white), np.float32)


def _odds_ratio(pixels: NDArray[np.uint8], alpha: NDArray[np.float32], goal: float) -> float:
    """The factor of the odds L / (1 - L) that takes the mean lightness of pixels (n, 3) to the goal, 1/10 to 6.

    Odds times a constant is the curve that keeps black, white and order with a bounded slope: a gamma would blow up
    the noise of black hair.
    """
    mean = float(np.average(_lightness(_LINEAR[pixels] @ _LUMINANCE), weights=alpha))
    goal, mean = min(max(goal, 0.02), 0.98), min(max(mean, 0.02), 0.98)
    return min(max(goal / (1 - goal) * (1 - mean) / mean, 1 / 10), 6)


def _lightness(luminance: NDArray[np.float32]) -> NDArray[np.float32]:
    """CIELAB's L* / 100 of luminance in 0..1."""
    dark = luminance * (24389 / 2700)
    return np.asarray(np.where(luminance <= 216 / 24389, dark, 1.16 * np.cbrt(luminance) - 0.16), np.float32)


def _luminance(lightness: NDArray[np.float32]) -> NDArray[np.float32]:
    """The inverse of :func:`_lightness`."""
    bright = ((lightness + 0.16) / 1.16) ** 3
    return np.asarray(np.where(lightness <= 0.08, lightness * (2700 / 24389), bright), np.float32)


def _encode(linear: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Linear light to sRGB's 256 values."""
    return np.asarray(_CODED[np.rint(np.clip(linear, 0, 1) * 65535).astype(np.uint16)])


def _face_regions(
    faces: Faces, labels: NDArray[Any] | None, numbers: list[int]
) -> Iterable[tuple[int, int, NDArray[np.bool_], float]]:
    """What to cover: the top left corner of a mask, the mask, and the size of the face that it belongs to."""
    whole_faces = set(part_labels("face")) <= set(numbers)
    if labels is None and not whole_faces:
        raise UsageError("parts of a face are found by their labels, and there are none; segment the picture first")
    boxes = _boxes(faces)
    sizes = np.sqrt(np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1))
    rest = None if labels is None else _among(labels, numbers).astype(bool)
    heads = CELEBAMASK_LABELS.index("hair") in numbers
    if whole_faces:
        for number in np.argsort(-sizes, kind="stable"):  # where two overlap, the larger one's cells are the coarser
            (x1, y1, x2, y2), size = boxes[number].tolist(), float(sizes[number])
            margin = (0.6 if heads else 0.3) * max(x2 - x1, y2 - y1)
            left, top = max(math.floor(x1 - margin), 0), max(math.floor(y1 - margin), 0)
            right, bottom = min(math.ceil(x2 + margin), faces.width), min(math.ceil(y2 + margin), faces.height)
            if size <= 0 or left >= right or top >= bottom:
                continue
            y, x = np.ogrid[top:bottom, left:right]
            grow = 1.4 if heads and rest is None else 1.0
            across = (x + 0.5 - (x1 + x2) / 2) / ((x2 - x1) / 2 * grow)
            down = (y + 0.5 - (y1 + y2) / 2) / ((y2 - y1) / 2 * grow)
            mask = ellipse = across**2 + down**2 <= 1
            if rest is not None:
                mask = _filled(rest[top:bottom, left:right])
                if (mask & ellipse).sum() < ellipse.sum() / 2:
                    mask = mask | ellipse
                rest[top:bottom, left:right] = False
            yield top, left, mask, size
    if rest is not None and len(faces):  # what hangs down, and parts: cells as for the largest face, with no seams
        yield 0, 0, rest, float(sizes.max())


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask without holes: what was labelled otherwise amid a face must not show."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(mask.astype(np.uint8), outlines, -1, 1, cv2.FILLED).astype(bool)


def _extent(mask: NDArray[np.bool_]) -> float:
    """The size of the largest connected piece of a mask: the geometric mean of its sides."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    sides = stats[1:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].astype(float)
    return float(np.sqrt(sides.prod(axis=1)).max(initial=0))


def _cover(canvas: Pixels, top: int, left: int, mask: NDArray[np.bool_], size: float, cell: float, mode: str) -> None:
    """Replace what the mask covers, and a soft rim around it, by the means of cells, in place."""
    rim = max(1, round(min(size, max(canvas.shape[:2])) / 16))
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    if not width:
        return
    y1, x1 = max(top + y - 2 * rim, 0), max(left + x - 2 * rim, 0)
    y2, x2 = min(top + y + height + 2 * rim, canvas.shape[0]), min(left + x + width + 2 * rim, canvas.shape[1])
    padded = np.zeros((y2 - y1, x2 - x1), np.uint8)
    inner = mask[y : y + height, x : x + width]
    padded[top + y - y1 : top + y - y1 + height, left + x - x1 : left + x - x1 + width] = inner
    # Widened by as much as the feathering reaches: inside the mask nothing of the original is left. Both by sums of
    # whole numbers over squares, which are exact and take no longer for wide rims.
    square = (2 * rim + 1, 2 * rim + 1)
    wide = (cv2.boxFilter(padded, cv2.CV_32S, square, normalize=False) > 0).astype(np.uint8)
    share = np.asarray(cv2.boxFilter(wide, cv2.CV_32S, square, normalize=False))
    window = canvas[y1:y2, x1:x2]
    cell = max(cell, 2.0)
    cells = max(1, round(window.shape[1] / cell)), max(1, round(window.shape[0] / cell))
    means = cv2.resize(window, cells, interpolation=cv2.INTER_AREA)
    if mode == "blur":
        means = cv2.GaussianBlur(means, (5, 5), 0.7, borderType=cv2.BORDER_REPLICATE)
    how = cv2.INTER_CUBIC if mode == "blur" else cv2.INTER_NEAREST
    coarse = cv2.resize(means, (window.shape[1], window.shape[0]), interpolation=how)
    full = share == square[0] * square[1]
    edge = (share > 0) & ~full
    alpha = (share[edge] / np.float32(square[0] * square[1]))[:, None]
    mixed = window[edge] + (coarse[edge].astype(np.float32) - window[edge]) * alpha
    np.copyto(window, coarse, where=full[:, :, None])
    window[edge] = np.rint(mixed).astype(np.uint8)


def _boxes(faces: Faces) -> NDArray[np.float64]:
    """The boxes, brought near the picture: a detector's may be anywhere."""
    limits = np.array([faces.width, faces.height] * 2, float)
    return np.asarray(np.clip(np.nan_to_num(faces.boxes.astype(float)), -8 * limits, 9 * limits))


def _check_faces(faces: Faces, pixels: Pixels) -> None:
    if (faces.height, faces.width) != pixels.shape[:2]:
        size = f"{faces.width} x {faces.height}"
        raise UsageError(f"the faces are of a picture of {size} pixels and this one is {_size(pixels)}")


def _check_labels(labels: NDArray[Any], pixels: Pixels) -> None:
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        what = f"shape {labels.shape} and dtype {labels.dtype}"
        raise UsageError(f"the labels have {what}; they must be (height, width) whole numbers")
    if labels.shape != pixels.shape[:2]:
        raise UsageError(f"the labels are {_size(labels)} pixels and the picture {_size(pixels)}; they must be equal")
    last = len(CELEBAMASK_LABELS) - 1
    if not 0 <= int(labels.min()) <= int(labels.max()) <= last:
        raise UsageError(f"the labels go from {labels.min()} to {labels.max()}; they must be from 0 to {last}")


def _size(array: NDArray[Any]) -> str:
    return f"{array.shape[1]} x {array.shape[0]}"
