"""Boxes and points must sit on the same pixels after every augmentation: drawn rectangles are found again."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnface.training.augment import detection as augment
from nnface.training.augment.detection import CropPolicy, Labelled, Window
from nnface.training.pictures import PictureCache

COLOURS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8)


def picture(width=300, height=200):
    """Three plain rectangles on black, each with its five points, the first of them ignored."""
    image = np.zeros((height, width, 3), np.uint8)
    boxes = np.array([(20, 30, 70, 90), (120, 50, 180, 130), (210, 100, 290, 190)], np.float32)
    for (x1, y1, x2, y2), colour in zip(boxes.astype(int), COLOURS, strict=True):
        image[y1:y2, x1:x2] = colour
    size = (boxes[:, 2:] - boxes[:, :2])[:, None]
    shares = np.array([(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)])
    landmarks = (boxes[:, None, :2] + size * shares).astype(np.float32)
    ignored = np.array([True, False, False])
    return Labelled(image=image, boxes=boxes, landmarks=landmarks, ignored=ignored, names=("a",))


def extent(image, colour):
    """The rectangle x1 y1 x2 y2 of the pixels that are nearer to the colour than to black."""
    channel = int(np.argmax(colour))
    rows, columns = np.nonzero((image[..., channel] > 127) & (image.sum(-1) < 500))
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) if len(rows) else None


def check(result, tolerance, limit):
    """Every labelled box lies on the pixels of its colour."""
    assert len(result.boxes) == len(result.landmarks) == len(result.ignored)
    for box, points in zip(result.boxes, result.landmarks, strict=True):
        if (box[2:] - box[:2]).min() < limit:
            continue
        x, y = ((box[:2] + box[2:]) / 2).astype(int)
        colour = result.image[y, x]
        found = extent(result.image, COLOURS[int(np.argmax(colour))])
        assert found is not None
        assert np.abs(found - box).max() <= tolerance, (found, box)
        assert points[0, 0] < points[1, 0]  # the picture's left first, after a flip too
        assert points[0, 1] < points[3, 1]


@settings(max_examples=150, deadline=None)
@given(
    x=st.integers(-150, 250),
    y=st.integers(-150, 150),
    width=st.integers(40, 500),
    height=st.integers(40, 500),
    target=st.sampled_from([64, 97, 160, 320]),
    flipped=st.booleans(),
)
def test_a_cut_moves_labels_with_pixels(x, y, width, height, target, flipped):
    window = Window(x=x, y=y, width=width, height=height)
    result = augment.cut(picture(), window, target, target, 0, cv2.INTER_AREA)
    assert result.image.shape == (target, target, 3)
    assert (result.boxes >= 0).all()
    assert (result.boxes <= target).all()
    # Half a pixel of the target, plus half a source pixel where the cut enlarges.
    tolerance = 0.75 + 0.5 * max(target / width, target / height)
    check(augment.flip(result) if flipped else result, tolerance, 6)


def test_faces_cut_by_the_border_become_ignore_regions():
    result = augment.cut(picture(), Window(x=155, y=0, width=145, height=200), 145, 200, 0, cv2.INTER_AREA)
    np.testing.assert_allclose(result.boxes, [(0, 50, 25, 130), (55, 100, 135, 190)], atol=1e-3)
    assert result.ignored.tolist() == [True, False]
    assert result.names == ("a",)


def test_flipping_twice_is_the_identity():
    source = picture()
    again = augment.flip(augment.flip(source))
    np.testing.assert_array_equal(again.image, source.image)
    np.testing.assert_allclose(again.boxes, source.boxes)
    np.testing.assert_allclose(again.landmarks, source.landmarks)


def test_a_flip_swaps_eyes_and_corners_of_the_mouth():
    source = picture()
    result = augment.flip(source)
    np.testing.assert_allclose(result.landmarks[:, 0, 0], 300 - source.landmarks[:, 1, 0])
    np.testing.assert_allclose(result.landmarks[:, 2, 0], 300 - source.landmarks[:, 2, 0])
    np.testing.assert_allclose(result.landmarks[:, 4, 0], 300 - source.landmarks[:, 3, 0])


@pytest.mark.parametrize("seed", range(12))
def test_crops_and_mosaics_keep_labels_on_their_pixels(seed):
    rng = np.random.default_rng(seed)
    policy = CropPolicy(face_min=20, face_max=120)
    single = augment.random_crop(lambda _: picture(), 320, 320, rng, policy)
    joined = augment.mosaic(lambda _: picture(), 320, rng, policy)
    sheet = augment.sheet(lambda _: picture(), 320, rng, 20, 60)
    for result in (single, joined, sheet):
        assert result.image.shape == (320, 320, 3)
        for box in result.boxes:
            x, y = np.clip((box[:2] + box[2:]) / 2, 0, 319).astype(int)
            if (box[2:] - box[:2]).min() >= 6:
                assert result.image[y, x].max() > 100, box  # the middle of a box lies on a rectangle


def test_a_sample_is_a_function_of_its_random_numbers():
    results = [
        augment.mosaic(lambda _: picture(), 160, np.random.default_rng([1, 2, 3]), CropPolicy()) for _ in range(2)
    ]
    np.testing.assert_array_equal(results[0].image, results[1].image)
    np.testing.assert_array_equal(results[0].boxes, results[1].boxes)


def test_small_faces_become_ignore_regions():
    assert augment.ignore_small(picture(), 60).ignored.tolist() == [True, False, False]
    assert augment.ignore_small(picture(), 1000).ignored.all()


@pytest.mark.parametrize("seed", range(20))
def test_pasted_portraits_lie_over_what_they_cover(seed):
    under, over = picture(), replace(picture(), names=("over",))
    before = under.image.copy()
    result = augment.paste(under, lambda _: over, np.random.default_rng(seed), 15, 40)
    np.testing.assert_array_equal(under.image, before)
    assert set(result.names) == {*under.names, "over"}
    covered = (result.image != before).any(2)
    for box, ignored in zip(result.boxes, result.ignored, strict=True):
        x1, y1, x2, y2 = box.astype(int)
        if not (under.boxes == box).all(1).any():  # of a portrait, which another one may cover by half
            assert ignored or (result.image[y1:y2, x1:x2].max(2) > 100).mean() >= 0.4
        elif not under.ignored[(under.boxes == box).all(1)].any():
            share = covered[y1:y2, x1:x2].mean()
            assert share < 1
            assert ignored or share <= 0.52  # boxes have whole pixels here only by rounding


@pytest.mark.parametrize("seed", range(20))
def test_photometric_changes_only_values(seed):
    image = picture().image
    before = image.copy()
    result = augment.photometric(image, np.random.default_rng(seed))
    assert result.shape == image.shape
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(image, before)


def test_occlusion_leaves_labels_and_source_alone():
    source = picture()
    before = source.image.copy()
    result = augment.occlude(source, np.random.default_rng(0), 1.0)
    np.testing.assert_array_equal(source.image, before)
    np.testing.assert_array_equal(result.boxes, source.boxes)
    assert (result.image[50:130, 120:180] != before[50:130, 120:180]).any()
    np.testing.assert_array_equal(result.image[30:90, 20:70], before[30:90, 20:70])  # an ignored face


def test_limbs_cross_faces_and_leave_labels_and_source_alone():
    source = picture()
    before = source.image.copy()
    result = augment.limbs(source, np.random.default_rng(0), 1.0)
    np.testing.assert_array_equal(source.image, before)
    np.testing.assert_array_equal(result.boxes, source.boxes)
    x1, y1, x2, y2 = source.boxes[~source.ignored][0].astype(int)
    covered = (result.image != before).any(2)
    assert 0.05 < covered[y1:y2, x1:x2].mean() < 0.95
    assert covered.mean() < 0.5
    again = augment.limbs(source, np.random.default_rng(0), 1.0)
    np.testing.assert_array_equal(again.image, result.image)


@pytest.mark.parametrize("seed", range(20))
def test_limbs_at_the_border(seed):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-15, 60, (6, 2))
    source = Labelled(
        image=rng.integers(0, 256, (50, 60, 3), np.uint8),
        boxes=np.concatenate([corner, corner + rng.uniform(14, 60, (6, 2))], 1).astype(np.float32),
        landmarks=np.full((6, 5, 2), np.nan, np.float32),
        ignored=np.zeros(6, bool),
    )
    assert augment.limbs(source, rng, 1.0).image.shape == (50, 60, 3)


def test_a_picture_without_faces():
    empty = Labelled(
        image=np.zeros((50, 80, 3), np.uint8),
        boxes=np.zeros((0, 4), np.float32),
        landmarks=np.zeros((0, 5, 2), np.float32),
        ignored=np.zeros(0, bool),
    )
    rng = np.random.default_rng(0)
    for result in (
        augment.mosaic(lambda _: empty, 96, rng, CropPolicy()),
        augment.random_crop(lambda _: empty, 96, 96, rng, CropPolicy()),
        augment.sheet(lambda _: empty, 96, rng, 10, 30),
        augment.paste(empty, lambda _: empty, rng, 10, 30),
        augment.limbs(empty, rng, 1.0),
    ):
        assert result.boxes.shape == (0, 4)
        assert result.landmarks.shape == (0, 5, 2)


@pytest.mark.parametrize("kind", ["none", "ram", "disk"])
@pytest.mark.parametrize("width", [200, 650, 1309, 3000])
def test_cached_pictures_keep_labels_on_their_pixels(tmp_path, monkeypatch, kind, width):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    image = np.zeros((width // 2 + 3, width, 3), np.uint8)
    box = np.array([width * 0.7, width * 0.3, width * 0.9, width * 0.45]).round()
    x1, y1, x2, y2 = box.astype(int)
    image[y1:y2, x1:x2] = COLOURS[1]
    path = tmp_path / "a.jpg"
    cv2.imwrite(str(path), image)
    cache = PictureCache(kind, 320)
    for _ in range(2):  # decoded, then from the cache
        loaded, factor = cache.load(path)
        assert factor == (1 if kind == "none" or width < 320 else 320 / width)
        assert np.abs(extent(np.asarray(loaded), COLOURS[1]) - box * factor).max() <= 1.2


@pytest.mark.parametrize("seed", range(20))
def test_crops_inside_hold_a_whole_face_and_nothing_beyond_the_picture(seed):
    policy = CropPolicy(anchored=0.0, side_min=0.3, side_max=1.0, window="inside")
    source = picture()
    window = augment.random_window(source, 320, 320, np.random.default_rng(seed), policy)
    assert window.width == window.height
    assert 0.3 * 200 - 1 <= window.height <= 200
    assert 0 <= window.x <= 300 - window.width
    assert 0 <= window.y <= 200 - window.height
    x2, y2 = window.x + window.width, window.y + window.height
    boxes = source.boxes[~source.ignored]
    assert any(x1 >= window.x and y1 >= window.y and a <= x2 and b <= y2 for x1, y1, a, b in boxes)


def test_where_no_crop_holds_a_face_the_whole_picture_is_padded_to_a_square():
    policy = CropPolicy(anchored=0.0, side_min=0.3, side_max=1.0, window="inside")
    wide = replace(picture(), boxes=np.array([(5, 5, 295, 195)] * 3, np.float32))
    for source, chosen in ((wide, policy), (picture(), replace(policy, window="whole"))):
        window = augment.random_window(source, 320, 320, np.random.default_rng(0), chosen)
        assert window == Window(x=0, y=0, width=300, height=300)
    result = augment.random_crop(
        lambda _: picture(), 300, 300, np.random.default_rng(0), replace(policy, window="whole")
    )
    assert len(result.boxes) == 3
    check(result, 0.75, 6)
