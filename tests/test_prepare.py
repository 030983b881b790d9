"""Archives into the layouts that are read: hostile ones refused, interrupted ones gone on with."""

import io
import random
import resource
import signal
import subprocess
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import shared
from nnface.curate import unpack
from nnface.curate.archives import CELEBAMASK, FAIRFACE, WIDERFACE, Archive, Published
from nnface.curate.checking import Memory
from nnface.curate.prepare import Prepared, text_of_lists
from nnface.curate.prepare import prepare as prepare_
from nnface.datasets import celebamask, fairface, widerface
from nnface.datasets.widerface_truth import read_truth
from nnface.errors import DataError
from processes import ENVIRONMENT, NNFACE, Ended, nnface
from sources import sources_toml, zipped

JPEG = cv2.imencode(".jpg", np.full((40, 40, 3), 128, np.uint8))[1].tobytes()
KEY = "0--Parade/0_Parade_marchingband_1_849"


def unchecked(data: Published) -> Published:
    """A data set whose archives have no published size or checksum, so that small ones stand in for them."""
    return replace(data, archives=tuple(replace(a, size=None, sha256=None, md5=None) for a in data.archives))


def prepare(data: Published, root: Path, force: bool = False) -> Prepared:
    return prepare_(unchecked(data), root, force=force)


