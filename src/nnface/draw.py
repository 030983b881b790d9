"""Results onto pictures."""

import math
import struct
import zlib

import cv2
import numpy as np
from numpy.typing import NDArray

from nnface.results import Face, Faces
from nnface.spec import CELEBAMASK_LABELS

_COLOR = (90, 220, 60)
"""The boxes and labels: a light green, BGR, that skin, clothes and sky seldom have."""
_DARK = (20, 30, 10)
"""The rim around lines, which keeps them visible on a light background, and the text on the labels."""
_POINTS = ((255, 200, 60), (255, 200, 60), (60, 220, 255), (120, 90, 255), (120, 90, 255))
"""Eyes, nose, mouth corners."""
_FONT = cv2.FONT_HERSHEY_SIMPLEX

PALETTE = np.array(
    [
        (0, 0, 0), (255, 200, 160), (240, 130, 40), (70, 240, 240), (30, 80, 220), (60, 200, 90), (0, 0, 130),
        (0, 110, 60), (170, 110, 240), (110, 30, 150), (255, 255, 255), (240, 50, 90), (150, 0, 30), (150, 90, 40),
        (255, 225, 25), (240, 50, 230), (190, 255, 60), (130, 140, 90), (130, 160, 190),
    ],
    np.uint8,
)  # fmt: skip
"""(19, 3) RGB: a colour for each of ``spec.CELEBAMASK_LABELS``."""


def faces(image: NDArray[np.uint8], faces: Faces) -> NDArray[np.uint8]:
    """A copy of the picture with a box, a score, the landmarks, the perceived attributes and the parts of each face.

    The width of the lines goes by the size of the picture and of the face. A label is left out where it would be
    more than three fifths of the face (with attributes: wider than it) or would cover another label: a crowd stays a
    picture of a crowd. Parts are tinted, with a legend in the corner that shows the least of them; then there are no
    dots for landmarks, and no box around a portrait.

    Args:
        image: (height, width, 3) uint8, BGR: the upright picture that the faces were found in. It is not changed.
        faces: what was found, in pixels of that picture.
    """
    canvas = image.copy()
    widest = max(1, round(math.sqrt(image.shape[0] * image.shape[1]) / 300))
    if faces.labels is not None:
        _tint(canvas, faces.labels)
    for face in reversed(faces):  # the best one last, so that it lies on top
        if faces.labels is None or face.score is not None:
            _box(canvas, face, _thickness(face, widest))
        if faces.labels is None:
            _landmarks(canvas, face)
    taken: list[tuple[int, int, int, int]] = []
    for face in faces:
        _label(canvas, face, _thickness(face, widest), taken)
    if faces.labels is not None:
        _legend(canvas, faces.labels)
    return canvas


