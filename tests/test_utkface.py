"""UTKFace's file names become labels, and a classifier of seven races is measured on its four."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faces import chip
from nnface.datasets import utkface
from nnface.datasets.samples import AttributeSample
from nnface.errors import DataError
from nnface.evaluation import fairface as benchmark
from nnface.predict.classifier import softmax
from nnface.spec import FAIRFACE_HEADS, FAIRFACE_HEADS_4, ClassificationSpec
from processes import nnface
from test_classifier import exported, small  # noqa: F401 - fixtures

NAMES = (
    "1_0_0_20161219140530307.jpg",
    "9_1_1_20161219140530307.jpg",
    "10_0_2_2.jpg.chip.jpg",
    "35_1_3_3.jpg",
    "70_0_4_4.jpg",
    "116_1_0_5.jpg",
)


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "utk/part1").mkdir(parents=True)
    for name in NAMES:
        cv2.imwrite(str(tmp_path / "utk/part1" / name), chip({"race": 1, "gender": 1, "age": 4}, rng))
    return tmp_path / "utk"


def test_names_are_labels(root):
    samples, left_out = utkface.read(root)
    found = {s.path.name: (s.labels["race"], s.labels["gender"], s.labels["age"]) for s in samples}
    assert found == {
        "1_0_0_20161219140530307.jpg": (0, 0, 0),
        "9_1_1_20161219140530307.jpg": (1, 1, 1),
        "10_0_2_2.jpg.chip.jpg": (2, 0, 2),
        "35_1_3_3.jpg": (3, 1, 4),
        "70_0_4_4.jpg": (-1, 0, 8),
        "116_1_0_5.jpg": (0, 1, 8),
    }
    assert left_out == []


@given(st.integers(0, 120))
def test_years_fall_into_the_bins_whose_names_say_so(years):
    word = FAIRFACE_HEADS["age"][utkface.age_bin(years)]
    low, high = (70, 200) if word == "more than 70" else map(int, word.split("-"))
    assert low <= years <= high


def test_a_few_names_lack_a_label_and_others_are_not_utkface(root):
    (root / "39_1_20170116174525125.jpg").write_bytes(b"")
    assert [p.name for p in utkface.read(root)[1]] == ["39_1_20170116174525125.jpg"]
    (root / "holiday.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"holiday.jpg is not named as UTKFace's pictures are"):
        utkface.read(root)
    with pytest.raises(DataError, match="is no folder"):
        utkface.read(root / "nowhere")


def test_seven_races_are_joined_to_four():
    meaning = ClassificationSpec(heads=FAIRFACE_HEADS, temperatures={"race": 2.0})
    sample = AttributeSample(key="a", path=Path("a"), labels={"race": 2, "gender": 0, "age": 0})
    probabilities = np.array([0.26, 0.04, 0.2, 0.2, 0.15, 0.05, 0.1], np.float32)  # White first, Asian together more
    logits = {"race": 2 * np.log(probabilities), "gender": np.zeros(2, np.float32), "age": np.zeros(9, np.float32)}
    four, found = benchmark.joined_races(meaning, [(sample, logits), (sample, None)])
    assert four.heads == FAIRFACE_HEADS_4 and "race" not in four.temperatures and found[1] == (sample, None)
    assert softmax(found[0][1]["race"]) == pytest.approx(np.array([0.26, 0.04, 0.35, 0.05]) / 0.7, abs=1e-5)
    assert benchmark.score(four, found[:1]).heads["race"].accuracy.value == 1


def test_faces_that_are_missed_are_wrong_in_every_share():
    meaning = ClassificationSpec(heads=FAIRFACE_HEADS)
    sample = AttributeSample(key="a", path=Path("a"), labels={"race": 0, "gender": 0, "age": 0})
    sure = {name: np.eye(len(labels), dtype=np.float32)[0] * 9 for name, labels in FAIRFACE_HEADS.items()}
    result = benchmark.score(meaning, [(sample, sure), (sample, None)])
    age = result.heads["age"]
    assert (age.accuracy.value, age.within_one.value, age.mean_error, result.missed) == (0.5, 0.5, 0.0, 1)


def test_the_command(tmp_path, root, exported):  # noqa: F811
    arguments = ("evaluate", "utkface", "--model", exported, "--data", root, "--crop", "none")
    ended = nnface(*arguments, "--json", "a.json", "--save", "report", cwd=tmp_path)
    assert ended.code == 0, ended.err
    report = json.loads((tmp_path / "report/report.json").read_text())
    assert report["heads"]["race"]["labels"] == list(FAIRFACE_HEADS_4["race"])
    assert (report["heads"]["race"]["accuracy"]["count"], report["heads"]["age"]["accuracy"]["count"]) == (5, 6)
    assert "UTKFace" in ended.out and "FairFace" not in (tmp_path / "report/report.html").read_text()
