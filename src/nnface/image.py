"""Pixels in: a picture from a file, from Pillow or from an array becomes (H, W, 3) uint8 BGR, upright.

Everything downstream gets this one form. Colour profiles are not applied: faces are found in the stored values, as
every published detector does it.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union

import cv2
import numpy as np
from numpy.typing import NDArray

from nnface.errors import ImageError, UsageError
from nnface.imagefile import ImageHeader, probe

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

Pixels: TypeAlias = NDArray[np.uint8]
ImageLike: TypeAlias = Union[str, Path, "PILImage", NDArray[Any]]

IMAGE_SUFFIXES = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".avif",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
    }
)
"""The file name endings, in lower case, that a walk through a folder takes for pictures."""

MAX_PIXELS = 250_000_000
"""The largest picture that is decoded (750 MB of BGR); a baseline JPEG may be larger where a reduced scale will do."""
MAX_BYTES = 1 << 30
"""The largest image file that is read."""

# EXIF's orientations whose upright picture is mirrored left-right, top-bottom, after the transposition of 5..8.
_MIRRORS_X = (2, 3, 6, 7)
_MIRRORS_Y = (3, 4, 7, 8)

# A broken file gets one sentence of ours; OpenCV's decoders would add lines of their own on stderr.
if "OPENCV_LOG_LEVEL" not in os.environ:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture, perhaps decoded at a reduced scale, and where its pixels lie in the full one.

    A point (x, y) of ``pixels`` is (x * factor + left, y * factor + top) in the full, upright picture.
    """

    pixels: Pixels
    """(h, w, 3) uint8 BGR, upright."""
    width: int
    """Width of the full, upright picture."""
    height: int
    factor: int = 1
    """1, 2, 4 or 8."""
    left: int = 0
    """0, or negative: a JPEG decoded at 1/8 ends in a pixel that is partly beyond its edge, and turning it upright
    may bring that edge to the left or the top."""
    top: int = 0


def read(path: str | Path) -> Pixels:
    """Read a picture at its full size.

    EXIF's orientation is applied (AVIF: the container's). Grey becomes three equal channels; transparent pixels are
    laid on white, as a browser shows them; 16 bits are scaled to 8 by 255/65535, fractions in 0..1 by 255; CMYK is
    converted. Animations and TIFF stacks give their first picture. AVIF needs an OpenCV that was built with it.

    Returns:
        (height, width, 3) uint8, BGR, upright, contiguous.

    Raises:
        ImageError: not there, a folder, not a picture, damaged, truncated, larger than ``MAX_PIXELS``, or of numbers
            whose white is not known (a TIFF of 32-bit integers, or of fractions beyond 0..1).
    """
    return decode(load(path), path).pixels


def read_reduced(path: str | Path, long_side: int) -> Picture:
    """Read a picture at the smallest size that its decoder offers cheaply and that still has ``long_side`` pixels.

    A JPEG is decoded at 1/2, 1/4 or 1/8 where its long side then is at least ``long_side``; that costs a fraction
    of the time and memory and lets a 20000 x 20000 one through. All else is read as by :func:`read`.

    Raises:
        ImageError: as :func:`read`.
    """
    return decode(load(path), path, long_side)


def read_sized(path: str | Path) -> tuple[int, int]:
    """The width and height of the upright picture, from the header alone (the file is not decoded).

    Raises:
        ImageError: as :func:`read`, but for damage beyond the header.
    """
    header = _header(load(path), path)
    return _upright_size(header)


def require_many(images: object) -> None:
    """Refuse one picture where many are taken: an array's rows would pass for pictures.

    Raises:
        UsageError: a path, a PIL image, or an array of one picture.
    """
    if isinstance(images, str | Path) or hasattr(images, "getexif") or getattr(images, "ndim", 4) < 4:
        raise UsageError("batch takes many pictures; give it a list, also of one")


def as_array(image: ImageLike, color: Literal["bgr", "rgb"] = "bgr") -> Pixels:
    """Any picture that a predictor takes, as (height, width, 3) uint8 BGR.

    Args:
        image: a path; a PIL image of any mode but F (its EXIF orientation is applied, transparency laid on white);
            or an array of uint8, upright: (H, W, 3), grey (H, W) or (H, W, 1), or (H, W, 4) with alpha, laid on white.
        color: the order of an array's channels; **bgr**, OpenCV's, unless told otherwise. Paths and PIL images know
            their own.

    Raises:
        ImageError: the path cannot be read as a picture.
        UsageError: not a picture: another type, dtype, shape or colour order.
    """
    check_color(color)
    if isinstance(image, str | Path):
        return read(image)
    if isinstance(image, np.ndarray):
        return _from_array(image, color)
    if hasattr(image, "getexif") and hasattr(image, "convert"):
        return _from_pil(image)
    raise UsageError(f"a picture must be a path, a PIL image or a numpy array, not {type(image).__name__}")


