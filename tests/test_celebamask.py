"""CelebAMask-HQ: read strictly, merged to the pixel, verified, and parsers measured on it."""

import io
import json
import re
import shutil
import struct
import tarfile
import zlib
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from conftest import shared
from nnface.commands import main
from nnface.curate import celebamask as curate
from nnface.curate import merging, pictures
from nnface.datasets import celebamask
from nnface.datasets.celebamask import MAPPING, PARTITION
from nnface.errors import DataError, NnfaceError, UsageError
from nnface.evaluation import celebamask as benchmark
from nnface.spec import CELEBAMASK_LABELS

LABELS = len(CELEBAMASK_LABELS)
# Number of a face to where CelebA has it: two of train, one of val, one of test.
FACES = {0: 0, 1: 0, 7: 1, 2001: 2}


def label_image(seed: int, side: int = 32) -> np.ndarray:
    """Skin with parts on it, as merged parts may look."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((side, side), np.uint8)
    labels[4:28, 4:28] = 1
    for label in rng.permutation(np.arange(2, LABELS))[:9]:
        y, x = rng.integers(0, side - 6, 2)
        labels[y : y + 5, x : x + 6] = label
    return labels


def published(root: Path, header: bool = True) -> Path:
    """A small set in the published layout. Parts overlap: each reaches under the parts that are painted over it."""
    pictures, parts = root / "CelebA-HQ-img", root / "CelebAMask-HQ-mask-anno"
    pictures.mkdir(parents=True)
    rows = ["idx         orig_idx    orig_file"] if header else []
    partition = []
    for index, part in FACES.items():
        labels = label_image(index)
        cv2.imwrite(str(pictures / f"{index}.jpg"), np.full((64, 64, 3), 90 + index % 100, np.uint8))
        folder = parts / str(index // 2000)
        folder.mkdir(parents=True, exist_ok=True)
        for label in range(1, LABELS):
            if (labels == label).any():
                under = (labels == label) | ((labels > label) & (np.arange(32)[:, None] % (label + 2) == 0))
                rgb = np.repeat(under[:, :, None], 3, 2).astype(np.uint8) * 255
                cv2.imwrite(str(folder / f"{index:05d}_{CELEBAMASK_LABELS[label]}.png"), rgb)
        rows.append(f"{index}          {index + 500}      {index + 501:06d}.jpg")
        partition.append(f"{index + 501:06d}.jpg {part}")
    (root / MAPPING).write_text("\n".join(rows) + "\n")
    (root / PARTITION).write_text("\n".join(partition) + "\n")
    return root


def prepared(root: Path, keys=("a", "b", "c"), side: int = 32, size: tuple[int, int] = (64, 64)) -> Path:
    """A small prepared set without lists."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number, key in enumerate(keys):
        cv2.imwrite(str(root / "images" / f"{key}.jpg"), np.full((*size, 3), 40 * number, np.uint8))
        cv2.imwrite(str(root / "masks" / f"{key}.png"), label_image(number, side))
    return root


def png(values: np.ndarray) -> bytes:
    return cv2.imencode(".png", values)[1].tobytes()


def save_palette(path: Path, labels: np.ndarray, palette: list[tuple[int, int, int]], **options) -> Path:
    image = Image.frombytes("P", labels.shape[::-1], labels.tobytes())
    image.putpalette([value for colour in palette for value in colour])
    image.save(path, **options)
    return path


COLOURS = [(n * 13 % 256, 255 - n * 7, n * n % 256) for n in range(LABELS)]


