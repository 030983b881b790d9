"""Annotated pictures: what is drawn, where, and what stays untouched."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nnface import draw
from nnface.results import Attribute, Faces


def _faces(*boxes: tuple[float, float, float, float], width: int, height: int, points: bool = True) -> Faces:
    array = np.array(boxes, np.float32).reshape(-1, 4)
    grid = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]], np.float32)
    sides = array[:, None, 2:] - array[:, None, :2]
    return Faces(
        width=width,
        height=height,
        boxes=array,
        scores=np.linspace(0.99, 0.5, len(array), dtype=np.float32),
        landmarks=array[:, None, :2] + grid * sides if points else None,
    )


def _changed(image: NDArray[np.uint8], faces: Faces) -> NDArray[np.bool_]:
    before = image.copy()
    canvas = draw.faces(image, faces)
    assert canvas.shape == image.shape
    assert canvas.dtype == np.uint8
    assert np.array_equal(image, before), "the input was drawn on"
    return (canvas != image).any(axis=2)


@pytest.mark.parametrize("shade", [0, 60, 128, 200, 255])
def test_a_box_shows_on_any_background_and_only_around_the_face(shade: int) -> None:
    image = np.full((600, 800, 3), shade, np.uint8)
    changed = _changed(image, _faces((300, 200, 500, 440), width=800, height=600))
    for x, y in [(300, 320), (500, 320), (400, 200), (400, 440)]:  # the middle of each side
        assert changed[y, x]
    assert changed[296, 360] and changed[296, 440], "the eyes have no dots"
    assert not changed[460:].any() and not changed[:150].any() and not changed[:, :290].any()
    assert changed[180:198, 300:340].any(), "no label above the box"
    assert not changed[240:280, 320:480].any(), "the forehead is covered"


def test_lines_and_labels_grow_with_the_picture() -> None:
    shares = []
    for scale in (1, 4):
        image = np.full((400 * scale, 400 * scale, 3), 128, np.uint8)
        faces = _faces((100 * scale, 100 * scale, 300 * scale, 300 * scale), width=400 * scale, height=400 * scale)
        shares.append(_changed(image, faces).mean())
    assert 0.6 < shares[0] / shares[1] < 1.7


def test_a_crowd_of_small_faces_gets_thin_lines_and_nothing_else() -> None:
    image = np.full((1000, 1000, 3), 128, np.uint8)
    boxes = [(float(x), float(y), x + 20.0, y + 24.0) for x in range(20, 960, 40) for y in range(20, 960, 40)]
    changed = _changed(image, _faces(*boxes, width=1000, height=1000))
    x1, y1, x2, y2 = (int(v) for v in boxes[0])
    assert changed[y1, (x1 + x2) // 2]
    assert not changed[y1 + 2 : y2 - 1, x1 + 2 : x2 - 1].any(), "a face of 20 pixels is drawn over"
    assert not changed[y1 - 12 : y1 - 1, x1:x2].any(), "a label that is larger than its face"


def test_labels_do_not_cover_each_other() -> None:
    image = np.full((600, 800, 3), 128, np.uint8)
    one = draw.faces(image, _faces((300, 200, 500, 440), width=800, height=600, points=False))
    two = draw.faces(image, _faces((300, 200, 500, 440), (302, 201, 502, 441), width=800, height=600, points=False))
    label = np.s_[180:197, 305:340]
    assert np.array_equal(one[label], two[label]), "the second label lies on the first, which is the better face's"


def test_no_faces_is_the_same_picture_in_new_memory() -> None:
    image = np.zeros((5, 7, 3), np.uint8)
    canvas = draw.faces(image, Faces.empty(7, 5))
    assert np.array_equal(canvas, image) and not np.shares_memory(canvas, image)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 200),
    st.integers(1, 200),
    st.lists(
        st.tuples(*[st.one_of(st.floats(-1e6, 1e6, width=32), st.just(float("nan")), st.just(float("inf")))] * 4),
        max_size=4,
    ),
)
def test_any_box_on_any_picture_is_survived(
    width: int, height: int, boxes: list[tuple[float, float, float, float]]
) -> None:
    with np.errstate(invalid="ignore", over="ignore"):
        _changed(np.full((height, width, 3), 90, np.uint8), _faces(*boxes, width=width, height=height))


def test_attributes_stand_beside_the_face_and_not_on_it() -> None:
    told = {"age": Attribute(label="20-29", confidence=0.6, certain=False, probabilities={"20-29": 0.6})}
    image = np.full((600, 800, 3), 90, np.uint8)
    for box, below in [((300, 200, 500, 440), False), ((300, 4, 500, 250), True)]:
        plain = _faces(box, width=800, height=600, points=False)
        extra = _changed(image, plain.with_attributes([told])) & ~_changed(image, plain)
        rows = np.flatnonzero(extra.any(axis=1))
        assert rows.size and (rows.min() >= box[3] if below else rows.max() <= box[1] + 2)
