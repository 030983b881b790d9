"""``nnface detect`` and the frame around all commands, as real processes."""

import json
import os
import pty
import shlex
import signal
import stat
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from nnface.commands import COMMANDS
from processes import ENVIRONMENT, NNFACE, nnface, nnface_on_terminal
from tiny_models import bright_detector, squares


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bright_detector(tmp_path_factory.mktemp("model") / "bright.onnx")


def _picture(path: Path, *corners: tuple[int, int], width: int = 128, height: int = 96) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = cv2.imencode(path.suffix.lower(), squares(width, height, *corners))[
        1
    ]  # imwrite knows no file name but ASCII
    path.write_bytes(encoded.tobytes())
    return path


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _one_sentence(text: str) -> str:
    lines = text.splitlines()
    assert len(lines) == 1 and lines[0].startswith("nnface: "), text
    return lines[0]


def test_a_pipe_gets_json_lines_and_no_picture(tmp_path: Path, model: Path) -> None:
    _picture(tmp_path / "a.png", (16, 32))
    ended = nnface("detect", "a.png", "--model", model, cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    (row,) = ended.rows
    assert list(row) == ["file", "width", "height", "faces"]
    assert (row["file"], row["width"], row["height"]) == ("a.png", 128, 96)
    (face,) = row["faces"]
    assert set(face) == {"box", "score", "landmarks"}
    assert face["box"] == pytest.approx([16, 32, 32, 48], abs=0.1)
    assert face["score"] == pytest.approx(1, abs=0.01)
    assert np.shape(face["landmarks"]) == (5, 2)
    assert _names(tmp_path) == ["a.png"]


def test_the_rest_is_done_where_some_fail_and_the_order_is_kept(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "photos"
    for number in range(24):
        _picture(
            folder / f"{number:02}.jpg", (16, 16), width=64 + 16 * (number % 5), height=64 + 400 * (number % 3 == 0)
        )
    (folder / "05.jpg").write_text("not a picture")
    (folder / "11.jpg").write_bytes((folder / "10.jpg").read_bytes()[:300])
    (folder / "17.jpg").write_bytes(b"")
    (folder / "20.jpg.png").symlink_to(tmp_path / "gone")
    ended = nnface("detect", folder, "absent.jpg", "--model", model, "--threads", "2", cwd=tmp_path)
    assert ended.code == 1
    files = [f"{folder}/{number:02}.jpg" for number in range(24)]
    files.insert(21, f"{folder}/20.jpg.png")
    assert [row["file"] for row in ended.rows] == [*files, "absent.jpg"]
    failed = [row for row in ended.rows if "error" in row]
    assert [Path(row["file"]).name for row in failed] == ["05.jpg", "11.jpg", "17.jpg", "20.jpg.png", "absent.jpg"]
    assert all(row.keys() == {"file", "error"} and row["file"] in row["error"] for row in failed)
    assert ended.err.splitlines() == [f"nnface: {row['error']}" for row in failed]
    assert all(row["width"] == 64 + 16 * (int(Path(row["file"]).stem) % 5) for row in ended.rows if "error" not in row)


def test_threads_and_batches_change_nothing(tmp_path: Path, model: Path) -> None:
    for number in range(9):
        _picture(tmp_path / f"{number}.png", (16 * (number % 3), 16), width=64 + 64 * (number % 2))
    runs = [
        nnface("detect", ".", "--model", model, *options, cwd=tmp_path)
        for options in ([], ["--threads", "1", "--batch", "4"], ["--threads", "3", "--batch", "16"])
    ]
    assert runs[0].rows[0]["file"] == "./0.png"
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: "absent.jpg",
        lambda folder: folder.mkdir() or folder,
        lambda folder: folder.with_suffix(".jpg").write_text("text") and folder.with_suffix(".jpg"),
        lambda folder: _picture(folder / "a.txt.png").rename(folder / "a.txt") and folder,
        lambda folder: "camera:97",
    ],
    ids=["a path that is not there", "an empty folder", "text named .jpg", "a folder without pictures", "no camera"],
)
def test_nothing_could_be_done(tmp_path: Path, model: Path, make: object) -> None:
    path = make(tmp_path / "thing")  # type: ignore[operator]
    ended = nnface("detect", path, "--model", model, cwd=tmp_path)
    assert ended.code == 2
    assert str(path) in _one_sentence(ended.err)


