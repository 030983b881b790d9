"""Data sets from their sources: a real server breaks, refuses and lies, real processes are killed."""

import hashlib
import json
import os
import pty
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnface.curate import fetching
from nnface.curate.archives import DATASETS, DRIVE, FAIRFACE, WIDERFACE, Archive, Published, with_sources
from nnface.curate.download import Outcome, download
from nnface.errors import DataError, UsageError
from processes import ENVIRONMENT, NNFACE, nnface, read_all
from sources import QUOTA, Served, Sources, leftovers, serving, sources_toml, zipped

PICTURES = zipped({f"WIDER_val/images/0--Parade/{i}.jpg": random.Random(i).randbytes(40_000) for i in range(25)})
"""About a megabyte: several chunks of a transfer."""


def val(*sources: str, content: bytes = PICTURES, **changes: Any) -> Published:
    """WIDER FACE with one archive, which is this content."""
    archive = Archive(
        part="val", file="WIDER_val.zip", sources=sources, size=len(content),
        sha256=hashlib.sha256(content).hexdigest(), holds=("WIDER_val",),
    )  # fmt: skip
    return replace(WIDERFACE, archives=(replace(archive, **changes),))


def fetched(data: Published, root: Path, attempts: int = 1, say: Callable[[str], None] = lambda s: None) -> Outcome:
    (outcome,) = download(data, root, agree=lambda terms: True, attempts=attempts, say=say)
    return outcome


def test_a_whole_file_is_verified_and_not_asked_for_again(tmp_path: Path) -> None:
    with serving({"a": Served(PICTURES)}) as sources:
        outcome = fetched(val(sources.url("a")), tmp_path)
        assert outcome.path is not None and outcome.path.read_bytes() == PICTURES
        assert leftovers(tmp_path) == ["WIDER_val.zip"]
        assert fetched(val(sources.url("a")), tmp_path).path == outcome.path
        assert sources.asked_for("a") == [("", 200)]


@settings(max_examples=10)
@given(st.lists(st.integers(70_000, len(PICTURES) - 1), max_size=4), st.booleans())
def test_however_often_it_breaks_off_the_bytes_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, breaks: list[int], published: bool
) -> None:
    root = tmp_path_factory.mktemp("root")
    with serving({"a": Served(PICTURES, breaks=breaks)}) as sources:
        data = val(sources.url("a")) if published else val(sources.url("a"), size=None, sha256=None)
        outcome = fetched(data, root, attempts=2)
        assert outcome.path is not None and outcome.path.read_bytes() == PICTURES
        asked = sources.asked_for("a")
        assert asked[0] == ("", 200) and all(status == (206 if span else 200) for span, status in asked)


def test_a_break_is_gone_on_with_where_it_was(tmp_path: Path) -> None:
    with serving({"a": Served(PICTURES, breaks=[300_000])}) as sources:
        assert fetched(val(sources.url("a")), tmp_path).path is not None
        assert sources.asked_for("a") == [("", 200), ("bytes=262144-", 206)]  # the last whole chunk of 64 KiB


def test_without_ranges_it_starts_over(tmp_path: Path) -> None:
    with serving({"a": Served(PICTURES, ranges=False, breaks=[300_000])}) as sources:
        outcome = fetched(val(sources.url("a")), tmp_path)
        assert outcome.path is not None and outcome.path.read_bytes() == PICTURES
        assert sources.asked_for("a") == [("", 200), ("bytes=262144-", 200)]


def test_a_source_that_keeps_breaking_is_given_up_and_its_bytes_kept(tmp_path: Path) -> None:
    with serving({"a": Served(PICTURES, ranges=False, breaks=[70_000] * 9), "b": Served(PICTURES)}) as sources:
        outcome = fetched(val(sources.url("a")), tmp_path)
        assert outcome.path is None and "broke off at 65,536 bytes" in outcome.problem
        assert leftovers(tmp_path) == ["WIDER_val.zip.part", "WIDER_val.zip.part.etag"]
        # Another source goes on with them: the published checksum tells in the end whether that was right.
        assert fetched(val(sources.url("b")), tmp_path).path is not None
        assert sources.asked_for("b") == [("bytes=65536-", 206)]
        assert leftovers(tmp_path) == ["WIDER_val.zip"]


