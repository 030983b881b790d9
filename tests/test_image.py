"""Pictures in: every form, orientation and kind of damage, against Pillow as the judge."""

import io
import struct
import zlib
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from conftest import shared
from nnface import image as images
from nnface.errors import ImageError, UsageError
from nnface.image import as_array, decode_grey, load, read, read_reduced, read_sized
from nnface.imagefile import probe

Y, X = np.mgrid[0:60, 0:84]
RGB = np.stack([X * 3, Y * 4, 255 - X * 2], -1).astype(np.uint8)
LOSSY = 12


def save(path: Path, picture: Image.Image, format: str | None = None, **options: object) -> Path:
    picture.save(path, format, **options)
    return path


def upright(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))[:, :, ::-1].astype(int)


def encoded(format: str, size: tuple[int, int] = (84, 60), **options: object) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).save(buffer, format, **options)
    return buffer.getvalue()


needs_avif = pytest.mark.skipif(not cv2.haveImageWriter("x.avif"), reason="this OpenCV has no AVIF")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", pytest.param(".avif", marks=needs_avif)])
def test_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(
        tmp_path / f"a{suffix}", Image.fromarray(RGB), exif=exif, **({"quality": 95} if suffix != ".tif" else {})
    )
    wanted, got = upright(path), read(path)
    assert got.shape == wanted.shape and got.dtype == np.uint8 and got.flags.c_contiguous
    assert np.abs(got - wanted).mean() < 3 and np.abs(got - wanted).max() <= 60
    assert read_sized(path) == (got.shape[1], got.shape[0])
    with Image.open(path) as picture:
        assert np.abs(as_array(picture).astype(int) - wanted).max() == 0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("sixteen", [False, True])
