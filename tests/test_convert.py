"""``nnface data convert|label``: boxes go through every format and back, and none is lost."""

import json
import re
import tarfile
from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import shared
from generated import draw_face, scene
from generated import widerface as make_widerface
from nnface.curate import convert
from nnface.curate.convert import Place, place
from nnface.datasets import widerface
from nnface.datasets.interchange import coco, voc, yolo
from nnface.datasets.samples import DetectionSample, empty_landmarks
from nnface.errors import DataError, NnfaceError, UsageError
from nnface.image import read
from processes import nnface

FORMATS = ("coco", "yolo", "voc", "widerface")
WIDTH, HEIGHT = 320, 240


def where(folder, name):
    return Place(name=name, path=folder / "faces.json" if name == "coco" else folder)


def check_same(one, other, landmarks=0.05):
    """Every box, landmark and ignore region of the first is in the second, whatever the order."""
    found = {sample.key: sample for sample in other}
    assert found.keys() == {sample.key for sample in one}
    for sample in one:
        again = found[sample.key]
        assert len(again.boxes) == len(sample.boxes)
        assert again.path.samefile(sample.path)
        left = list(range(len(again.boxes)))
        for box, points, ignored in zip(sample.boxes, sample.landmarks, sample.ignored, strict=True):
            same = [i for i in left if again.ignored[i] == ignored and np.abs(again.boxes[i] - box).max() <= 0.5]
            same = [i for i in same if np.allclose(again.landmarks[i], points, atol=landmarks, equal_nan=True)] or same
            assert same, (sample.key, box)
            left.remove(same[0])
            assert np.allclose(again.landmarks[same[0]], points, atol=landmarks, equal_nan=True)


@st.composite
def faces(draw):
    """A picture's boxes, whole or not, points (some faces have none), and ignore regions."""
    whole = draw(st.booleans())
    boxes, points, ignored = [], [], []
    for _ in range(draw(st.integers(0, 6))):
        x, y = draw(st.floats(0, WIDTH - 8)), draw(st.floats(0, HEIGHT - 8))
        box = np.array([x, y, x + draw(st.floats(2, WIDTH - x)), y + draw(st.floats(2, HEIGHT - y))])
        boxes.append(np.round(box) if whole else box)
        known = draw(st.booleans())
        shares = draw(st.lists(st.floats(0, 1), min_size=10, max_size=10))
        inside = box[:2] + np.array(shares).reshape(5, 2) * (box[2:] - box[:2])
        points.append(inside if known else np.full((5, 2), np.nan))
        ignored.append(draw(st.booleans()))
    # Landmarks are joined to the official text by boxes that are the same to a pixel: no two may be.
    spread = [b for i, b in enumerate(boxes) if all(np.abs(b - o).max() > 2.5 for o in boxes[:i])]
    keep = [i for i, b in enumerate(boxes) if any(b is s for s in spread)]
    return (
        np.array(boxes, np.float32).reshape(-1, 4)[keep],
        np.array(points, np.float32).reshape(-1, 5, 2)[keep],
        np.array(ignored, bool)[keep],
    )


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(3):
        cv2.imwrite(str(folder / f"{number}.jpg"), scene(np.random.default_rng(number), WIDTH, HEIGHT)[0])
    return sorted(folder.iterdir())


@settings(max_examples=12)
@given(some=st.lists(faces(), min_size=1, max_size=3), chain=st.permutations(FORMATS))
def test_no_box_is_lost_on_any_way(some, chain, photographs, tmp_path_factory):
    samples = [
        DetectionSample(key=f"{n}--Event/p.{n}", path=photographs[n], boxes=b, landmarks=p, ignored=i)
        for n, (b, p, i) in enumerate(some)
    ]
    places = [where(tmp_path_factory.mktemp(name), name) for name in chain]
    convert.write(places[0], "train", samples)
    for source, target in pairwise(places):
        convert.convert(source, target)
        check_same(samples, convert.read(target, "train"))