def tree(root: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder but nnface's notes: its size and time."""
    return {
        str(p.relative_to(root)): (p.stat().st_size, p.stat().st_mtime_ns)
        for p in root.rglob("*")
        if p.is_file() and p.parent.name != "archives"
    }


def matlab(**fields: object) -> bytes:
    scipy_io = pytest.importorskip("scipy.io")
    buffer = io.BytesIO()
    scipy_io.savemat(buffer, fields)
    return buffer.getvalue()


def cells(*values: object) -> np.ndarray:
    """A MATLAB cell column."""
    column = np.empty((len(values), 1), object)
    for index, value in enumerate(values):
        column[index, 0] = value
    return column


def wider_lists() -> bytes:
    """WIDER's lists of two pictures, one with two faces and one without any."""
    names = cells(KEY.split("/")[1], "0_Parade_Parade_0_904")
    boxes = cells(np.array([[5, 6, 10, 12], [1, 2, 3, 4]], np.int32), np.zeros((0, 4), np.int32))
    flag = {
        f"{name}_label_list": cells(cells(np.array([[index], [0]], np.uint8), np.zeros((0, 1), np.uint8)))
        for index, name in enumerate(("blur", "expression", "illumination", "invalid", "occlusion", "pose"))
    }
    return matlab(event_list=cells("0--Parade"), file_list=cells(names), face_bbx_list=cells(boxes), **flag)


TEXT = (
    f"{KEY}.jpg\n2\n5 6 10 12 0 1 2 3 4 5 \n1 2 3 4 0 0 0 0 0 0 \n"
    "0--Parade/0_Parade_Parade_0_904.jpg\n0\n0 0 0 0 0 0 0 0 0 0 \n"
)


def put(root: Path, file: str, content: bytes) -> Path:
    folder = root / "archives"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(content)
    return folder / file


def wider(root: Path) -> None:
    """WIDER FACE's archives, in the published layouts."""
    empty = TEXT.replace("2\n5 6 10 12 0 1 2 3 4 5 \n1 2 3 4 0 0 0 0 0 0 ", "1\n5 6 10 12 0 0 0 0 0 0 ")
    put(root, "wider_face_split.zip", zipped({
        "wider_face_split/wider_face_train_bbx_gt.txt": empty.encode(),
        "wider_face_split/wider_face_val.mat": wider_lists(),
        "wider_face_split/readme.txt": b"how to read it",
    }))  # fmt: skip
    for split in ("train", "val"):
        names = (KEY, "0--Parade/0_Parade_Parade_0_904")
        put(root, f"WIDER_{split}.zip", zipped({f"WIDER_{split}/images/{name}.jpg": JPEG for name in names}))
    label = f"# {KEY}.jpg\n5 6 10 12 8 9 0 12 9 0 10 12 0 8 15 0 12 15 0 0.9\n"
    put(
        root,
        "retinaface_gt_v1.1.zip",
        zipped({"train/label.txt": label.encode(), "val/label.txt": b"", "test/label.txt": b""}),
    )
    counted = matlab(
        event_list=cells("0--Parade"),
        file_list=cells(cells(KEY.split("/")[1], "0_Parade_Parade_0_904")),
        gt_list=cells(cells(np.array([[1]]), np.zeros((0, 1)))),
    )
    put(root, "eval_tools.zip", zipped({
        "eval_tools/wider_eval.m": b"% MATLAB", "__MACOSX/eval_tools/ground_truth/._wider_face_val.mat": b"junk",
        "eval_tools/ground_truth/wider_face_val.mat": wider_lists(),
        **{f"eval_tools/ground_truth/wider_{name}_val.mat": counted for name in ("easy", "medium", "hard")},
    }))  # fmt: skip


def test_wider_face_is_read_as_it_was_prepared(tmp_path: Path) -> None:
    wider(tmp_path)
    done = prepare(WIDERFACE, tmp_path)
    assert sorted(done.unpacked) == [
        "WIDER_train.zip", "WIDER_val.zip", "eval_tools.zip", "retinaface_gt_v1.1.zip", "wider_face_split.zip",
    ]  # fmt: skip
    samples = widerface.read(tmp_path, "train")
    assert [len(s.boxes) for s in samples] == [1, 0]
    np.testing.assert_array_equal(samples[0].landmarks[0, 0], [8, 9])
    assert (tmp_path / "wider_face_split/wider_face_val_bbx_gt.txt").read_text() == TEXT
    (val, _) = widerface.read(tmp_path, "val")
    np.testing.assert_array_equal(val.boxes, [[5, 6, 15, 18], [1, 2, 4, 6]])
    assert val.ignored.tolist() == [True, False]
    truth = read_truth(tmp_path / "ground_truth")
    assert truth.boxes.keys() == {KEY, "0--Parade/0_Parade_Parade_0_904"}
    assert not (tmp_path / "eval_tools").exists() and not (tmp_path / "__MACOSX").exists()

    before = tree(tmp_path)
    again = prepare(WIDERFACE, tmp_path)
    assert not again.unpacked and len(again.kept) == 5 and tree(tmp_path) == before
    for archive in (tmp_path / "archives").glob("*.zip"):  # what was unpacked needs its archive no longer
        archive.unlink()
    assert len(prepare(WIDERFACE, tmp_path).kept) == 5


def test_the_official_lists_give_the_official_text() -> None:
    pytest.importorskip("scipy")
    lists = shared("reference/evaluator/wider_face_val.mat")
    with tarfile.open(shared("data/widerface-annotations.tar.xz")) as archive:
        text = archive.extractfile("./wider_face_val_bbx_gt.txt")
        assert text is not None and text_of_lists(lists) == text.read().decode()


def test_damaged_lists_are_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    (tmp_path / "x.mat").write_bytes(wider_lists()[:300])
    with pytest.raises(DataError, match=r"x\.mat is no list of WIDER FACE or is damaged"):
        text_of_lists(tmp_path / "x.mat")


def test_fairface_of_both_paddings(tmp_path: Path) -> None:
    rows = "file,age,gender,race,service_test\n{0}/1.jpg,20-29,Male,White,True\n{0}/2.jpg,3-9,Female,Black,False\n"
    for part in ("train", "val"):
        put(tmp_path, f"fairface_label_{part}.csv", rows.format(part).encode())
    pictures = zipped({f"{part}/{i}.jpg": JPEG for part in ("train", "val") for i in (1, 2)})
    put(tmp_path, "fairface-img-margin025-trainval.zip", pictures)
    put(tmp_path, "fairface-img-margin125-trainval.zip", pictures)
    prepare(FAIRFACE, tmp_path)
    for root in (tmp_path, tmp_path / "padding125"):
        for part in ("train", "val"):
            assert len(fairface.read(root, part)) == 2  # type: ignore[arg-type]


def test_celebamask_is_merged_and_listed(tmp_path: Path) -> None:
    part = np.zeros((512, 512, 3), np.uint8)
    part[100:200] = 255
    png = cv2.imencode(".png", part)[1].tobytes()
    files = {f"CelebAMask-HQ/CelebA-HQ-img/{i}.jpg": JPEG for i in range(3)}
    files |= {f"CelebAMask-HQ/CelebAMask-HQ-mask-anno/0/0000{i}_skin.png": png for i in range(3)}
    mapping = "idx orig_idx orig_file\n" + "".join(f"{i} {i} 00000{i}.jpg\n" for i in range(3))
    files["CelebAMask-HQ/CelebA-HQ-to-CelebA-mapping.txt"] = mapping.encode()
    put(tmp_path, "CelebAMask-HQ.zip", zipped(files))
    put(tmp_path, "list_eval_partition.txt", "".join(f"00000{i}.jpg {i}\n" for i in range(3)).encode())
    prepare(CELEBAMASK, tmp_path)
    for number, split in enumerate(("train", "val", "test")):
        (sample,) = celebamask.read(tmp_path, split)
        assert sample.key == str(number)
        assert np.unique(celebamask.read_mask(sample.mask)).tolist() == [0, 1]
    before = tree(tmp_path)
    assert not prepare(CELEBAMASK, tmp_path).unpacked and tree(tmp_path) == before
    (tmp_path / "masks" / "1.png").unlink()
    prepare(CELEBAMASK, tmp_path)
    assert (tmp_path / "masks" / "1.png").is_file()


# --- archives that are not to be trusted


def zip_with(name: str, mode: int = 0, content: bytes = b"x", flags: int = 0) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("WIDER_val/images/a.jpg", JPEG)
        info = zipfile.ZipInfo("placeholder")
        info.filename = name
        info.create_system = 3
        info.external_attr = mode << 16
        archive.writestr(info, content)
    data = buffer.getvalue()
    if flags:  # in the local and the central header
        for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            at = data.rindex(signature) + offset
            data = data[:at] + flags.to_bytes(2, "little") + data[at + 2 :]
    return data


def tar_with(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        good = tarfile.TarInfo("WIDER_val/images/a.jpg")
        good.size = len(JPEG)
        archive.addfile(good, io.BytesIO(JPEG))
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, link
        info.size = 1 if kind == tarfile.REGTYPE else 0
        archive.addfile(info, io.BytesIO(b"x"))
    return buffer.getvalue()


HOSTILE = {
    "zip parent": (zip_with("WIDER_val/../../evil"), "leads out of the folder"),
    "zip only parent": (zip_with("../evil"), "leads out of the folder"),
    "zip absolute": (zip_with("/tmp/evil"), "absolute name"),
    "zip drive": (zip_with("C:/evil"), "absolute name"),
    "zip backslash parent": (zip_with("WIDER_val\\..\\evil"), "leads out"),
    "zip backslash": (zip_with("WIDER_val\\evil"), "backslash"),
    "zip control": (zip_with("WIDER_val/a\nb"), "control character"),
    "zip link": (zip_with("WIDER_val/link", 0o120777, b"/etc/passwd"), "link"),
    "zip device": (zip_with("WIDER_val/device", 0o020666), "device"),
    "zip encrypted": (zip_with("WIDER_val/secret", flags=1), "encrypted"),
    "tar parent": (tar_with("WIDER_val/../../evil"), "leads out of the folder"),
    "tar absolute": (tar_with("/tmp/evil", mode="w:gz"), "absolute name"),
    "tar symbolic link": (tar_with("WIDER_val/link", tarfile.SYMTYPE, "../.."), "link"),
    "tar hard link": (tar_with("WIDER_val/link", tarfile.LNKTYPE, "/etc/passwd"), "link"),
    "tar device": (tar_with("WIDER_val/device", tarfile.CHRTYPE), "device"),
    "tar pipe": (tar_with("WIDER_val/pipe", tarfile.FIFOTYPE, mode="w:xz"), "device"),
    "twice": (zip_with("./WIDER_val/images/a.jpg"), "twice"),
    "file as folder": (zip_with("WIDER_val/images/a.jpg/b.jpg"), "is a file itself"),
    "nothing of it": (zipped({"else/a.jpg": JPEG}), "holds nothing of WIDER_val"),
    "empty": (zipped({}), "holds nothing"),
}


@pytest.mark.parametrize("content, reason", HOSTILE.values(), ids=HOSTILE)
def test_hostile_archives_leave_nothing(tmp_path: Path, content: bytes, reason: str) -> None:
    root = tmp_path / "root"
    put(root, "WIDER_val.zip", content)
    before = {p for p in tmp_path.rglob("*") if p.name != "nnface.json"}
    done = prepare(WIDERFACE, root)
    assert len(done.problems) == 1 and reason in done.problems[0] and "WIDER_val.zip" in done.problems[0]
    assert {p for p in tmp_path.rglob("*") if p.name != "nnface.json"} == before


def test_bombs_are_refused_before_a_byte_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "SLACK", 1 << 20)
    zeros = bytes(8 << 20)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as archive:
        info = tarfile.TarInfo("WIDER_val/images/a.jpg")
        info.size = len(zeros)
        archive.addfile(info, io.BytesIO(zeros))
    for number, content in enumerate((zipped({"WIDER_val/images/a.jpg": zeros}), buffer.getvalue())):
        root = tmp_path / str(number)
        put(root, "WIDER_val.zip", content)
        (problem,) = prepare(WIDERFACE, root).problems
        assert "far more than such an archive holds" in problem and not (root / "WIDER_val").exists()
    monkeypatch.setattr(unpack, "MAX_FILES", 3)
    put(tmp_path / "many", "WIDER_val.zip", zipped({f"WIDER_val/{i}": b"" for i in range(4)}))
    (problem,) = prepare(WIDERFACE, tmp_path / "many").problems
    assert "3 files" in problem


def test_a_member_that_is_larger_than_it_says_is_damage(tmp_path: Path) -> None:
    content = zipped({"WIDER_val/images/a.jpg": bytes(5000)})
    at = content.rindex(b"PK\x01\x02") + 24  # the size in the central directory
    put(tmp_path, "WIDER_val.zip", content[:at] + (100).to_bytes(4, "little") + content[at + 4 :])
    (problem,) = prepare(WIDERFACE, tmp_path).problems
    assert "damaged" in problem and not (tmp_path / "WIDER_val/images/a.jpg").exists()


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "zip"])
@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_truncated_archives_are_refused(tmp_path: Path, mode: str, keep: float) -> None:
    noise = {f"WIDER_val/images/{i}.jpg": random.Random(i).randbytes(20_000) for i in range(9)}
    if mode == "zip":
        content = zipped(noise)
    else:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
            for name, data in noise.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        content = buffer.getvalue()
    put(tmp_path, "WIDER_val.zip", content[: int(len(content) * keep)])
    done = prepare(WIDERFACE, tmp_path)
    assert len(done.problems) == 1 and not list(tmp_path.rglob("*.jpg"))
    put(tmp_path, "WIDER_val.zip", content)
    assert not prepare(WIDERFACE, tmp_path).problems
    assert {str(p.relative_to(tmp_path)): p.read_bytes() for p in tmp_path.rglob("*.jpg")} == noise