@pytest.mark.parametrize(
    "served, reason",
    [
        (Served(QUOTA, kind="text/html; charset=utf-8"), "web page"),
        (Served(QUOTA, lengthless=True), "web page"),  # said to be a file
        (Served(b"x", status=404), "404"),
        (Served(b"x", status=403), "403"),
        (Served(PICTURES[:-9] + b"different"), "SHA-256"),
        (Served(PICTURES[:-100]), "offers"),
        (Served(PICTURES + b"more"), "offers"),
        (Served(PICTURES + b"more", lengthless=True), "more than"),
        (Served(PICTURES[:-100], lengthless=True), "offers"),  # asked for the rest, it says that this was all
        (Served(b"x", status=503), "503"),
    ],
)
def test_what_is_not_the_file_is_refused_and_the_next_source_asked(tmp_path: Path, served: Served, reason: str) -> None:
    with serving({"bad": served, "good": Served(PICTURES)}) as sources:
        outcome = fetched(val(sources.url("bad")), tmp_path)
        assert outcome.path is None and reason in outcome.problem
        assert f"fetch it by hand from {sources.url('bad')}, put it into {tmp_path / 'archives'}" in outcome.problem
        assert not (tmp_path / "archives" / "WIDER_val.zip").exists()
        outcome = fetched(val(sources.url("bad"), sources.url("good")), tmp_path / "second")
        assert outcome.path is not None and outcome.path.read_bytes() == PICTURES
        assert leftovers(tmp_path / "second") == ["WIDER_val.zip"]


@pytest.mark.parametrize(
    "content, reason",
    [
        (PICTURES[:-50], "no whole zip"),
        (PICTURES[:500_000] + bytes(9) + PICTURES[500_009:], "damaged"),
        (zipped({"WIDER_val/../../../evil": b"x"}), "leads out"),
        (b"not an archive at all", "no whole zip"),
    ],
)
def test_without_a_published_checksum_the_archive_itself_is_tested(tmp_path: Path, content: bytes, reason: str) -> None:
    with serving({"a": Served(content, lengthless=True)}) as sources:
        outcome = fetched(val(sources.url("a"), size=None, sha256=None), tmp_path)
    assert outcome.path is None and reason in outcome.problem
    assert leftovers(tmp_path) == []


def test_a_first_checksum_is_recorded_said_and_holds_from_then_on(tmp_path: Path) -> None:
    said: list[str] = []
    other = zipped({"WIDER_val/images/x.jpg": b"other"})
    with serving({"a": Served(PICTURES), "b": Served(other)}) as sources:
        unknown = val(sources.url("a"), size=None, sha256=None)
        outcome = fetched(unknown, tmp_path, say=said.append)
        assert outcome.path is not None
        digest = hashlib.sha256(PICTURES).hexdigest()
        assert any("no checksum of it is published" in s and digest in s for s in said)
        assert (
            json.loads((tmp_path / "archives/nnface.json").read_text())["verified"]["WIDER_val.zip"]["sha256"] == digest
        )
        outcome.path.unlink()
        again = fetched(val(sources.url("b"), size=None, sha256=None), tmp_path)
        assert again.path is None and "not the file that was downloaded first" in again.problem


def test_a_file_that_changed_at_the_source_is_not_spliced(tmp_path: Path) -> None:
    changed = zipped({"WIDER_val/images/0--Parade/1.jpg": random.Random(9).randbytes(900_000)})
    with serving({"a": Served(PICTURES, breaks=[400_000, 0, 0])}) as sources:
        unknown = val(sources.url("a"), size=None, sha256=None)
        assert fetched(unknown, tmp_path).path is None
        sources.files["a"] = Served(changed)
        outcome = fetched(unknown, tmp_path)
        assert outcome.path is not None and outcome.path.read_bytes() == changed
        assert sources.asked_for("a")[-1] == ("bytes=393216-", 200)


