"""Videos: frames in order, JSON Lines a frame, annotated copies, broken files."""

import json
import os
import shutil
import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from nnface.errors import ImageError, NnfaceError
from nnface.predict.video import Video, VideoWriter
from processes import nnface, nnface_on_terminal
from tiny_models import bright_detector, squares

FRAMES = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and a white square that moves 4 pixels a frame over 128 x 96 at 12 frames a second, in two formats."""
    folder = tmp_path_factory.mktemp("video")
    bright_detector(folder / "bright.onnx")
    for name, code in {"clip.avi": "MJPG", "clip.mp4": "mp4v"}.items():
        writer = cv2.VideoWriter(str(folder / name), cv2.VideoWriter.fourcc(*code), 12.0, (128, 96))
        assert writer.isOpened()
        for number in range(FRAMES):
            writer.write(squares(128, 96, (4 * number, 32)))
        writer.release()
    return folder


@pytest.mark.parametrize("name", ["clip.avi", "clip.mp4"])
def test_a_frame_is_a_line_of_json(folder: Path, name: str) -> None:
    ended = nnface("detect", name, "--model", "bright.onnx", "--threads", "2", cwd=folder)
    assert (ended.code, ended.err) == (0, "")
    rows = ended.rows
    assert list(rows[0]) == ["file", "frame", "time", "width", "height", "faces"]
    assert [row["frame"] for row in rows] == list(range(FRAMES))
    assert [row["time"] for row in rows] == pytest.approx([number / 12 for number in range(FRAMES)], abs=0.001)
    assert {(row["file"], row["width"], row["height"]) for row in rows} == {(name, 128, 96)}
    for row in rows[::4]:  # the square fills a cell
        assert row["faces"][0]["box"] == pytest.approx([4 * row["frame"], 32, 4 * row["frame"] + 16, 48], abs=0.1)
    assert sorted(path.name for path in folder.iterdir()) == ["bright.onnx", "clip.avi", "clip.mp4"]


def test_a_terminal_gets_an_annotated_video_once(folder: Path, tmp_path: Path) -> None:
    ended = nnface_on_terminal("detect", folder / "clip.avi", "--model", folder / "bright.onnx", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert f"{FRAMES} frames" in ended.out and "clip.faces.mp4" in ended.out
    annotated = list(Video(str(tmp_path / "clip.faces.mp4")))
    assert len(annotated) == FRAMES
    drawn = np.abs(annotated[8].image.astype(int) - squares(128, 96, (32, 32))).max(axis=2) > 60
    assert drawn[28:52, 28:52].sum() > 20, "no box around the square"
    assert drawn[:, 80:].sum() == 0

    ended = nnface_on_terminal("detect", folder / "clip.avi", "--model", folder / "bright.onnx", cwd=tmp_path)
    assert ended.code == 1 and ended.err.count("\n") == 1 and "--force" in ended.err
    assert "annotated" not in ended.out  # what lies there is not of this run
    assert [path.name for path in tmp_path.iterdir()] == ["clip.faces.mp4"]


def test_videos_and_pictures_keep_their_order_and_a_broken_one_is_an_error(folder: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), squares(64, 64, (16, 16)))
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.avi").touch()
    paths = ["a.png", "text.mp4", folder / "clip.avi", "empty.avi", "a.png", "absent.mov"]
    ended = nnface("detect", *paths, "--model", folder / "bright.onnx", "--draw", "drawn", cwd=tmp_path)
    assert ended.code == 1
    rows = ended.rows
    order = [Path(row["file"]).name for row in rows if row.get("frame", 0) == 0]
    assert order == ["a.png", "text.mp4", "clip.avi", "empty.avi", "a.png", "absent.mov"]
    failed = [row["error"] for row in rows if "error" in row]
    assert ended.err.splitlines() == [f"nnface: {error}" for error in failed]
    assert ["text.mp4" in failed[0], "empty.avi" in failed[1], "absent.mov" in failed[2]] == [True] * 3
    assert len(rows) == FRAMES + 5
    drawn = sorted(path.name for path in (tmp_path / "drawn").iterdir())
    assert drawn == ["a-2.faces.jpg", "a.faces.jpg", "clip.faces.mp4"]


def test_a_folder_says_which_videos_it_leaves_out(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in/below").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "in/a.png"), squares(64, 64, (16, 16)))
    (tmp_path / "in/below/clip.avi").write_bytes((folder / "clip.avi").read_bytes())
    ended = nnface("detect", "in", "--model", folder / "bright.onnx", cwd=tmp_path)
    assert ended.code == 0 and [row["file"] for row in ended.rows] == ["in/a.png"]
    assert ended.err == "nnface: in: 1 video left out, the first below/clip.avi; name a video to have it looked at\n"


def test_a_folder_says_which_photographs_it_cannot_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in/a.png"), squares(64, 64, (16, 16)))
    for name in ("IMG_1.HEIC", "IMG_2.dng"):
        (tmp_path / "in" / name).write_bytes(b"what a phone writes")
    ended = nnface("blur", "in", "--out", "out", "--parser", "none", "--model", folder / "bright.onnx", cwd=tmp_path)
    assert ended.code == 0 and [row["file"] for row in ended.rows] == ["in/a.png"]
    assert ended.err.startswith("nnface: in: 2 pictures left out, the first IMG_1.HEIC, for HEIC and raw files are not")


def test_odd_names_of_videos(folder: Path, tmp_path: Path) -> None:
    model = folder / "bright.onnx"
    shutil.copy(folder / "clip.mp4", tmp_path / "12:30.mp4")  # for FFmpeg the beginning of a protocol
    ended = nnface("detect", "12:30.mp4", "--model", model, cwd=tmp_path)
    assert (ended.code, len(ended.rows)) == (0, FRAMES)
    odd = os.fsdecode(b"b\xff.mp4")  # OpenCV would end the process
    shutil.copy(folder / "clip.mp4", tmp_path / odd)
    cv2.imwrite(str(tmp_path / "a.png"), squares(128, 96, (32, 32)))
    ended = nnface("detect", odd, "a.png", "--model", model, "--json", "all.jsonl", cwd=tmp_path)
    assert ended.code == 1 and ended.err.count("\n") == 1 and "UTF-8" in ended.err
    rows = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert "UTF-8" in rows[0]["error"] and rows[1]["faces"]
    with pytest.raises(ImageError, match="UTF-8"):
        VideoWriter(tmp_path / odd, 12)
    assert len(list(Video(str(tmp_path / "12:30.mp4")))) == FRAMES


def test_only_broken_videos_is_2(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    ended = nnface("detect", "text.mp4", "--json", "out.jsonl", "--model", folder / "bright.onnx", cwd=tmp_path)
    assert ended.code == 2 and ended.err.count("\n") == 1
    assert json.loads((tmp_path / "out.jsonl").read_text()).keys() == {"file", "error"}


def test_a_video_that_is_not_finished_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with pytest.raises(ImageError, match="stop"), VideoWriter(path, 25.0) as writer:
        writer.write(squares(64, 64))
        raise ImageError("stop")
    assert list(tmp_path.iterdir()) == []


def test_a_video_that_a_full_disk_cut_is_not_there_and_its_faces_are(folder: Path, tmp_path: Path) -> None:
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)); "
    command = [sys.executable, "-c", f"{limited}from nnface.commands import main; main()"]
    arguments = ("detect", folder / "clip.mp4", "--draw", "drawn", "--model", folder / "bright.onnx")
    assert len(nnface(*arguments, cwd=tmp_path).rows) > 0
    whole = tmp_path / "drawn/clip.faces.mp4"
    assert whole.stat().st_size > 4000
    whole.unlink()
    ended = nnface(*arguments, cwd=tmp_path, python=command)
    assert ended.code == 1 and all("faces" in row for row in ended.rows)
    assert ended.err.count("\n") == 1 and "drawn/clip.faces.mp4" in ended.err
    assert list((tmp_path / "drawn").iterdir()) == []


def test_a_size_that_no_encoder_takes_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(NnfaceError, match="cannot encode MP4 videos of 1 x 1 pixels"),
        VideoWriter(tmp_path / "dot.mp4", 25.0) as writer,
    ):
        writer.write(np.zeros((1, 1, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def test_a_size_that_no_encoder_takes_is_one_failure_and_its_faces_are_there(folder: Path, tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "wide.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 12.0, (8208, 32))
    for _ in range(3):
        writer.write(squares(8208, 32))
    writer.release()
    ended = nnface("detect", "wide.avi", "--model", folder / "bright.onnx", "--draw", "drawn", cwd=tmp_path)
    assert ended.code == 1 and len(ended.rows) == 3
    assert len(ended.err.splitlines()) == 1 and "cannot encode MP4 videos of 8208 x 32 pixels" in ended.err
    assert list((tmp_path / "drawn").iterdir()) == []


def test_pictures_of_changing_size_are_no_video(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "out.mp4", 25.0) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8))
        with pytest.raises(NnfaceError, match="size of the pictures changes from 64 x 48 to 32 x 24 after 1 of them"):
            writer.write(np.zeros((24, 32, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def test_what_a_camera_recorded_until_ctrl_c_is_kept(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "out.mp4", 25.0, endless=True) as writer:
        for _ in range(5):
            writer.write(squares(64, 64))
        raise KeyboardInterrupt
    assert len(list(Video(str(tmp_path / "out.mp4")))) == 5
    assert len(list(tmp_path.iterdir())) == 1


def spaced(path: Path, deltas: list[int]) -> bytes:
    """An MP4 of OpenCV whose frames last so many ticks each: its box ``stts`` is replaced, at the end of the file."""
    content = bytearray(path.read_bytes())
    at = content.index(b"stts") - 4
    old = struct.unpack(">I", content[at : at + 4])[0]
    rows = b"".join(struct.pack(">II", 1, delta) for delta in deltas)
    new = struct.pack(">I4sII", 16 + len(rows), b"stts", 0, len(deltas)) + rows
    content[at : at + old] = new
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        box = content.index(name) - 4
        size = struct.unpack(">I", content[box : box + 4])[0]
        content[box : box + 4] = struct.pack(">I", size + len(new) - old)
    return bytes(content)


def test_frames_that_are_not_evenly_spaced_have_the_times_of_the_file(folder: Path, tmp_path: Path) -> None:
    content = (folder / "clip.mp4").read_bytes()
    at = content.index(b"stts")
    count, ticks = struct.unpack(">II", content[at + 12 : at + 20])
    assert count == FRAMES and content.index(b"mdat") < content.index(b"moov")
    # As long as before in all, for the file says that elsewhere too.
    deltas = [3 * ticks if number % 6 == 2 else ticks // 2 for number in range(FRAMES)]
    (tmp_path / "uneven.mp4").write_bytes(spaced(folder / "clip.mp4", deltas))
    times = [frame.time for frame in Video(str(tmp_path / "uneven.mp4"))]
    begins = np.cumsum([0, *deltas[:-1]]) / ticks / 12
    assert times == pytest.approx(begins.tolist(), abs=0.002)


def test_a_camera_that_is_not_there_is_said() -> None:
    with pytest.raises(ImageError, match="camera:97: no such camera"):
        Video("camera:97")
    with pytest.raises(ImageError, match="camera:99999999999: no such file"):
        Video("camera:99999999999")
