"""``nnface data verify|show`` on WIDER FACE in its published layouts: what is wrong is told, what is sound is not."""

import json
import re
import shutil
import sqlite3
import tarfile
from contextlib import closing

import cv2
import numpy as np
import pytest

from browser import Page
from conftest import shared
from faces import fairface
from generated import scene, widerface
from nnface.curate import fairface as curate_fairface
from nnface.curate import pictures
from nnface.curate import widerface as curate
from nnface.curate.pictures import Cache, look
from nnface.image import read
from processes import ENVIRONMENT, nnface

TEXT = "wider_face_split/wider_face_train_bbx_gt.txt"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    home = str(tmp_path_factory.mktemp("home"))
    monkeypatch.setenv("NNFACE_HOME", home)
    monkeypatch.setitem(ENVIRONMENT, "NNFACE_HOME", home)


@pytest.fixture
def root(tmp_path):
    """Train, val and test in the official layout, with the list of test."""
    root = widerface(tmp_path / "wider", 8, seed=1)
    widerface(root, 6, seed=2, split="val")
    names = [f"0--Parade/test_{i}.jpg" for i in range(3)]
    rng = np.random.default_rng(3)
    for name in names:
        path = root / "WIDER_test/images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), scene(rng)[0])
    (root / "wider_face_split/wider_face_test_filelist.txt").write_text("\n".join(names) + "\n")
    return root


def picture(root, number, split="train"):
    return root / f"WIDER_{split}/images/0--Parade/picture_{number}.jpg"