@pytest.mark.parametrize("middle", ["coco", "yolo", "voc"])
def test_wider_there_and_back_in_processes(middle, tmp_path):
    root = make_widerface(tmp_path / "wider", 6)
    text = root / "wider_face_split/wider_face_train_bbx_gt.txt"
    text.write_text(text.read_text().replace(" 0 0 0 0 0 0\n", " 2 0 0 1 0 0\n", 1))
    samples = widerface.read(root)
    assert sum(int(s.ignored.sum()) for s in samples) == 1
    there = f"{middle}:{'faces.json' if middle == 'coco' else 'there'}"
    for source, target in ((f"widerface:{root}", there), (there, "widerface:back")):
        ended = nnface("data", "convert", source, target, cwd=tmp_path)
        assert (ended.code, ended.err) == (0, "")
        faces = sum(len(s.boxes) for s in samples)
        assert ended.out == f"train: 6 pictures, {faces - 1} faces, 1 ignore regions, {faces} with landmarks\n"
    check_same(samples, widerface.read(tmp_path / "back"))


def test_the_real_wider_through_all(tmp_path):
    with tarfile.open(shared("data/widerface-dev.tar")) as archive:
        archive.extractall(tmp_path, [m for m in archive if "val" in m.name], filter="data")
    (root,) = tmp_path.glob("widerface*")
    for split in ("val", "val416"):
        samples = widerface.read(root, split)
        last = Place(name="widerface", path=root)
        for name in ("yolo", "voc", "widerface"):
            target = where(tmp_path / f"{split}_{name}", name)
            convert.convert(last, target, split=split)
            last = target
        check_same(samples, convert.read(last, split))


def test_all_splits_go_into_a_folder_and_one_into_a_coco_file(tmp_path):
    root = make_widerface(tmp_path / "wider", 3)
    make_widerface(root, 2, seed=1, split="val")
    ended = nnface("data", "convert", f"widerface:{root}", "yolo:y", cwd=tmp_path)
    assert [line.split(",")[0] for line in ended.out.splitlines()] == ["train: 3 pictures", "val: 2 pictures"]
    yaml = (tmp_path / "y/data.yaml").read_text()
    assert "train: images/train\nval: images/val\n" in yaml and "kpt_shape: [5, 3]" in yaml
    ended = nnface("data", "convert", "yolo:y", "coco:c.json", cwd=tmp_path)
    assert ended.out.splitlines()[1].startswith("left out: val")
    ended = nnface("data", "convert", "yolo:y", "coco:c.json", "--split", "val", "--force", cwd=tmp_path)
    assert len(coco.read(tmp_path / "c.json")) == 2
    assert voc.splits(tmp_path) == []


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("fairface:x", "coco:c.json", "FairFace has labels of whole pictures and no boxes"),
        ("widerface:wider", "celebamask:x", "CelebAMask-HQ has label images and no boxes"),
        ("widerface", "coco:c.json", "'widerface' is not NAME:PATH"),
        ("tfrecord:x", "coco:c.json", "one of widerface, coco, yolo, voc"),
        ("widerface:nowhere", "coco:c.json", "nowhere holds no data in the form of widerface"),
        ("coco:nowhere.json", "yolo:y", "cannot read nowhere.json"),
        ("widerface:wider", "coco:nowhere/c.json", "the folder nowhere does not exist"),
        ("widerface:wider", "yolo:full", "full/labels/train is there already"),
        ("widerface:wider", "voc:v", None),
        ("widerface:wider", "voc:v", "train.txt is there already and was left as it is; --force replaces it"),
    ],
)
def test_what_cannot_be_converted(source, target, words, folder):
    ended = nnface("data", "convert", source, target, cwd=folder)
    assert ended.code == (2 if words else 0)
    assert (words or "") in ended.err and ended.err.count("\n") == bool(words)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("convert")
    make_widerface(folder / "wider", 2)
    (folder / "full/labels/train").mkdir(parents=True)
    return folder


