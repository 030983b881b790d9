"""Recolouring and blurring: what changes, what stays, and that what is covered is gone."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import nnface
from conftest import shared
from nnface.effects import COLORS, PARTS, blur, parse_color, part_labels, recolor
from nnface.errors import UsageError
from nnface.geometry.boxes import iou
from nnface.results import Faces
from nnface.spec import CELEBAMASK_LABELS

SKIN, HAIR, HAT = (CELEBAMASK_LABELS.index(name) for name in ("skin", "hair", "hat"))
HEXES = st.integers(0, 0xFFFFFF).map(lambda number: f"#{number:06x}")
SEEDS = st.integers(0, 2**32 - 1)


def _noise(seed: int, height: int = 80, width: int = 100, low: int = 0, high: int = 256) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(low, high, (height, width, 3)).astype(np.uint8)


def _blob(seed: int, height: int = 80, width: int = 100) -> NDArray[np.uint8]:
    """Smooth random regions of 0 and 1."""
    noise = np.random.default_rng(seed).normal(size=(height, width))
    return (cv2.GaussianBlur(noise, (0, 0), 6) > 0).astype(np.uint8)


def _lightness(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """OpenCV's own L*, 0..100."""
    return np.asarray(cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_BGR2Lab)[..., 0])


def _lab(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The mean of L*, a*, b*."""
    return np.asarray(cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_BGR2Lab).reshape(-1, 3).mean(0), float)


def _swatch(text: str) -> NDArray[np.float64]:
    return _lab(np.array([[parse_color(text)[::-1]]], np.uint8))


def _faces(width: int, height: int, *boxes: tuple[float, float, float, float]) -> Faces:
    array = np.array(boxes, np.float32).reshape(-1, 4)
    return Faces(width=width, height=height, boxes=array, scores=np.ones(len(array), np.float32))


# --- the words


def test_every_label_and_every_word_stands_for_labels() -> None:
    for part, labels in PARTS.items():
        assert [CELEBAMASK_LABELS[number] for number in part_labels(part)] == list(labels)
        assert len(set(labels)) == len(labels) > 0
    assert set(CELEBAMASK_LABELS) <= set(PARTS)
    assert PARTS["lips"] == ("u_lip", "l_lip") and PARTS["hair"] == ("hair",)
    with pytest.raises(UsageError, match=r"no part 'nostril'.*lips"):
        part_labels("nostril")


@pytest.mark.parametrize(
    ("text", "rgb"),
    [("#7a3b1d", (122, 59, 29)), ("7A3B1D", (122, 59, 29)), ("Navy", (0, 0, 128)), ("white", (255, 255, 255))],
)
def test_colours(text: str, rgb: tuple[int, int, int]) -> None:
    assert parse_color(text) == rgb


@pytest.mark.parametrize("text", ["", "#12345", "#1234567", "brownish", "#gg0000", "rgb(1,2,3)", "##123456"])
def test_what_is_no_colour(text: str) -> None:
    with pytest.raises(UsageError, match="no colour: write it as #rrggbb"):
        parse_color(text)


def test_the_api_has_both() -> None:
    assert nnface.recolor is recolor and nnface.blur is blur


# --- recolor


@given(seed=SEEDS, color=HEXES, strength=st.floats(0, 1))
@settings(max_examples=40)
def test_outside_the_part_nothing_changes(seed: int, color: str, strength: float) -> None:
    image, mask = _noise(seed), _blob(seed)
    before = image.copy()
    result = recolor(image, mask * HAIR, {"hair": color}, strength=strength)
    assert np.array_equal(image, before), "the input was changed"
    reach = cv2.dilate(mask, np.ones((15, 15), np.uint8))  # the feather of so small a part
    assert np.array_equal(result[reach == 0], image[reach == 0])
    soft = cv2.GaussianBlur(mask.astype(np.float32), (9, 9), 2)
    result = recolor(image, {"hair": soft}, {"hair": color}, strength=strength)
    assert np.array_equal(result[soft == 0], image[soft == 0])


@given(seed=SEEDS, color=HEXES)
@settings(max_examples=20)
def test_no_strength_and_no_part_are_the_identity(seed: int, color: str) -> None:
    image, mask = _noise(seed), _blob(seed)
    assert np.array_equal(recolor(image, mask * HAIR, {"hair": color}, strength=0), image)
    assert np.array_equal(recolor(image, mask * SKIN, {"hair": color, "lips": color}), image)
    assert np.array_equal(recolor(image, mask * HAIR, {}), image)


@given(seed=SEEDS, color=HEXES, strength=st.floats(0.05, 1), low=st.integers(0, 200), span=st.integers(1, 55))
@settings(max_examples=60)
def test_the_order_of_lightness_is_kept(seed: int, color: str, strength: float, low: int, span: int) -> None:
    image = _noise(seed, 40, 40, low, low + span + 1)
    everywhere = {"hair": np.ones(image.shape[:2], np.float32)}
    before = _lightness(image).ravel()
    after = _lightness(recolor(image, everywhere, {"hair": color}, strength=strength)).ravel()
    ordered = after[np.argsort(before, kind="stable")]
    # What a rounding of the channels to 8 bits can turn around, no more.
    assert (np.maximum.accumulate(ordered) - ordered).max() < 1


@pytest.mark.parametrize("color", ["#7a3b1d", "#b0303a", "#d8b070", "teal", "purple", "#305090"])
@pytest.mark.parametrize(("low", "high"), [(8, 45), (60, 140), (170, 235)], ids=["dark", "brown", "light"])
def test_a_part_takes_the_hue_and_the_lightness_of_the_colour(color: str, low: int, high: int) -> None:
    image = cv2.GaussianBlur(_noise(3, 120, 120, 0, 256), (0, 0), 1.5).astype(float)
    image = np.interp(image, (image.min(), image.max()), (low, high)).astype(np.uint8)
    result = recolor(image, np.full(image.shape[:2], HAIR, np.uint8), {"hair": color})
    (light, a, b), (wanted, wanted_a, wanted_b) = _lab(result), _swatch(color)
    start = _lab(image)[0]
    # Black hair is lightened sixfold at most, lest its noise shows.
    assert abs(light - wanted) < 0.35 * abs(start - wanted) + 4 or 4 * start < light < wanted
    turned = np.degrees(np.arctan2(b, a) - np.arctan2(wanted_b, wanted_a))
    assert abs((turned + 180) % 360 - 180) < 12
    assert np.hypot(a, b) > 0.5 * np.hypot(wanted_a, wanted_b)
    # Texture: what was lighter than its neighbour by much still is, visibly.
    grey = _lightness(image)
    assert np.corrcoef(grey.ravel(), _lightness(result).ravel())[0, 1] > 0.95
    assert _lightness(result).std() > 0.3 * grey.std()


@given(color=HEXES)
@settings(max_examples=30)
def test_highlights_stay_white_and_black_stays_black(color: str) -> None:
    image = np.full((40, 40, 3), 90, np.uint8)
    image[10:12], image[20:22] = 255, 0
    result = recolor(image, {"hair": np.ones((40, 40), np.float32)}, {"hair": color})
    assert result[10:12].min() >= 254 and result[20:22].max() == 0


def test_a_dark_and_a_blond_head_both_come_to_the_colour() -> None:
    image = np.concatenate([_noise(1, 60, 60, 10, 40), _noise(2, 60, 60, 180, 230)], 1)
    labels = np.full(image.shape[:2], HAIR, np.uint8)
    heads = _faces(120, 60, (10, 10, 50, 50), (70, 10, 110, 50))
    together = recolor(image, labels, {"hair": "#7a3b1d"})
    each = recolor(image, labels, {"hair": "#7a3b1d"}, faces=heads)
    wanted = _swatch("#7a3b1d")[0]
    assert all(abs(_lab(half)[0] - wanted) < 5 for half in (each[:, :60], each[:, 60:]))
    assert _lab(together[:, 60:])[0] - _lab(together[:, :60])[0] > 20


def test_several_parts_and_the_order_of_channels() -> None:
    image = _noise(5)
    labels = np.zeros(image.shape[:2], np.uint8)
    labels[10:30], labels[50:60], labels[60:70] = HAIR, *part_labels("lips")
    colors = {"hair": "navy", "lips": "red"}
    result = recolor(image, labels, colors)
    assert _lab(result[12:28])[2] < -20 and _lab(result[52:68])[1] > 30
    assert np.array_equal(result[35:45], image[35:45])
    assert np.array_equal(recolor(image[:, :, ::-1], labels, colors, color="rgb"), result[:, :, ::-1])


@pytest.mark.parametrize(
    ("labels", "options", "words"),
    [
        (np.zeros((79, 100), np.uint8), {}, "labels are 100 x 79 pixels and the picture 100 x 80"),
        (np.full((80, 100), 19, np.uint8), {}, "go from 19 to 19; they must be from 0 to 18"),
        (np.full((80, 100), -1), {}, "go from -1 to -1"),
        (np.zeros((80, 100, 3), np.uint8), {}, "shape"),
        (np.zeros((80, 100)), {}, "float64"),
        ({}, {}, "no soft mask of the part 'hair'"),
        ({"hair": np.zeros((3, 3))}, {}, "soft mask of hair is 3 x 3"),
        (np.zeros((80, 100), np.uint8), {"strength": 1.1}, "strength is 1.1"),
        (np.zeros((80, 100), np.uint8), {"faces": Faces.empty(9, 9)}, "faces are of a picture of 9 x 9"),
        (np.zeros((80, 100), np.uint8), {"color": "hsv"}, "hsv"),
    ],
)
def test_what_recolor_refuses(labels: object, options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        recolor(_noise(1), labels, {"hair": "red"}, **options)  # type: ignore[arg-type]


# --- blur


def _ellipse(height: int, width: int, box: tuple[float, float, float, float], grow: float = 0.0) -> NDArray[np.bool_]:
    x1, y1, x2, y2 = box
    y, x = np.mgrid[:height, :width] + 0.5
    across, down = (x2 - x1) / 2 + grow, (y2 - y1) / 2 + grow
    return np.asarray(((x - (x1 + x2) / 2) / across) ** 2 + ((y - (y1 + y2) / 2) / down) ** 2 <= 1)


def _detail(image: NDArray[np.uint8], where: NDArray[np.bool_]) -> float:
    """The mean difference from pixel to pixel, where both are inside."""
    both = where[:, 1:] & where[:, :-1]
    steps = np.abs(np.diff(image.astype(float), axis=1)).mean(2)
    return float(steps[both].mean()) if both.any() else 0.0


@given(
    seed=SEEDS,
    x=st.floats(-40, 110),
    y=st.floats(-40, 90),
    width=st.floats(1, 120),
    shape=st.floats(0.6, 1.6),
    mode=st.sampled_from(["blur", "pixelate"]),
)
@settings(max_examples=80)
def test_a_face_anywhere_is_gone_and_the_rest_is_untouched(
    seed: int, x: float, y: float, width: float, shape: float, mode: str
) -> None:
    box = (x, y, x + width, y + width * shape)
    image = _noise(seed)
    before = image.copy()
    result = blur(image, _faces(100, 80, box), mode=mode)  # type: ignore[arg-type]
    assert np.array_equal(image, before), "the input was changed"
    size = width * shape**0.5
    # The rim is square, so it reaches a diagonal further.
    far = ~cv2.dilate(
        _ellipse(80, 100, box).astype(np.uint8), np.ones((2 * round(size / 8 + 2) + 1,) * 2, np.uint8)
    ).astype(bool)
    assert np.array_equal(result[far], image[far])
    inside = _ellipse(80, 100, box)
    if mode == "pixelate":
        cell = max(size / 6, 2)
        most = (width / cell + 4) * (width * shape / cell + 4)
        assert len(np.unique(result[inside], axis=0)) <= most
    elif size > 12:
        assert _detail(result, inside) < 0.25 * max(_detail(image, inside), 40)


@given(seed=SEEDS)
@settings(max_examples=15)
def test_faces_that_differ_in_detail_come_out_the_same(seed: int) -> None:
    smooth = cv2.GaussianBlur(_noise(seed, 128, 128), (0, 0), 20)
    board = ((np.indices((128, 128)).sum(0) // 2 % 2) * 2 - 1)[:, :, None]
    detailed = np.clip(smooth.astype(int) + 60 * board, 0, 255).astype(np.uint8)
    face, box = _faces(128, 128, (16, 16, 112, 112)), (16, 16, 112, 112)
    inside = _ellipse(128, 128, box)
    for mode in ("blur", "pixelate"):
        one, other = (blur(image, face, mode=mode) for image in (smooth, detailed))  # type: ignore[arg-type]
        assert np.abs(one[inside].astype(int) - other[inside]).max() <= 8
    assert np.abs(smooth[inside].astype(int) - detailed[inside]).min() >= 55


def test_overlapping_faces_leave_nothing_of_either() -> None:
    image = _noise(7, 160, 200)
    boxes = [(10, 10, 130, 150), (80, 20, 190, 150), (60, 60, 76, 76)]
    for order in (boxes, boxes[::-1]):
        result = blur(image, _faces(200, 160, *order))
        for box in boxes:
            assert _detail(result, _ellipse(160, 200, box)) < 6


def test_the_order_of_overlapping_faces_changes_nothing() -> None:
    image = _noise(8, 400, 400)
    boxes = [(100, 100, 300, 300), (250, 230, 310, 290)]
    labels = np.where(_ellipse(400, 400, boxes[0]) | _ellipse(400, 400, boxes[1]), SKIN, 0).astype(np.uint8)
    one, other = (
        blur(image, _faces(400, 400, *order), labels=labels, mode="pixelate") for order in (boxes, boxes[::-1])
    )
    assert np.array_equal(one, other)


@pytest.mark.parametrize(
    "box",
    [(np.nan,) * 4, (5, 5, 5, 5), (9, 9, 3, 3), (-1e30, -1e30, 1e30, 1e30), (500, 500, 600, 600), (3, 3, 4, 5)],
    ids=["nan", "empty", "reversed", "endless", "outside", "a pixel"],
)
def test_odd_boxes(box: tuple[float, float, float, float]) -> None:
    image = _noise(9)
    result = blur(image, _faces(100, 80, box, (40, 20, 70, 60)))
    assert _detail(result, _ellipse(80, 100, (40, 20, 70, 60))) < 15


def test_along_the_labels_and_their_holes_are_filled() -> None:
    image = _noise(11, 120, 120)
    box = (20.0, 20.0, 100.0, 100.0)
    labels = np.zeros((120, 120), np.uint8)
    labels[24:96, 24:70] = SKIN
    labels[40:50, 40:50] = 0  # a hole amid the face
    labels[24:96, 90:100] = HAIR
    faces = _faces(120, 120, box)
    result = blur(image, faces, labels=labels)
    assert _detail(result, np.pad(np.ones((72, 46), bool), ((24, 24), (24, 50)))) < 8
    assert np.array_equal(result[30:90, 85:], image[30:90, 85:]), "beyond the outline, though inside the box"


def test_where_the_labels_show_too_little_the_ellipse_covers() -> None:
    image = _noise(12, 120, 120)
    labels = np.zeros((120, 120), np.uint8)
    labels[20:30, 20:110] = SKIN
    box = (20.0, 20.0, 100.0, 100.0)
    result = blur(image, _faces(120, 120, box), labels=labels)
    assert _detail(result, _ellipse(120, 120, box)) < 10
    assert _detail(result, labels > 0) < 10


def test_chosen_parts() -> None:
    image = _noise(13, 120, 120)
    labels = np.zeros((120, 120), np.uint8)
    labels[30:90, 40:80], labels[10:30, 30:90], labels[90:115, 20:30] = SKIN, HAIR, HAIR
    faces = _faces(120, 120, (40, 30, 80, 90))
    hair = blur(image, faces, labels=labels, parts=["hair"])
    assert _detail(hair, labels == HAIR) < 15
    assert np.array_equal(hair[40:85, 42:78], image[40:85, 42:78])
    head = blur(image, faces, labels=labels, parts=["head"])
    assert _detail(head, labels > 0) < 15, "with the hair that hangs far down"
    assert np.array_equal(blur(image, faces, labels=labels, parts=["hat"]), image)
    behind = blur(image, faces, labels=labels, parts=["background"])
    assert np.array_equal(behind[45:80, 50:70], image[45:80, 50:70]) and _detail(behind, labels == 0) < 15


def test_the_labels_of_the_faces_are_taken() -> None:
    image = _noise(14, 120, 120)
    labels = np.zeros((120, 120), np.uint8)
    labels[30:90, 40:80] = SKIN
    faces = _faces(120, 120, (40, 30, 80, 90))
    assert np.array_equal(blur(image, faces.with_parts([{}], labels)), blur(image, faces, labels=labels))


def test_a_mask_of_ones_own() -> None:
    image, mask = _noise(15), np.zeros((80, 100), bool)
    mask[20:60, 30:70] = True
    for given_mask in (mask, mask.astype(np.uint8), mask.astype(np.float32)):
        result = blur(image, given_mask, mode="pixelate")
        assert len(np.unique(result[mask], axis=0)) <= 100
        assert np.array_equal(
            result[~cv2.dilate(given_mask.astype(np.uint8), np.ones((13, 13))).astype(bool)],
            image[~cv2.dilate(given_mask.astype(np.uint8), np.ones((13, 13))).astype(bool)],
        )
    assert np.array_equal(blur(image, np.zeros((80, 100), bool)), image)


def test_no_strength_no_face_and_the_order_of_channels() -> None:
    image, faces = _noise(16), _faces(100, 80, (20, 10, 70, 70))
    assert np.array_equal(blur(image, faces, strength=0), image)
    assert np.array_equal(blur(image, Faces.empty(100, 80)), image)
    assert np.array_equal(blur(image[:, :, ::-1], faces, color="rgb"), blur(image, faces)[:, :, ::-1])
    inside = _ellipse(80, 100, (20, 10, 70, 70))
    colours = [len(np.unique(blur(image, faces, mode="pixelate", strength=s)[inside], axis=0)) for s in (0.5, 1, 3)]
    assert colours[0] > colours[1] > colours[2]


@pytest.mark.parametrize(
    ("faces", "options", "words"),
    [
        (_faces(100, 80, (1, 1, 50, 50)), {"parts": ["hair"]}, "segment the picture first"),
        (_faces(100, 80, (1, 1, 50, 50)), {"parts": ["tail"]}, "no part 'tail'"),
        (_faces(100, 80, (1, 1, 50, 50)), {"mode": "smear"}, "mode is 'smear'"),
        (_faces(100, 80, (1, 1, 50, 50)), {"strength": -1}, "strength is -1"),
        (_faces(100, 80, (1, 1, 50, 50)), {"labels": np.zeros((8, 8), np.uint8)}, "labels are 8 x 8"),
        (_faces(80, 100, (1, 1, 50, 50)), {}, "faces are of a picture of 80 x 100 pixels and this one is 100 x 80"),
        (np.zeros((8, 8), bool), {}, "mask is 8 x 8"),
    ],
)
def test_what_blur_refuses(faces: object, options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        blur(_noise(1), faces, **options)  # type: ignore[arg-type]


# WIDER FACE labels blurred faces too, so a head without a face is still found, with a score about the recommended one.
@pytest.mark.parametrize("model", ["fast", "default", "accurate"])
def test_a_detector_doubts_a_blurred_astronaut(model: str) -> None:
    path = shared("reference/photos/astronaut.png")
    faces = nnface.Detector(model, threads=1)(path)
    head = faces.boxes[:1]
    assert faces[0].score > 0.8
    assert (iou(head, faces.boxes) > 0.3).sum() == 1
    third = faces[0].score / (1 - faces[0].score) / 3  # of the odds
    unsure = nnface.Detector(model, threads=1, min_score=third / (1 + third))
    for mode in ("blur", "pixelate"):
        left = unsure(blur(path, faces, mode=mode))  # type: ignore[arg-type]
        assert not (iou(head, left.boxes) > 0.3).any()


def test_the_colours_are_those_of_css() -> None:
    assert len(COLORS) == 18
    assert all(parse_color(name) == parse_color(code) for name, code in COLORS.items())
