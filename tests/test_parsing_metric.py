"""The parsing metric against scikit-learn, scipy and plain counting."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.ndimage import distance_transform_edt

from nnface.metrics import parsing
from nnface.spec import CELEBAMASK_LABELS

LABELS = len(CELEBAMASK_LABELS)


def blobs(rng: np.random.Generator, size: int = 48, labels: int = LABELS) -> np.ndarray:
    """A label image of rectangles, some parts left out."""
    image = np.zeros((size, size), np.uint8)
    for label in rng.permutation(labels)[: rng.integers(3, labels)]:
        y, x = rng.integers(0, size - 4, 2)
        image[y : y + rng.integers(2, 20), x : x + rng.integers(2, 20)] = label
    return image


def pairs(count: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Label images, and the same moved by a pixel or two with some of another inside."""
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(count):
        truth = blobs(rng)
        found = np.roll(truth, tuple(rng.integers(-2, 3, 2)), (0, 1))
        found[:10, :10] = blobs(rng)[:10, :10]
        result.append((truth, found))
    return result


@given(st.data())
def test_f1_and_iou_are_those_of_scikit_learn(data):
    metrics = pytest.importorskip("sklearn.metrics")
    labels = data.draw(st.integers(2, 6))
    shape = data.draw(arrays.array_shapes(min_dims=2, max_dims=2, max_side=8))
    truth, found = (data.draw(arrays.arrays(np.uint8, shape, elements=st.integers(0, labels - 1))) for _ in "12")
    table = parsing.confusion(truth, found, labels)
    numbers = list(range(labels))
    assert (table == metrics.confusion_matrix(truth.ravel(), found.ravel(), labels=numbers)).all()
    scores = parsing.scores(table, CELEBAMASK_LABELS[:labels])
    occurs = np.union1d(truth, found)
    for values, judge in ((scores.f1, metrics.f1_score), (scores.iou, metrics.jaccard_score)):
        theirs = judge(truth.ravel(), found.ravel(), labels=numbers, average=None, zero_division=0)
        assert np.allclose(values[occurs], theirs[occurs])
        assert np.isnan(np.delete(values, occurs)).all()
    assert scores.accuracy == pytest.approx(metrics.accuracy_score(truth.ravel(), found.ravel()))


def test_a_set_is_scored_as_the_pixels_of_all_its_pictures():
    metrics = pytest.importorskip("sklearn.metrics")
    some = pairs(12)
    total = sum(parsing.confusion(*pair, LABELS) for pair in some)
    truth, found = (np.concatenate([pair[side].ravel() for pair in some]) for side in (0, 1))
    theirs = metrics.f1_score(truth, found, labels=range(LABELS), average=None, zero_division=np.nan)
    scores = parsing.scores(total)
    assert np.allclose(scores.f1, theirs, equal_nan=True)
    assert scores.mean_f1 == pytest.approx(np.nanmean(theirs[1:]))
    frequent = [n for n, name in enumerate(CELEBAMASK_LABELS) if name not in ("background", *parsing.RARE)]
    assert len(frequent) == 14
    assert scores.frequent_f1 == pytest.approx(np.nanmean(theirs[frequent]))
    theirs = metrics.jaccard_score(truth, found, labels=range(LABELS), average=None, zero_division=0)
    assert scores.mean_iou == pytest.approx(theirs[np.unique([truth, found])].mean())


def test_a_label_that_occurs_nowhere_is_no_part_of_the_means():
    truth, found = np.array([[0, 1], [1, 13]]), np.array([[0, 1], [13, 13]])
    scores = parsing.scores(parsing.confusion(truth, found, LABELS))
    assert scores.mean_f1 == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert np.isnan(parsing.scores(np.zeros((LABELS, LABELS), int)).mean_f1)


@pytest.mark.parametrize("truth, found", [([[0, 1]], [[0], [1]]), ([[0, 19]], [[0, 1]]), ([[0, 1]], [[0, 255]])])
def test_images_that_do_not_fit_are_refused(truth, found):
    with pytest.raises(ValueError, match="label image"):
        parsing.confusion(np.array(truth, np.uint8), np.array(found, np.uint8), LABELS)


