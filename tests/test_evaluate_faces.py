"""``nnface evaluate faces``: a detector on labelled pictures of one's own."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from nnface import Detector
from nnface.datasets.interchange import coco
from nnface.datasets.samples import DetectionSample
from nnface.evaluation.widerface import run
from nnface.metrics import wider
from processes import nnface

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def labelled(name: str, boxes: np.ndarray) -> DetectionSample:
    return DetectionSample(
        key=name,
        path=EXAMPLES / f"{name}.jpg",
        boxes=boxes,
        landmarks=np.full((len(boxes), 5, 2), np.nan, np.float32),
        ignored=np.zeros(len(boxes), bool),
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A crew of 7 of whom 6 are labelled, Solvay's 29 and one more where nobody is, and a cup of coffee."""
    crew, solvay = (Detector("default")(EXAMPLES / f"{name}.jpg").boxes for name in ("nasa_sts106_crew", "solvay_1927"))
    assert (len(crew), len(solvay)) == (7, 29)
    nobody = np.array([[0, 0, 60, 60]], np.float32)
    truth = [("nasa_sts106_crew", crew[:6]), ("solvay_1927", np.concatenate([solvay, nobody])), ("coffee", nobody[:0])]
    path = tmp_path_factory.mktemp("own") / "own.json"
    coco.write(path, [labelled(name, boxes) for name, boxes in truth])
    return path


def test_it_says_what_is_right_and_what_is_found(data: Path, tmp_path: Path) -> None:
    command = ("evaluate", "faces", "--data", f"coco:{data}", "--all", "--json", "figures.json", "--save", "report")
    ended = nnface(*command, "--compare", "default", cwd=tmp_path)
    assert ended.code == 0
    told = json.loads((tmp_path / "figures.json").read_text())
    assert (told["precision"], told["recall"]) == (pytest.approx(35 / 36), pytest.approx(35 / 36))
    assert told["better_than"]["default"]["hard"] == [0, 0, 0]
    detector = Detector("default", min_score=0.02)
    samples = coco.read(data)
    found = dict(
        run(lambda images: [(f.boxes, f.scores) for f in detector.batch(images)], {s.key: s.path for s in samples})
    )
    truth = wider.by_height({s.key: s.boxes for s in samples})
    assert told["hard"] == pytest.approx(wider.score(found, truth)["hard"].average_precision)
    assert "right, of the boxes" in " ".join(ended.out.split()) and "97.2" in ended.out
    assert "WIDER" not in (tmp_path / "report/report.html").read_text().split("</h1>")[0]


def test_the_part_that_no_training_sees_is_measured_by_default(data: Path, tmp_path: Path) -> None:
    ended = nnface("evaluate", "faces", "--data", f"coco:{data}", cwd=tmp_path)
    assert ended.code == 2 and "has no picture to measure on" in ended.err
    own = tmp_path / "own"
    for part in ("train", "val"):
        (own / "images" / part).mkdir(parents=True)
        (own / "labels" / part).mkdir(parents=True)
        name = "astronaut" if part == "val" else "coffee"
        cv2.imwrite(str(own / f"images/{part}/{name}.png"), cv2.imread(str(EXAMPLES / f"{name}.jpg")))
    (own / "labels/val/astronaut.txt").write_text("0 0.44 0.23 0.2 0.28\n")
    (own / "labels/train/coffee.txt").write_text("")
    ended = nnface("evaluate", "faces", "--data", f"yolo:{own}", "--protocol", "320", "--json", "-", cwd=tmp_path)
    assert ended.code == 0 and json.loads(ended.out)["easy"] == 1
    # A picture of the same name in the other part, whose face nobody labelled.
    shutil.copy(own / "images/val/astronaut.png", own / "images/train")
    (own / "labels/train/astronaut.txt").write_text("")
    command = ("evaluate", "faces", "--data", f"yolo:{own}", "--protocol", "320", "--json")
    for more, right in (((), 1), (("--all",), 0.5)):
        ended = nnface(*command, "-", *more, cwd=tmp_path)
        assert json.loads(ended.out)["precision"] == right


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--data", "celebamask:x"), "is no data for a model to detect; give widerface:PATH or coco:PATH"),
        (("--data", "coco:absent.json"), "absent.json"),
        (("--data", "coco:{data}", "--all", "--protocol", "huge"), "no protocol 'huge'"),
        (("--data", "coco:{data}", "--all", "--model", "parser"), "parser"),
    ],
)
def test_what_cannot_be_measured_gets_one_sentence(
    data: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    ended = nnface("evaluate", "faces", *(text.format(data=data) for text in arguments), cwd=tmp_path)
    assert ended.code == 2 and len(ended.err.splitlines()) == 1 and words in ended.err
