"""The WIDER FACE evaluator: its recorded results, its rules one by one, and a plain second writing of them."""

import importlib.util
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import shared
from nnface.datasets.widerface_truth import read_truth
from nnface.metrics import wider

SETTINGS = ("easy", "medium", "hard")


@pytest.fixture(scope="module")
def recorded():
    """The ground truth of val, the synthetic predictions of ../shared, and what was recorded for them."""
    folder = shared("reference/evaluator")
    plan = importlib.util.spec_from_file_location("synthetic", shared("reference/tools/synthetic_predictions.py"))
    module = importlib.util.module_from_spec(plan)
    plan.loader.exec_module(module)
    predictions = {
        f"{event}/{name}": (np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], 1), rows[:, 4])
        for event, pictures in module.all_preds(str(folder)).items()
        for name, rows in pictures.items()
    }
    return read_truth(folder), predictions, np.load(folder / "expected_synthetic_pr.npz")


# The README of ../shared/reference gives the rows "IoU 0.7" and "reversed" the other way round; these are the two
# figures under their true names, as the plain evaluator of this file gives them too (see the slow test).
@pytest.mark.parametrize(
    ("case", "iou", "expected"),
    [
        ("sorted", 0.5, (0.41535700591977487, 0.4985364532874217, 0.45671063902709597)),
        ("sorted", 0.3, (0.4453659955719298, 0.5244865661398929, 0.4738696207293094)),
        ("sorted", 0.7, (0.0996962882422333, 0.1455446667910249, 0.1702701095100345)),
        ("reversed", 0.5, (0.10874183659641085, 0.20346394307971416, 0.2826888957884357)),
        ("truth", 0.5, (0.9999457367507105, 0.9999676904925047, 0.999908045888237)),
    ],
)
def test_recorded_results(recorded, case, iou, expected):
    truth, predictions, _ = recorded
    if case == "reversed":
        predictions = {key: (boxes[::-1], scores[::-1]) for key, (boxes, scores) in predictions.items()}
    if case == "truth":
        predictions = {}
        for key, boxes in truth.boxes.items():
            scores = np.where(np.arange(len(boxes)) % 2 == 0, 0.9, 0.6)
            order = np.argsort(-scores, kind="stable")
            predictions[key] = boxes[order], scores[order]
    curves = wider.score(predictions, truth, iou)
    assert [curves[name].average_precision for name in SETTINGS] == pytest.approx(expected, abs=1e-9, rel=0)


def test_recorded_counts(recorded):
    truth, predictions, expected = recorded
    for (name, curve), faces in zip(wider.score(predictions, truth).items(), expected["count_face"], strict=True):
        np.testing.assert_array_equal(np.stack([curve.counted, curve.found], 1), expected[f"{name}_tp_fp_counts"])
        pairs = np.stack([curve.precision, curve.recall], 1)
        np.testing.assert_allclose(pairs, expected[f"{name}_precision_recall"], rtol=0, atol=1e-12)
        assert curve.faces == faces


@pytest.mark.slow
def test_recorded_results_by_the_plain_evaluator(recorded):
    truth, predictions, _ = recorded
    keys = list(truth.boxes)
    truths, flags = [truth.boxes[key] for key in keys], [truth.counted["easy"][key] for key in keys]
    found = plain_counts([predictions[key] for key in keys], truths, flags, 0.7)
    assert plain_area(found, sum(flag.sum() for flag in flags)) == pytest.approx(0.0996962882422333, abs=1e-9)
    backwards = [(predictions[key][0][::-1], predictions[key][1][::-1]) for key in keys]
    found = plain_counts(backwards, truths, flags, 0.5)
    assert plain_area(found, sum(flag.sum() for flag in flags)) == pytest.approx(0.10874183659641085, abs=1e-9)