@given(st.binary(max_size=300), st.integers(0, 2**32))
def test_damage_anywhere_is_one_sentence_and_no_wrong_file(
    tmp_path_factory: pytest.TempPathFactory, damage: bytes, seed: int
) -> None:
    pictures = {f"WIDER_val/images/{i}.jpg": JPEG + bytes([i]) for i in range(3)}
    content = bytearray(zipped(pictures))
    at = random.Random(seed).randrange(len(content))
    content[at : at + len(damage)] = damage
    root = tmp_path_factory.mktemp("root")
    put(root, "WIDER_val.zip", bytes(content))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile says that names come twice
        done = prepare(WIDERFACE, root)
    assert done.unpacked or (len(done.problems) == 1 and "\n" not in done.problems[0])
    for path in root.rglob("*.jpg"):
        assert path.read_bytes() in pictures.values()


# --- interrupted, full, in the way


MANY = {f"WIDER_val/images/0--Parade/{i}.jpg": random.Random(i).randbytes(30_000) for i in range(40)}

KILLED = """
import os, signal, sys, zipfile
from dataclasses import replace
from nnface.curate.archives import WIDERFACE
from nnface.curate.prepare import prepare
data = replace(WIDERFACE, archives=tuple(replace(a, size=None, sha256=None) for a in WIDERFACE.archives))
seen, read = 0, zipfile.ZipExtFile.read
def count(self, n=-1):
    global seen
    if not os.path.exists(sys.argv[1] + "/WIDER_val"):
        return read(self, n)  # before the first file: the archive is tested
    seen += 1
    if seen == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return read(self, n)
zipfile.ZipExtFile.read = count
prepare(data, sys.argv[1])
"""


