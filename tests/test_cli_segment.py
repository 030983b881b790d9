"""``nnface segment`` and the parts of ``nnface analyze``, as real processes."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from nnface import draw
from nnface.spec import CELEBAMASK_LABELS
from processes import nnface, nnface_on_terminal
from tiny_models import bright_detector, palette_parser, squares

PORTRAITS = {"a.jpg": (96, 96), "a.png": (120, 80), "sub/b.png": (50, 200)}
HAIR, MOUTH = CELEBAMASK_LABELS.index("hair"), CELEBAMASK_LABELS.index("mouth")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return ["--model", palette_parser(folder / "p.onnx"), "--detector", bright_detector(folder / "d.onnx")]


def portrait(path: Path, width: int, height: int) -> np.ndarray:
    """Write a picture whose lower half is hair, and give its labels."""
    labels = np.zeros((height, width), np.uint8)
    labels[height // 2 :] = HAIR
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), draw.PALETTE[labels][..., ::-1])
    return labels


def labels_of(path: Path) -> np.ndarray:
    image = Image.open(path)
    assert image.mode == "P" and np.array_equal(np.array(image.getpalette()[:57]).reshape(19, 3), draw.PALETTE)
    return np.asarray(image)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_portraits_of_a_folder(tmp_path, models):
    truth = {name: portrait(tmp_path / "in" / name, *size) for name, size in PORTRAITS.items()}
    (tmp_path / "in/bad.jpg").write_text("no picture")
    portrait(tmp_path / "in/tiny.png", 8, 30)
    ended = nnface("segment", "--crop", "none", "--labels", "new/labels", "in", *models[:2], cwd=tmp_path)
    assert ended.code == 1 and len(ended.err.splitlines()) == 2
    rows = {Path(row["file"]).name: row for row in ended.rows}
    assert rows["bad.jpg"]["error"].startswith("in/bad.jpg is not a picture")
    assert rows["tiny.png"]["error"].startswith("in/tiny.png: the chip is 8 x 30; under 10 pixels")
    assert names(tmp_path / "new/labels") == ["a-2.png", "a.png", "sub/b.png"]
    for name, labels in truth.items():
        height, width = labels.shape
        (face,) = rows[Path(name).name]["faces"]
        assert sorted(face) == ["box", "landmarks", "parts", "score"]
        assert (face["box"], face["score"], face["landmarks"]) == ([0, 0, width, height], None, None)
        written = labels_of(tmp_path / "new/labels" / {"a.png": "a-2.png"}.get(name, name.replace(".jpg", ".png")))
        assert written.shape == labels.shape and (written == labels).mean() > 0.93
        counts = np.bincount(written.ravel(), minlength=19)
        assert face["parts"] == {n: c for n, c in zip(CELEBAMASK_LABELS[1:], counts[1:].tolist(), strict=True) if c}


def test_faces_of_photographs(tmp_path, models):
    image = squares(128, 96, (16, 32), (96, 64))
    cv2.imwrite(str(tmp_path / "two.png"), image)
    cv2.imwrite(str(tmp_path / "none.png"), squares(128, 96))
    cv2.imwrite(str(tmp_path / "cut.png"), squares(128, 96, (112, 80)))
    options = ("--labels", "labels", "--draw", "drawn", "--soft", "soft", "--parts", "mouth,skin,ears")
    ended = nnface("segment", "two.png", "none.png", "cut.png", *options, *models, cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    two, none, cut = ended.rows
    assert [face["parts"]["mouth"] for face in two["faces"]] == [pytest.approx(256, abs=40)] * 2
    assert none["faces"] == [] and cut["faces"][0]["parts"]["mouth"] > 150
    truth = image[..., 0] // 255 * MOUTH
    labels = labels_of(tmp_path / "labels/two.png")
    assert (labels != truth).sum() < 60 and not labels_of(tmp_path / "labels/none.png").any()
    assert names(tmp_path / "drawn") == ["cut.faces.jpg", "none.faces.jpg", "two.faces.jpg"]
    cutout = cv2.imread(str(tmp_path / "soft/two.png"), cv2.IMREAD_UNCHANGED)
    seen = cutout[..., 3] > 0
    assert np.array_equal(cutout[seen, :3], image[seen]) and not cutout[~seen].any() and (~seen).any()
    assert cutout[40, 24, 3] > 250 and cutout[72, 104, 3] > 250 and cutout[10, 60, 3] == 0
    assert abs((cutout[..., 3] / 255).sum() - 512) < 80


def test_what_is_there_stays_without_force(tmp_path, models):
    portrait(tmp_path / "a.png", 60, 60)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.png").write_text("mine")
    command = ("segment", "a.png", "--crop", "none", "--labels", "labels", "--draw", "drawn", *models[:2])
    ended = nnface(*command, cwd=tmp_path)
    assert ended.code == 1 and "labels/a.png is there already" in ended.err and "--force" in ended.err
    assert (tmp_path / "labels/a.png").read_text() == "mine"
    assert "parts" in ended.rows[0]["faces"][0] and names(tmp_path / "drawn") == ["a.faces.jpg"]
    assert nnface(*command, "--force", cwd=tmp_path).code == 0
    assert labels_of(tmp_path / "labels/a.png").shape == (60, 60)


def test_a_video_has_a_label_image_a_frame(tmp_path, models):
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (128, 96))
    for number in range(3):
        writer.write(squares(128, 96, (16 + 32 * number, 32)))
    writer.release()
    options = ("--labels", "labels", "--draw", "drawn", "--soft", "soft")
    ended = nnface("segment", "clip.avi", *options, *models, cwd=tmp_path)
    assert ended.code == 1 and ended.err == "nnface: clip.avi: only pictures are cut out, not videos\n"
    assert [row["frame"] for row in ended.rows] == [0, 1, 2]
    assert names(tmp_path / "labels") == [f"clip/00000{number}.png" for number in range(3)]
    assert names(tmp_path / "drawn") == ["clip.faces.mp4"] and names(tmp_path / "soft") == []
    for number in range(3):
        truth = squares(128, 96, (16 + 32 * number, 32))[..., 0] // 255 * MOUTH
        assert (labels_of(tmp_path / f"labels/clip/00000{number}.png") != truth).sum() < 60
    ended = nnface("segment", "clip.avi", "--labels", "labels", *models, cwd=tmp_path)
    assert ended.code == 1 and "000000.png is there already" in ended.err and len(ended.err.splitlines()) == 1


def test_a_terminal_shows_the_largest_parts(tmp_path, models):
    portrait(tmp_path / "a.png", 200, 200)
    ended = nnface_on_terminal("segment", "a.png", "--crop", "none", *models[:2], cwd=tmp_path)
    assert ended.code == 0 and re.search(r"hair (9\d|100)%", ended.out)
    assert names(tmp_path) == ["a.faces.jpg", "a.png"]


def test_analyze_tells_parts_too(tmp_path, models):
    _, parser, _, detector = models
    cv2.imwrite(str(tmp_path / "two.png"), squares(128, 96, (16, 32), (96, 64)))
    ended = nnface("analyze", "two.png", "--model", detector, "--parser", parser, cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert all(
        sorted(face) == ["attributes", "box", "landmarks", "parts", "score"] and face["parts"]["mouth"] > 200
        for face in ended.rows[0]["faces"]
    )
    ended = nnface("analyze", "two.png", "--model", detector, "--no-parts", cwd=tmp_path)
    assert sorted(ended.rows[0]["faces"][0]) == ["attributes", "box", "landmarks", "score"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--labels", "x", "--soft", "x/"], "--labels and --soft both name x; give each a place of its own"),
        (["--parts", "beard", "--soft", "s"], "'beard' is no part; the parts are skin,"),
        (["--model", "absent.onnx"], "absent.onnx"),
        (["--model", "default"], "is a model to detect, not to segment"),
        (["--labels", "a.png"], "cannot make the folder a.png"),
        (["--crop", "auto"], "'auto' is not one of"),
        (["--parts", "lips"], "--parts names what --soft DIR cuts out; give that too"),
        (["--crop", "none"], "--detector has no part in it with --crop none"),
    ],
)
def test_wrong_usage_is_one_sentence_and_2(tmp_path, models, arguments, sentence):
    portrait(tmp_path / "a.png", 60, 60)
    ended = nnface("segment", "a.png", *models, *arguments, cwd=tmp_path)
    assert (ended.code, ended.out) == (2, "") and len(ended.err.splitlines()) == 1 and sentence in ended.err


def test_threads_and_batches_change_nothing(tmp_path, models):
    for number in range(5):
        cv2.imwrite(str(tmp_path / f"{number}.png"), squares(128, 96, *[(16 * n, 32) for n in range(1, 7, number + 1)]))
    runs = []
    for threads, batch in (("1", "1"), ("2", "3")):
        options = ("--json", f"{threads}.jsonl", "--threads", threads, "--batch", batch)
        runs.append(nnface("segment", ".", *options, *models, cwd=tmp_path))
    assert [run.code for run in runs] == [0, 0]
    rows = [[json.loads(line) for line in (tmp_path / f"{n}.jsonl").read_text().splitlines()] for n in (1, 2)]
    assert rows[0] == rows[1] and len(rows[0]) == 5