def test_a_sound_part_is_partial(root, tmp_path):
    ended = nnface("data", "verify", "widerface", "--root", root, cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert "note: train is partial: 8 of 12,880 pictures" in lines
    assert "note: val is partial: 6 of 3,226 pictures" in lines
    assert "note: test is partial: 3 of 16,097 pictures" in lines
    assert lines[-1].endswith("nothing is wrong")
    assert not any(line.startswith(("error", "warning")) for line in lines)


def test_counts_are_compared_with_the_published_ones(root, monkeypatch):
    text = (root / TEXT).read_text().splitlines()
    rows = len(text) - 2 * 8
    monkeypatch.setitem(curate.COUNTS, "train", (8, rows))
    assert f"train is complete: 8 pictures, {rows} rows" in curate.verify(root, pixels=False).notes
    monkeypatch.setitem(curate.COUNTS, "train", (8, rows + 1))
    assert (
        f"train is partial: all 8 pictures, but {rows} of {rows + 1} rows of boxes"
        in curate.verify(root, pixels=False).notes
    )


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_complete_official_texts(split, tmp_path):
    with tarfile.open(shared("data/widerface-annotations.tar.xz")) as archive:
        archive.extractall(tmp_path / "texts", filter="data")
    (found,) = (tmp_path / "texts").rglob(f"wider_face_{split}_bbx_gt.txt")
    widerface(tmp_path / "set", 1, split=split)
    found.replace(tmp_path / f"set/wider_face_split/wider_face_{split}_bbx_gt.txt")
    pictures, rows = curate.COUNTS[split]
    notes = curate.verify(tmp_path / "set", pixels=False).notes
    assert f"{split} is complete: {pictures:,} pictures, {rows:,} rows" in notes


def truncate(path):
    path.write_bytes(path.read_bytes()[:-300])


def labels(change):
    return lambda root: (root / TEXT).write_text(change((root / TEXT).read_text()))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda root: picture(root, 3).unlink(), "train: 1 labelled pictures are missing, the first"),
        (
            lambda root: truncate(picture(root, 3)),
            "train: 1 pictures cannot be read; the first: .*picture_3.jpg is trunc",
        ),
        (lambda root: picture(root, 2).write_bytes(b"<html>quota</html>"), "picture_2.jpg is not a picture"),
        (lambda root: picture(root, 2).write_bytes(b""), "picture_2.jpg is empty"),
        (
            lambda root: shutil.copy(picture(root, 2), picture(root, "new")),
            "train: 1 pictures have no label, the first",
        ),
        (labels(lambda text: text.replace("0 0 0 0 0 0\n", "0 0 x 0 0 0\n", 1)), "after line 1: .*malformed"),
        (labels(lambda text: text[: len(text) // 2]), "should have|malformed"),
        (labels(lambda text: text.replace("0--Parade/picture_4", "../../picture_4")), "leads out of the data set"),
        (labels(lambda text: text + text), "names 8 pictures twice, the first 0--Parade/picture_0"),
        (lambda root: (root / TEXT).unlink(), "train: .*WIDER_train/images is there, and its labels .* are not"),
        (
            lambda root: (root / "wider_face_split/retinaface_train_label.txt").write_text("# a/b.jpg\n1 2 3\n"),
            "retinaface_train_label.txt, line 2",
        ),
        (
            lambda root: cv2.imwrite(str(picture(root, 0)), cv2.resize(read(picture(root, 0)), (40, 30))),
            "boxes lie outside of their picture, the first in 0--Parade/picture_0; the labels do not fit",
        ),
        (lambda root: (root / "ground_truth").mkdir(), "wider_face_val.mat is not there"),
        (lambda root: picture(root, 1, "test").symlink_to(root / "gone"), "test: .*(missing|no label)"),
    ],
)
def test_what_is_wrong_is_told(root, damage, words):
    damage(root)
    problems = curate.verify(root).problems
    assert any(re.search(words, problem) for problem in problems), problems


def test_what_is_wrong_gives_exit_code_1(root, tmp_path):
    truncate(picture(root, 3))
    ended = nnface("data", "verify", "widerface", "--root", root, "--json", "found.json", cwd=tmp_path)
    found = json.loads((tmp_path / "found.json").read_text())
    assert ended.code == 1 and len(found["problems"]) == 1
    assert ended.out.splitlines()[0] == f"error: {found['problems'][0]}"
    assert "nothing is wrong" not in ended.out


def test_a_split_without_any_picture_is_partial(root):
    shutil.rmtree(root / "WIDER_val")
    found = curate.verify(root)
    assert found.problems == []
    assert any("val is partial: wider_face_val_bbx_gt.txt is there, and no picture" in note for note in found.notes)


def test_the_layout_of_retinaface(root, tmp_path):
    other = tmp_path / "retina"
    other.mkdir()
    (root / "WIDER_train").rename(other / "train")
    (root / "wider_face_split/retinaface_train_label.txt").rename(other / "train/label.txt")
    assert curate.verify(other).problems == []
    picture_ = other / "train/images/0--Parade/picture_3.jpg"
    truncate(picture_)
    assert "cannot be read" in curate.verify(other).problems[0]


def test_pictures_in_two_splits_are_found(root, tmp_path):
    shutil.copy(picture(root, 0), picture(root, 2, "val"))  # the same file
    again = cv2.resize(read(picture(root, 4)), (300, 225))  # smaller, and encoded anew
    cv2.imwrite(str(picture(root, 3, "val")), again, [cv2.IMWRITE_JPEG_QUALITY, 50])
    paler = cv2.convertScaleAbs(read(picture(root, 5)), alpha=0.9, beta=10)
    cv2.imwrite(str(root / "WIDER_test/images/0--Parade/test_1.jpg"), paler)
    ended = nnface("data", "verify", "widerface", "--root", root, "--duplicates", "pairs.txt", cwd=tmp_path)
    assert ended.code == 0
    pairs = [line.split()[:2] for line in (tmp_path / "pairs.txt").read_text().splitlines()]
    assert {(a.split("/")[0] + a[-1], b.split("/")[0] + b[-1]) for a, b in pairs} == {
        ("train0", "val2"),
        ("train4", "val3"),
        ("train5", "test1"),
    }
    assert "warning: 1 pictures of train are the same file as one of val (1 of val)" in ended.out
    assert "warning: 1 pictures of train are nearly the same as one of val (1 of val)" in ended.out


def test_what_was_seen_is_not_decoded_again(root, monkeypatch):
    truncate(picture(root, 3))
    first = curate.verify(root)
    decoded = []
    monkeypatch.setattr(pictures, "decode_grey", lambda data, path, *rest: decoded.append(path))
    monkeypatch.setattr(pictures.duplicates, "pairs", lambda *prints: decoded.append(prints))
    assert curate.verify(root) == first
    assert decoded == []
    monkeypatch.undo()
    monkeypatch.setenv("NNFACE_HOME", str(root / "elsewhere"))
    assert curate.verify(root) == first


def test_a_picture_that_changed_is_seen_anew(root):
    assert curate.verify(root).problems == []
    truncate(picture(root, 3))
    assert "picture_3.jpg is truncated" in curate.verify(root).problems[0]
    cv2.imwrite(str(picture(root, 3)), np.full((240, 320, 3), 90, np.uint8))
    assert curate.verify(root).problems == []
    assert curate.verify(root, again=True).problems == []


def test_a_damaged_or_forbidden_cache_does_no_harm(root, tmp_path, monkeypatch):
    first = curate.verify(root)
    (cache,) = pictures.home().glob("verified/*.sqlite")
    cache.write_bytes(b"no database" * 100)
    assert curate.verify(root) == first
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NNFACE_HOME", str(tmp_path / "file"))
    assert curate.verify(root) == first


@pytest.mark.parametrize("table", ["seen", "copies", "pairs"])
def test_a_cache_with_a_damaged_table_does_no_harm(root, tmp_path, table):
    shutil.copy(picture(root, 0), picture(root, 2, "val"))
    again = cv2.resize(read(picture(root, 4)), (300, 225))
    cv2.imwrite(str(picture(root, 3, "val")), again, [cv2.IMWRITE_JPEG_QUALITY, 50])
    first = curate.verify(root)
    assert len(first.duplicates) == 2
    (cache,) = pictures.home().glob("verified/*.sqlite")
    with closing(sqlite3.connect(cache)) as data, data:
        data.execute("DELETE FROM pairs")  # so that the copies are asked for
        (page,) = data.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
        (size,) = data.execute("PRAGMA page_size").fetchone()
    content = bytearray(cache.read_bytes())
    content[(page - 1) * size : page * size] = b"\xff" * size
    cache.write_bytes(content)
    assert curate.verify(root) == first
    ended = nnface("data", "verify", "widerface", "--root", root, cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")


def test_a_cache_that_another_process_keeps_locked_does_no_harm(root):
    first = curate.verify(root)
    (file,) = pictures.home().glob("verified/*.sqlite")
    paths = [picture(root, number) for number in range(8)]
    with Cache(root) as cache, closing(sqlite3.connect(file)) as other:
        cache._data.execute("PRAGMA busy_timeout = 0")
        other.execute("BEGIN EXCLUSIVE")
        seen = look(paths, cache)
        assert [one.path for one in seen] == paths and not any(one.problem for one in seen)
        assert len(cache.known()) == 8
    assert curate.verify(root) == first


def test_looking_is_as_strict_as_reading(tmp_path):
    """Whatever read refuses, a look at a reduced scale refuses too, wherever a JPEG is cut."""
    image = scene(np.random.default_rng(0))[0]
    for progressive in (0, 1):
        _, whole = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive])
        paths = []
        for end in np.linspace(1, len(whole), 25).astype(int):
            paths.append(tmp_path / f"{progressive}_{end}.jpg")
            paths[-1].write_bytes(whole.tobytes()[:end])
        with Cache(tmp_path) as cache:
            seen = look(paths, cache)
        assert [bool(one.problem) for one in seen] == [True] * 24 + [False]
        assert (seen[-1].width, seen[-1].height) == (320, 240)