@pytest.mark.parametrize("reads", [1, 2, 37, 70])
def test_killed_and_run_again_all_is_there(tmp_path: Path, reads: int) -> None:
    put(tmp_path, "WIDER_val.zip", zipped(MANY))
    ended = subprocess.run([sys.executable, "-c", KILLED, tmp_path, str(reads)], env=ENVIRONMENT, check=False)
    assert ended.returncode == -signal.SIGKILL
    whole = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jpg")}
    for path in whole:
        assert path.read_bytes() == MANY[str(path.relative_to(tmp_path))]
    done = prepare(WIDERFACE, tmp_path)
    assert done.unpacked == ["WIDER_val.zip"] and not done.problems
    assert {str(p.relative_to(tmp_path)): p.read_bytes() for p in tmp_path.rglob("*.jpg")} == MANY
    assert not list(tmp_path.rglob("*.part"))
    assert all(path.stat().st_mtime_ns == time for path, time in whole.items())  # what was whole was kept


def test_an_interrupted_run_mends_its_own_files(tmp_path: Path) -> None:
    """After a power cut a file may be whole by its name and not by its bytes."""
    archive = put(tmp_path, "WIDER_val.zip", zipped(MANY))
    prepare(WIDERFACE, tmp_path)
    memory = Memory(tmp_path)
    digest = memory.get("unpacked", archive.name)["sha256"]
    memory.put("unpacked", archive.name)
    memory.put("unpacking", archive.name, sha256=digest)
    name = next(iter(MANY))
    (tmp_path / name).write_bytes(bytes(len(MANY[name])))
    assert not prepare(WIDERFACE, tmp_path).problems
    assert (tmp_path / name).read_bytes() == MANY[name]


