import json
import tarfile

import numpy as np
import pytest

from conftest import shared
from generated import coco as write_coco
from generated import widerface as make_widerface
from nnface.datasets import widerface
from nnface.datasets.interchange import coco
from nnface.datasets.samples import is_chosen, split
from nnface.errors import DataError


def test_official_layout(tmp_path):
    samples = widerface.read(make_widerface(tmp_path))
    assert [s.key for s in samples] == [f"0--Parade/picture_{i}" for i in range(12)]
    assert len(samples[1].boxes) == 0
    for sample in samples:
        centres = (sample.boxes[:, :2] + sample.boxes[:, 2:]) / 2
        assert np.allclose(sample.landmarks[:, 2, 0], centres[:, 0], atol=1)  # the nose is in the middle
        assert (sample.landmarks[:, 0, 0] < sample.landmarks[:, 1, 0]).all()


def test_coco_gives_the_same(tmp_path):
    samples = widerface.read(make_widerface(tmp_path))
    again = coco.read(write_coco(tmp_path / "faces.json", samples))
    for a, b in zip(samples, again, strict=True):
        assert (a.key, a.path) == (b.key, b.path)
        np.testing.assert_allclose(a.boxes, b.boxes)
        np.testing.assert_allclose(a.landmarks, b.landmarks)


def test_invalid_faces_are_ignored_and_boxes_without_area_left_out(tmp_path):
    root = make_widerface(tmp_path, 2)
    text = root / "wider_face_split" / "wider_face_train_bbx_gt.txt"
    rows = ["10 20 30 40 0 0 0 0 0 0", "1 2 30 30 2 0 0 1 2 0", "5 5 0 9 0 0 0 0 0 0"]
    text.write_text("\n".join(["0--Parade/picture_0.jpg", "3", *rows]) + "\n")
    (sample,) = widerface.read(root)
    assert sample.boxes.tolist() == [[10, 20, 40, 60], [1, 2, 31, 32]]
    assert sample.ignored.tolist() == [False, True]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("0--Parade/picture_0.jpg\nthree\n", "after line 1"),
        ("0--Parade/picture_0.jpg\n2\n1 2 3 4 0 0 0 0 0 0\n", "after line 1"),
        ("0--Parade/picture_0.jpg\n1\n1 2 x 4\n", "after line 1"),
        ("0--Parade/picture_0.jpg\n1\n1 2 nan 4 0 0 0 0 0 0\n", "after line 1"),
        ("1 2 3 4 0 0\n", "line 1: expected a picture's name"),
        ("9--Nowhere/other.jpg\n1\n1 2 3 4 0 0 0 0 0 0\n", "none of the pictures"),
    ],
)
def test_malformed_texts_are_named(tmp_path, content, words):
    root = make_widerface(tmp_path, 2)
    (root / "wider_face_split" / "wider_face_train_bbx_gt.txt").write_text(content)
    with pytest.raises(DataError, match=words):
        widerface.read(root)


def test_the_layout_of_retinaface_labels(tmp_path):
    official = widerface.read(make_widerface(tmp_path / "official"))
    folder = tmp_path / "other" / "train"
    folder.mkdir(parents=True)
    (tmp_path / "official" / "WIDER_train" / "images").rename(folder / "images")
    (tmp_path / "official" / "wider_face_split" / "retinaface_train_label.txt").rename(folder / "label.txt")
    for a, b in zip(official, widerface.read(tmp_path / "other"), strict=True):
        assert a.key == b.key
        assert b.path.exists()
        np.testing.assert_allclose(a.boxes, b.boxes, atol=1)
        np.testing.assert_allclose(a.landmarks, b.landmarks)
        assert not b.ignored.any()
    (folder / "label.txt").write_text("# 0--Parade/nobody.jpg\n1 2 3 4\n")
    with pytest.raises(DataError, match="none of the pictures"):
        widerface.read(tmp_path / "other")