def test_pictures_are_linked_or_copied(tmp_path):
    root = make_widerface(tmp_path / "wider", 2)
    source = Place(name="widerface", path=root)
    convert.convert(source, where(tmp_path / "linked", "yolo"))
    convert.convert(source, where(tmp_path / "copied", "yolo"), copy=True)
    inside = "images/train/0--Parade/picture_0.jpg"
    original = root / "WIDER_train/images/0--Parade/picture_0.jpg"
    assert (tmp_path / "linked" / inside).is_symlink()
    assert not (tmp_path / "copied" / inside).is_symlink()
    assert (tmp_path / "copied" / inside).read_bytes() == original.read_bytes()
    # Force replaces labels and leaves pictures; other pictures under a name are not overwritten.
    convert.convert(source, where(tmp_path / "copied", "yolo"), force=True)
    (tmp_path / "copied" / inside).write_bytes(b"mine")
    with pytest.raises(NnfaceError, match="is there already and is not"):
        convert.convert(source, where(tmp_path / "copied", "yolo"), force=True)
    assert (tmp_path / "copied" / inside).read_bytes() == b"mine"
    (tmp_path / "linked/images/train/more.jpg").write_bytes(b"")
    with pytest.raises(NnfaceError, match=r"holds other data, such as more\.jpg"):
        convert.convert(source, where(tmp_path / "linked", "yolo"), force=True)


def test_names_that_meet_or_lead_out(photographs, tmp_path):
    def sample(key, path):
        return DetectionSample(
            key=key, path=path, boxes=np.zeros((0, 4)), landmarks=empty_landmarks(0), ignored=np.zeros(0, bool)
        )

    with pytest.raises(DataError, match="would both be named A"):
        yolo.write(tmp_path / "y", "train", [sample("a", photographs[0]), sample("A", photographs[1])])
    voc.write(tmp_path / "v", "train", [sample("../../x/a", photographs[0]), sample("/etc/b", photographs[1])])
    assert sorted(p.name for p in (tmp_path / "v/JPEGImages").iterdir()) == ["b.jpg", "x"]
    (tmp_path / "c.bmp").write_bytes(b"")
    with pytest.raises(DataError, match=r"c\.bmp is none of \.jpg, \.png, \.webp, which this format has"):
        widerface.write(tmp_path / "w", "train", [sample("c", tmp_path / "c.bmp")])
    jpeg = (tmp_path / "d.JPEG").resolve()
    jpeg.write_bytes(photographs[0].read_bytes())
    widerface.write(tmp_path / "w", "train", [sample("d", jpeg)])
    assert [s.key for s in widerface.read(tmp_path / "w")] == ["0--Photos/d"]


def yolo_set(root, text, layout="images"):
    places = {"images": ("images/train", "labels/train"), "roboflow": ("train/images", "train/labels")}
    images, labels = places.get(layout, ("images", "labels") if layout == "flat" else (".", "."))
    for folder in (images, labels):
        (root / folder).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(root / images / "a.png"), np.zeros((100, 200, 3), np.uint8))
    (root / labels / "a.txt").write_text(text)
    return root


@pytest.mark.parametrize("layout", ["images", "roboflow", "flat", "together"])
def test_layouts_and_rows_of_yolo(layout, tmp_path):
    points5 = " ".join(["0.1 0.2"] * 5)
    points3 = " ".join(["0.1 0.2 2"] * 4)
    rows = ["0 0.5 0.5 0.2 0.4", f"1 0.5 0.5 0.1 0.2 {points5}", f"0 0.5 0.5 0.1 0.2 {points3} 0 0 0"]
    (sample,) = yolo.read(yolo_set(tmp_path, "\n".join([*rows, "", f"0 .5 .5 .1 .2{' -1' * 10}"]), layout))
    np.testing.assert_allclose(sample.boxes[:2], [[80, 30, 120, 70], [90, 40, 110, 60]], atol=1e-4)
    assert np.isnan(sample.landmarks).any((1, 2)).tolist() == [True, False, True, True]
    np.testing.assert_allclose(sample.landmarks[1], [[20, 20]] * 5, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 0.5 0.5 0.2", "a.txt, line 1: 4 numbers"),
        ("\n0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "line 2: 8 numbers"),
        ("0 a b c d", "line 1: not a row of numbers"),
        ("0 nan 0.5 0.1 0.1", "line 1"),
        ("0 120 50 40 40", "no share of the picture; divide pixels"),
        ("\xff", "cannot read"),
    ],
)
def test_malformed_rows_of_yolo(text, words, tmp_path):
    root = yolo_set(tmp_path, "")
    (root / "labels/train/a.txt").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=words):
        yolo.read(root)