def plain_outlines(truth: np.ndarray, found: np.ndarray, tolerance: float) -> np.ndarray:
    """Part by part, with exact distances."""

    def line(image: np.ndarray, label: int) -> np.ndarray:
        edge = np.zeros(image.shape, bool)
        for y, x in np.argwhere(image == label):
            for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                inside = 0 <= y + dy < image.shape[0] and 0 <= x + dx < image.shape[1]
                edge[y, x] |= inside and image[y + dy, x + dx] != label
        return edge

    counts = np.zeros((LABELS, 4), int)
    for label in range(LABELS):
        one, other = line(found, label), line(truth, label)
        near = [
            distance_transform_edt(~mask) <= tolerance if mask.any() else np.zeros_like(mask) for mask in (other, one)
        ]
        counts[label] = one.sum(), (one & near[0]).sum(), other.sum(), (other & near[1]).sum()
    return counts


@pytest.mark.parametrize("tolerance", [1, 1.5, 3.0])
def test_outlines_are_those_of_exact_distances(tolerance):
    for truth, found in pairs(3, seed=1):
        counts = parsing.outlines(truth, found, LABELS, tolerance)
        assert (counts == plain_outlines(truth, found, tolerance)).all()


def test_a_part_moved_within_the_tolerance_has_a_perfect_outline_and_no_perfect_f1():
    truth = np.zeros((64, 64), np.uint8)
    truth[20:40, 20:40] = 13
    near, far = np.roll(truth, 3, 1), np.roll(truth, 4, 1)
    assert parsing.boundary_f1(parsing.outlines(truth, near, LABELS))[13] == 1
    assert 0 < parsing.boundary_f1(parsing.outlines(truth, far, LABELS))[13] < 1
    assert parsing.scores(parsing.confusion(truth, near, LABELS)).f1[13] == pytest.approx(17 / 20)


def test_an_outline_that_only_one_of_both_has_counts_as_wrong():
    truth, found = np.zeros((16, 16), np.uint8), np.zeros((16, 16), np.uint8)
    found[4:8, 4:8] = 14
    f1 = parsing.boundary_f1(parsing.outlines(truth, found, LABELS))
    assert f1[14] == 0
    assert np.isnan(f1[13])
    assert parsing.mean_boundary_f1(parsing.outlines(truth, found, LABELS)) == 0


def test_the_bootstrap_is_that_of_drawing_pictures():
    some = pairs(9, seed=2)
    counts = np.stack([parsing.confusion(*pair, LABELS) for pair in some])
    lines = np.stack([parsing.outlines(*pair, LABELS) for pair in some])
    draws = parsing.bootstrap(counts, lines, draws=40, seed=3)
    drawn = np.random.default_rng(3).multinomial(9, np.full(9, 1 / 9), 40)
    for number, weights in enumerate(drawn):
        pictures = np.repeat(np.arange(9), weights)
        scores = parsing.scores(counts[pictures].sum(0))
        for name in ("mean_f1", "frequent_f1", "mean_iou", "accuracy"):
            assert draws[name][number] == pytest.approx(getattr(scores, name))
        assert np.allclose(draws["f1"][number], scores.f1, equal_nan=True)
        assert draws["boundary_f1"][number] == pytest.approx(parsing.mean_boundary_f1(lines[pictures].sum(0)))


def test_paired_draws_tell_a_small_difference_that_two_intervals_hide():
    truths = [truth for truth, _ in pairs(60, seed=4)]
    rng = np.random.default_rng(5)

    def worse(truth: np.ndarray, share: float) -> np.ndarray:
        return np.where(rng.random(truth.shape) < share, 1, truth).astype(np.uint8)

    good = [worse(truth, rng.random() * 0.5) for truth in truths]
    bad = [worse(found, 0.02) for found in good]
    samples = []
    for answers in (good, bad):
        counts = np.stack([parsing.confusion(t, f, LABELS) for t, f in zip(truths, answers, strict=True)])
        lines = np.zeros((60, LABELS, 4), int)
        samples.append(parsing.bootstrap(counts, lines)["mean_f1"])
    apart = [parsing.interval(some) for some in samples]
    assert apart[0][0] < apart[1][1]
    low, high = parsing.interval(samples[0] - samples[1])
    assert 0 < low < high
    assert parsing.interval(samples[0] - samples[0]) == (0, 0)
    assert np.isnan(parsing.interval(np.full(10, np.nan))).all()