def test_files_of_others_are_not_written_over_unless_forced(tmp_path: Path) -> None:
    put(tmp_path, "WIDER_val.zip", zipped(MANY))
    name = next(iter(MANY))
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_bytes(b"mine")
    (problem,) = prepare(WIDERFACE, tmp_path).problems
    assert "1 files are there already" in problem and "--force" in problem
    assert len(list(tmp_path.rglob("*.jpg"))) == 1 and (tmp_path / name).read_bytes() == b"mine"
    assert not prepare(WIDERFACE, tmp_path, force=True).problems
    assert (tmp_path / name).read_bytes() == MANY[name]


def test_files_that_are_gone_or_broken_are_mended(tmp_path: Path) -> None:
    put(tmp_path, "WIDER_val.zip", zipped(MANY))
    prepare(WIDERFACE, tmp_path)
    samples = Memory(tmp_path).get("unpacked", "WIDER_val.zip")["samples"]
    gone, broken, *_ = (name for name in MANY if name not in samples)
    (tmp_path / gone).unlink()
    before = tree(tmp_path)
    assert prepare(WIDERFACE, tmp_path).unpacked == ["WIDER_val.zip"]
    after = tree(tmp_path)
    assert (tmp_path / gone).read_bytes() == MANY[gone] and after == before | {gone: after[gone]}

    (tmp_path / broken).write_bytes(b"x" * len(MANY[broken]))  # all are there, so this is not looked for
    assert prepare(WIDERFACE, tmp_path).kept == ["WIDER_val.zip"]
    (tmp_path / gone).unlink()
    (problem,) = prepare(WIDERFACE, tmp_path).problems  # perhaps somebody's own: not written over unasked
    assert "1 files are there already" in problem and broken in problem and "--force" in problem
    assert prepare(WIDERFACE, tmp_path, force=True).unpacked == ["WIDER_val.zip"]
    assert {str(p.relative_to(tmp_path)): p.read_bytes() for p in tmp_path.rglob("*.jpg")} == MANY
    (tmp_path / broken).write_bytes(b"x")
    assert prepare(WIDERFACE, tmp_path, force=True).unpacked == ["WIDER_val.zip"]
    assert (tmp_path / broken).read_bytes() == MANY[broken]


