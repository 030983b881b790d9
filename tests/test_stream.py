"""Streams: order, bounds, failures, and what a path stands for."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnface.commands.output import printable, targets
from nnface.errors import ModelFileError
from nnface.predict.detector import Detector
from nnface.predict.source import Source, expand
from nnface.predict.stream import Failure, ordered, pictures
from nnface.results import Faces
from tiny_models import bright_detector, detection_spec, squares


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 60), st.integers(1, 5))
def test_ordered_is_map_and_draws_only_a_few_ahead(count: int, workers: int) -> None:
    drawn = 0

    def items() -> Iterator[int]:
        nonlocal drawn
        for number in range(count):
            drawn += 1
            yield number

    for position, value in enumerate(ordered(lambda number: number * number, items(), workers)):
        assert value == position * position
        assert drawn - position <= 4 * workers
    assert drawn == count


def test_ordered_waits_for_the_slow_one_in_front() -> None:
    others = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            assert others.wait(30)  # ends only after a later one has ended
        else:
            others.set()
        return number

    assert list(ordered(work, range(10), 2)) == list(range(10))


def test_what_a_worker_raises_comes_in_its_turn_and_nothing_hangs() -> None:
    def work(number: int) -> int:
        return 10 // (7 - number)

    seen = []
    with pytest.raises(ZeroDivisionError):
        for value in ordered(work, range(100_000), 3):
            seen.append(value)
    assert len(seen) == 7
    assert not any(thread.name.startswith("nnface") and thread.is_alive() for thread in threading.enumerate())


def test_a_caller_that_stops_early_stops_the_work() -> None:
    begun = []
    stream = ordered(begun.append, range(100_000), 2)
    next(stream)
    stream.close()
    assert len(begun) <= 9
    assert not any(thread.name.startswith("nnface") and thread.is_alive() for thread in threading.enumerate())


def test_what_the_items_raise_is_raised() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        list(ordered(abs, items(), 2))


@pytest.mark.parametrize(("workers", "batch"), [(1, 1), (3, 1), (2, 5), (1, 64)])
def test_pictures_are_what_the_detector_says_of_each(tmp_path: Path, workers: int, batch: int) -> None:
    paths = []
    for number in range(20):
        paths.append(str(tmp_path / f"{number}.png"))
        size = (64 + 48 * (number % 3), 64 + 32 * (number % 4))
        cv2.imwrite(paths[-1], squares(*size, (4 * (number % 3), 8), side=48))
    (tmp_path / "3.png").write_bytes((tmp_path / "2.png").read_bytes()[:60])
    (tmp_path / "7.png").unlink()
    detector = Detector(bright_detector(tmp_path / "bright.onnx"), threads=1)
    results = list(pictures(detector, iter(paths), workers=workers, batch=batch))
    assert len(results) == 20
    for path, result in zip(paths, results, strict=True):
        if Path(path).name in ("3.png", "7.png"):
            assert isinstance(result, Failure) and path in result.reason
            continue
        assert isinstance(result, Faces)
        alone = detector(path)
        assert (result.width, result.height) == (alone.width, alone.height)
        assert len(result) > 0
        np.testing.assert_allclose(result.boxes, alone.boxes, atol=1e-3)
        np.testing.assert_allclose(result.scores, alone.scores, atol=1e-5)


def test_tiles_stream_too(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "wide.png"), squares(1024, 1024, (512, 512)))
    model = bright_detector(tmp_path / "bright.onnx")
    with_tiles = Detector(model, threads=1, tile=128)
    (whole,) = pictures(Detector(model, threads=1), [str(tmp_path / "wide.png")])
    found, failure = pictures(with_tiles, [str(tmp_path / "wide.png"), str(tmp_path / "absent.png")], workers=2)
    assert isinstance(whole, Faces) and len(whole) == 0, "a face of 2 pixels at 128"
    assert isinstance(found, Faces) and len(found) >= 1
    assert isinstance(failure, Failure)


def test_a_broken_model_ends_the_stream(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), squares(64, 64, (16, 16)))
    detector = Detector(bright_detector(tmp_path / "nan.onnx", detection_spec(), nan=True), threads=1)
    with pytest.raises(ModelFileError):
        list(pictures(detector, [str(tmp_path / "a.png")] * 50, workers=2))


def test_expand_joins_what_was_typed_with_the_walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("p/b.jpg", "p/a/c.JPG", "p/a.png", "p/clip.mp4", "empty/x.txt", "other.dat"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    sources, problems = expand(["p", "./p/", "other.dat", "absent", "p/clip.mp4", "camera:0", "empty", "camera:x"])
    assert [source.path for source in sources] == [
        *("p/a/c.JPG", "p/a.png", "p/b.jpg"),
        *("./p/a/c.JPG", "./p/a.png", "./p/b.jpg"),
        *("other.dat", "absent", "p/clip.mp4", "camera:0", "camera:x"),
    ]
    assert [source.kind for source in sources[6:]] == ["picture", "picture", "video", "camera", "picture"]
    assert [source.named for source in sources] == [False] * 6 + [True] * 5
    assert sources[0].inside == "a/c.JPG"
    (problem,) = problems
    assert "empty" in problem


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look into every folder")
def test_a_folder_that_may_not_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "p/secret").mkdir(parents=True)
    (tmp_path / "p/a.png").touch()
    (tmp_path / "p/secret").chmod(0)
    try:
        sources, problems = expand([str(tmp_path / "p")])
    finally:
        (tmp_path / "p/secret").chmod(0o700)
    assert len(sources) == 1 and "secret" in problems[0]


@given(st.lists(st.sampled_from(["a.jpg", "A.png", "x/a.jpg", "a-2.jpg", "x/b.png"]), max_size=12), st.booleans())
def test_no_two_annotated_copies_share_a_file(names: list[str], mirrored: bool) -> None:
    sources = [Source(path=name, inside=name, kind="picture", named=True) for name in names]
    places = targets(sources, "drawn" if mirrored else None)
    assert len({str(place).casefold() for place in places}) == len(names)
    for name, place in zip(names, places, strict=True):
        assert place is not None and place.name.endswith(".faces.jpg")
        assert place.parent == (Path("drawn") if mirrored else Path()) / Path(name).parent


def test_names_are_printable() -> None:
    assert printable("写真 a.png") == "写真 a.png"
    assert printable("\x1b[31mred\n" + os.fsdecode(b"\xff")) == "�[31mred��"