def plain_counts(
    predictions: Sequence[wider.Prediction], truths: Sequence[np.ndarray], counted: Sequence[np.ndarray], iou: float
) -> np.ndarray:
    """(1000, 2) predictions counted and faces found, by the rules word for word."""
    low = min([1.0, *(score for _, scores in predictions for score in scores)])
    high = max([0.0, *(score for _, scores in predictions for score in scores)])
    totals = np.zeros((1000, 2))
    for (boxes, scores), truth, flags in zip(predictions, truths, counted, strict=True):
        if not len(boxes) or not len(truth):
            continue
        counts, finds, found = [], [], set()
        for x1, y1, x2, y2 in boxes:
            overlaps = []
            for a1, b1, a2, b2 in truth:
                w, h = min(x2, a2) - max(x1, a1) + 1, min(y2, b2) - max(y1, b1) + 1
                both = w * h if w > 0 and h > 0 else 0.0
                overlaps.append(both / ((x2 - x1 + 1) * (y2 - y1 + 1) + (a2 - a1 + 1) * (b2 - b1 + 1) - both))
            best = int(np.argmax(overlaps))
            hit = overlaps[best] >= iou
            counts.append(not (hit and not flags[best]))
            if hit and flags[best]:
                found.add(best)
            finds.append(len(found))
        stretched = (scores - low) / (high - low)
        for t in range(1000):
            reached = np.flatnonzero(stretched >= 1 - (t + 1) / 1000)
            if len(reached):
                totals[t] += sum(counts[: reached[-1] + 1]), finds[reached[-1]]
    return totals


def plain_area(totals: np.ndarray, faces: int) -> float:
    precision = totals[:, 1] / np.maximum(totals[:, 0], 1)
    recall = np.concatenate([[0], totals[:, 1] / faces])
    return sum((recall[t + 1] - recall[t]) * precision[t:].max() for t in range(1000))


@st.composite
def problems(draw):
    number = st.integers(0, 40)
    predictions, truths, counted = [], [], []
    for _ in range(draw(st.integers(1, 4))):
        truth = np.array(draw(st.lists(st.tuples(number, number, number, number), max_size=5)), float).reshape(-1, 4)
        boxes = np.array(draw(st.lists(st.tuples(number, number, number, number), max_size=8)), float).reshape(-1, 4)
        copies = draw(st.lists(st.integers(0, 4), max_size=5)) if len(truth) else []
        boxes = np.concatenate([boxes, truth[[i % len(truth) for i in copies]].reshape(-1, 4)])
        for array in (truth, boxes):
            array[:, 2:] += array[:, :2]
        scores = draw(st.lists(st.integers(1, 999), min_size=len(boxes), max_size=len(boxes)))
        predictions.append((boxes, np.array(scores, float) / 1000))
        truths.append(truth)
        counted.append(np.array(draw(st.lists(st.booleans(), min_size=len(truth), max_size=len(truth))), bool))
    return predictions, truths, counted


@settings(max_examples=40, deadline=None)
@given(problems(), st.sampled_from([0.3, 0.5, 0.9]))
def test_equals_the_plain_evaluator_on_any_lists_in_any_order(problem, iou):
    predictions, truths, counted = problem
    if len({score for _, scores in predictions for score in scores}) < 2:
        return  # the plain one divides by zero
    curve = wider.curve(wider.match(predictions, truths, iou), counted)
    expected = plain_counts(predictions, truths, counted, iou)
    np.testing.assert_array_equal(np.stack([curve.counted, curve.found], 1), expected)
    faces = sum(int(flags.sum()) for flags in counted)
    if faces:
        assert curve.average_precision == pytest.approx(plain_area(expected, faces), abs=1e-12)


FACE = np.array([[10.0, 10, 50, 60]])
OTHER = np.array([[200.0, 10, 250, 70]])
NOWHERE = np.array([[400.0, 400, 440, 450]])


@pytest.mark.parametrize(
    ("boxes", "scores", "truth", "counted", "expected"),
    [
        ([FACE, OTHER], [0.9, 0.8], [FACE, OTHER], [True, True], 1.0),
        ([FACE, NOWHERE, OTHER], [0.9, 0.8, 0.7], [FACE, OTHER], [True, True], 0.5 + 0.5 * 2 / 3),
        ([FACE, FACE, OTHER], [0.9, 0.8, 0.7], [FACE, OTHER], [True, True], 0.5 + 0.5 * 2 / 3),
        ([OTHER, OTHER, FACE], [0.9, 0.8, 0.7], [FACE, OTHER], [True, False], 1.0),
        ([NOWHERE, FACE], [0.9, 0.8], [FACE], [True], 0.5),
        ([FACE], [0.3], [FACE, OTHER], [True, True], 0.5),
        ([FACE, OTHER], [0.5, 0.5], [FACE, OTHER], [True, True], 1.0),
        ([], [], [FACE], [True], 0.0),
    ],
    ids=["all", "stray", "twice", "ignored", "stray-first", "missed", "equal-scores", "nothing"],
)
def test_rules(boxes, scores, truth, counted, expected):
    prediction = np.concatenate([*boxes, np.zeros((0, 4))]), np.array(scores)
    area = wider.average_precision([prediction], [np.concatenate(truth)], [np.array(counted)])
    assert area == pytest.approx(expected, abs=1e-12)


