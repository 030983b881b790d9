"""The fairness figures are those of scikit-learn and fairlearn, and the report says what was measured."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faces import fairface
from nnface.datasets import fairface as data
from nnface.evaluation import fairface as benchmark
from nnface.metrics import fairness
from nnface.metrics.fairness import Share
from nnface.predict.classifier import Classifier, softmax
from nnface.spec import FAIRFACE_HEADS
from processes import nnface
from test_classifier import exported, small  # noqa: F401 - fixtures

sklearn_metrics = pytest.importorskip("sklearn.metrics")
fairlearn_metrics = pytest.importorskip("fairlearn.metrics")


def drawn(seed, count=400):
    """Labels, answers that are right in about half, and groups."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 7, count)
    answers = np.where(rng.random(count) < 0.5, labels, rng.integers(0, 7, count))
    return labels, answers, rng.integers(0, 5, count)


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_accuracies_are_those_of_scikit_learn_and_fairlearn(seed):
    labels, answers, groups = drawn(seed)
    table = fairness.confusion(labels, answers, 7)
    np.testing.assert_array_equal(table, sklearn_metrics.confusion_matrix(labels, answers, labels=range(7)))
    assert fairness.accuracy(labels, answers).value == pytest.approx(sklearn_metrics.accuracy_score(labels, answers))
    balanced = sklearn_metrics.balanced_accuracy_score(labels, answers)
    assert fairness.balanced_accuracy(table) == pytest.approx(balanced)
    assert fairness.mean_error(labels, answers) == pytest.approx(sklearn_metrics.mean_absolute_error(labels, answers))
    frame = fairlearn_metrics.MetricFrame(
        metrics=sklearn_metrics.accuracy_score, y_true=labels, y_pred=answers, sensitive_features=groups
    )
    shares = fairness.by_group(labels, answers, groups, 5)
    assert [s.value for s in shares] == pytest.approx(list(frame.by_group))
    gap = fairness.gap(shares, least=1)
    assert gap.value == pytest.approx(frame.difference(method="between_groups"))
    assert shares[gap.worst].value == pytest.approx(frame.group_min())
    assert gap.interval[0] <= gap.value <= gap.interval[1]
    both = fairlearn_metrics.MetricFrame(
        metrics=sklearn_metrics.accuracy_score,
        y_true=labels,
        y_pred=answers,
        sensitive_features=np.stack([groups, labels], 1),
    )
    cells = fairness.cells(labels, answers, [(groups, 5), (labels, 7)])
    assert sum(s.count for s in cells.values()) == len(labels)
    for place, value in both.by_group.items():
        if value == value:
            assert cells[tuple(int(v) for v in place)].value == pytest.approx(value)


def test_what_has_no_label_counts_nothing():
    labels, answers, groups = drawn(1)
    more = np.concatenate([labels, [-1] * 9]), np.concatenate([answers, [0] * 9]), np.concatenate([groups, [0] * 9])
    assert fairness.accuracy(*more[:2]) == fairness.accuracy(labels, answers)
    assert fairness.by_group(*more, 5) == fairness.by_group(labels, answers, groups, 5)
    np.testing.assert_array_equal(fairness.confusion(*more[:2], 7), fairness.confusion(labels, answers, 7))
    assert fairness.within(*more[:2], 6).value == 1
    assert np.isnan(fairness.accuracy(labels[:0], answers[:0]).value)


# Wilson's interval for 8 of 10 is a textbook's: 0.490 to 0.943 (Brown, Cai and DasGupta 2001); 0 of 10 ends at 0.278.
@pytest.mark.parametrize(
    ("hits", "count", "bounds"), [(8, 10, (0.4902, 0.9433)), (0, 10, (0, 0.2775)), (10, 10, (0.7225, 1))]
)
def test_wilson(hits, count, bounds):
    assert Share(hits, count).interval == pytest.approx(bounds, abs=1e-4)


def test_wilson_covers():
    rng = np.random.default_rng(0)
    for share in (0.05, 0.5, 0.9):
        bounds = [Share(int(h), 60).interval for h in rng.binomial(60, share, 2000)]
        assert 0.92 < np.mean([low <= share <= high for low, high in bounds]) < 0.98


def test_a_temperature_is_found_again_and_repairs_confidence():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20000, 7))
    labels = np.array([rng.choice(7, p=row) for row in softmax(logits)])
    found = fairness.fit_temperature(logits * 3, labels)
    assert found == pytest.approx(3, rel=0.03)

    def error(values):
        probabilities = softmax(values)
        return fairness.calibration(probabilities.max(1), probabilities.argmax(1) == labels)[0]

    assert error(logits * 3) > 0.1 > 0.02 > error(logits * 3 / found)