def check_color(color: str) -> None:
    """Refuse any other colour order than ``bgr`` and ``rgb`` with a UsageError, also where it would not matter."""
    if color not in ("bgr", "rgb"):
        raise UsageError(f"color is {color!r}; it must be 'bgr' or 'rgb'")


def _from_array(image: NDArray[Any], color: Literal["bgr", "rgb"]) -> Pixels:
    if image.dtype != np.uint8:
        raise UsageError(f"the picture's array is {image.dtype}; it must be uint8 with values 0..255")
    _check_shape(image.shape)
    if image.ndim == 2 or image.shape[2] == 1:
        return _pixels(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_GRAY2BGR))
    if image.shape[2] == 4:
        return _to_bgr(np.ascontiguousarray(image[:, :, [2, 1, 0, 3]] if color == "rgb" else image))
    return np.ascontiguousarray(image[:, :, ::-1] if color == "rgb" else image)


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)) or 0 in shape:
        raise UsageError(
            f"the picture has shape {shape}; it must be (height, width, 3) or (height, width), none of it 0"
        )


def _from_pil(image: "PILImage") -> Pixels:
    from PIL import ImageOps

    _check_shape((image.height, image.width))
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode == "F":
            raise UsageError("a PIL image of mode F has no agreed range; scale it to 0..255 and convert it to L or RGB")
        if image.mode.startswith("I"):
            return _to_bgr(np.clip(np.asarray(image), 0, 65535).astype(np.uint16))
        if image.mode == "La":  # the one mode that Pillow converts to its own relative only
            image = image.convert("LA")
        if image.has_transparency_data:
            return _to_bgr(np.ascontiguousarray(np.asarray(image.convert("RGBA"))[:, :, [2, 1, 0, 3]]))
        return np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1])
    except OSError as error:
        raise ImageError(f"the PIL image cannot be decoded: {error}") from error


def load(path: str | Path) -> bytes:
    """The bytes of a picture file, for :func:`decode`.

    Raises:
        ImageError: not there, a folder, no regular file, empty, or larger than ``MAX_BYTES``.
    """
    try:
        status = os.stat(path)  # noqa: PTH116 - with the plain read below a third of pathlib's time, which shows in verify
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"{path} is a folder, not a picture")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{path} is not a regular file, so it cannot be read as a picture")
        if status.st_size == 0:
            raise ImageError(f"{path} is empty")
        if status.st_size > MAX_BYTES:
            raise ImageError(f"{path} has {status.st_size >> 20} MB; image files up to {MAX_BYTES >> 20} MB are read")
        return _content(path, status.st_size)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageError(f"{path} is not there") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ImageError(f"{path} cannot be read: {reason}") from error