def test_a_picture_without_faces_adds_no_false_positives_and_no_face_gives_nan():
    predictions = [(FACE, np.array([0.9])), (NOWHERE, np.array([0.95]))]
    one = np.array([True])
    assert wider.average_precision(predictions, [FACE, np.zeros((0, 4))], [one, np.zeros(0, bool)]) == 1.0
    assert wider.average_precision(predictions, [FACE, OTHER], [one, ~one]) == 0.5
    assert np.isnan(wider.average_precision(predictions, [FACE, OTHER], [~one, ~one]))


def test_by_height_and_ranges():
    truth = wider.by_height(
        {"a/1": [[0, 0, 9, 10], [0, 0, 9, 11], [0, 0, 9, 51], [0, 0, 9, 200]]}, {"a/1": [0, 0, 0, 1]}
    )
    assert {name: flags["a/1"].tolist() for name, flags in truth.counted.items()} == {
        "easy": [False, False, True, False],
        "medium": [False, False, True, False],
        "hard": [False, True, True, False],
    }
    assert wider.in_range(truth, "hard", (0, 51))[0].tolist() == [False, True, False, False]
    assert wider.in_range(truth, "hard", (51, 64))[0].tolist() == [False, False, True, False]


def test_outside_the_range_of_heights_neither_faces_nor_strays_count():
    # A stray box 50 px high scores best: it counts against the faces of 32 to 64 px only.
    prediction = np.concatenate([NOWHERE, FACE, OTHER * 0.2]), np.array([0.9, 0.8, 0.7])
    truth = wider.by_height({"a/1": np.concatenate([FACE, OTHER * 0.2])})
    matches = wider.match([prediction], [truth.boxes["a/1"]])
    areas = [wider.curve(matches, wider.in_range(truth, "hard", r), r).average_precision for r in wider.ranges()]
    assert areas[:3] == pytest.approx([1.0, np.nan, 0.5], nan_ok=True)


def test_subset_keeps_the_order_that_is_asked_for():
    truth = wider.by_height({"a/1": FACE, "a/2": OTHER, "a/3": FACE})
    assert (
        list(truth.subset(["a/3", "a/1"]).boxes) == list(truth.subset(["a/3", "a/1"]).counted["easy"]) == ["a/3", "a/1"]
    )
    with pytest.raises(KeyError):
        truth.subset(["a/4"])


def test_bootstrap_is_paired_and_covers_the_figure():
    generator = np.random.default_rng(3)
    truths = [FACE] * 60
    hits = generator.uniform(size=60) < 0.7
    scores = generator.uniform(0.1, 1, size=60)
    first = [(FACE if hit else NOWHERE, np.array([score])) for hit, score in zip(hits, scores, strict=True)]
    second = [
        (FACE if hit or k % 2 else NOWHERE, np.array([s])) for k, (hit, s) in enumerate(zip(hits, scores, strict=True))
    ]
    counted = [np.array([True])] * 60
    samples = [wider.bootstrap(wider.match(p, truths), counted, draws=400) for p in (first, second)]
    low, high = wider.interval(samples[0])
    assert low < wider.average_precision(first, truths, counted) < high
    assert 0.05 < high - low < 0.5
    # The second finds what the first finds and more: in no draw can it be worse, which unpaired draws would break.
    assert (samples[1] >= samples[0]).all()
    assert (samples[1] > samples[0]).any()


def test_bootstrap_of_equal_pictures_does_not_vary():
    matches = wider.match([(FACE, np.array([0.9]))] * 5, [np.concatenate([FACE, OTHER])] * 5)
    counted = [np.array([True, True])] * 5
    np.testing.assert_allclose(wider.bootstrap(matches, counted, draws=20), 0.5)
    assert all(np.isnan(wider.interval(np.full(3, np.nan))))


def test_one_picture_too_few_is_refused():
    with pytest.raises(ValueError, match="1 pictures predicted, 2 with truth"):
        wider.match([(FACE, np.array([0.9]))], [FACE, FACE])