def test_calibration_of_confidence_that_is_right_and_wrong():
    right = np.array([True] * 8 + [False] * 2)
    assert fairness.calibration(np.full(10, 0.8), right)[0] == pytest.approx(0)
    error, bins = fairness.calibration(np.full(10, 0.95), right)
    assert error == pytest.approx(0.15)
    assert bins[-1].tolist() == pytest.approx([0.95, 0.8, 10]) and bins[:, 2].sum() == 10


def test_holding_back_uncertain_answers():
    confidence = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    right = np.array([True, True, False, True, False])
    assert fairness.selective(confidence, right, 0.65) == (pytest.approx(0.4), Share(2, 3))
    assert fairness.fit_confidence(confidence, right, 0.75) == 0.6
    assert fairness.fit_confidence(confidence, right, 1.0) == 0.8
    assert fairness.fit_confidence(confidence, ~right, 1.0) == 1.0
    equal = np.array([0.9, 0.9, 0.8])  # answers of one confidence are told together or not at all
    assert fairness.fit_confidence(equal, np.array([True, False, True]), 0.9) == 1.0
    assert fairness.fit_confidence(equal, np.array([True, False, True]), 0.6) == 0.8


def test_paired_differences():
    first, second = np.array([True] * 80 + [False] * 20), np.array([True] * 70 + [False] * 30)
    gain, (low, high) = fairness.paired(first, second)
    assert gain == pytest.approx(0.1) and 0 < low < 0.1 < high  # all ten differences go one way
    assert fairness.paired(first, first) == (0, (0, 0))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return fairface(tmp_path_factory.mktemp("data") / "fairface", train=20, val=60)


def test_the_report_holds_what_the_judges_compute(tmp_path, root, exported):  # noqa: F811
    ended = nnface(
        "evaluate",
        "fairface",
        "--model",
        exported,
        "--data",
        root,
        "--save",
        "report",
        "--json",
        "a.json",
        cwd=tmp_path,
    )
    assert ended.code == 0, ended.err
    report = json.loads((tmp_path / "report/report.json").read_text())
    samples = data.read(root, "val")
    classifier = Classifier(exported, threads=1)
    found = [classifier(s.path)[0].attributes for s in samples]
    races = [FAIRFACE_HEADS["race"][s.labels["race"]] for s in samples]
    for name, options in FAIRFACE_HEADS.items():
        truth = [options[s.labels[name]] for s in samples]
        told = [a[name].label for a in found]
        head = report["heads"][name]
        assert head["accuracy"]["value"] == pytest.approx(sklearn_metrics.accuracy_score(truth, told))
        assert head["balanced_accuracy"] == pytest.approx(sklearn_metrics.balanced_accuracy_score(truth, told))
        assert head["confusion"] == sklearn_metrics.confusion_matrix(truth, told, labels=options).tolist()
        frame = fairlearn_metrics.MetricFrame(
            metrics=sklearn_metrics.accuracy_score, y_true=truth, y_pred=told, sensitive_features=races
        )
        expected = {race: pytest.approx(value) for race, value in frame.by_group.items()}
        assert {r: s["value"] for r, s in head["groups"]["race"].items() if s["count"]} == expected
        assert sum(cell["count"] for cell in head["cells"]) == len(samples)
        certain = [a[name].certain for a in found]
        assert head["abstained"] == pytest.approx(1 - np.mean(certain))
    figures = json.loads((tmp_path / "a.json").read_text())
    assert figures["race"] == report["heads"]["race"]["accuracy"]["value"]
    page = (tmp_path / "report/report.html").read_text()
    assert "http" not in page.replace("http-equiv", "") and page.count("data:image/png;base64,") == 15
    assert "Southeast Asian" in page and (tmp_path / "report/race_confusion.png").stat().st_size > 5000


def test_two_models_side_by_side(tmp_path, root, exported):  # noqa: F811
    arguments = ("evaluate", "fairface", "--model", exported, "--data", root, "--compare", exported)
    ended = nnface(*arguments, cwd=tmp_path)
    assert ended.code == 0 and "Better than" in ended.out and "race, White" in ended.out
    classifier = Classifier(exported, threads=1)
    found = list(benchmark.run(classifier, data.read(root, "val")))
    differences = benchmark.compare(classifier.meaning, found, classifier.meaning, found)
    assert all(gain == 0 for gain, _ in differences.values())


def test_a_picture_that_is_missing_or_too_small_is_named(tmp_path, exported):  # noqa: F811
    root = fairface(tmp_path / "ff", train=3, val=3)
    import cv2

    cv2.imwrite(str(root / "val/2.jpg"), np.zeros((8, 8, 3), np.uint8))
    ended = nnface("evaluate", "fairface", "--model", exported, "--data", root, cwd=tmp_path)
    assert ended.code == 2 and "val/2.jpg: the chip is 8 x 8" in ended.err
    (root / "val/3.jpg").unlink()
    ended = nnface("evaluate", "fairface", "--model", exported, "--data", root, cwd=tmp_path)
    assert ended.code == 2 and "1 of the 3 pictures" in ended.err
