"""Sharded Parquet: one row a picture, equal to the plain run's, whatever is killed in between; what is refused."""

import os
import random
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'nnface[scale]'")
import pyarrow.parquet as pq

from nnface import scale
from nnface.errors import DataError, UsageError
from nnface.predict.stream import Failure
from nnface.results import Attribute, Faces
from nnface.scale.output import MANIFEST
from nnface.scale.shard import decode, encode
from processes import ENVIRONMENT, nnface
from tiny_models import bright_detector, detection_spec, palette_parser, squares

COUNT = 240
SIZE = 16
NEEDS_RAY = pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray: pip install 'nnface[ray]'")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a detector, and with photos/: folders in folders, broken files, none twice the same."""
    root = tmp_path_factory.mktemp("scale")
    bright_detector(root / "bright.onnx")
    rng = random.Random(0)
    for number in range(COUNT):
        path = root / "photos" / f"{number % 7}" / f"{number}{'.jpg' if number % 3 else '.png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        corners = [(rng.randrange(80), rng.randrange(60)) for _ in range(number % 4)]
        cv2.imwrite(str(path), squares(96 + rng.randrange(60), 80 + rng.randrange(60), *corners, side=40))
    for number in (13, 100):
        path = root / "photos" / f"{number % 7}" / f"{number}.jpg"
        path.write_bytes(path.read_bytes()[:90])
    (root / "photos" / "notes.txt").write_text("no picture")
    return root


@pytest.fixture(scope="module")
def plain(place: Path) -> list[dict[str, Any]]:
    """The rows of the run without --to."""
    done = nnface("detect", "photos", "--model", "bright.onnx", "--json", "-", cwd=place)
    assert done.code == 1 and len(done.rows) == COUNT
    assert sum("error" in row for row in done.rows) == 2 and sum(len(row.get("faces", ())) for row in done.rows) > COUNT
    return done.rows


def command(out: str | Path, *more: str) -> list[str]:
    arguments = ["detect", "photos", "--model", "bright.onnx", "--to", str(out), "--shard-size", str(SIZE)]
    return [*arguments, "--threads", "2", *more]


def rows(out: Path) -> list[dict[str, Any]]:
    return [row.to_dict() for row in scale.read(out)]


