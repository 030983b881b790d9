"""What an image file says of itself before anything is decoded: format, size, orientation, whether it is all there.

A decoder that is handed a hostile or cut file may allocate gigabytes or fill the missing part with grey; so the few
numbers that decide are read here first, from the bytes, within their bounds. Formats: JPEG (ITU T.81), PNG
(ISO/IEC 15948), WebP (RFC 9649), AVIF (ISO/IEC 23008-12), GIF89a, BMP, TIFF 6.0, PNM.
"""

import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Format = Literal["JPEG", "PNG", "WebP", "AVIF", "GIF", "BMP", "TIFF", "PNM"]

_ORIENTATION = 0x0112
# The bytes 0xFF that may fill up before a marker are passed over one by one: with a + for them, runs of megabytes (of
# photographs recovered from cards) would be searched again from each of their bytes.
_JPEG_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
# After a rotation of 0, 90, 180, 270 degrees anti-clockwise (AVIF's irot): none, top-bottom, left-right mirror (imir).
_AVIF_ORIENTATION = ((1, 4, 2), (8, 5, 7), (3, 2, 4), (6, 7, 5))


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What the first bytes of an image file say."""

    format: Format
    width: int
    """Stored width in pixels, before the orientation is applied."""
    height: int
    orientation: int = 1
    """EXIF's code, 1..8: how the stored picture is turned and mirrored to stand upright."""
    complete: bool = True
    """False where the file ends before its format says that it may."""
    progressive: bool = False
    """A JPEG whose decoder keeps the whole picture's coefficients in memory."""


def probe(data: bytes) -> ImageHeader | None:
    """Read the header of a whole image file; None where it is none of the formats.

    A header that is cut or makes no sense gives sides of 0 and ``complete`` False.
    """
    name: Format
    read: Callable[[bytes], ImageHeader | None]
    if data.startswith(b"\xff\xd8\xff"):
        name, read = "JPEG", _jpeg
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        name, read = "PNG", _png
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        name, read = "WebP", _webp
    elif data[4:8] == b"ftyp" and any(brand in data[8:64] for brand in (b"avif", b"avis")):
        name, read = "AVIF", _avif
    elif data[:6] in (b"GIF87a", b"GIF89a"):
        name, read = "GIF", _gif
    elif data[:2] == b"BM":
        name, read = "BMP", _bmp
    elif data[:4] in (b"II*\0", b"MM\0*"):
        name, read = "TIFF", _tiff
    elif re.match(rb"P[1-6][\s#]", data):
        name, read = "PNM", _pnm
    else:
        return None
    try:
        header = read(data)
    except (struct.error, IndexError):
        header = None
    if header is None or header.width <= 0 or header.height <= 0:
        return ImageHeader(name, 0, 0, complete=False)
    return header


def _jpeg(data: bytes) -> ImageHeader | None:
    width = height = 0
    orientation, progressive = 1, False
    position = 2
    while True:
        while data[position] == 0xFF:
            position += 1
        marker = data[position]
        if data[position - 1] != 0xFF or marker in (0x00, 0xD9):
            return None
        position += 1
        if marker in (0x01, 0xD8) or 0xD0 <= marker <= 0xD7:
            continue
        (length,) = struct.unpack_from(">H", data, position)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, position + 3)
            progressive = marker in (0xC2, 0xC6, 0xCA, 0xCE)
        elif marker == 0xE1 and data[position + 2 : position + 8] == b"Exif\0\0":
            orientation = _exif_orientation(data[position + 8 : position + length])
        position += max(length, 2)
        if marker == 0xDA:
            return ImageHeader("JPEG", width, height, orientation, _jpeg_ends(data, position), progressive)


def _jpeg_ends(data: bytes, position: int) -> bool:
    """Whether the end marker comes; ``position`` is where the first scan's coded data begin."""
    if data.endswith(b"\xff\xd9"):
        return True  # coded data have no 0xFF but before 0x00 or a restart, so these two bytes are the marker
    while match := _JPEG_MARKER.search(data, position):
        if match[1] == b"\xd9":
            return True
        position = match.end() + (int.from_bytes(data[match.end() : match.end() + 2]) or 2)
    return False