def test_what_was_unpacked_by_hand_is_kept(tmp_path: Path) -> None:
    archive = put(tmp_path, "WIDER_val.zip", zipped(MANY))
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path)
    before = tree(tmp_path)
    assert prepare(WIDERFACE, tmp_path).unpacked and tree(tmp_path) == before


def test_a_new_archive_of_the_same_name_is_unpacked_anew(tmp_path: Path) -> None:
    put(tmp_path, "WIDER_val.zip", zipped(MANY))
    known = replace(WIDERFACE, archives=tuple(replace(a, size=None, sha256=None) for a in WIDERFACE.archives))
    prepare_(known, tmp_path)
    put(tmp_path, "WIDER_val.zip", zipped(MANY | {"WIDER_val/images/new.jpg": JPEG}))
    (problem,) = prepare_(known, tmp_path).problems  # none published: the first one counts
    assert "not the file that was downloaded first" in problem
    (tmp_path / "archives" / "nnface.json").unlink()
    assert prepare_(known, tmp_path).unpacked and (tmp_path / "WIDER_val/images/new.jpg").is_file()


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., list[str | Path]]:
    """``nnface data prepare`` for archives of these tests."""

    def arguments(root: Path, *more: str) -> list[str | Path]:
        tables = {a.file: {"size": 0, "sha256": ""} for a in WIDERFACE.archives}
        file = sources_toml(tmp_path / "sources.toml", tables)
        return ["data", "prepare", "widerface", "--root", root, "--sources", file, *more]

    return arguments


def test_the_command(tmp_path: Path, command: Callable[..., list[str | Path]]) -> None:
    root = tmp_path / "root"
    absent = nnface(*command(root), cwd=tmp_path)
    assert absent.code == 2 and "nnface data download widerface" in absent.err
    root.mkdir()
    empty = nnface(*command(root), cwd=tmp_path)
    assert empty.code == 2 and "holds neither widerface nor its archives" in empty.err
    put(root, "WIDER_val.zip", zipped(MANY))
    done = nnface(*command(root), cwd=tmp_path)
    assert done.code == 0 and "40 files" in done.out and "nnface data verify widerface" in done.out
    put(root, "WIDER_train.zip", b"<html><body>quota</body></html>")
    some = nnface(*command(root), cwd=tmp_path)
    assert some.code == 1 and "WIDER_train.zip is a web page" in some.err and some.err.count("\n") == 1