def test_a_folder_is_walked_sorted_by_extension_and_links_to_files_are_followed(tmp_path: Path, model: Path) -> None:
    photos = tmp_path / "photos"
    for name in ("b/z.PNG", "b/a.jpeg", "a.bmp", "ünï 写真.png", "c.png"):
        _picture(photos / name)
    (photos / "note.txt").write_text("x")
    _picture(tmp_path / "elsewhere/x.png", (16, 16))
    (photos / "link.png").symlink_to("../elsewhere/x.png")
    (photos / "folder.png").symlink_to("../elsewhere")  # a link to a folder, whatever its name
    (photos / "b/loop").symlink_to("..")
    ended = nnface("detect", "photos/", "--model", model, cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    names = ["a.bmp", "b/a.jpeg", "b/z.PNG", "c.png", "link.png", "ünï 写真.png"]
    assert [row["file"] for row in ended.rows] == [f"photos/{name}" for name in names]
    assert [len(row["faces"]) for row in ended.rows] == [0, 0, 0, 0, 1, 0]


def test_what_is_hidden_in_a_folder_is_left_out_and_taken_where_it_is_named(tmp_path: Path, model: Path) -> None:
    for name in ("a.png", ".b.png", ".thumbnails/c.png", "d/.e/f.png", "d/._g.png", "d/h.png"):
        _picture(tmp_path / "photos" / name)
    (tmp_path / "photos/.clip.mp4").write_bytes(b"")
    (tmp_path / "photos/.link.png").symlink_to("a.png")
    ended = nnface("detect", "photos", "--model", model, cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert [row["file"] for row in ended.rows] == ["photos/a.png", "photos/d/h.png"]
    named = nnface("detect", "photos/.thumbnails", "photos/.b.png", "--model", model, cwd=tmp_path)
    assert [row["file"] for row in named.rows] == ["photos/.thumbnails/c.png", "photos/.b.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="file names that are not UTF-8")
def test_a_name_that_is_not_utf8_comes_back(tmp_path: Path, model: Path) -> None:
    name = os.fsdecode(b"\xff.png")
    _picture(tmp_path / name)
    ended = nnface("detect", ".", "--model", model, cwd=tmp_path)
    assert ended.rows[0]["file"] == f"./{name}"


def test_a_json_file_is_replaced_and_its_folder_must_exist(tmp_path: Path, model: Path) -> None:
    _picture(tmp_path / "a.png", (16, 16))
    out = tmp_path / "out.jsonl"
    out.write_text("old")
    ended = nnface("detect", "a.png", "--json", "out.jsonl", "--model", model, cwd=tmp_path)
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    assert json.loads(out.read_text())["file"] == "a.png"
    assert _names(tmp_path) == ["a.png", "out.jsonl"]

    for target, words in {"absent/out.jsonl": "the folder absent does not exist", ".": "it is a folder"}.items():
        ended = nnface("detect", "a.png", "--json", target, "--draw", "drawn", "--model", model, cwd=tmp_path)
        assert ended.code == 2
        assert f"cannot write {target}: {words}" in _one_sentence(ended.err)
    assert _names(tmp_path) == ["a.png", "out.jsonl"]

    _picture(tmp_path / "b.png", (16, 16))
    before = (tmp_path / "a.png").read_bytes()
    ended = nnface("detect", "--json", "a.png", "b.png", "--model", model, cwd=tmp_path)  # --json *.png
    assert ended.code == 2
    assert "a name for a picture or video" in _one_sentence(ended.err)
    assert (tmp_path / "a.png").read_bytes() == before

    ended = nnface("detect", "a.png", "--json", "/dev/null", "--model", model, cwd=tmp_path)
    assert ended.code == 0
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode), "a device was replaced by a file"


def test_a_terminal_gets_a_table_and_named_pictures_get_an_annotated_copy(tmp_path: Path, model: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    picture = _picture(tmp_path / "in/team.png", (16, 32), (64, 64))
    ended = nnface_on_terminal("detect", picture, "--model", model, cwd=work)
    assert (ended.code, ended.err) == (0, "")
    assert "team.png" in ended.out and "2 faces in 1 picture" in ended.out and "team.faces.jpg" in ended.out
    copy = work / "team.faces.jpg"
    annotated, original = cv2.imread(str(copy)), cv2.imread(str(picture))
    assert annotated.shape == original.shape
    assert (np.abs(annotated.astype(int) - original).max(axis=2) > 60).sum() > 50

    copy.write_text("mine")
    ended = nnface_on_terminal("detect", picture, "--model", model, cwd=work)
    assert ended.code == 1
    assert "team.faces.jpg" in _one_sentence(ended.err) and "--force" in ended.err
    assert copy.read_text() == "mine"
    assert nnface_on_terminal("detect", picture, "--force", "--model", model, cwd=work).code == 0
    assert cv2.imread(str(copy)) is not None
    assert _names(work) == ["team.faces.jpg"]


def test_on_a_terminal_a_folder_or_a_json_file_brings_no_picture(tmp_path: Path, model: Path) -> None:
    _picture(tmp_path / "in/a.png", (16, 32))
    ended = nnface_on_terminal("detect", "in", "--model", model, cwd=tmp_path)
    assert ended.code == 0 and "in/a.png" in ended.out and "1 face in 1 picture" in ended.out
    ended = nnface_on_terminal("detect", "in/a.png", "--json", "-", "--model", model, cwd=tmp_path)
    assert json.loads(ended.out)["file"] == "in/a.png"
    assert _names(tmp_path) == ["in"]


def test_draw_mirrors_the_folders_and_two_of_a_name_stay_two(tmp_path: Path, model: Path) -> None:
    _picture(tmp_path / "one/sub/a.png", (16, 16))
    _picture(tmp_path / "one/sub/a.jpg", (16, 16))
    _picture(tmp_path / "two/sub/A.png", (32, 16))
    _picture(tmp_path / "a.png", (48, 16))
    paths = ["one", "two", "a.png", "one/sub/a.png"]
    ended = nnface("detect", *paths, "--draw", "new/drawn", "--model", model, cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert len(ended.rows) == 5, "stdout is no terminal: it gets JSON Lines beside the pictures"
    drawn = tmp_path / "new/drawn"
    names = sorted(str(p.relative_to(drawn)) for p in drawn.rglob("*") if p.is_file())
    assert names == [
        "a-2.faces.jpg",
        "a.faces.jpg",
        "sub/A-3.faces.jpg",
        "sub/a-2.faces.jpg",
        "sub/a.faces.jpg",
    ]
    before = {name: (drawn / name).read_bytes() for name in names}
    ended = nnface("detect", *paths, "--draw", "new/drawn", "--model", model, cwd=tmp_path)
    assert ended.code == 1 and len(ended.err.splitlines()) == 5 and len(ended.rows) == 5
    assert before == {name: (drawn / name).read_bytes() for name in names}


def test_a_folder_to_draw_into_that_cannot_be_is_said_before_the_work(tmp_path: Path, model: Path) -> None:
    _picture(tmp_path / "a.png", (16, 16))
    ended = nnface("detect", "a.png", "a.png", "--draw", "a.png", "--model", model, cwd=tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert "a.png" in _one_sentence(ended.err)


def test_a_link_to_itself_is_one_of_many(tmp_path: Path, model: Path) -> None:
    _picture(tmp_path / "in/b.png", (16, 16))
    (tmp_path / "in/a.png").symlink_to("a.png")
    ended = nnface("detect", "in", "--model", model, cwd=tmp_path)
    assert ended.code == 1 and [row["file"] for row in ended.rows] == ["in/a.png", "in/b.png"]
    assert "in/a.png" in _one_sentence(ended.err)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("command", ["detect a.png > /dev/full", "detect a.png --json /dev/full", "--help > /dev/full"])
def test_a_full_disk_is_one_sentence(tmp_path: Path, model: Path, command: str) -> None:
    _picture(tmp_path / "a.png", (16, 16))
    command = command.replace("a.png", f"a.png --model {shlex.quote(str(model))}")
    done = subprocess.run(
        ["sh", "-c", f"{shlex.join(NNFACE)} {command}"],
        cwd=tmp_path,
        env={name: value for name, value in ENVIRONMENT.items() if name != "PYTHONUNBUFFERED"},
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "No space left" in _one_sentence(done.stderr)


def test_copies_turned_by_exif_give_the_same_faces(tmp_path: Path, model: Path) -> None:
    upright = Image.fromarray(squares(128, 96, (16, 32), (96, 48)))
    upright.save(tmp_path / "0.jpg", quality=100, subsampling=0)
    turns = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    for orientation, turn in turns.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        upright.transpose(turn).save(tmp_path / f"{orientation}.jpg", quality=100, subsampling=0, exif=exif)
    rows = nnface("detect", ".", "--model", model, cwd=tmp_path).rows
    assert len(rows) == 4
    for row in rows:
        assert (row["width"], row["height"]) == (128, 96)
        boxes = sorted(face["box"] for face in row["faces"])
        assert boxes == pytest.approx(np.array([[16, 32, 32, 48], [96, 48, 112, 64]]), abs=0.5)


def test_whoever_stops_reading_ends_the_run_quietly(tmp_path: Path, model: Path) -> None:
    _many(tmp_path, 3000)
    with subprocess.Popen(
        [*NNFACE, "detect", "many", "--model", str(model)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        json.loads(process.stdout.readline())
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 1


def test_ctrl_c_leaves_whole_lines(tmp_path: Path, model: Path) -> None:
    _many(tmp_path, 3000)
    with subprocess.Popen(
        [*NNFACE, "detect", "many", "--json", "-", "--model", str(model)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        lines = (first + process.stdout.read()).decode().splitlines()
        assert process.wait(60) == 130
        assert _one_sentence(process.stderr.read().decode()) == "nnface: interrupted"
    assert 0 < len(lines) < 3000
    assert [json.loads(line)["file"] for line in lines] == [f"many/{n:05}.png" for n in range(len(lines))]


def test_ctrl_c_leaves_the_json_file_as_it_was(tmp_path: Path, model: Path) -> None:
    _many(tmp_path, 3000)
    out = tmp_path / "out.jsonl"
    out.write_text("old")
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [*NNFACE, "detect", "many", "--json", "out.jsonl", "--model", str(model)],
        cwd=tmp_path,
        stderr=follower,
        env=ENVIRONMENT | {"TERM": "xterm"},
    ) as process:
        os.close(follower)
        assert os.read(leader, 65536), "the progress bar shows that the work has begun"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    os.close(leader)
    assert out.read_text() == "old"
    assert _names(tmp_path) == ["a.png", "many", "out.jsonl"], "a temporary file was left"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams(tmp_path: Path, model: Path, closed: str) -> None:
    _picture(tmp_path / "a.png", (16, 16))
    command = shlex.join([*NNFACE, "detect", "a.png", "--json", "out.jsonl", "--model", str(model)])
    done = subprocess.run(["sh", "-c", f"{command} {closed}"], cwd=tmp_path, env=ENVIRONMENT, timeout=60, check=False)
    assert done.returncode == 0
    assert len(json.loads((tmp_path / "out.jsonl").read_text())["faces"]) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["detect"],
        ["detect", "a.png", "--nonsense"],
        ["detect", "a.png", "--size", "large"],
        ["detect", "a.png", "--min-score", "2"],
        ["detect", "a.png", "--batch", "0"],
        ["detect", "a.png", "--model", "absent.onnx"],
        ["detect", "a.png", "--model", "a.png"],
        ["detect", "a.png", "--model", "bright.onnx", "--device", "toaster"],
        ["models", "info", "absent.onnx"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_one_sentence_and_2(tmp_path: Path, model: Path, arguments: list[str]) -> None:
    _picture(tmp_path / "a.png")
    (tmp_path / "bright.onnx").write_bytes(model.read_bytes())
    ended = nnface(*arguments, cwd=tmp_path)
    assert (ended.code, ended.out) == (2, "")
    _one_sentence(ended.err)


def test_debug_shows_the_traceback_wherever_it_stands(tmp_path: Path) -> None:
    _picture(tmp_path / "a.png")
    for arguments in (
        ["--debug", "detect", "a.png", "--model", "absent.onnx"],
        ["detect", "a.png", "--model", "absent.onnx", "--debug"],
        ["models", "info", "absent.onnx", "--debug"],
    ):
        ended = nnface(*arguments, cwd=tmp_path)
        assert ended.code == 2 and "Traceback" in ended.err
        _one_sentence(ended.err.splitlines()[-1])


def test_detect_needs_no_torch(tmp_path: Path, model: Path) -> None:
    _picture(tmp_path / "a.png", (16, 16))
    without = "import sys; sys.modules['torch'] = None; from nnface.commands import main; main()"
    ended = nnface("detect", "a.png", "--model", model, cwd=tmp_path, python=[sys.executable, "-c", without])
    assert (ended.code, ended.err) == (0, "") and len(ended.rows[0]["faces"]) == 1


def test_version_and_help_import_no_command(tmp_path: Path) -> None:
    check = (
        "import sys, atexit; from nnface.commands import main; heavy = {'numpy', 'cv2', 'onnxruntime', 'torch'};"
        "atexit.register(lambda: print(sorted(heavy & set(sys.modules)))); main()"
    )
    for option in ("--version", "--help"):
        ended = nnface(option, cwd=tmp_path, python=[sys.executable, "-c", check])
        assert ended.code == 0 and ended.out.splitlines()[-1] == "[]"
        assert "nnface" in ended.out


def test_models_info_says_what_the_file_says(tmp_path: Path, model: Path) -> None:
    ended = nnface("models", "info", model, "--json", cwd=tmp_path)
    assert ended.code == 0 and json.loads(ended.out)["architecture"] == "tiny"
    ended = nnface("models", "info", model, cwd=tmp_path)
    assert ended.code == 0 and "Apache-2.0" in ended.out and "tiny" in ended.out
    assert nnface("models", "list", "--json", cwd=tmp_path).code == 0
    assert nnface("models", "list", cwd=tmp_path).code == 0


def _many(folder: Path, count: int) -> None:
    """So many pictures that a run of them does not end before it is stopped."""
    picture = _picture(folder / "a.png", (160, 160), width=640, height=640)
    (folder / "many").mkdir()
    for number in range(count):
        os.link(picture, folder / "many" / f"{number:05}.png")


def test_every_command_is_there_and_helps(tmp_path: Path) -> None:
    check = (
        "from nnface.commands import COMMANDS, cli; import click\n"
        "with click.Context(cli) as context:\n"
        "    for name in COMMANDS:\n"
        "        command = cli.get_command(context, name)\n"
        "        assert command.help, name\n"
        "        assert command.name == name, (command.name, name)\n"
        "        assert any(parameter.name == 'debug' for parameter in command.params), name\n"
        "import sys; assert 'torch' not in sys.modules"
    )
    ended = nnface(cwd=tmp_path, python=[sys.executable, "-c", check])
    assert (ended.code, ended.err) == (0, "")
    shown = nnface("--help", cwd=tmp_path).out
    assert all(f"  {name} " in shown for name in COMMANDS)
