"""FDDB on generated ellipses: the geometry, the matching, the curve, the files, the command."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

from nnface.datasets.fddb import find_pictures, read_truth
from nnface.errors import DataError
from nnface.metrics.fddb import Roc, discrete_roc, ellipse_iou
from tiny_models import bright_detector, detection_spec, squares


def enclosing_boxes(ellipses):
    """(m, 4) x1 y1 x2 y2: the smallest upright boxes around ellipses."""
    major, minor, angle, x, y = ellipses.T
    width = np.hypot(major * np.cos(angle), minor * np.sin(angle))
    height = np.hypot(major * np.sin(angle), minor * np.cos(angle))
    return np.stack([x - width, y - height, x + width, y + height], 1)


def circle(x, y, radius=50.0):
    return [radius, radius, 0.0, x, y]


@pytest.mark.parametrize("angle", [0.0, 0.4, np.pi / 2, 2.5])
def test_overlap_of_an_ellipse_with_its_box_and_with_half_of_it(angle):
    ellipse = np.array([[60.0, 40.0, angle, 200.0, 100.0]])
    box = enclosing_boxes(ellipse)
    area, box_area = np.pi * 60 * 40, np.prod(box[0, 2:] - box[0, :2])
    half = np.array([[box[0, 0], box[0, 1], 200.0, box[0, 3]]])
    assert ellipse_iou(box, ellipse)[0, 0] == pytest.approx(area / box_area, abs=2e-3)
    shared = area / 2
    assert ellipse_iou(half, ellipse)[0, 0] == pytest.approx(shared / (box_area / 2 + area - shared), abs=5e-3)
    assert ellipse_iou(box + 500, ellipse)[0, 0] == 0


def test_the_overlap_is_that_of_drawn_pixels():
    ellipse = np.array([[50.0, 30.0, 0.7, 110.0, 90.0]])
    drawn = np.zeros((1600, 1760), np.uint8)  # eight times as large, so that the border's pixels do not matter
    cv2.ellipse(drawn, (880, 720), (400, 240), np.degrees(0.7), 0, 360, 1, -1)
    box = np.zeros_like(drawn)
    box[480:1040, 640:1200] = 1
    expected = (drawn & box).sum() / (drawn | box).sum()
    assert ellipse_iou(np.array([[80.0, 60, 150, 130]]), ellipse)[0, 0] == pytest.approx(expected, abs=0.004)


def test_matching_is_one_to_one_with_the_largest_sum():
    # Box 0 lies between both faces, box 1 on the left one only: taking the best pair first would leave one unmatched.
    faces = np.array([circle(100, 100), circle(140, 100)])
    boxes = np.array([[70.0, 55, 160, 145], [30, 55, 130, 145]])
    overlaps = ellipse_iou(boxes, faces)
    assert (overlaps[0] > 0.5).all()
    roc = discrete_roc([(boxes, np.array([0.9, 0.9]))], [faces])
    assert (roc.true_positives.tolist(), roc.false_positives.tolist()) == ([2], [0])


def test_curve_over_pictures():
    faces = [np.array([circle(100, 100)]), np.array([circle(100, 100), circle(400, 100)]), np.zeros((0, 5))]
    hit, stray = [50.0, 50, 150, 150], [600.0, 600, 700, 700]
    predictions = [
        (np.array([hit, hit]), np.array([0.9, 0.5])),
        (np.array([stray, hit]), np.array([0.8, 0.6])),
        (np.array([stray]), np.array([0.7])),
    ]
    roc = discrete_roc(predictions, faces)
    assert roc.scores.tolist() == [0.9, 0.8, 0.7, 0.6, 0.5]
    assert roc.true_positives.tolist() == [1, 1, 1, 2, 2]
    assert roc.false_positives.tolist() == [0, 1, 2, 2, 3]
    assert roc.faces == 3
    assert [roc.rate_at(n) for n in (0, 1, 2, 100)] == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])


def test_nothing_found():
    roc = discrete_roc([(np.zeros((0, 4)), np.zeros(0))], [np.array([circle(10, 10)])])
    assert isinstance(roc, Roc)
    assert (len(roc.rate), roc.rate_at(100), roc.faces) == (0, 0.0, 1)


FOLD = """2002/08/11/big/img_1
1
50 50 0 100 100  1
2002/08/11/big/img_2
2
50.5 50 1.5708 100 100 1
30 20 -0.5 300 100 1
"""


def write_fold(folder, text=FOLD, number="01"):
    (folder / "FDDB-folds").mkdir(exist_ok=True)
    (folder / f"FDDB-folds/FDDB-fold-{number}-ellipseList.txt").write_text(text)


def test_folds_are_read_in_order(tmp_path):
    write_fold(tmp_path, "2002/z\n0\n", "02")
    write_fold(tmp_path)
    truth = read_truth(tmp_path)
    assert list(truth) == ["2002/08/11/big/img_1", "2002/08/11/big/img_2", "2002/z"]
    assert truth["2002/08/11/big/img_2"].tolist() == [[50.5, 50, 1.5708, 100, 100], [30, 20, -0.5, 300, 100]]
    assert truth["2002/z"].shape == (0, 5)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\n", 2),
        ("a\nmany\n", 2),
        ("a\n1\n1 2 3\n", 3),
        ("a\n1\n1 2 3 x 5 1\n", 3),
        ("a\n1\n0 2 3 4 5 1\n", 3),
        ("a\n2\n1 2 3 4 5 1\n", 4),
        ("a\n0\n../../etc/b\n0\n", 3),
        ("a\n0\n/etc/b\n0\n", 3),
    ],
)
def test_a_malformed_fold_is_named_with_its_line(tmp_path, text, line):
    write_fold(tmp_path, text)
    with pytest.raises(DataError, match=rf"FDDB-fold-01-ellipseList\.txt, line {line}:"):
        read_truth(tmp_path)


def test_absent_data_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match="is no folder"):
        read_truth(tmp_path / "absent")
    with pytest.raises(DataError, match="FDDB-fold-NN"):
        read_truth(tmp_path)
    with pytest.raises(DataError, match=r"lacks the picture 2002/a\.jpg"):
        find_pictures(tmp_path, ["2002/a"])


def test_the_command(tmp_path):
    write_fold(tmp_path, "2002/a\n1\n8.9 8.9 0 40 24 1\n2002/b\n1\n8.9 8.9 0 72 72 1\n")
    for name, corner in (("a", (32, 16)), ("b", (64, 64))):
        path = tmp_path / f"originalPics/2002/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), squares(128, 128, corner))
    model = bright_detector(tmp_path / "tiny.onnx", detection_spec(size=128))
    arguments = [
        "--model", model, "--data", tmp_path, "--protocol", "original",
        "--json", tmp_path / "f.json", "--save", tmp_path / "report",
    ]  # fmt: skip
    command = [sys.executable, "-m", "nnface", "evaluate", "fddb", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "original size" in done.stdout
    assert json.loads((tmp_path / "f.json").read_text())["discrete@100"] == 1.0
    assert json.loads((tmp_path / "report/report.json").read_text())["faces"] == 2
    assert (tmp_path / "report/report.html").read_text().count("data:image/png;base64,") == 1