def test_a_prepare_keeps_another_one_out(tmp_path: Path, command: Callable[..., list[str | Path]]) -> None:
    root = tmp_path / "root"
    put(root, "WIDER_val.zip", zipped(MANY))
    others: list[Ended] = []

    def meanwhile(what: str, done: int, total: int | None) -> None:
        if done == 20:
            download = ["data", "download", "widerface", "--root", root, "--only", "val", "--accept-licence"]
            others.extend(nnface(*words, cwd=tmp_path) for words in (command(root), download))

    assert prepare_(unchecked(WIDERFACE), root, advance=meanwhile).unpacked == ["WIDER_val.zip"]
    for ended in others:
        assert ended.code == 2
        assert ended.err.endswith(f"another nnface is at work in {root}; wait until it has ended\n")
    assert len(others) == 2
    assert {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*.jpg")} == MANY
    assert nnface(*command(root), cwd=tmp_path).code == 0


def test_the_published_checksum_is_asked_of_what_lies_there(tmp_path: Path) -> None:
    put(tmp_path, "WIDER_val.zip", zipped(MANY))
    ended = nnface("data", "prepare", "widerface", "--root", tmp_path, cwd=tmp_path)
    assert ended.code == 2 and "truncated" in ended.err and not (tmp_path / "WIDER_val").exists()


def test_a_disk_that_becomes_full_is_gone_on_with(tmp_path: Path, command: Callable[..., list[str | Path]]) -> None:
    root = tmp_path / "root"
    large = MANY | {"WIDER_val/images/z.jpg": random.Random(1).randbytes(300_000)}
    put(root, "WIDER_val.zip", zipped(large))
    ended = subprocess.run(
        [*NNFACE, *map(str, command(root))], env=ENVIRONMENT, capture_output=True, timeout=120, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )  # fmt: skip
    assert ended.returncode == 2 and b"cannot write" in ended.stderr and ended.stderr.count(b"\n") == 1
    assert not (root / "WIDER_val/images/z.jpg").exists() and not list(root.rglob("*.part"))
    again = nnface(*command(root), cwd=tmp_path)
    assert again.code == 0, again.err
    assert {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*.jpg")} == large


def test_a_disk_without_room_is_seen_before(tmp_path: Path) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", root], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        put(root, "WIDER_val.zip", zipped(MANY))
        (problem,) = prepare(WIDERFACE, root).problems
        assert "make room" in problem and not (root / "WIDER_val").exists()
    finally:
        subprocess.run(["umount", root], check=True)


def test_a_file_in_the_way(tmp_path: Path, command: Callable[..., list[str | Path]]) -> None:
    """As root every folder can be written; a file where a folder has to be cannot."""
    put(tmp_path / "root", "WIDER_val.zip", zipped(MANY))
    (tmp_path / "root" / "WIDER_val").write_text("a file")
    ended = nnface(*command(tmp_path / "root"), cwd=tmp_path)
    assert ended.code == 2 and "cannot write" in ended.err and "WIDER_val" in ended.err and ended.err.count("\n") == 1
    assert (tmp_path / "root" / "WIDER_val").read_text() == "a file"


def test_prepared_folders_of_the_shared_data_need_no_archive(tmp_path: Path) -> None:
    with tarfile.open(shared("data/celebamask-dev.tar")) as archive:
        wanted = [m for m in archive if m.name.split("/")[1:2] in (["parts"], ["annotations"]) and m.isfile()]
        archive.extractall(tmp_path, wanted, filter="data")
    root = tmp_path / "celebamask-dev" / "parts"
    (tmp_path / "celebamask-dev" / "annotations").rename(root / "annotations")
    prepare(CELEBAMASK, root)
    samples = [s for split in ("train", "val", "test") for s in _read(root, split)]
    assert len(samples) == 13
    assert not (root / "archives").exists()


def _read(root: Path, split: str) -> list[object]:
    return list(celebamask.read(root, split)) if (root / f"{split}.txt").read_text() else []


def test_archives_are_described_well_enough_to_unpack() -> None:
    for data in (WIDERFACE, FAIRFACE, CELEBAMASK):
        assert all(isinstance(archive, Archive) and not Path(archive.into).is_absolute() for archive in data.archives)