# Masks


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
def test_a_palette_png_is_read_as_its_values_whatever_the_colours(tmp_path, bits):
    labels = label_image(1) & ((1 << bits) - 1)
    path = save_palette(tmp_path / "m.png", labels, COLOURS[: min(LABELS, 1 << bits)], bits=bits)
    assert path.read_bytes()[24:26] == bytes([bits, 3])
    assert (celebamask.read_mask(path) == labels).all()
    assert (np.array(Image.open(path)) == labels).all()


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
def test_a_grey_png_is_read_as_its_values(tmp_path, bits):
    labels = label_image(2) & ((1 << bits) - 1)
    packed = np.packbits(np.unpackbits(labels[:, :, None], axis=2)[:, :, 8 - bits :].reshape(32, -1), axis=1)
    lines = b"".join(b"\0" + line.tobytes() for line in packed)
    chunks = [
        (b"IHDR", struct.pack(">II5B", 32, 32, bits, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    ]
    data = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    path = tmp_path / "m.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    assert (celebamask.read_mask(path) == labels).all()


def test_a_grey_mask_that_an_optimizer_gave_a_palette_of_its_greys_keeps_its_labels(tmp_path):
    labels = np.where(label_image(3) > 9, 17, 4).astype(np.uint8)
    path = save_palette(tmp_path / "m.png", (labels == 17).astype(np.uint8), [(4, 4, 4), (17, 17, 17)], bits=1)
    assert (celebamask.read_mask(path) == labels).all()


def test_masks_that_keep_no_labels_are_refused_in_a_sentence(tmp_path):
    labels = label_image(4)
    rgb = np.repeat(labels[:, :, None], 3, 2)
    cases = {
        "rgb.png": ("is RGB; save the label numbers", png(rgb)),
        "deep.png": ("is 16-bit grey", png(labels.astype(np.uint16))),
        "high.png": (
            "holds the value 255, but labels go from 0 to 18",
            cv2.imencode(".png", labels * 0 + 255)[1].tobytes(),
        ),
        "nineteen.png": ("holds the value 19", cv2.imencode(".png", labels * 0 + 19)[1].tobytes()),
        "lossy.png": ("is no PNG", cv2.imencode(".jpg", labels)[1].tobytes()),
        "empty.png": ("is no PNG", b""),
        "cut.png": ("damaged", png(labels)[:-20]),
    }
    buffer = io.BytesIO()
    Image.fromarray(rgb).convert("LA").save(buffer, "PNG")
    cases["alpha.png"] = ("grey with alpha", buffer.getvalue())
    for name, (words, data) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=words) as caught:
            celebamask.read_mask(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="cannot be read"):
        celebamask.read_mask(tmp_path / "absent.png")


@given(st.binary(max_size=400), st.integers(0, 300))
def test_a_damaged_mask_is_an_error_of_ours_or_still_holds_labels(tmp_path_factory, noise, place):
    data = png(label_image(5))
    path = tmp_path_factory.mktemp("noise") / "m.png"
    path.write_bytes(data[:place] + noise + data[place + len(noise) :])
    with suppress(DataError):
        assert celebamask.read_mask(path).max() < LABELS


def test_a_mask_may_be_smaller_than_its_picture_and_not_of_another_shape():
    celebamask.check_size((512, 512), (1024, 1024), Path("m.png"))
    celebamask.check_size((100, 67), (1500, 1000), Path("m.png"))
    with pytest.raises(DataError, match=r"m.png is 512 x 512, its picture 1024 x 768"):
        celebamask.check_size((512, 512), (1024, 768), Path("m.png"))


# Orders of labels


def test_the_orders_hold_the_same_labels():
    for order in celebamask.LABEL_ORDERS.values():
        assert sorted(order) == sorted(CELEBAMASK_LABELS)
        assert order[0] == "background"
    # zllrunning/face-parsing.PyTorch prepropess_data.py: its list of attributes, numbered from 1.
    theirs = "skin l_brow r_brow l_eye r_eye eye_g l_ear r_ear ear_r nose mouth u_lip l_lip neck neck_l cloth hair hat"
    assert celebamask.order("zllrunning")[1:] == tuple(theirs.split())
    with pytest.raises(UsageError, match="zllrunning"):
        celebamask.order("lapa")


@given(arrays.arrays(np.uint8, (5, 7), elements=st.integers(0, LABELS - 1)))
def test_converting_there_and_back_is_the_identity_and_keeps_names(labels):
    there = celebamask.convert(labels, "celebamask", "zllrunning")
    assert (celebamask.convert(there, "zllrunning", "celebamask") == labels).all()
    names = np.array(CELEBAMASK_LABELS)[labels]
    assert (np.array(celebamask.LABEL_ORDERS["zllrunning"])[there] == names).all()


def test_a_label_that_the_target_lacks_becomes_background_and_a_foreign_number_is_refused():
    labels = np.array([[0, 1, 13]], np.uint8)
    assert celebamask.convert(labels, "celebamask", ("background", "hair")).tolist() == [[0, 0, 1]]
    with pytest.raises(DataError, match="value 13"):
        celebamask.convert(labels, ("background", "skin"), "celebamask")


# Folders


def test_a_folder_without_lists_gives_all_of_its_pairs(tmp_path):
    samples = celebamask.read(prepared(tmp_path))
    assert [s.key for s in samples] == ["a", "b", "c"]
    assert all(s.path.stem == s.mask.stem == s.key for s in samples)


def test_lists_choose_and_their_variants_join(tmp_path):
    prepared(tmp_path)
    (tmp_path / "train.txt").write_text("b\n\n")
    (tmp_path / "train_rare.txt").write_text("a.jpg\nb\n")
    (tmp_path / "holdout.txt").write_text("c\n")
    assert [s.key for s in celebamask.read(tmp_path)] == ["b", "a"]
    assert [s.key for s in celebamask.read(tmp_path, "holdout")] == ["c"]
    assert [s.key for s in celebamask.read(tmp_path, lists=["holdout.txt", tmp_path / "train.txt"])] == ["c", "b"]
    with pytest.raises(DataError, match=r"no list test.txt; it has holdout.txt, train.txt"):
        celebamask.read(tmp_path, "test")
    (tmp_path / "train.txt").write_text("d\n")
    with pytest.raises(DataError, match=r"d of .* has no picture"):
        celebamask.read(tmp_path)


def test_two_pictures_or_masks_of_one_name_are_refused(tmp_path):
    first = celebamask.read(prepared(tmp_path))[0]
    for path, suffix, what in ((first.path, ".webp", "pictures"), (first.mask, ".PNG", "label images")):
        beside = path.with_suffix(suffix)
        shutil.copy(path, beside)
        with pytest.raises(DataError, match=r"has the name of .* but for the suffix.*take the other away"):
            celebamask.read(tmp_path)
        (problem,) = curate.verify(tmp_path).problems
        assert problem.startswith(f"1 {what} have the name of another one but for the suffix, the first {path.parent}")
        (tmp_path / "train.txt").write_text("a\n")
        (tmp_path / "val.txt").write_text("b\n")
        assert len(curate.verify(tmp_path).problems) == 2  # said once, not once a list
        for file in (tmp_path / "train.txt", tmp_path / "val.txt", beside):
            file.unlink()


def test_a_folder_that_is_not_prepared_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match="nnface data prepare celebamask"):
        celebamask.read(published(tmp_path / "published"))
    with pytest.raises(DataError, match="must hold images/"):
        celebamask.read(tmp_path / "nothing")
    root = prepared(tmp_path / "prepared")
    (root / "masks/b.png").unlink()
    with pytest.raises(DataError, match=r"b of .* has no label image"):
        celebamask.read(root)


