"""``nnface data`` tells what is wrong with a FairFace folder, and finds chips that stand in both parts."""

import json

import cv2
import numpy as np
import pytest

from conftest import shared
from faces import fairface, write_labels
from nnface.curate import duplicates
from nnface.curate import fairface as curate
from nnface.datasets import fairface as data
from nnface.image import read
from processes import ENVIRONMENT, nnface


def textured(path, seed):
    """Give a generated chip a texture of its own: drawn faces alone are too much alike."""
    rng = np.random.default_rng(seed)
    image = cv2.imread(str(path)).astype(np.int16)
    noise = cv2.resize(rng.integers(-160, 160, (8, 8, 3)).astype(np.int16), image.shape[1::-1])
    cv2.imwrite(str(path), np.clip(image + noise, 0, 255).astype(np.uint8))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    home = str(tmp_path_factory.mktemp("home"))
    monkeypatch.setenv("NNFACE_HOME", home)
    monkeypatch.setitem(ENVIRONMENT, "NNFACE_HOME", home)


@pytest.fixture
def root(tmp_path):
    root = fairface(tmp_path / "ff", train=30, val=12)
    for number, path in enumerate(sorted(root.glob("*/*.jpg"))):
        textured(path, number)
    return root


def plant(root, source, target, change):
    """Put a changed copy of a train chip into val."""
    image = change(cv2.imread(str(root / "train" / source)))
    cv2.imwrite(str(root / "val" / target), image, [cv2.IMWRITE_JPEG_QUALITY, 60])


def prints(images):
    copies = [duplicates.small(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)) for image in images]
    return duplicates.prints(np.array(copies, np.uint8).reshape(-1, duplicates.SMALL, duplicates.SMALL))


def test_chips_that_were_planted_are_found(root):
    plant(root, "3.jpg", "2.jpg", lambda image: image)  # encoded anew
    plant(root, "7.jpg", "5.jpg", lambda image: cv2.resize(image, (48, 48)))  # and smaller
    plant(root, "9.jpg", "8.jpg", lambda image: cv2.convertScaleAbs(image, alpha=0.9, beta=12))  # and paler
    found = curate.verify(root)
    assert {(a, b) for a, b, _ in found.duplicates} == {
        ("train/3", "val/2"),
        ("train/7", "val/5"),
        ("train/9", "val/8"),
    }
    assert found.problems == []
    assert any("3 pictures of train are nearly the same as one of val (3 of val)" in text for text in found.warnings)
    assert any("train is partial: 30 of 86,744 pictures" in note for note in found.notes)


def test_real_faces_are_not_taken_for_one_another():
    photo = read(shared("reference/photos/nasa_sts131_expedition23_group.jpg"))
    height, width = photo.shape[:2]
    rng = np.random.default_rng(0)
    crops = [
        photo[y : y + 200, x : x + 200]
        for y, x in zip(rng.integers(0, height - 200, 40), rng.integers(0, width - 200, 40), strict=True)
    ]
    again = [cv2.imdecode(cv2.imencode(".jpg", c, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], cv2.IMREAD_COLOR) for c in crops]
    found = {(a, b) for a, b, _ in duplicates.pairs(prints(crops), prints(again))}
    assert found >= {(k, k) for k in range(40)}
    assert all(np.abs(crops[a].astype(int) - crops[b]).mean() < 12 for a, b in found)


def test_pictures_of_one_colour_are_no_pair():
    flat = [np.full((64, 64, 3), v, np.uint8) for v in (0, 128)]
    assert list(duplicates.pairs(prints(flat), prints(flat))) == []
    assert list(duplicates.pairs(prints([]), prints(flat))) == []


def test_a_sound_part_is_partial_and_not_wrong(root, tmp_path):
    (root / "fairface_label_val.csv").unlink()
    ended = nnface("data", "verify", "fairface", "--root", root, cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert "train is partial" in ended.out and "nothing is wrong" in ended.out


def test_what_is_wrong_is_told_at_once(root, tmp_path):
    (root / "train/4.jpg").unlink()
    (root / "train/5.jpg").write_bytes(b"no picture")
    (root / "train/spare.jpg").write_bytes((root / "train/6.jpg").read_bytes())
    write_labels(root, "val", [["val/1.jpg", "9-Apr", "Male", "White", "True"]])
    ended = nnface("data", "verify", "fairface", "--root", root, "--duplicates", "pairs.txt", cwd=tmp_path)
    assert ended.code == 1
    wrong = [line for line in ended.out.splitlines() if line.startswith("error: ")]
    assert [word in line for word, line in zip(["missing", "no label", "cannot be read", "9-Apr"], wrong, strict=True)]
    assert (tmp_path / "pairs.txt").read_text() == ""


def test_mended_labels_are_noted(root):
    rows = [["val/1.jpg", "9-Mar", "Male", "White", "TRUE"]]
    write_labels(root, "val", rows)
    found = curate.verify(root, pixels=False)
    assert any("9-Mar to 3-9 (1 times)" in note for note in found.notes)


def test_statistics_are_counts(root, tmp_path):
    ended = nnface("data", "show", "fairface", "--root", root, "--save", "shown", cwd=tmp_path)
    assert ended.code == 0, ended.err
    counts = json.loads((tmp_path / "shown/data.json").read_text())
    samples = data.read(root)
    assert counts["train"]["pictures"] == 30 == sum(counts["train"]["age"].values())
    assert counts["train"]["race"]["White"] == sum(s.labels["race"] == 0 for s in samples)
    assert (tmp_path / "shown/data.html").read_text().count("data:image/png;base64,") == 8


def test_what_is_not_there(tmp_path):
    ended = nnface("data", "verify", "fairface", "--root", tmp_path, cwd=tmp_path)
    assert ended.code == 2 and "holds neither fairface_label_train.csv nor" in ended.err
    ended = nnface("data", "verify", "widerface", "--root", tmp_path, cwd=tmp_path)
    assert ended.code == 2 and "holds no pictures of WIDER FACE" in ended.err