def _png(data: bytes) -> ImageHeader:
    width, height = struct.unpack_from(">II", data, 16)
    orientation, position, complete = 1, 8, False
    view = memoryview(data)
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        end = position + 12 + length
        if end > len(data) or zlib.crc32(view[position + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            break
        name = data[position + 4 : position + 8]
        if name == b"eXIf":
            orientation = _exif_orientation(data[position + 8 : end - 4])
        if name == b"IEND":
            complete = True
            break
        position = end
    return ImageHeader("PNG", width, height, orientation, complete)


def _webp(data: bytes) -> ImageHeader | None:
    end = 8 + int(struct.unpack_from("<I", data, 4)[0])
    width = height = 0
    orientation, position = 1, 12
    while position + 8 <= min(end, len(data)):
        name, length = struct.unpack_from("<4sI", data, position)
        body = position + 8
        if name == b"VP8X":
            width, height = (int.from_bytes(data[body + at : body + at + 3], "little") + 1 for at in (4, 7))
        elif name == b"VP8 " and not width:
            width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, body + 6))
        elif name == b"VP8L" and not width:
            (bits,) = struct.unpack_from("<I", data, body + 1)
            width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        elif name == b"EXIF":
            orientation = _exif_orientation(data[body : body + length])
        position = body + length + (length & 1)
    return ImageHeader("WebP", width, height, orientation, len(data) >= end)


def _avif(data: bytes) -> ImageHeader | None:
    """The largest picture of the file, with the first rotation and mirror (the alpha plane's are the same)."""
    width = height = rotation = mirror = 0
    boxes = [(0, len(data))]
    complete = True
    while boxes:
        position, end = boxes.pop()
        while position + 8 <= end:
            length, name = struct.unpack_from(">I4s", data, position)
            body = position + 8
            if length == 1:
                (length,) = struct.unpack_from(">Q", data, body)
                body += 8
            stop = position + length if length else end
            if stop > end or stop < body:
                complete = False
                stop = end
            if name in (b"meta", b"iprp", b"ipco"):
                boxes.append((body + 4 * (name == b"meta"), stop))
            elif name == b"ispe":
                sides = struct.unpack_from(">II", data, body + 4)
                if sides[0] * sides[1] > width * height:
                    width, height = sides
            elif name == b"irot":
                rotation = data[body] & 3
            elif name == b"imir":
                mirror = 1 + (data[body] & 1)
            position = stop
    return ImageHeader("AVIF", width, height, _AVIF_ORIENTATION[rotation][mirror], complete)


def _bmp(data: bytes) -> ImageHeader:
    (size,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if size == 12 else "<ii", data, 18)
    return ImageHeader("BMP", abs(width), abs(height))


def _gif(data: bytes) -> ImageHeader:
    width, height = struct.unpack_from("<HH", data, 6)
    return ImageHeader("GIF", width, height)


def _tiff(data: bytes) -> ImageHeader:
    tags = _tiff_tags(data)
    return ImageHeader("TIFF", tags.get(256, 0), tags.get(257, 0), _orientation(tags))


def _pnm(data: bytes) -> ImageHeader | None:
    match = re.match(rb"P[1-6](?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})\s", data[:4096])
    return ImageHeader("PNM", int(match[1]), int(match[2])) if match else None


def _exif_orientation(block: bytes) -> int:
    try:
        return _orientation(_tiff_tags(block.removeprefix(b"Exif\0\0")))
    except struct.error:
        return 1


def _orientation(tags: dict[int, int]) -> int:
    value = tags.get(_ORIENTATION, 1)
    return value if 1 <= value <= 8 else 1


def _tiff_tags(data: bytes) -> dict[int, int]:
    """The single whole numbers (SHORT or LONG) of a TIFF structure's first directory."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return {}
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    tags = {}
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack_from(order + "HHI", data, entry)
        if number == 1 and kind in (3, 4):
            tags[tag] = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, entry + 8)[0]
    return tags