@pytest.mark.parametrize("header", [True, False])
def test_the_mapping_is_read_with_and_without_its_header(tmp_path, header):
    root = published(tmp_path, header)
    assert celebamask.read_splits(root / MAPPING, root / PARTITION) == {"train": [0, 1], "val": [7], "test": [2001]}


@pytest.mark.parametrize(
    "name, line, words",
    [
        (MAPPING, "0 1 000501.jpg", "comes twice"),
        (MAPPING, "3 1 999999.jpg", "does not know 999999.jpg"),
        (MAPPING, "4 1", "has 2 fields, not 3"),
        (PARTITION, "000900.jpg 3", "not 0, 1 or 2"),
    ],
)
def test_a_damaged_annotation_names_its_line(tmp_path, name, line, words):
    root = published(tmp_path)
    with (root / name).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=words) as caught:
        celebamask.read_splits(root / MAPPING, root / PARTITION)
    assert "line" in str(caught.value)


def members(tar: Path, folder: str, to: Path) -> Path:
    with tarfile.open(tar) as archive:
        chosen = [m for m in archive.getmembers() if f"/{folder}/" in f"/{m.name}" and m.isfile()]
        archive.extractall(to, chosen, filter="data")
    return next(p for p in (to / folder, *to.glob(f"*/{folder}")) if p.is_dir())


def test_the_official_split_has_the_official_counts(tmp_path):
    folder = members(shared("data/celebamask-dev.tar"), "annotations", tmp_path)
    splits = celebamask.read_splits(folder / MAPPING, folder / PARTITION)
    assert {name: len(indices) for name, indices in splits.items()} == {"train": 24_183, "val": 2_993, "test": 2_824}
    assert sorted(i for indices in splits.values() for i in indices) == list(range(30_000))