def test_the_shared_data_is_sound(tmp_path):
    with tarfile.open(shared("data/widerface-dev.tar")) as archive:
        wanted = [member for member in archive if "WIDER_train/" not in member.name and "_train_" not in member.name]
        archive.extractall(tmp_path, wanted, filter="data")
    (root,) = tmp_path.glob("widerface*")
    shutil.rmtree(root / "WIDER_train", ignore_errors=True)
    found = curate.verify(root)
    assert found.problems == [] and found.duplicates == []
    assert "val is partial: 100 of 3,226 pictures" in found.notes


def test_the_page_in_a_browser(root, tmp_path):
    odd = "0--Parade/<img src=x onerror=alert(1)>&'$.jpg"
    text = (root / TEXT).read_text().replace("0--Parade/picture_0.jpg", odd)
    (root / TEXT).write_text(text)
    picture(root, 0).rename(root / "WIDER_train/images" / odd)
    ended = nnface("data", "show", "widerface", "--root", root, "--save", tmp_path / "shown", cwd=tmp_path)
    assert ended.code == 0, ended.err
    counts = json.loads((tmp_path / "shown/data.json").read_text())
    assert counts["train"]["pictures"] == 8 and counts["train"]["sizes"] == {"320x240": 8}
    assert sum(counts["train"]["heights"].values()) == counts["train"]["faces"]
    assert sum(counts["val"]["faces_per_picture"].values()) == 6
    assert {p.name for p in (tmp_path / "shown").glob("*.png")} == {
        f"{split}_{what}.png" for split in ("train", "val") for what in ("heights", "faces_per_picture", "samples")
    }
    _check_page(tmp_path / "shown/data.html", tmp_path / "profile", 6)


def test_the_page_about_fairface_in_a_browser(tmp_path):
    curate_fairface.save(fairface(tmp_path / "ff", 12, 6), tmp_path / "shown")
    _check_page(tmp_path / "shown/data.html", tmp_path / "profile", 8)


def _check_page(path, profile, images):
    page = Page(path.as_uri(), profile)
    try:
        sizes = page.evaluate("[...document.images].map(i => i.complete && i.naturalWidth)")
        assert len(sizes) == images and min(sizes) > 300
        assert page.complaints == []
        assert [url for url in page.requests if not url.startswith("data:")] == [path.as_uri()]
        assert page.evaluate("document.querySelectorAll('table tbody tr').length") > 20
    finally:
        page.close()