def test_the_rows_are_those_of_the_plain_run(place: Path, plain: list[dict[str, Any]], tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    done = nnface(*command(out), cwd=place)
    assert (done.code, done.out) == (1, "")
    assert done.err == f"nnface: 2 of {COUNT} pictures could not be read; the column error says why\n"
    assert rows(out) == plain
    files = sorted(path.name for path in out.iterdir())
    assert files == [MANIFEST, *(f"part-{number:05}.parquet" for number in range(COUNT // SIZE))]
    # Any reader of Parquet takes the folder as one table.
    table = pq.read_table(out)
    assert table.schema.equals(scale.schema()) and table.column("file").to_pylist() == [row["file"] for row in plain]
    again = nnface(*command(out), cwd=place)
    assert again.code == 1 and f"{COUNT // SIZE} of {COUNT // SIZE} shards are in {out} already" in again.err


# Kills the process itself, truly, at the n-th shard: before it is synced, between that and the rename, or after it.
KILLER = """
import os, signal, sys
from pathlib import Path
from nnface import files
from nnface.commands import main
moment, left = sys.argv.pop(1), int(sys.argv.pop(1))
def kill(now, path):
    global left
    if now == moment and ("part-" in str(path) or moment == "manifest"):
        left -= 1
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
sync, replace = files._sync, Path.replace
def killing_sync(path):
    kill("manifest" if "manifest" in str(path) else "written", path)
    sync(path)
    kill("synced", path)
def killing_replace(self, target):
    result = replace(self, target)
    kill("renamed", target)
    return result
files._sync, Path.replace = killing_sync, killing_replace
main()
"""


@pytest.mark.parametrize(
    "kills",
    [[("manifest", 1), ("written", 1)], [("synced", 4), ("renamed", 3), ("written", 5)], [("renamed", COUNT // SIZE)]],
    ids=["at the beginning", "three times in the middle", "at the end"],
)
def test_a_killed_run_goes_on(
    place: Path, plain: list[dict[str, Any]], tmp_path: Path, kills: list[tuple[str, int]]
) -> None:
    out = tmp_path / "out.parquet"
    made: dict[str, int] = {}
    for moment, left in kills:
        script = [sys.executable, "-c", KILLER, moment, str(left)]
        killed = nnface(*command(out), cwd=place, python=script)
        assert killed.code == -signal.SIGKILL, killed.err
        times = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
        assert made.items() <= times.items(), "a shard was lost, or made again"
        made = times
        for path in out.glob("part-*"):  # what bears its name is whole
            assert pq.read_metadata(path).num_rows == SIZE
    if len(made) < COUNT // SIZE:
        with pytest.raises(DataError, match=f"not complete: {len(made)} of {COUNT // SIZE} shards"):
            rows(out)
    done = nnface(*command(out), cwd=place)
    assert done.code == 1, done.err
    assert made.items() <= {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}.items()
    assert rows(out) == plain
    assert not [path for path in out.iterdir() if path.name.startswith(".")], "something half-written was left"


def test_an_object_store_gives_the_same_faces(place: Path, plain: list[dict[str, Any]], tmp_path: Path) -> None:
    uri = (place / "photos").as_uri()
    out = tmp_path / "out.parquet"
    done = nnface("detect", uri + "/", "--model", "bright.onnx", "--to", out, "--shard-size", "100", cwd=place)
    assert done.code == 1, done.err
    for row, same in zip(rows(out), plain, strict=True):
        assert row.pop("file") == uri + same["file"].removeprefix("photos")
        assert row == {key: value for key, value in same.items() if key != "file"} or uri in row["error"]
    one = nnface("detect", uri + "/1/1.jpg", "--model", "bright.onnx", "--to", tmp_path / "one.parquet", cwd=place)
    assert one.code == 0 and [row["file"] for row in rows(tmp_path / "one.parquet")] == [uri + "/1/1.jpg"]


def test_what_is_hidden_is_left_out_of_folders_and_stores(tmp_path: Path) -> None:
    for name in ("a.png", ".b.png", "c/.d/e.png", "c/f.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    for place in (str(tmp_path), tmp_path.as_uri()):
        pictures, problems = scale.find([place])
        assert pictures.part(0, 9) == [f"{place}/a.png", f"{place}/c/f.png"] and not problems


def test_portraits_with_parts(tmp_path: Path) -> None:
    palette_parser(tmp_path / "parser.onnx")
    cv2.imwrite(str(tmp_path / "a.png"), np.full((64, 48, 3), (0, 85, 255), np.uint8))
    arguments = ["segment", "a.png", "--crop", "none", "--model", "parser.onnx"]
    line = nnface(*arguments, "--json", "-", cwd=tmp_path).rows
    assert nnface(*arguments, "--to", "out.parquet", cwd=tmp_path).code == 0
    assert rows(tmp_path / "out.parquet") == line and line[0]["faces"][0]["score"] is None


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--size", "64"], "begun with other options (size None, now 64); name another folder"),
        (["--model", "other.onnx"], "begun with another model"),
        (["--shard-size", "17"], f"begun with --shard-size {SIZE}"),
        (["photos/1/1.jpg"], f"begun with {COUNT} pictures (now {COUNT + 1}) and with pictures of other names"),
    ],
    ids=["options", "model", "shard size", "pictures"],
)
def test_another_run_is_refused(place: Path, finished: Path, more: list[str], sentence: str) -> None:
    bright_detector(place / "other.onnx", detection_spec(min_score=0.3))
    before = {path: path.read_bytes() for path in finished.iterdir()}
    done = nnface(*command(finished, *more), cwd=place)
    assert done.code == 2 and sentence in done.err and len(done.err.splitlines()) == 1, done.err
    assert {path: path.read_bytes() for path in finished.iterdir()} == before


@pytest.fixture
def finished(place: Path, tmp_path: Path) -> Path:
    out = tmp_path / "out.parquet"
    assert nnface(*command(out), cwd=place).code == 1
    return out


def test_a_foreign_or_damaged_shard_is_refused_and_a_lost_one_made_again(
    place: Path, finished: Path, plain: list[dict[str, Any]], tmp_path: Path
) -> None:
    other = tmp_path / "other.parquet"
    assert nnface(*command(other, "--min-score", "0.9"), cwd=place).code == 1
    shard = finished / "part-00003.parquet"
    own = shard.read_bytes()
    for wrong, sentence in [
        ((other / shard.name).read_bytes(), "is a shard of another run"),
        ((finished / "part-00004.parquet").read_bytes(), "is a shard of another run"),
        (own[:-20], "is damaged"),
        (b"", "is damaged"),
    ]:
        shard.write_bytes(wrong)
        done = nnface(*command(finished), cwd=place)
        assert done.code == 2 and f"{shard} {sentence}" in done.err, done.err
        with pytest.raises(DataError, match=sentence):
            rows(finished)
    shard.unlink()
    with pytest.raises(DataError, match=f"{COUNT // SIZE - 1} of {COUNT // SIZE} shards"):
        rows(finished)
    assert nnface(*command(finished), cwd=place).code == 1
    assert rows(finished) == plain


def test_a_folder_of_other_things_and_a_damaged_manifest_are_refused(place: Path, tmp_path: Path) -> None:
    (tmp_path / "file.parquet").write_text("x")
    (tmp_path / "mine.parquet").mkdir()
    (tmp_path / "mine.parquet" / "thesis.doc").write_text("x")
    (tmp_path / "cut.parquet").mkdir()
    (tmp_path / "cut.parquet" / MANIFEST).write_text('{"format": 1')
    (tmp_path / "new.parquet").mkdir()
    (tmp_path / "new.parquet" / MANIFEST).write_text('{"format": 2}')
    for name, sentence in {
        "file": "is a file",
        "mine": "holds files that no manifest",
        "cut": "is damaged",
        "new": "written by a newer nnface",
        "absent/below": "cannot make the folder",
    }.items():
        done = nnface(*command(tmp_path / f"{name}.parquet"), cwd=place)
        assert done.code == 2 and sentence in done.err, done.err
    with pytest.raises(DataError, match="no output of nnface"):
        rows(tmp_path / "mine.parquet")


def test_only_what_this_run_left_unfinished_is_removed(place: Path, finished: Path) -> None:
    ours = [finished / name for name in (".part-00001.0123abcd.part.parquet", "._manifest.89abcdef.part.json")]
    theirs = [finished / name for name in (".a.part.zip", ".notes.0123abcd.part.json")]
    for path in (*ours, *theirs):
        path.write_text("x")
    other = nnface(*command(finished, "--size", "64"), cwd=place)
    assert other.code == 2 and all(path.exists() for path in (*ours, *theirs))
    assert nnface(*command(finished), cwd=place).code == 1
    assert not any(path.exists() for path in ours) and all(path.exists() for path in theirs)


def test_two_processes_do_not_write_one_folder(place: Path, tmp_path: Path) -> None:
    pictures, _ = scale.find([str(place / "photos")])
    manifest = scale.describe(scale.Job(task="detect", detector=str(place / "bright.onnx")), pictures, SIZE)
    out = tmp_path / "out.parquet"
    with scale.opened(out, manifest):
        done = nnface(*command(out), cwd=place)
    assert done.code == 2 and "another nnface is at work in" in done.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["photos", "--to", "out.jsonl"], "does not end in .parquet"),
        (["photos", "--to", "out.parquet", "--json", "a.jsonl"], "--to and --json exclude each other"),
        (["photos", "--shard-size", "10"], "go with --to"),
        (["photos", "--to", "out.parquet", "--ray-address", "auto"], "goes with --engine ray"),
        (["clip.mp4", "--to", "out.parquet"], "clip.mp4 is no picture"),
        (["nowhere://x/y", "--to", "out.parquet"], "nowhere://x/y cannot be read"),
        (["file:///not/there", "--to", "out.parquet"], "file:///not/there is not there"),
        (["photos/0/0.png", "--to", "out.parquet", "--model", "no.onnx"], "no.onnx"),
    ],
)
def test_usage(place: Path, tmp_path: Path, arguments: list[str], sentence: str) -> None:
    (tmp_path / "photos").symlink_to(place / "photos")
    (tmp_path / "bright.onnx").symlink_to(place / "bright.onnx")
    done = nnface("detect", "--model", "bright.onnx", *arguments, cwd=tmp_path)
    assert done.code == 2 and sentence in done.err and len(done.err.splitlines()) == 1, done.err
    assert not (tmp_path / "out.parquet").exists()


def test_passwords_in_an_uri_go_nowhere(place: Path) -> None:
    with pytest.raises(UsageError) as caught:
        scale.find(["sftp://me:secret@host/photos?token=secret"])
    assert "secret" not in str(caught.value)


numbers = st.floats(-1e4, 1e5, width=32)
shares = st.floats(0, 1, width=32)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
attributes = st.dictionaries(
    names,
    st.builds(
        Attribute, label=names, confidence=shares, certain=st.booleans(), probabilities=st.dictionaries(names, shares)
    ),
    max_size=2,
)


@st.composite
def found(draw: st.DrawFn) -> Faces | Failure:
    if draw(st.booleans()):
        return Failure(draw(names))
    count = draw(st.integers(0, 3))
    arrays = [draw(st.lists(numbers, min_size=n * count, max_size=n * count)) for n in (4, 10)]
    scored, marked, told, parted = (draw(st.booleans()) for _ in range(4))
    return Faces(
        width=draw(st.integers(1, 65535)),
        height=draw(st.integers(1, 65535)),
        boxes=np.array(arrays[0], np.float32).reshape(-1, 4),
        scores=np.array(draw(st.lists(shares, min_size=count, max_size=count)), np.float32) if scored else None,
        landmarks=np.array(arrays[1], np.float32).reshape(-1, 5, 2) if marked else None,
        attributes=[draw(attributes) for _ in range(count)] if told else None,
        parts=[draw(st.dictionaries(names, st.integers(0, 1 << 40), max_size=2)) for _ in range(count)]
        if parted
        else None,
    )


@settings(max_examples=60)
@given(st.lists(st.tuples(names, found()), max_size=5))
def test_whatever_is_found_comes_back(tmp_path_factory: pytest.TempPathFactory, results: list[Any]) -> None:
    shard = encode("run", 3, iter(results))
    path = tmp_path_factory.mktemp("shard") / "part-00003.parquet"
    path.write_bytes(shard.data)
    back = list(decode(path))
    assert len(back) == shard.pictures == len(results)
    assert shard.failed == sum(isinstance(result, Failure) for _, result in results)
    for row, (name, result) in zip(back, results, strict=True):
        said = {"error": result.reason} if isinstance(result, Failure) else result.to_dict()
        assert row.to_dict() == {"file": name} | said


def test_a_name_that_is_not_utf8_is_escaped(place: Path, tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/\xff.png"
    try:
        Path(os.fsdecode(odd)).write_bytes((place / "photos/0/0.png").read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    arguments = ["detect", tmp_path, "--model", place / "bright.onnx", "--to", "out.parquet"]
    assert nnface(*arguments, cwd=tmp_path).code == 0
    assert [row["file"] for row in rows(tmp_path / "out.parquet")] == [f"{tmp_path}/\\udcff.png"]


# Kills one of the two workers, truly, when two shards are there; then, at the eighth, the process itself.
WORKER_KILLER = """
import os, signal, sys
from pathlib import Path
from nnface.commands import main
from nnface.scale.output import Output
die_at, keep, kept = int(sys.argv.pop(1)), Output.keep, []
def workers():
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and (folder / "cmdline").read_bytes().startswith(b"ray::Worker"):
                if mine(int(folder.name)):
                    yield int(folder.name)
        except OSError:
            pass
def mine(pid):
    while pid > 1:
        if pid == os.getpid():
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False
def killing_keep(self, shard):
    keep(self, shard)
    kept.append(shard.number)
    if len(kept) == 2:
        pid = next(workers())
        os.kill(pid, signal.SIGKILL)
        print("killed", pid, file=sys.stderr)
    if len(kept) == die_at:
        os.kill(os.getpid(), signal.SIGKILL)
Output.keep = killing_keep
main()
"""


@NEEDS_RAY
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds Ray's workers in /proc")
def test_a_worker_on_ray_is_killed_then_the_whole_run(place: Path, plain: list[dict[str, Any]], tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    for die_at, code in ((8, -signal.SIGKILL), (0, 1)):
        script = [sys.executable, "-c", WORKER_KILLER, str(die_at), *command(out, "--engine", "ray")]
        done = subprocess.run(script, cwd=place, capture_output=True, text=True, env=ENVIRONMENT, timeout=400)
        assert done.returncode == code, done.stderr
        assert "killed" in done.stderr and done.stdout == ""
        assert len(list(out.glob("part-*"))) == (die_at or COUNT // SIZE)
    assert rows(out) == plain


@NEEDS_RAY
@pytest.mark.slow
def test_what_hinders_every_shard_on_ray_ends_the_run(place: Path, tmp_path: Path) -> None:
    bright_detector(tmp_path / "nan.onnx", detection_spec(), nan=True)
    arguments = ["detect", place / "photos/0", "--model", "nan.onnx", "--to", "out.parquet", "--engine", "ray"]
    script = [sys.executable, "-m", "nnface", *map(str, arguments), "--threads", "1"]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT, timeout=400)
    assert done.returncode == 2 and "scores that are not numbers" in done.stderr, done.stderr
    assert not list((tmp_path / "out.parquet").glob("part-*"))


@NEEDS_RAY
def test_a_ray_cluster_that_is_not_there(place: Path, tmp_path: Path) -> None:
    for address, sentence in {
        "127.0.0.1:1": "there is no Ray cluster at 127.0.0.1:1",
        "somewhere": "no address of a Ray cluster",
    }.items():
        done = nnface(*command(tmp_path / "o.parquet", "--engine", "ray", "--ray-address", address), cwd=place)
        assert done.code == 2 and sentence in done.err and len(done.err.splitlines()) == 1, done.err


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_ray_that_is_not_installed(place: Path, tmp_path: Path) -> None:
    done = nnface(*command(tmp_path / "out.parquet", "--engine", "ray"), cwd=place)
    assert done.code == 2 and "pip install 'nnface[ray]'" in done.err