def test_the_real_parts_merge_to_their_label_images_to_the_pixel(tmp_path):
    tar = shared("data/celebamask-dev.tar")
    root = members(tar, "parts", tmp_path)
    annotations = members(tar, "annotations", tmp_path)
    done = merging.merge_all(root, annotations=annotations)
    assert done.merged == 13
    with tarfile.open(tar) as archive:
        names = {Path(m.name).stem: m for m in archive.getmembers() if "/masks/" in f"/{m.name}"}
        for path in (root / "masks").iterdir():
            truth = archive.extractfile(names[f"hq{int(path.stem):05d}"])
            assert truth is not None
            assert (celebamask.read_mask(path) == np.array(Image.open(truth))).all()
    assert sum(len(celebamask.read(root, name)) for name in ("train", "val", "test")) == 13
    assert curate.verify(root).problems == []


# Prepare


def times(root: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in (root / "masks").iterdir()}


def test_parts_are_painted_over_each_other_in_the_order_of_the_labels(tmp_path):
    root = published(tmp_path)
    done = merging.merge_all(root)
    assert (done.merged, done.kept, done.lists) == (4, 0, {"train": 2, "val": 1, "test": 1})
    assert any("partial: 4 of 30,000" in note for note in done.notes)
    for index in FACES:
        assert (celebamask.read_mask(root / "masks" / f"{index}.png") == label_image(index)).all()
    assert [s.key for s in celebamask.read(root)] == ["0", "1"]
    assert celebamask.read(root, "test")[0].path == root / "CelebA-HQ-img/2001.jpg"


def test_preparing_again_changes_nothing_and_mends_what_is_damaged(tmp_path):
    root = published(tmp_path)
    merging.merge_all(root)
    before = times(root)
    assert (again := merging.merge_all(root)).kept == 4
    assert again.merged == 0
    assert times(root) == before
    damaged = root / "masks/7.png"
    damaged.write_bytes(damaged.read_bytes()[:-30])
    (root / "masks/0.png").unlink()
    assert merging.merge_all(root).merged == 2
    assert (celebamask.read_mask(damaged) == label_image(7)).all()
    assert times(root)["1.png"] == before["1.png"]
    assert merging.merge_all(root, force=True).merged == 4


def test_an_interrupted_preparation_goes_on(tmp_path):
    root = published(tmp_path)
    calls = []

    def interrupt() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merging.merge_all(root, workers=1, advance=interrupt)
    there = times(root)
    assert len(there) >= 2
    assert all(celebamask.read_mask(root / "masks" / name).shape == (32, 32) for name in there)
    done = merging.merge_all(root)
    assert (done.merged, done.kept) == (4 - len(there), len(there))
    assert curate.verify(root).problems == []


def test_preparing_says_what_is_missing(tmp_path):
    root = published(tmp_path)
    (root / "CelebA-HQ-img/1.jpg").unlink()
    done = merging.merge_all(root)
    assert done.merged == 3
    assert "1 faces lack their picture or all of their parts and were left out, the first 1" in done.notes
    (root / PARTITION).unlink()
    with pytest.raises(DataError, match=f"{PARTITION} is not there"):
        merging.merge_all(root)
    with pytest.raises(DataError, match="must hold CelebA-HQ-img/"):
        merging.merge_all(tmp_path / "elsewhere")