def test_a_file_put_there_by_hand_is_verified_and_used(tmp_path: Path) -> None:
    with serving({"a": Served(QUOTA, kind="text/html")}) as sources:
        data = val(sources.url("a"))
        assert fetched(data, tmp_path).path is None
        (tmp_path / "archives" / "WIDER_val.zip").write_bytes(PICTURES)
        assert fetched(data, tmp_path).path == tmp_path / "archives" / "WIDER_val.zip"
        beside = tmp_path / "beside"
        beside.mkdir()
        (beside / "WIDER_val.zip").write_bytes(PICTURES)
        assert fetched(data, beside).path == beside / "WIDER_val.zip"
        assert len(sources.asked) == 1


@pytest.mark.parametrize("content", [QUOTA, PICTURES[:1000], PICTURES[:-9] + b"different"])
def test_a_wrong_file_put_there_by_hand_is_set_aside(tmp_path: Path, content: bytes) -> None:
    said: list[str] = []
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / "WIDER_val.zip").write_bytes(content)
    with serving({"a": Served(PICTURES)}) as sources:
        outcome = fetched(val(sources.url("a")), tmp_path, say=said.append)
    assert outcome.path is not None and outcome.path.read_bytes() == PICTURES
    assert leftovers(tmp_path) == ["WIDER_val.zip", "WIDER_val.zip.rejected"]
    assert (tmp_path / "archives" / "WIDER_val.zip.rejected").read_bytes() == content
    assert any("set aside" in sentence for sentence in said)


def test_a_file_that_changes_after_it_was_verified_is_looked_at_again(tmp_path: Path) -> None:
    with serving({"a": Served(PICTURES)}) as sources:
        outcome = fetched(val(sources.url("a")), tmp_path)
        assert outcome.path is not None
        outcome.path.write_bytes(PICTURES[:-9] + b"different")
        os.utime(outcome.path, ns=(1, 1))
        assert fetched(val(sources.url("a")), tmp_path).path is not None
        assert outcome.path.read_bytes() == PICTURES


def test_terms_are_asked_for_once(tmp_path: Path) -> None:
    asked: list[str] = []

    def agree(terms: str) -> bool:
        asked.append(terms)
        return len(asked) > 1

    with serving({"a": Served(PICTURES)}) as sources:
        with pytest.raises(UsageError, match="terms were not accepted"):
            download(val(sources.url("a")), tmp_path, agree=agree)
        assert sources.asked == []
        for _ in range(2):
            download(val(sources.url("a")), tmp_path, agree=agree)
    assert len(asked) == 2 and "non-commercial" in asked[0]


def test_the_disk_is_looked_at_before(tmp_path: Path) -> None:
    with serving({"a": Served(PICTURES)}) as sources, pytest.raises(DataError, match="make room"):
        fetched(val(sources.url("a"), size=10**16), tmp_path)
    assert sources.asked == []


def test_offline_says_what_to_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNFACE_OFFLINE", "1")
    outcome = fetched(val(f"{DRIVE}abc_D-e"), tmp_path)
    assert outcome.path is None
    assert "NNFACE_OFFLINE" in outcome.problem and "https://drive.google.com/file/d/abc_D-e/view" in outcome.problem


# --- the shared drive, through the real gdown; only the network below it leads here


@pytest.fixture
def drive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Sources], None]:
    pytest.importorskip("gdown")
    from requests.adapters import HTTPAdapter

    real = HTTPAdapter.send

    def lead(sources: Sources) -> None:
        def send(self: Any, request: Any, **options: Any) -> Any:
            parts = urlsplit(request.url)
            if parts.netloc.endswith("google.com") or parts.netloc.endswith("googleusercontent.com"):
                asked, request = request, request.copy()
                request.url = f"{sources.address}{parts.path}?{parts.query}".rstrip("?")
                answer = real(self, request, **options)
                answer.url, answer.request = asked.url, asked
                return answer
            return real(self, request, **options)

        monkeypatch.setattr(HTTPAdapter, "send", send)

    monkeypatch.setenv("HOME", str(tmp_path))
    return lead


DISPOSITION = {"Content-Disposition": 'attachment; filename="WIDER_val.zip"'}


