"""The score that a detector's Spec recommends."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnface.metrics import wider
from nnface.metrics.operating_point import FEWEST, SCORES, operating_point

SIDE = 40.0


def row(number, x=0.0, side=SIDE):
    """Boxes side by side, none over another."""
    left = x + 100.0 * np.arange(number)
    return np.stack([left, np.zeros(number), left + side, np.full(number, side)], 1)


def scored(faces, strays, side=SIDE):
    """A picture's predictions: its faces with scores ``faces``, and others with scores ``strays`` far from them."""
    boxes = np.concatenate([row(len(faces)), row(len(strays), 1e5, side)])
    scores = np.array([*faces, *strays], np.float64)
    order = np.argsort(-scores, kind="stable")
    return boxes[order], scores[order]


def test_it_is_the_lowest_score_that_is_precise_enough():
    truth = wider.by_height({"a": row(150), "b": row(50)})
    predictions = {"a": scored([0.9] * 140, [0.333] * 6), "b": scored([0.5] * 30, [0.255] * 4)}
    assert operating_point(predictions, truth) == (0.34, 1.0, 0.85)
    assert operating_point(predictions, truth, precision=0.96) == (0.26, 170 / 176, 0.85)
    assert operating_point(predictions, truth, precision=0.9) == (0.15, 170 / 180, 0.85)


def test_what_is_found_where_no_face_is_counts_against_it():
    truth = wider.by_height({"a": row(120), "empty": row(0)})
    predictions = {"a": scored([0.9] * 120, []), "empty": scored([], [0.705] * 10)}
    assert operating_point(predictions, truth) == (0.71, 1.0, 1.0)


def test_tiny_boxes_and_ignored_faces_count_neither_way():
    ignored = {"a": np.arange(140) >= 120}
    truth = wider.by_height({"a": row(140)}, ignored)
    predictions = {"a": scored([0.6] * 140, [0.8] * 30, side=20.0)}
    assert operating_point(predictions, truth) == (0.15, 1.0, 1.0)


def test_too_few_faces_and_too_many_mistakes_tell_nothing():
    few = wider.by_height({"a": row(FEWEST - 1)})
    assert operating_point({"a": scored([0.9] * (FEWEST - 1), [])}, few) is None
    truth = wider.by_height({"a": row(FEWEST)})
    assert operating_point({"a": scored([0.9] * FEWEST, [0.95] * FEWEST)}, truth) is None
    assert operating_point({"a": scored([], [])}, truth) is None


@given(
    st.lists(st.floats(0.02, 1), min_size=FEWEST, max_size=FEWEST + 20),
    st.lists(st.floats(0.02, 1), max_size=20),
    st.floats(0.5, 1),
)
def test_it_says_what_a_cut_there_does(faces, strays, precision):
    point = operating_point({"a": scored(faces, strays)}, wider.by_height({"a": row(len(faces))}), precision)

    def right(score):
        kept = sum(f >= score for f in faces)
        return kept, kept + sum(s >= score for s in strays)

    good = [score for score in SCORES if right(score)[0] and right(score)[0] >= precision * right(score)[1]]
    if not good:
        assert point is None
        return
    found, reported = right(good[0])
    assert point == (pytest.approx(good[0]), found / reported, found / len(faces))