def _content(path: str | Path, size: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        data = os.read(descriptor, size + 1)
        while len(data) != size and (more := os.read(descriptor, 1 << 20)):  # it has grown, or came in parts
            data += more
        return data
    finally:
        os.close(descriptor)


def _header(data: bytes, path: str | Path) -> ImageHeader:
    header = probe(data)
    if header is None:
        raise ImageError(f"{path} is not a picture that nnface reads (JPEG, PNG, WebP, AVIF, GIF, BMP, TIFF, PNM)")
    if not header.complete:
        raise ImageError(f"{path} is truncated or damaged: the {header.format} picture is not all there")
    return header


def _upright_size(header: ImageHeader) -> tuple[int, int]:
    sides = header.width, header.height
    return sides if header.orientation < 5 else sides[::-1]


def decode(data: bytes, path: str | Path, long_side: int | None = None) -> Picture:
    """What :func:`read` does, or with a ``long_side`` :func:`read_reduced`, from bytes; ``path`` names them in errors.

    Raises:
        ImageError: not a picture, damaged, truncated, larger than ``MAX_PIXELS``, or of numbers whose white is
            not known.
    """
    header = _header(data, path)
    factor = _factor(header, long_side)
    stored = _stored(data, path, header, factor, _COLOR)
    orientation = _orientation(header)
    pixels = np.ascontiguousarray(_turn(_to_bgr(stored), orientation))
    width, height = _upright_size(header)
    return Picture(
        pixels=pixels,
        width=width,
        height=height,
        factor=factor,
        left=width - factor * pixels.shape[1] if orientation in _MIRRORS_X else 0,
        top=height - factor * pixels.shape[0] if orientation in _MIRRORS_Y else 0,
    )


def decode_grey(data: bytes, path: str | Path, long_side: int) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """A picture to compare with others, quicker than :func:`decode`: of a JPEG no colours are computed.

    Returns:
        (h, w) uint8, upright, a JPEG's at the smallest scale that has ``long_side`` pixels; and width and height of the
        full, upright picture. All of the file was read.

    Raises:
        ImageError: as :func:`decode`.
    """
    header = _header(data, path)
    stored = _stored(data, path, header, _factor(header, long_side), _GREY)
    grey = (
        stored if stored.ndim == 2 and stored.dtype == np.uint8 else cv2.cvtColor(_to_bgr(stored), cv2.COLOR_BGR2GRAY)
    )
    return _pixels(_turn(_pixels(grey), _orientation(header))), _upright_size(header)


_COLOR = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_GREY = {
    1: cv2.IMREAD_GRAYSCALE,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}


def _factor(header: ImageHeader, long_side: int | None) -> int:
    """The largest reduction, of JPEGs only, that leaves the long side."""
    factor = 1
    if header.format == "JPEG" and long_side is not None:
        while factor < 8 and -(-max(header.width, header.height) // (2 * factor)) >= long_side:
            factor *= 2
    return factor


def _stored(
    data: bytes, path: str | Path, header: ImageHeader, factor: int, jpeg_flags: Mapping[int, int]
) -> NDArray[Any]:
    """The pixels as they are stored; only JPEGs are reduced or turned grey."""
    count = header.width * header.height
    if count // (1 if header.progressive else factor * factor) > MAX_PIXELS:
        raise ImageError(
            f"{path} is {header.width} x {header.height}; pictures up to {MAX_PIXELS // 1_000_000} megapixels are "
            "read, scale it down first"
        )
    flags = cv2.IMREAD_UNCHANGED
    if header.format == "JPEG":
        flags = jpeg_flags[factor] | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        stored = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except (cv2.error, MemoryError):
        stored = None
    if stored is None:
        if header.format == "AVIF" and not _reads_avif():
            raise ImageError(f"{path} is an AVIF, which this OpenCV was built without; convert it to PNG or JPEG")
        raise ImageError(f"{path} cannot be decoded: the {header.format} picture is damaged or truncated")
    _check_range(stored, path)
    return stored


def _check_range(stored: NDArray[Any], path: str | Path) -> None:
    """Refuse numbers that have no agreed white, as TIFFs may hold: floats beyond 0..1, signed or 32-bit integers."""
    if stored.dtype in (np.uint8, np.uint16):
        return
    if stored.dtype.kind != "f":
        raise ImageError(f"{path} holds {stored.dtype} numbers, whose white is not known; convert it to 8 or 16 bits")
    low, high = float(stored.min()), float(stored.max())
    if not 0 <= low <= high <= 1:  # nor NaN
        raise ImageError(
            f"{path} holds fractions from {low:g} to {high:g}; scale them to 0..1, or convert it to 8 bits"
        )


def _orientation(header: ImageHeader) -> int:
    """How the decoded pixels still have to be turned: OpenCV turns a TIFF upright whatever it is told."""
    return 1 if header.format == "TIFF" else header.orientation


def _reads_avif() -> bool:
    return bool(cv2.haveImageWriter("x.avif"))


def _to_bgr(image: NDArray[Any]) -> Pixels:
    """uint8, uint16 or float (0..1) with one, three or four channels (BGR, BGRA) to uint8 BGR; alpha onto white."""
    if image.dtype == np.uint16:
        image = cv2.convertScaleAbs(image, alpha=255 / 65535)
    elif image.dtype != np.uint8:
        image = cv2.convertScaleAbs(image.astype(np.float32), alpha=255)
    if image.ndim == 2 or image.shape[2] == 1:
        return _pixels(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR))
    if image.shape[2] == 3:
        return _pixels(image)
    if image[:, :, 3].min() == 255:  # most pictures with an alpha channel make no use of it
        return _pixels(cv2.cvtColor(image, cv2.COLOR_BGRA2BGR))
    result = np.empty((*image.shape[:2], 3), np.uint8)
    for row, target in zip(image, result, strict=True):  # row by row, so that the wide integers take no memory
        alpha = row[:, 3:].astype(np.uint32)
        target[:] = (row[:, :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return result


def _turn(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """The picture upright, from EXIF's code 1..8: transposed from 5 on, then mirrored."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in _MIRRORS_Y:
        image = image[::-1]
    if orientation in _MIRRORS_X:
        image = image[:, ::-1]
    return image


def _pixels(image: Any) -> Pixels:
    """OpenCV's stubs do not know dtypes."""
    return np.asarray(image, np.uint8)