def test_folder_without_labels(tmp_path):
    with pytest.raises(DataError, match=r"wider_face_train_bbx_gt\.txt is not there"):
        widerface.read(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("not json", "is not JSON"),
        (json.dumps({"images": [{"file_name": "a.jpg"}]}), "picture 0 of its list needs an id and a file_name"),
        (json.dumps({"images": [{"id": 1}]}), "picture 0 of its list needs an id and a file_name"),
        (json.dumps({"images": [{"id": [1], "file_name": "a.jpg"}]}), "picture 0 of its list needs an id"),
        (json.dumps({"images": ["a.jpg"]}), "picture 0 of its list needs an id"),
        (json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}] * 2}), "two pictures have the id 1"),
        (json.dumps({"images": [], "annotations": [{"image_id": {}}]}), "annotation 0 of its list belongs to no"),
        (json.dumps({"images": [], "annotations": {}}), "annotations are no list"),
        (
            json.dumps(
                {
                    "images": [{"id": 1, "file_name": "a.jpg"}],
                    "annotations": [{"image_id": 1, "bbox": [1, 2, 3, 1e999]}],
                }
            ),
            "no bbox of four numbers",
        ),
        (
            json.dumps(
                {
                    "images": [{"id": 1, "file_name": "a.jpg"}],
                    "annotations": [{"image_id": 1, "bbox": [1, 2, 3, 4], "keypoints": ["x"] * 15}],
                }
            ),
            "keypoints that are no numbers",
        ),
        ("[]", "no list of images"),
        (json.dumps({"images": [], "annotations": [{"id": 1, "image_id": 7, "bbox": [0, 0, 1, 1]}]}), "no picture"),
        (
            json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "bbox": [1]}]}),
            "no bbox of four numbers",
        ),
        (
            json.dumps(
                {
                    "images": [{"id": 1, "file_name": "a.jpg"}],
                    "annotations": [{"image_id": 1, "bbox": [50, 50, -20, 9]}],
                }
            ),
            "negative width or height",
        ),
        (json.dumps({"images": [{"id": 1, "file_name": "absent.jpg"}]}), "its picture 'absent.jpg' is not there"),
        (json.dumps({"images": [{"id": 1, "file_name": "\ud800.jpg"}]}), "is not there"),
        ("[" * 200_000, "is not JSON"),
    ],
)
def test_malformed_coco(tmp_path, content, words):
    path = tmp_path / "a.json"
    path.write_text(content)
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=words):
        coco.read(path)


def test_coco_as_editors_of_windows_save_it(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"")
    rows = [{"image_id": 1, "bbox": [1, 2, 3, 4]}, {"image_id": 1, "bbox": [1, 2, 0, 4]}]
    (tmp_path / "a.json").write_text(
        json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": rows}), encoding="utf-8-sig"
    )
    (sample,) = coco.read(tmp_path / "a.json")
    assert sample.path == tmp_path / "images" / "a.jpg"
    assert sample.boxes.tolist() == [[1, 2, 4, 6]]


@pytest.mark.parametrize(
    "names, kept",
    [
        (["person", "Face", "car"], [1]),
        (["person", "head", "car"], [0, 1, 2]),
        (["face", "FACE", "car"], [0, 1, 2]),
        (["face"], [0, 1, 2]),  # ids that are not listed are taken for faces, as without a list
        (None, [0, 1, 2]),
        ("face", [0, 1, 2]),
    ],
)
def test_coco_of_several_categories(tmp_path, names, kept):
    (tmp_path / "a.jpg").write_bytes(b"")
    rows = [{"image_id": 1, "category_id": i + 3, "bbox": [i, 2, 3, 4]} for i in range(3)]
    content = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": rows, "categories": names}
    if isinstance(names, list):
        content["categories"] = [{"id": i + 3, "name": name} for i, name in enumerate(names)]
    (tmp_path / "a.json").write_text(json.dumps(content))
    (sample,) = coco.read(tmp_path / "a.json")
    assert sample.boxes[:, 0].tolist() == kept


def test_coco_wants_a_file(tmp_path):
    with pytest.raises(DataError, match="is a folder; coco wants the JSON file"):
        coco.read(tmp_path)


def test_a_tenth_is_kept_for_choosing():
    assert 80 < sum(is_chosen(f"event/name_{i}") for i in range(1000)) < 120


def test_the_real_text_of_val(tmp_path):
    with tarfile.open(shared("data/widerface-annotations.tar.xz")) as archive:
        archive.extractall(tmp_path, filter="data")
    rows = list(widerface.read_boxes(tmp_path / "wider_face_val_bbx_gt.txt"))
    assert len(rows) == 3226
    assert sum(len(boxes) for _, boxes, _ in rows) == 39697  # of 39,708 rows, 11 have no area


def test_split_is_a_partition(tmp_path):
    samples = widerface.read(make_widerface(tmp_path))
    train, chosen = split(samples)
    assert sorted(s.key for s in train + chosen) == sorted(s.key for s in samples)
    assert chosen