def test_yolo_that_does_not_fit_together(tmp_path):
    root = yolo_set(tmp_path, "")
    (root / "labels/train/gone.txt").write_text("")
    (root / "labels/train/classes.txt").write_text("face\n")
    with pytest.raises(DataError, match=r"1 texts of .* have no picture in .*, the first gone\.txt"):
        yolo.read(root)
    with pytest.raises(DataError, match="holds no YOLO data for val"):
        yolo.read(root, "val")
    (root / "labels/train/gone.txt").unlink()
    (root / "labels/train/a.txt").unlink()
    assert len(yolo.read(root)[0].boxes) == 0  # a picture without a text is background


def test_trainers_of_the_family_would_take_every_row(photographs, tmp_path):
    """Ultralytics drops a picture with a number outside of 0..1."""
    boxes = np.array([[-10, -10, 400, 300], [300, 5, 340, 40], [-60, 10, -20, 50], [10, 10, 50, 50]], np.float32)
    points = np.full((4, 5, 2), 330, np.float32)
    sample = DetectionSample(key="a", path=photographs[0], boxes=boxes, landmarks=points, ignored=np.zeros(4, bool))
    yolo.write(tmp_path, "train", [sample])
    rows = np.loadtxt(tmp_path / "labels/train/a.txt")
    assert rows.shape == (3, 20) and rows[:, :5].min() >= 0 and rows[:, 1:].reshape(-1)[:4].max() <= 1
    assert np.delete(rows, range(7, 20, 3), 1).max() <= 1
    (again,) = yolo.read(tmp_path)
    np.testing.assert_allclose(again.boxes, [[0, 0, 320, 240], *boxes[[1, 3, 2]]], atol=0.01)
    assert again.ignored.tolist() == [False, False, False, True]


VOC = """<annotation><folder>x</folder><filename>{name}</filename><path>C:\\photos\\a.png</path>
<size><width>200</width><height>100</height><depth>3</depth></size>
<object><name>face</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>{right}</xmax><ymax>40.5</ymax>
</bndbox></object>
<object><name>mask</name><bndbox><ymin>2</ymin><xmin>100</xmin><ymax>30</ymax><xmax>130</xmax></bndbox></object>
</annotation>"""


@pytest.mark.parametrize(("name", "picture"), [("a.png", "a.png"), ("C:\\p\\a.png", "images/a.png"), ("", "a.png")])
def test_what_label_tools_write_is_read(name, picture, tmp_path):
    (tmp_path / picture).parent.mkdir(exist_ok=True)
    cv2.imwrite(str(tmp_path / picture), np.zeros((100, 200, 3), np.uint8))
    (tmp_path / "a.xml").write_text(VOC.format(name=name, right=31))
    (sample,) = voc.read(tmp_path)
    assert sample.boxes.tolist() == [[1, 2, 31, 40.5], [100, 2, 130, 30]]
    assert sample.key == "a" and sample.path == tmp_path / picture and not sample.ignored.any()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<annotation>", "is no XML"),
        ("<html></html>", "is not VOC's form"),
        (VOC.format(name="a.png", right="wide"), "object 1 has no bndbox of four numbers"),
        (VOC.format(name="a.png", right="inf"), "not finite"),
        ('<!DOCTYPE a [<!ENTITY b "cc">]><annotation>&b;</annotation>', "declarations that VOC does not have"),
        (VOC.format(name="b.png", right=31).replace("a.png", ""), "the picture of .* is not there"),
    ],
)
def test_malformed_voc(text, words, tmp_path):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(DataError, match=words):
        voc.read(tmp_path)