def test_the_shared_drive_asks_for_confirmation_and_goes_on(tmp_path: Path, drive: Callable[[Sources], None]) -> None:
    form = (
        b'<html><body><form id="download-form" action="https://drive.usercontent.google.com/download" method="get">'
        b'<input type="hidden" name="id" value="abc">'
        b'<input type="hidden" name="confirm" value="t"></form></body></html>'
    )
    files = {
        "uc?id=abc": Served(form, kind="text/html"),
        "download?id=abc&confirm=t": Served(PICTURES, breaks=[700_000], headers=DISPOSITION),
    }
    with serving(files) as sources:
        drive(sources)
        outcome = fetched(val(f"{DRIVE}abc"), tmp_path / "root")
        assert outcome.path is not None, outcome.problem
        assert outcome.path.read_bytes() == PICTURES
        assert leftovers(tmp_path / "root") == ["WIDER_val.zip"]
        assert sources.asked[-1][1:] == ("bytes=524288-", 206)


def test_what_the_shared_drive_gave_before_is_gone_on_with(tmp_path: Path, drive: Callable[[Sources], None]) -> None:
    with serving({"uc?id=abc": Served(PICTURES, breaks=[700_000, 0, 0], headers=DISPOSITION)}) as sources:
        drive(sources)
        broken = fetched(val(f"{DRIVE}abc"), tmp_path / "root")
        assert broken.path is None
        assert leftovers(tmp_path / "root") and all(n.endswith(".part") for n in leftovers(tmp_path / "root"))
        outcome = fetched(val(f"{DRIVE}abc"), tmp_path / "root")
        assert outcome.path is not None and outcome.path.read_bytes() == PICTURES
        assert sources.asked[-1][1:] == ("bytes=524288-", 206)
        assert leftovers(tmp_path / "root") == ["WIDER_val.zip"]


def test_the_quota_of_the_shared_drive_says_what_to_do(tmp_path: Path, drive: Callable[[Sources], None]) -> None:
    with serving({"uc?id=abc": Served(QUOTA, kind="text/html"), "mirror": Served(PICTURES)}) as sources:
        drive(sources)
        outcome = fetched(val(f"{DRIVE}abc"), tmp_path / "root")
        assert outcome.path is None and leftovers(tmp_path / "root") == []
        assert "Too many users" in outcome.problem and "\n" not in outcome.problem
        assert "by hand from https://drive.google.com/file/d/abc/view" in outcome.problem
        assert fetched(val(f"{DRIVE}abc", sources.url("mirror")), tmp_path / "root").path is not None


def test_without_gdown_the_other_source_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gdown", None)
    outcome = fetched(val(f"{DRIVE}abc"), tmp_path)
    assert outcome.path is None and "pip install 'nnface[data]'" in outcome.problem
    with serving({"a": Served(PICTURES)}) as sources:
        assert fetched(val(f"{DRIVE}abc", sources.url("a")), tmp_path).path is not None


# --- the command, as a process


@pytest.fixture
def mirror(tmp_path: Path) -> Callable[..., Path]:
    def write(sources: Sources, name: str = "a", **changes: object) -> Path:
        table = {
            "sources": [sources.url(name)], "size": len(PICTURES), "sha256": hashlib.sha256(PICTURES).hexdigest(),
        }  # fmt: skip
        return sources_toml(tmp_path / "mirror.toml", {"WIDER_val.zip": table | changes})

    return write


def command(root: Path, mirror: Path) -> list[str]:
    return ["data", "download", "widerface", "--root", str(root), "--only", "val", "--sources", str(mirror)]


def test_killed_and_run_again_it_goes_on(tmp_path: Path, mirror: Callable[..., Path]) -> None:
    root = tmp_path / "root"
    with serving({"a": Served(PICTURES, stall=600_000)}) as sources:
        arguments = command(root, mirror(sources))
        with subprocess.Popen([*NNFACE, *arguments, "--accept-licence"], env=ENVIRONMENT) as process:
            assert sources.stalled.wait(60)
            part = root / "archives" / "WIDER_val.zip.part"
            while fetching.length(part) < 200_000:  # until it has written what came
                assert process.poll() is None
            second = nnface(*arguments, cwd=tmp_path)
            assert (second.code, second.out) == (2, "")
            assert "another nnface data download is at work in" in second.err
            process.kill()
        assert not (root / "archives" / "WIDER_val.zip").exists()
        kept = fetching.length(part)
        ended = nnface(*arguments, cwd=tmp_path)  # the terms were accepted before
        assert ended.code == 0, ended.err
        assert sources.asked_for("a") == [("", 200), (f"bytes={kept}-", 206)]
    assert (root / "archives" / "WIDER_val.zip").read_bytes() == PICTURES
    assert leftovers(root) == ["WIDER_val.zip"]
    assert f"nnface data prepare widerface --root {root}" in ended.out


