"""The letterbox: its way back is exact, and it agrees with what cv2.resize does to pixels."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnface.geometry.letterbox import Letterbox, fit, fit_fixed, stretch

SIDES = st.integers(1, 12000)


def check(place: Letterbox, width: int, height: int, values: list[float]) -> None:
    boxes = (np.array(values).reshape(-1, 4) * ([width, height] * 2)).astype(np.float32)
    tolerance = 1e-4 + 4e-7 * max(width, height)  # float32 has seven digits
    assert np.abs(place.boxes_back(place.boxes(boxes)) - boxes).max() <= tolerance
    points = boxes.reshape(-1, 2, 2)
    assert np.abs(place.points_back(place.points(points)) - points).max() <= tolerance
    corners = place.boxes(np.array([[0, 0, width, height]], np.float32))[0]
    assert np.abs(corners - [0, 0, place.inner_width, place.inner_height]).max() <= 0.501
    assert 1 <= place.inner_width <= place.width and 1 <= place.inner_height <= place.height


@given(
    width=SIDES,
    height=SIDES,
    size=st.none() | st.integers(16, 2000),
    multiple=st.sampled_from([1, 16, 32, 64]),
    canvas=st.tuples(st.integers(16, 1280), st.integers(16, 1280)),
    values=st.lists(st.floats(-0.5, 1.5), min_size=8, max_size=8),
)
def test_back_is_the_inverse(
    width: int, height: int, size: int | None, multiple: int, canvas: tuple[int, int], values: list[float]
) -> None:
    place = fit(width, height, size, multiple)
    check(place, width, height, values)
    assert place.width % multiple == place.height % multiple == 0
    assert place.width - place.inner_width < multiple and place.height - place.inner_height < multiple
    assert max(place.inner_width, place.inner_height) == (size or max(width, height))
    for fixed in (fit_fixed(width, height, *canvas), stretch(width, height, *canvas)):
        check(fixed, width, height, values)
        assert (fixed.width, fixed.height) == canvas


@pytest.mark.parametrize("width, height", [(10000, 1), (1, 10000), (1, 1), (20000, 20000)])
def test_extreme_pictures_keep_a_pixel(width: int, height: int) -> None:
    place = fit(width, height, 640, 32)
    assert max(place.width, place.height) == 640 and min(place.inner_width, place.inner_height) >= 1
    assert min(place.width, place.height) >= 32


@pytest.mark.parametrize("size", [97, 160, 640])
def test_agrees_with_resized_pixels(size: int) -> None:
    # The centre of mass of a blob moves as the letterbox says: no half-pixel shift.
    image = np.zeros((151, 211), np.float32)
    cv2.circle(image, (150, 90), 25, 255, -1)
    image = cv2.GaussianBlur(image, (0, 0), 4)
    place = fit(211, 151, size, 32)
    small = cv2.resize(image, None, fx=place.scale_x, fy=place.scale_y, interpolation=cv2.INTER_LINEAR)
    assert small.shape == (place.inner_height, place.inner_width)

    def centre(values: np.ndarray) -> np.ndarray:
        y, x = np.mgrid[0 : values.shape[0], 0 : values.shape[1]] + 0.5
        return np.array([(x * values).sum(), (y * values).sum()]) / values.sum()

    assert np.abs(place.points_back(centre(small)) - centre(image)).max() < 0.02


def test_a_part_of_a_picture() -> None:
    # The canvas shows a picture that is the full one from (-3, 40) on, at a quarter of its scale.
    place = fit(200, 100, 320, 32).within(4, -3, 40)
    assert np.allclose(place.points_back(np.array([0.0, 0.0], np.float32)), [-3, 40])
    assert np.allclose(place.points_back(np.array([320, 160], np.float32)), [797, 440])


@settings(max_examples=40, deadline=None)
@given(width=st.integers(1, 1500), height=st.integers(1, 1500), size=st.integers(16, 700))
def test_the_inner_size_is_the_one_that_opencv_makes(width: int, height: int, size: int) -> None:
    for place in (fit(width, height, size, 1), fit_fixed(width, height, size, size * 3 // 4)):
        if place.scale_x == place.scale_y:
            small = cv2.resize(np.zeros((height, width), np.uint8), None, fx=place.scale_x, fy=place.scale_x)
            assert small.shape == (place.inner_height, place.inner_width)
            assert place.inner_width <= place.width and place.inner_height <= place.height