def test_lists_of_voc_stay_inside(tmp_path):
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_text("../../etc/a\n")
    with pytest.raises(DataError, match="leads out of the data set"):
        voc.read(tmp_path)


def test_a_list_of_voc_that_is_not_utf8_is_one_sentence(tmp_path):
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_bytes("Müller\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"the list .*train\.txt cannot be read: .*utf-8"):
        voc.read(tmp_path)


def test_names_with_spaces_come_back_from_voc(photographs, tmp_path):
    samples = [
        DetectionSample(
            key=f"my cat {n}",
            path=path,
            boxes=np.zeros((0, 4), np.float32),
            landmarks=empty_landmarks(0),
            ignored=np.zeros(0, bool),
        )
        for n, path in enumerate(photographs[:2])
    ]
    voc.write(tmp_path, "train", samples)
    (tmp_path / "Annotations/my.xml").write_text("<annotation/>")
    assert [sample.key for sample in voc.read(tmp_path)] == ["my cat 0", "my cat 1"]
    lists = tmp_path / "ImageSets/Main/val.txt"
    lists.write_text("a  1\n")  # as VOC's own lists of one class
    (tmp_path / "Annotations/my cat 0.xml").rename(tmp_path / "Annotations/a.xml")
    assert [sample.key for sample in voc.read(tmp_path, "val")] == ["a"]


def test_labels_in_a_coco_file_are_not_lost(tmp_path):
    root = make_widerface(tmp_path / "wider", 1)
    source, target = Place(name="widerface", path=root), Place(name="coco", path=tmp_path / "faces.json")
    target.path.write_text("corrected by hand")
    with pytest.raises(NnfaceError, match="is there already and was left as it is; --force replaces it"):
        convert.convert(source, target)
    assert target.path.read_text() == "corrected by hand"
    convert.convert(source, target, force=True)
    check_same(widerface.read(root), coco.read(target.path))


def test_an_export_without_a_part_for_training_has_none(photographs, tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / "valid" / kind).mkdir(parents=True)
    (tmp_path / "valid/images/a.jpg").symlink_to(photographs[0])
    (tmp_path / "valid/labels/a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "README.dataset.txt").write_text("of a web service\n")
    assert yolo.splits(tmp_path) == ["val"]


def test_coco_names_pictures_so_that_others_find_them(tmp_path):
    root = make_widerface(tmp_path / "wider", 2)
    source = Place(name="widerface", path=root)
    convert.convert(source, Place(name="coco", path=root / "inside.json"))
    (tmp_path / "far").mkdir()
    convert.convert(source, Place(name="coco", path=tmp_path / "far/away.json"))
    for path in (root / "inside.json", tmp_path / "far/away.json"):
        content = json.loads(path.read_text())
        assert all((path.parent / image["file_name"]).is_file() for image in content["images"])
        assert [(image["width"], image["height"]) for image in content["images"]] == [(320, 240)] * 2
        assert all(row["area"] == row["bbox"][2] * row["bbox"][3] for row in content["annotations"])
        check_same(widerface.read(root), coco.read(path))


def test_names_of_places():
    assert place("coco:C:/x:y.json").path.as_posix() == "C:/x:y.json"
    with pytest.raises(UsageError, match="is not NAME:PATH"):
        place("coco:")


def test_photographs_get_labels(tmp_path):
    photos = shared("reference/photos")
    (tmp_path / "photos").mkdir()
    for path in sorted(photos.glob("*.jpg"))[:3]:
        (tmp_path / "photos" / path.name).symlink_to(path)
    (tmp_path / "photos/broken.jpg").write_text("no picture")
    drafts = {}
    for target in ("coco:draft.json", "yolo:y", "voc:v", "widerface:w"):
        ended = nnface("data", "label", "photos", "--with", "fast", "--out", target, cwd=tmp_path)
        assert ended.code == 1 and ended.err.startswith("nnface: photos/broken.jpg is not a picture")
        assert re.match(r"train: 3 pictures, \d+ faces, \d+ ignore regions, \d+ with landmarks\n", ended.out)
        drafts[target] = convert.read(place(target.replace(":", f":{tmp_path}/")), "train")
    first = drafts["coco:draft.json"]
    assert sum(len(s.boxes) for s in first) > 5 and any(s.ignored.any() for s in first)
    for samples in drafts.values():
        for one, other in zip(first, samples, strict=True):
            assert one.ignored.sum() == other.ignored.sum() and len(one.boxes) == len(other.boxes)
            assert other.key.rsplit("/", 1)[-1] == one.key
    again = nnface("data", "label", "photos", "--with", "fast", "--out", "yolo:y", cwd=tmp_path)
    assert again.code == 2 and "y/labels/train is there already" in again.err
    chips = nnface("data", "label", "photos", "--with", "attributes", "--out", "yolo:z", cwd=tmp_path)
    assert chips.code == 2 and "not to detect faces" in chips.err
    none = nnface("data", "label", "photos/broken.jpg", "--out", "yolo:z", cwd=tmp_path)
    assert none.code == 2 and not (tmp_path / "z").exists()
    again = nnface("data", "label", "photos", "--with", "fast", "--out", "coco:draft.json", cwd=tmp_path)
    assert again.code == 2 and "draft.json is there already" in again.err
    assert len(coco.read(tmp_path / "draft.json")) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("one", "two", "--out", "yolo:y"), "would both be named IMG_1"),
        (("one", "two", "--out", "voc:v"), "would both be named IMG_1"),
        (("one/x.bmp", "--out", "widerface:w"), "is none of .jpg"),
        (("one", "--out", "yolo:y", "--split", "foo"), "there is no split 'foo'"),
    ],
    ids=["yolo", "voc", "suffix", "split"],
)
def test_what_cannot_be_labelled_is_said_before_the_work(arguments, words, tmp_path):
    for name in ("one/IMG_1.jpg", "two/IMG_1.jpg", "one/x.bmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("not looked at")
    ended = nnface("data", "label", *arguments, "--with", "absent.onnx", cwd=tmp_path)  # a detector comes later
    assert ended.code == 2 and words in ended.err and "absent" not in ended.err


def test_own_data_in_every_format_trains(tmp_path):
    pytest.importorskip("torch")
    from nnface.training.start import read_sources

    root = make_widerface(tmp_path / "wider", 4)
    source = Place(name="widerface", path=root)
    given_ = []
    for name in ("coco", "yolo", "voc"):
        target = where(tmp_path / (name if name != "coco" else "wider"), name)
        convert.convert(source, target)
        given_.append(f"{name}:{target.path}")
    sources = read_sources(given_)
    assert list(sources) == ["faces", "yolo", "voc"]
    for samples in sources.values():
        check_same(widerface.read(root), samples)


def test_drawn_faces_are_where_the_labels_say(tmp_path):
    """The convention of pixels is one and the same: a drawn face fills its box after any conversion."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    draw_face(image, (40, 60, 100, 120), np.random.default_rng(0))
    cv2.imwrite(str(tmp_path / "a.png"), image)
    box = np.array([[40, 60, 140, 180]], np.float32)
    sample = DetectionSample(
        key="a", path=tmp_path / "a.png", boxes=box, landmarks=empty_landmarks(1), ignored=np.zeros(1, bool)
    )
    for name in FORMATS:
        target = where(tmp_path, name) if name == "coco" else where(tmp_path / name, name)
        convert.write(target, "train", [sample])
        (again,) = convert.read(target, "train")
        x1, y1, x2, y2 = again.boxes[0].round().astype(int)
        rows, columns = np.nonzero(read(again.path).max(2) > 60)
        assert abs(columns.min() - x1) <= 1 and abs(columns.max() + 1 - x2) <= 1
        assert abs(rows.min() - y1) <= 1 and abs(rows.max() + 1 - y2) <= 1