def test_interrupted_it_exits_with_130_and_keeps_what_came(tmp_path: Path, mirror: Callable[..., Path]) -> None:
    root = tmp_path / "root"
    with serving({"a": Served(PICTURES, stall=600_000)}) as sources:
        arguments = [*NNFACE, *command(root, mirror(sources)), "--accept-licence"]
        with subprocess.Popen(arguments, env=ENVIRONMENT, stderr=subprocess.PIPE) as process:
            while fetching.length(root / "archives" / "WIDER_val.zip.part") < 200_000:
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
            assert process.stderr is not None and process.stderr.read() == b"nnface: interrupted\n"
    assert "WIDER_val.zip" not in leftovers(root) and "WIDER_val.zip.part" in leftovers(root)


def test_exit_codes_and_sentences(tmp_path: Path) -> None:
    with serving({"a": Served(PICTURES), "q": Served(QUOTA, kind="text/html")}) as sources:
        digest = hashlib.sha256(PICTURES).hexdigest()
        good = {"sources": [sources.url("a")], "size": len(PICTURES), "sha256": digest}
        bad = {"sources": [sources.url("q")], "size": 0, "sha256": ""}
        file = sources_toml(tmp_path / "s.toml", {"WIDER_val.zip": good, "retinaface_gt_v1.1.zip": bad})
        base = ["data", "download", "widerface", "--root", tmp_path / "r", "--sources", file]
        refused = nnface(*base, "--only", "val", cwd=tmp_path)
        assert refused.code == 2 and "--accept-licence" in refused.err and "non-commercial" in refused.out
        some = nnface(*base, "--accept-licence", "--only", "val", "--only", "landmarks", cwd=tmp_path)
        assert some.code == 1 and some.err.count("\n") == 1
        assert "retinaface_gt_v1.1.zip could not be downloaded" in some.err and "by hand" in some.err
        none = nnface(*base, "--only", "landmarks", cwd=tmp_path)
        assert none.code == 2 and leftovers(tmp_path / "r") == ["WIDER_val.zip"]
        unknown = nnface(*base, "--only", "vla", cwd=tmp_path)
        assert unknown.code == 2 and "its parts are annotations, landmarks, truth, val, train, test" in unknown.err


def test_a_terminal_is_asked(tmp_path: Path, mirror: Callable[..., Path]) -> None:
    with serving({"a": Served(PICTURES)}) as sources:
        arguments = [*NNFACE, *command(tmp_path / "root", mirror(sources))]
        for answer, code in ((b"n\n", 2), (b"y\n", 0)):
            leader, follower = pty.openpty()
            with subprocess.Popen(
                arguments, env=ENVIRONMENT, stdin=follower, stdout=subprocess.PIPE, stderr=follower
            ) as process:
                os.close(follower)
                os.write(leader, answer)
                shown = read_all(leader)
                assert process.wait(60) == code, shown
            os.close(leader)
            assert "Do you accept these terms?" in shown


def test_a_folder_that_cannot_be_made(tmp_path: Path, mirror: Callable[..., Path]) -> None:
    (tmp_path / "root").write_text("a file")
    with serving({"a": Served(PICTURES)}) as sources:
        ended = nnface(*command(tmp_path / "root", mirror(sources)), "--accept-licence", cwd=tmp_path)
    assert ended.code == 2 and ended.err.startswith("nnface: cannot make the folder") and ended.err.count("\n") == 1