def test_tiff_is_turned_once(tmp_path: Path, orientation: int, sixteen: bool) -> None:
    stored = RGB[:, :, ::-1].astype(np.uint16) * 257 if sixteen else RGB[:, :, ::-1]
    plain = tmp_path / "plain.tif"
    cv2.imwrite(str(plain), stored, [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    data = bytearray(plain.read_bytes())
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    tags = [data[start + 2 + 12 * n : start + 14 + 12 * n] for n in range(count)]
    tags.append(bytearray(struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)))
    tags = sorted((t for i, t in enumerate(tags) if i == count or struct.unpack_from("<H", t)[0] != 0x0112))
    tags.sort(key=lambda t: struct.unpack_from("<H", t)[0])
    struct.pack_into("<I", data, 4, len(data))
    plain.write_bytes(data + struct.pack("<H", len(tags)) + b"".join(tags) + bytes(4))
    wanted = {
        1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1], 5: RGB.transpose(1, 0, 2),
        6: np.rot90(RGB, -1), 7: RGB[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(RGB),
    }[orientation]  # fmt: skip
    assert np.array_equal(read(plain), wanted[:, :, ::-1])


ALPHA = (X * 3).astype(np.uint8)
PALETTE = Image.fromarray(RGB).convert("P")
KINDS = {
    "grey": (Image.fromarray(RGB).convert("L"), {}),
    "one-bit": (Image.fromarray(RGB).convert("1"), {}),
    "palette": (PALETTE, {}),
    "palette-alpha": (PALETTE, {"transparency": bytes(range(256))}),
    "rgb-key": (Image.fromarray(RGB), {"transparency": (0, 0, 255)}),
    "rgba": (Image.merge("RGBA", [*Image.fromarray(RGB).split(), Image.fromarray(ALPHA)]), {}),
    "grey-alpha": (Image.merge("LA", [Image.fromarray(RGB[..., 0]), Image.fromarray(ALPHA)]), {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_png(tmp_path: Path, kind: str) -> None:
    picture, options = KINDS[kind]
    path = save(tmp_path / "a.png", picture, **options)
    with Image.open(path) as opened:
        layer = opened.convert("RGBA")
        wanted = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
        assert np.abs(as_array(opened).astype(int) - np.asarray(wanted)[:, :, ::-1]).max() <= 1
    assert np.abs(read(path).astype(int) - np.asarray(wanted)[:, :, ::-1]).max() <= 1


def test_webp_alpha_is_laid_on_white(tmp_path: Path) -> None:
    path = save(tmp_path / "a.webp", KINDS["rgba"][0], lossless=True, exact=True)
    assert (read(path)[:, 0] == 255).all()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_scaled(tmp_path: Path, suffix: str, channels: int) -> None:
    deep = np.stack([X * 780 + 3] * channels, -1).astype(np.uint16)
    cv2.imwrite(str(tmp_path / f"a{suffix}"), deep)
    wanted = np.round(deep / 257).astype(int)
    assert np.abs(read(tmp_path / f"a{suffix}") - wanted).max() == 0
    if channels == 1:
        with Image.open(tmp_path / f"a{suffix}") as picture:
            assert np.abs(as_array(picture) - wanted).max() == 0


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_fractions_are_scaled(tmp_path: Path, kind: type) -> None:
    wanted = X[..., None].repeat(3, 2)
    cv2.imwrite(str(tmp_path / "a.tif"), (wanted / 255).astype(kind))
    assert np.abs(read(tmp_path / "a.tif").astype(int) - wanted).max() <= 1


@pytest.mark.parametrize(
    "numbers, words",
    [
        (X.astype(np.float32), "fractions from 0 to"),
        (X.astype(np.float64) / 10, "fractions from 0 to"),
        (np.where(X == 0, np.nan, 0.5).astype(np.float32), "fractions from nan to nan"),
        (-X.astype(np.float32) / 255, "to -?0;"),
        (X.astype(np.int32), "holds int32 numbers"),
        (X.astype(np.int16), "holds int16 numbers"),
    ],
)
def test_numbers_without_a_known_white_are_refused(tmp_path: Path, numbers: np.ndarray, words: str) -> None:
    path = tmp_path / "a.tif"
    cv2.imwrite(str(path), numbers)
    for function in (read, lambda place: decode_grey(place.read_bytes(), place, 32)):
        with pytest.raises(ImageError, match=words):
            function(path)


def test_cmyk_jpeg(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", Image.fromarray(RGB).convert("CMYK"), quality=95)
    with Image.open(path) as picture:
        assert picture.mode == "CMYK"
    assert np.abs(read(path) - upright(path)).max() <= 2


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime")]
    for suffix in (".gif", ".webp"):
        path = save(tmp_path / f"a{suffix}", frames[0], save_all=True, append_images=frames[1:])
        assert np.abs(read(path).astype(int) - [0, 0, 255]).max() <= 4


def test_one_pixel_and_odd_names(tmp_path: Path) -> None:
    for name in ("ein Büld.png", "写真.jpg", "a b.WEBP"):
        path = save(tmp_path / name, Image.new("RGB", (1, 1), "white"))
        assert read(path).shape == (1, 1, 3) and (read(path) == 255).all()
        assert read_reduced(path, 640).factor == 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("side, factor", [(1000, 1), (500, 2), (253, 4), (127, 8), (50, 8)])
def test_reduced_pixels_lie_where_they_say(tmp_path: Path, orientation: int, side: int, factor: int) -> None:
    # A dot near the far corner, in a picture whose sides no factor divides.
    dot = np.zeros((701, 1011, 3), np.uint8)
    cv2.circle(dot, (950, 640), 24, (255, 255, 255), -1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.jpg", Image.fromarray(dot), exif=exif, quality=95)
    picture, full = read_reduced(path, side), read(path)
    assert (picture.factor, picture.height, picture.width) == (factor, *full.shape[:2])
    assert max(picture.pixels.shape) >= min(side, 1011)

    def centre(image: np.ndarray) -> np.ndarray:
        weights = image[:, :, 0].astype(float)
        y, x = np.mgrid[0 : image.shape[0], 0 : image.shape[1]] + 0.5
        return np.array([(x * weights).sum(), (y * weights).sum()]) / weights.sum()

    back = centre(picture.pixels) * picture.factor + (picture.left, picture.top)
    assert np.abs(back - centre(full)).max() < 0.35


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
@pytest.mark.parametrize("suffix, mode", [(".jpg", "CMYK"), *product((".jpg", ".png", ".webp", ".tif"), ("RGB", "L"))])
def test_greys_are_those_of_the_upright_picture(tmp_path: Path, suffix: str, orientation: int, mode: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"a{suffix}", Image.fromarray(RGB).resize((840, 600)).convert(mode), exif=exif)
    grey, size = decode_grey(load(path), path, 100)
    assert size == read_sized(path)
    wanted = cv2.cvtColor(read_reduced(path, 100).pixels, cv2.COLOR_BGR2GRAY)
    assert grey.shape == wanted.shape and grey.dtype == np.uint8
    assert np.abs(grey.astype(int) - wanted).mean() < 2


@pytest.mark.parametrize("color", ["bgr", "rgb"])
def test_arrays_with_alpha_are_laid_on_white_and_one_channel_is_grey(color: str) -> None:
    alpha = np.where(np.arange(RGB.shape[1]) % 2, 255, 0).astype(np.uint8)
    pixels = RGB if color == "rgb" else RGB[..., ::-1]
    found = as_array(np.dstack([pixels, np.broadcast_to(alpha, RGB.shape[:2])]), color)
    assert np.array_equal(found[:, 1::2], RGB[:, 1::2, ::-1]) and (found[:, ::2] == 255).all()
    assert np.array_equal(as_array(RGB[..., :1], color), np.repeat(RGB[..., :1], 3, 2))
    with pytest.raises(UsageError, match="shape"):
        as_array(RGB[..., :2], color)


def test_other_formats_are_not_reduced(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(RGB))
    assert read_reduced(path, 8).factor == 1 and np.array_equal(read_reduced(path, 8).pixels, read(path))


def fake_png(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


JPEG = encoded("JPEG", quality=90)
BAD = {
    "not there": (None, "not there"),
    "empty": (b"", "empty"),
    "text": (b"this is not a picture\n" * 9, "not a picture that nnface reads"),
    "half a JPEG": (JPEG[: len(JPEG) // 2], "truncated"),
    "a JPEG without its last byte": (JPEG[:-1], "truncated"),
    "a JPEG whose tail is zeros": (JPEG[:-900] + bytes(900), "truncated"),
    "a JPEG's header": (JPEG[:100], "truncated"),
    "a JPEG's magic": (JPEG[:3], "truncated"),
    "a progressive JPEG": (encoded("JPEG", progressive=True)[:-700], "truncated"),
    "half a PNG": (encoded("PNG")[:2000], "truncated"),
    "a PNG with a wrong checksum": (encoded("PNG").replace(b"IDAT", b"IDAT\1", 1), "truncated or damaged"),
    "half a WebP": (encoded("WEBP")[:500], "truncated"),
    "half a GIF": (encoded("GIF")[:900], "damaged or truncated"),
    "half a BMP": (encoded("BMP")[:900], "damaged or truncated"),
    "half a TIFF": (encoded("TIFF")[:900], "damaged or truncated"),
    "half a PPM": (encoded("PPM")[:900], "damaged or truncated"),
    "a bomb": (fake_png(20000, 20000), "20000 x 20000"),
    "a larger bomb": (fake_png(2**31 - 1, 2**31 - 1), "megapixels"),
    "no pixels": (fake_png(0, 5), "truncated or damaged"),
    "a PNG without data": (fake_png(40, 40), "damaged"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_files_get_one_sentence(tmp_path: Path, what: str, capfd: pytest.CaptureFixture[str]) -> None:
    content, words = BAD[what]
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    for function in (read, lambda p: read_reduced(p, 320), as_array):
        with pytest.raises(ImageError, match=words) as caught:
            function(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert "OpenCV" not in capfd.readouterr().err


def test_folders_and_devices_are_no_pictures(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is a folder"):
        read(tmp_path)
    with pytest.raises(ImageError, match="not a regular file"):
        read("/dev/zero")
    with pytest.raises(ImageError):
        read("a\0b.jpg")


def test_end_of_a_jpeg_with_a_trailer(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "\xff\xd9 a thumbnail ends so"
    for options in ({}, {"progressive": True}, {"restart_marker_blocks": 2}):
        whole = encoded("JPEG", exif=exif, **options)
        (tmp_path / "a.jpg").write_bytes(whole + b"a phone's trailer" * 5)
        assert read(tmp_path / "a.jpg").shape == (60, 84, 3)
        (tmp_path / "a.jpg").write_bytes(whole[:-20])
        with pytest.raises(ImageError, match="truncated"):
            read(tmp_path / "a.jpg")


def test_a_jpeg_with_megabytes_of_fill_bytes_is_answered() -> None:
    filled = JPEG[:-2] + b"\xff" * 4_000_000
    cut, whole = probe(filled), probe(filled + JPEG[-2:] + b"a trailer")
    assert cut is not None and not cut.complete
    assert whole is not None and whole.complete


def test_a_huge_jpeg_is_read_reduced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded("JPEG", (1600, 1600)))
    monkeypatch.setattr(images, "MAX_PIXELS", 1600 * 1600 - 1)
    with pytest.raises(ImageError, match="1600 x 1600"):
        read(path)
    assert read_reduced(path, 640).pixels.shape == (800, 800, 3)
    path.write_bytes(encoded("JPEG", (1600, 1600), progressive=True))
    with pytest.raises(ImageError, match="1600 x 1600"):
        read_reduced(path, 640)


FORMATS = [encoded(f, (24, 16)) for f in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")] + [
    encoded("JPEG", (24, 16), progressive=True, exif=b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0")
]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.sampled_from(FORMATS),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4),
    cut=st.floats(0, 1),
)
def test_damage_is_an_error_or_a_picture(
    tmp_path: Path, data: bytes, flips: list[tuple[float, int]], cut: float
) -> None:
    damaged = bytearray(data if cut < 0.5 else data[: int(len(data) * cut) + 1])
    for place, value in flips:
        damaged[int(place * (len(damaged) - 1))] ^= value
    path = tmp_path / "a.img"
    path.write_bytes(damaged)
    header = probe(bytes(damaged))
    if header is not None and header.width * header.height > 1_000_000:
        return  # a legitimate size that only takes long
    try:
        picture = read(path)
    except ImageError:
        return
    assert picture.dtype == np.uint8 and picture.shape[2] == 3 and picture.size > 0


def test_arrays() -> None:
    assert np.array_equal(as_array(RGB, "rgb"), RGB[:, :, ::-1])
    assert as_array(RGB) is RGB
    assert np.array_equal(as_array(RGB[:, :, 0]), np.stack([RGB[:, :, 0]] * 3, -1))
    assert as_array(RGB[::2, ::-1]).flags.c_contiguous


@pytest.mark.parametrize(
    "image, color, words",
    [
        (RGB.astype(np.float32), "bgr", "float32"),
        (RGB[None], "bgr", r"\(1, 60, 84, 3\)"),
        (RGB.transpose(2, 0, 1), "bgr", r"\(3, 60, 84\)"),
        (RGB[:0], "bgr", r"\(0, 84, 3\)"),
        (RGB[..., :2], "bgr", r"\(60, 84, 2\)"),
        (RGB, "hsv", "'hsv'"),
        (7, "bgr", "int"),
        (None, "bgr", "NoneType"),
        (Image.fromarray(RGB).convert("F"), "bgr", "mode F"),
        (Image.new("RGB", (0, 0)), "bgr", r"\(0, 0\)"),
        (Image.new("I", (0, 7)), "bgr", r"\(7, 0\)"),
    ],
)
def test_what_is_no_picture(image: object, color: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        as_array(image, color)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I", "I;16", "La", "RGBa"]
)
def test_every_mode_of_pillow(mode: str) -> None:
    picture = Image.fromarray(RGB)
    if mode in ("La", "RGBa", "PA"):
        picture = picture.convert({"La": "LA", "RGBa": "RGBA", "PA": "LA"}[mode])
    if mode.startswith("I"):
        picture = Image.fromarray((RGB[..., 0].astype(np.uint16)) * 257)
        picture = picture.convert(mode) if mode == "I" else picture
    else:
        picture = picture.convert(mode)
    got = as_array(picture)
    assert got.shape == (60, 84, 3) and got.dtype == np.uint8 and got.std() > 10


def test_photographs_equal_pillow() -> None:
    for name in ("astronaut.png", "solvay_1927.png"):
        path = shared(f"reference/photos/{name}")
        assert np.array_equal(read(path), upright(path))