def label_png(labels: NDArray[np.uint8]) -> bytes:
    """A label image (height, width) uint8, values 0..18, as an 8-bit PNG with :data:`PALETTE`.

    OpenCV writes no palettes. Each line holds its difference from the one above (PNG's filter 2): mostly zeros.
    """
    height, width = labels.shape
    lines = np.empty((height, width + 1), np.uint8)
    lines[:, 0] = 2
    lines[:1, 1:] = labels[:1]
    np.subtract(labels[1:], labels[:-1], out=lines[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = [
        (b"IHDR", header),
        (b"PLTE", PALETTE.tobytes()),
        (b"IDAT", zlib.compress(lines.tobytes(), 6)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _tint(canvas: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
    """Lay the colours of the parts over a picture, in strips."""
    for top in range(0, len(canvas), 256):
        part, strip = canvas[top : top + 256], labels[top : top + 256]
        tinted = cv2.addWeighted(part, 0.45, PALETTE[:, ::-1][strip], 0.55, 0)
        np.copyto(part, tinted, where=(strip > 0)[..., None])


def _legend(canvas: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
    """The colours and names of the parts that are there, where it hides the least; none where there is no room."""
    shown = np.flatnonzero(np.bincount(labels.ravel(), minlength=len(PALETTE))[1:]) + 1
    height, width = labels.shape
    pixels = min(math.sqrt(height * width) / 60, height / 40)
    if not len(shown) or pixels < 8:
        return
    scale, stroke, pad = pixels / 21, max(1, round(1.5 * pixels / 21)), round(pixels / 2)
    names = [CELEBAMASK_LABELS[number] for number in shown]
    step = round(1.7 * pixels)
    box_width = round(2.5 * pixels) + 2 * pad + max(cv2.getTextSize(name, _FONT, scale, stroke)[0][0] for name in names)
    box_height = step * len(names) + pad
    if box_width > width / 2 or box_height > height:
        return
    corners = [(height - box_height, 0), (height - box_height, width - box_width), (0, width - box_width), (0, 0)]
    top, left = min(corners, key=lambda c: np.count_nonzero(labels[c[0] : c[0] + box_height, c[1] : c[1] + box_width]))
    cv2.rectangle(canvas, (left, top), (left + box_width - 1, top + box_height - 1), (40, 40, 40), -1)
    for line, (number, name) in enumerate(zip(shown, names, strict=True)):
        x, y = left + pad, top + pad + line * step
        color = tuple(int(value) for value in PALETTE[number, ::-1])
        cv2.rectangle(canvas, (x, y), (x + round(2 * pixels) - 1, y + round(1.3 * pixels) - 1), color, -1)
        corner = (x + round(2.5 * pixels), y + round(1.15 * pixels))
        cv2.putText(canvas, name, corner, _FONT, scale, (255, 255, 255), stroke, cv2.LINE_AA)


def _thickness(face: Face, widest: int) -> int:
    return int(np.clip(round(_side(face) / 40), 1, widest))


def _side(face: Face) -> float:
    """The geometric mean of the sides of the face, in pixels."""
    x1, y1, x2, y2 = np.clip(np.nan_to_num(face.box), -1e6, 1e6).tolist()
    return math.sqrt(max(x2 - x1, 0) * max(y2 - y1, 0))


def _box(canvas: NDArray[np.uint8], face: Face, thickness: int) -> None:
    x1, y1, x2, y2 = _corners(canvas, face)
    if thickness > 1:  # a rim around a line of one pixel would hide a small face
        cv2.rectangle(canvas, (x1, y1), (x2, y2), _DARK, thickness + 2, cv2.LINE_AA)
    cv2.rectangle(canvas, (x1, y1), (x2, y2), _COLOR, thickness, cv2.LINE_AA)


def _landmarks(canvas: NDArray[np.uint8], face: Face) -> None:
    side = _side(face)
    if face.landmarks is None or side < 60:  # dots would hide a smaller face
        return
    shift = 4  # cv2 takes fractions of 1/16 pixel
    radius = max(1.5, side / 60)
    for (x, y), color in zip(face.landmarks.tolist(), _POINTS, strict=True):
        if not (abs(x) < 1e5 and abs(y) < 1e5):
            continue
        centre = (round(x * (1 << shift)), round(y * (1 << shift)))
        cv2.circle(canvas, centre, round((1.3 * radius) * (1 << shift)), _DARK, -1, cv2.LINE_AA, shift)
        cv2.circle(canvas, centre, round(radius * (1 << shift)), color, -1, cv2.LINE_AA, shift)


def _label(canvas: NDArray[np.uint8], face: Face, thickness: int, taken: list[tuple[int, int, int, int]]) -> None:
    told = [a.label + ("" if a.certain else "?") for a in (face.attributes or {}).values()]
    lines = told if face.score is None else [f"{face.score:.2f}", *told]
    if not lines:
        return
    height, width = canvas.shape[:2]
    # The text is at most a fiftieth of the picture and an eighth of the face, and never too small to read.
    pixels = max(8.0, min(math.sqrt(height * width) / 50, _side(face) / (12 if told else 8)))
    scale = pixels / 21  # the capitals of this font are 21 pixels high at scale 1
    stroke = max(1, round(1.5 * scale))
    sizes = [cv2.getTextSize(line, _FONT, scale, stroke)[0] for line in lines]
    text_width, text_height = max(width for width, _ in sizes), max(height for _, height in sizes)
    pad = max(2, round(pixels / 4))
    box_width, box_height = text_width + 2 * pad, (text_height + pad) * len(lines) + pad
    x1, y1, x2, y2 = _corners(canvas, face)
    if box_width > (1.0 if told else 0.6) * (x2 - x1):
        return
    left = min(max(x1 - thickness // 2, 0), max(width - box_width, 0))
    top = y1 - box_height - thickness // 2
    if top < 0:  # no room above: a score inside the box, several lines below it
        top = min(y2, height - box_height) if told else max(y1, 0)
    place = (left, top, left + box_width, top + box_height)
    if any(place[0] < b[2] and b[0] < place[2] and place[1] < b[3] and b[1] < place[3] for b in taken):
        return
    taken.append(place)
    cv2.rectangle(canvas, place[:2], (place[2] - 1, place[3] - 1), _COLOR, -1)
    for number, line in enumerate(lines, 1):
        corner = (left + pad, top + (pad + text_height) * number)
        cv2.putText(canvas, line, corner, _FONT, scale, _DARK, stroke, cv2.LINE_AA)


def _corners(canvas: NDArray[np.uint8], face: Face) -> tuple[int, int, int, int]:
    """The box in whole pixels; what lies far outside the picture is brought near, where cv2 can count."""
    height, width = canvas.shape[:2]
    limits = np.array([width, height] * 2)
    x1, y1, x2, y2 = np.round(np.clip(np.nan_to_num(face.box), -limits, 2 * limits)).astype(int).tolist()
    return x1, y1, x2, y2