def limited(arguments: list[str], limit: int) -> "subprocess.CompletedProcess[bytes]":
    """The command where no file may grow beyond a limit, as on a disk that becomes full."""
    return subprocess.run(
        [*NNFACE, *arguments], env=ENVIRONMENT, capture_output=True, timeout=120, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip


def test_a_file_that_cannot_grow_any_further(tmp_path: Path, mirror: Callable[..., Path]) -> None:
    root = tmp_path / "root"
    with serving({"a": Served(PICTURES, lengthless=True)}) as sources:
        arguments = [*command(root, mirror(sources)), "--accept-licence"]
        ended = limited(arguments, 500_000)
        assert ended.returncode == 2 and b"make room" in ended.stderr and ended.stderr.count(b"\n") == 1
        assert "WIDER_val.zip" not in leftovers(root)
        assert nnface(*arguments, cwd=tmp_path).code == 0  # with room it goes on
        assert sources.asked_for("a")[-1] == ("bytes=500000-", 206)
    assert (root / "archives" / "WIDER_val.zip").read_bytes() == PICTURES


def test_a_full_disk(tmp_path: Path, mirror: Callable[..., Path]) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "none", root], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here; the test with a limit on the size of files runs instead")
    try:
        with serving({"a": Served(PICTURES, lengthless=True), "b": Served(PICTURES)}) as sources:
            unknown = mirror(sources, size=0)
            ended = nnface(*command(root, unknown), "--accept-licence", cwd=tmp_path)
            assert ended.code == 2 and "No space left on device" in ended.err and "make room" in ended.err
            assert "WIDER_val.zip" not in leftovers(root)
            told = nnface(*command(root, mirror(sources, "b", size=0)), cwd=tmp_path)
            assert told.code == 2 and "more bytes are needed" in told.err
    finally:
        subprocess.run(["umount", root], check=True)


# --- the table


def test_the_table_is_what_is_published() -> None:
    drive = {a.file: a.sources[0] for a in FAIRFACE.archives}
    assert drive == {
        "fairface-img-margin025-trainval.zip": "drive:1Z1RqRo0_JiavaZw2yzZG6WETdZQ8qX86",
        "fairface-img-margin125-trainval.zip": "drive:1g7qNOZz9wC7OfOhcPqH1EZ5bk1UFGmlL",
        "fairface_label_train.csv": "drive:1i1L3Yqwaio7YSOCj7ftgk8ZZchPG7dmH",
        "fairface_label_val.csv": "drive:1wOdja-ezstMEp81tX1a-EYkFebev4h7D",
    }
    assert "drive:1badu11NqxGf6qM3PTTooQDJvQbejgbTv" in DATASETS["celebamask"].archives[-1].sources
    for data in DATASETS.values():
        assert data.terms and data.page.startswith("http")
        for archive in data.archives:
            assert archive.weight and archive.sources and (archive.holds or archive.text)
            assert archive.sha256 is None or len(archive.sha256) == 64


@pytest.mark.parametrize(
    "text, match",
    [
        ("x = ", "cannot be read"),
        ('["x.zip"]\nsize = 1', "no published archive"),
        ('["WIDER_val.zip"]\nsizes = 1', "not sizes"),
        ('["WIDER_val.zip"]\nsize = "1"', "not size"),
        ('["WIDER_val.zip"]\nsources = ["ftp://x"]', "must be http"),
        ('["WIDER_val.zip"]\nsources = []', "must be http"),
        ('["WIDER_val.zip"]\nfile = "../x.zip"', "no plain file name"),
        ('["WIDER_val.zip"]\nsha256 = "12"', "64 hex digits"),
    ],
)
def test_a_file_of_sources_is_read_strictly(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(DataError, match=match):
        with_sources(WIDERFACE, tmp_path / "s.toml")


def test_a_mirror_has_to_give_the_published_bytes(tmp_path: Path) -> None:
    file = sources_toml(tmp_path / "s.toml", {"WIDER_val.zip": {"sources": ["http://mirror.example/v.zip"]}})
    (changed,) = with_sources(WIDERFACE, file).choose(["val"]).archives
    (published,) = WIDERFACE.choose(["val"]).archives
    assert changed == replace(published, sources=("http://mirror.example/v.zip",))