def test_parts_that_do_not_fit_are_named(tmp_path):
    root = published(tmp_path)
    path = sorted((root / "CelebAMask-HQ-mask-anno/0").glob("00007_[!s]*.png"))[0]
    cv2.imwrite(str(path), np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(DataError, match=f"{path.name} is 16 x 16, others of its face 32 x 32"):
        merging.merge_all(root)
    path.rename(path.with_name("00007_beard.png"))
    with pytest.raises(DataError, match=r"00007_beard.png is not named"):
        merging.merge_all(root)


# Verify and show


def test_a_partial_set_is_not_wrong(tmp_path):
    root = published(tmp_path)
    assert curate.verify(root).problems == []
    merging.merge_all(root)
    found = curate.verify(root)
    assert found.problems == []
    assert any("partial: 4 of 30,000" in note for note in found.notes)


def wrong_mask(root: Path) -> None:
    mask = celebamask.read_mask(root / "masks/7.png")
    mask[0, 0] = 13 if mask[0, 0] != 13 else 1
    cv2.imwrite(str(root / "masks/7.png"), mask)


@pytest.mark.parametrize(
    "spoil, words",
    [
        (wrong_mask, "7.png is not its merged parts"),
        (lambda root: (root / "masks/7.png").unlink(), "1 pictures have no label image"),
        (lambda root: (root / "CelebA-HQ-img/7.jpg").unlink(), "1 label images have no picture"),
        (lambda root: (root / "CelebA-HQ-img/7.jpg").write_bytes(b"\xff\xd8\xff"), "7.jpg"),
        (lambda root: cv2.imwrite(str(root / "masks/7.png"), np.full((32, 32), 40, np.uint8)), "holds the value 40"),
        (lambda root: cv2.imwrite(str(root / "masks/7.png"), np.zeros((32, 16), np.uint8)), "must be of one shape"),
        (lambda root: (root / "val.txt").write_text("7\n0\n"), "stand in val and in another list, the first 0"),
        (lambda root: (root / "val.txt").write_text("7\n0\n"), "is not the official split: 1 faces too many"),
        (lambda root: (root / "val.txt").write_text("99\n"), "99 of .*val.txt has no picture"),
    ],
)
def test_what_is_wrong_is_told(tmp_path, spoil, words):
    root = published(tmp_path)
    merging.merge_all(root)
    spoil(root)
    assert any(re.search(words, problem) for problem in curate.verify(root).problems)


def test_the_same_picture_in_two_lists_is_told(tmp_path, monkeypatch):
    root = tmp_path / "prepared"
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(4):
        coarse = rng.integers(0, 256, (6, 6, 3), np.uint8)
        image = cv2.resize(coarse, (64, 64), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(root / f"images/{number}.png"), image)
        cv2.imwrite(str(root / f"masks/{number}.png"), np.zeros((64, 64), np.uint8))
    cv2.imwrite(str(root / "images/2.jpg"), cv2.imread(str(root / "images/0.png")), [cv2.IMWRITE_JPEG_QUALITY, 60])
    (root / "images/2.png").unlink()
    (root / "train.txt").write_text("0\n1\n")
    (root / "test.txt").write_text("2\n3\n")
    decoded = []
    decode = pictures.decode_grey
    monkeypatch.setattr(
        pictures, "decode_grey", lambda data, path, side: decoded.append(path) or decode(data, path, side)
    )
    for again, count in ((False, 4), (False, 0), (True, 4)):  # seen anew, remembered, seen anew
        decoded.clear()
        found = curate.verify(root, again=again)
        assert len(decoded) == count
        assert found.problems == []
        assert [pair[:2] for pair in found.duplicates] == [("0", "2")]
        assert any("1 pictures of train are nearly the same as one of test" in text for text in found.warnings)


def test_palettes_that_disagree_are_told(tmp_path):
    root = prepared(tmp_path)
    labels = label_image(0)
    save_palette(root / "masks/a.png", labels, COLOURS)
    save_palette(root / "masks/b.png", label_image(1), COLOURS)
    assert curate.verify(root).problems == []
    save_palette(root / "masks/b.png", label_image(1), COLOURS[::-1])
    assert any("in another colour than" in problem for problem in curate.verify(root).problems)


def test_nothing_of_the_kind_is_an_error(tmp_path):
    with pytest.raises(DataError, match="holds neither"):
        curate.verify(tmp_path)


def test_statistics_count_pixels(tmp_path):
    samples = celebamask.read(prepared(tmp_path))
    pixels = curate.areas(samples)
    for row, number in zip(pixels, range(3), strict=True):
        assert row.tolist() == np.bincount(label_image(number).ravel(), minlength=LABELS).tolist()
    (table,) = curate.statistics(pixels)
    having = int((pixels[:, 1] > 0).sum())
    assert list(table.rows[1][:3]) == ["skin", str(having), f"{100 * having / 3:.1f}"]
    curate.save({"all": pixels}, tmp_path / "out")
    content = json.loads((tmp_path / "out/data.json").read_text())
    assert content["all"]["parts"]["skin"]["pixels"] == int(pixels[:, 1].sum())
    assert (tmp_path / "out/data.html").is_file()


# Evaluation


def answers(samples, change=lambda labels: labels):
    """A parser that knows the truth, and what it makes of it."""
    known = {}
    for sample in samples:
        image, labels = benchmark.portrait(sample)
        known[image.tobytes()] = change(labels)
    return lambda image: known[image.tobytes()]


@pytest.mark.parametrize("size, scored", [((64, 64), (512, 512)), ((1024, 1024), (512, 512)), ((512, 512), (512, 512))])
def test_portraits_are_scored_at_512(tmp_path, size, scored):
    (sample, *_) = celebamask.read(prepared(tmp_path, size=size))
    image, labels = benchmark.portrait(sample)
    assert image.shape == (*scored, 3)
    assert (labels == np.kron(label_image(0), np.ones((16, 16), np.uint8))).all()


def test_the_truth_has_perfect_figures(tmp_path):
    samples = celebamask.read(prepared(tmp_path))
    result = benchmark.evaluate(answers(samples), samples)
    figures = result.figures
    assert all(figures[name] == 1 for name in benchmark.FIGURES)
    assert result.interval("mean_f1") == (1, 1)
    assert len(benchmark.parts_table(result).rows) == LABELS


def test_figures_are_of_the_whole_set_and_compare_in_pairs(tmp_path):
    samples = celebamask.read(prepared(tmp_path, keys="abcd"))

    def spoiled(labels: np.ndarray) -> np.ndarray:
        return np.where(np.arange(512) < 100, 0, labels).astype(np.uint8)

    good = benchmark.evaluate(answers(samples), samples)
    bad = benchmark.evaluate(answers(samples, spoiled), samples)
    truth = np.stack([benchmark.portrait(s)[1] for s in samples])
    found = np.stack([spoiled(labels) for labels in truth])
    metrics = pytest.importorskip("sklearn.metrics")
    theirs = metrics.f1_score(truth.ravel(), found.ravel(), labels=range(1, LABELS), average=None, zero_division=np.nan)
    assert bad.figures["mean_f1"] == pytest.approx(np.nanmean(theirs))
    assert (bad.confusion == metrics.confusion_matrix(truth.ravel(), found.ravel(), labels=range(LABELS))).all()
    gain, (low, high) = benchmark.compare(good, bad)["mean_f1"]
    assert gain == pytest.approx(1 - bad.figures["mean_f1"])
    assert 0 < low <= gain <= high
    assert benchmark.compare(bad, bad)["frequent_f1"] == (0, (0, 0))
    with pytest.raises(UsageError, match="not measured on the same portraits"):
        benchmark.compare(good, benchmark.evaluate(answers(samples), samples[:2]))


def test_answers_of_another_size_and_empty_sets_are_errors(tmp_path):
    samples = celebamask.read(prepared(tmp_path))
    with pytest.raises(NnfaceError, match="labels of shape"):
        benchmark.evaluate(lambda image: np.zeros((3, 3), np.uint8), samples)
    with pytest.raises(DataError, match="no portrait"):
        benchmark.score([])


def test_the_report_is_whole_and_its_worst_portrait_is_the_worst(tmp_path):
    samples = celebamask.read(prepared(tmp_path / "data"))
    known = answers(samples)
    second = benchmark.portrait(samples[1])[0].tobytes()

    def parse(image: np.ndarray) -> np.ndarray:
        return known(image) * (image.tobytes() != second)

    result = benchmark.evaluate(parse, samples)
    assert result.order[0] == 1
    table = benchmark.differences_table(benchmark.compare(result, result), "itself")
    benchmark.save(result, tmp_path / "out", {"model": "<b>stub"}, samples, parse, table)
    names = {"best.png", "confusion.png", "parts.png", "report.html", "report.json", "worst.png"}
    assert {p.name for p in (tmp_path / "out").iterdir()} == names
    content = json.loads((tmp_path / "out/report.json").read_text())
    assert content["mean_f1_of_portraits"]["b"] == 0
    assert content["figures"]["mean_f1"]["value"] == pytest.approx(result.figures["mean_f1"])
    page = (tmp_path / "out/report.html").read_text()
    assert "&lt;b&gt;stub" in page
    assert "http" not in page.split("</head>")[1]


def test_the_command_measures_a_model_file(tmp_path, capsys):
    pytest.importorskip("torch")
    from nnface.models.create import create, default_spec
    from nnface.models.file import save

    save(tmp_path / "m.safetensors", create("parser").eval(), default_spec("parser"))
    root = prepared(tmp_path / "data")
    (root / "test.txt").write_text("a\nb\n")
    model = str(tmp_path / "m.safetensors")
    with pytest.raises(SystemExit) as ended:
        main(
            f"evaluate celebamask --model {model} --data {root} --threads 1 --compare {model} "
            f"--json {tmp_path}/f.json --save {tmp_path}/out".split()
        )
    assert ended.value.code == 0
    assert "2 portraits" in capsys.readouterr().out
    figures = json.loads((tmp_path / "f.json").read_text())
    assert {"mean_f1", "frequent_f1", "mean_iou", "boundary_f1", "f1/skin"} <= set(figures)
    assert (tmp_path / "out/report.html").is_file()
