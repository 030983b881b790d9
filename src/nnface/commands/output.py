"""Where the results of a command go: JSON Lines, annotated pictures, a table on the terminal, progress."""

import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np

from nnface import draw, image
from nnface.errors import NnfaceError, UsageError
from nnface.files import atomic_path, make_folder, write_atomic
from nnface.image import IMAGE_SUFFIXES
from nnface.predict.segmenter import Segmenter
from nnface.predict.source import VIDEOS, Source
from nnface.predict.video import Frame
from nnface.results import Faces


class JsonLines:
    """JSON Lines in UTF-8 on an open binary file, each line flushed, so that a reader may follow.

    ``name`` is the file's in errors.
    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file, self._name = file, name

    def write(self, row: dict[str, Any]) -> None:
        """Write one object as a line.

        Raises:
            NnfaceError: the disk is full, say.
            BrokenPipeError: nobody reads any more.
        """
        try:
            line = json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # a file name that is not UTF-8: escaped, so that json.loads gives it back
            line = json.dumps(row).encode()
        try:
            self._file.write(line + b"\n")
            self._file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise NnfaceError(f"cannot write {self._name}: {error.strerror or error}") from error


@contextmanager
def json_lines(target: str | None) -> Iterator[JsonLines | None]:
    """JSON Lines to a file, or to stdout for ``-``; None where there is no target.

    A file is replaced when all is done, atomically: interrupted, it holds what it held before. What is not a regular
    file (``/dev/null``, a named pipe) is written to as it is.

    Raises:
        NnfaceError: the folder does not exist or cannot be written.
    """
    if target is None:
        yield None
    elif target == "-":
        yield JsonLines(sys.stdout.buffer, "to stdout")
    else:
        require_place(target)
        with atomic_path(target) as temporary, temporary.open("wb") as file:
            yield JsonLines(file, target)


class CsvRows:
    """Attributes as FairFace's predict.py writes them: a row a face, scores as a list in one field.

    At the end of a row stands what predict.py does not have: whether each answer is certain, True or False, and of a
    video the frame and its time in seconds.
    """

    def __init__(self, file: IO[str], heads: Iterable[str]) -> None:
        self._writer = csv.writer(file)
        self._heads = list(heads)
        scores = [f"{head}_scores_fair" for head in self._heads]
        certain = [f"{head}_certain" for head in self._heads]
        columns = ["file", "face", "x1", "y1", "x2", "y2", *self._heads, *scores, *certain, "frame", "time"]
        self._writer.writerow(columns)

    def write(self, name: str, faces: Faces, frame: Frame | None = None) -> None:
        """The faces of a picture or frame; one without attributes (too small) has empty fields."""
        for number, face in enumerate(faces):
            told = face.attributes or {}
            labels = [told[head].label if head in told else "" for head in self._heads]
            lists = [
                "[" + " ".join(f"{p:.6g}" for p in told[head].probabilities.values()) + "]" if head in told else ""
                for head in self._heads
            ]
            # A file name that is not UTF-8 is escaped, as Python writes it.
            name = name.encode(errors="backslashreplace").decode()
            certain = [str(told[head].certain) if head in told else "" for head in self._heads]
            place = (round(float(v), 2) for v in face.box)
            moment = ["", ""] if frame is None else [frame.index, frame.time]
            self._writer.writerow([name, number, *place, *labels, *lists, *certain, *moment])


@contextmanager
def csv_rows(target: str | None, heads: Iterable[str]) -> Iterator[CsvRows | None]:
    """A csv file of attributes, replaced when all is done, or stdout for ``-``; None where there is no target.

    Raises:
        NnfaceError: the folder does not exist or cannot be written.
    """
    if target is None:
        yield None
    elif target == "-":
        yield CsvRows(sys.stdout, heads)
    else:
        require_place(target)
        with atomic_path(target) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            yield CsvRows(file, heads)


def require_place(target: str) -> None:
    """Before the work: can a table or JSON be meant to go there?

    Raises:
        UsageError: it is a folder, or has the name of a picture or video, as in ``--json *.jpg``.
        NnfaceError: its folder is not there.
    """
    if os.path.isdir(target):  # noqa: PTH112 - Path.is_dir raises where a folder above is not to be entered
        raise UsageError(f"cannot write {target}: it is a folder; name a file")
    if Path(target).suffix.lower() in IMAGE_SUFFIXES | VIDEOS:
        raise UsageError(f"cannot write {target}: that is a name for a picture or video; name another file")
    if not os.path.isdir(parent := os.path.dirname(target) or "."):  # noqa: PTH112, PTH120
        raise NnfaceError(f"cannot write {target}: the folder {parent} does not exist; make it first")


def refuse_same(options: str, first: str | None, second: str | None) -> None:
    """Refuse two outputs that name one place, where each would write into the other or over it.

    Raises:
        UsageError: they do; ``options`` names them.
    """
    if first is not None and second is not None and os.path.realpath(first) == os.path.realpath(second):
        raise UsageError(f"{options} both name {first}; give each a place of its own")


def listed(paths: Iterable[str]) -> list[str]:
    """The paths, each csv file among them replaced by what its column ``img_path`` names (FairFace's predict.py).

    Raises:
        UsageError: a csv file that cannot be read, or has no such column.
    """
    result: list[str] = []
    for path in paths:
        if Path(path).suffix.lower() != ".csv":
            result.append(path)
            continue
        try:
            with Path(path).open(encoding="utf-8-sig", newline="") as file:
                rows = csv.DictReader(file)
                if "img_path" not in (rows.fieldnames or ()):
                    raise UsageError(f"{path} has no column img_path, which names the pictures")
                result += [row["img_path"] for row in rows if row["img_path"]]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UsageError(f"{path} cannot be read as a csv file: {error}") from error
    return result


def targets(sources: Iterable[Source], folder: str | None, word: str = "faces") -> list[Path | None]:
    """Where the annotated copy of each source goes: ``NAME.faces.jpg``, for videos ``NAME.faces.mp4``.

    Args:
        folder: the folder of ``--draw``, in which the folders of the walk are mirrored; None for the working folder,
            where only what was named itself is written.
        word: what is between the name and the suffix.

    Returns:
        a path for each source, or None. No two are the same: the second of a name becomes ``NAME-2.faces.jpg``.
    """
    return _distinct(sources, folder, f".{word}.jpg", f".{word}.mp4")


def png_targets(sources: Iterable[Source], folder: str) -> list[Path | None]:
    """Where the label image of each source goes: ``NAME.png``; for videos the folder ``NAME``, a PNG a frame."""
    return _distinct(sources, folder, ".png", "")


def _distinct(sources: Iterable[Source], folder: str | None, still: str, moving: str) -> list[Path | None]:
    """A path for each source, with the suffixes for pictures and videos; see :func:`targets`."""
    taken: set[str] = set()
    result: list[Path | None] = []
    for source in sources:
        if folder is None and not source.named:
            result.append(None)
            continue
        inside = Path(source.inside)
        suffix = still if source.kind == "picture" else moving
        number = 1
        while True:
            name = f"{inside.stem}{'' if number == 1 else f'-{number}'}{suffix}"
            path = Path(folder or "") / inside.parent / name
            if str(path).casefold() not in taken:  # some file systems do not tell A.jpg from a.jpg
                break
            number += 1
        taken.add(str(path).casefold())
        result.append(path)
    return result


def prepare_place(path: Path, force: bool) -> None:
    """Make the folder of a file that was not named, and refuse to overwrite the file without ``--force``.

    Raises:
        NnfaceError: the file is there, or the folder cannot be made.
    """
    if not force and os.path.lexists(path):
        raise NnfaceError(f"{path} is there already and was left as it is; --force overwrites it")
    make_folder(path.parent)


def draw_picture(path: str, faces: Faces, place: Path) -> None:
    """Write the annotated copy of a picture file as a JPEG.

    Raises:
        NnfaceError: the picture cannot be read at its full size, or the copy cannot be written.
    """
    write_jpeg(path, draw.faces(image.read(path), faces), place, 92)


def write_labels(faces: Faces, place: Path) -> None:
    """Write the label image of a picture as a PNG with a palette.

    Raises:
        NnfaceError: it cannot be written.
    """
    assert faces.labels is not None  # a Segmenter was asked
    write_atomic(place, draw.label_png(faces.labels))


def write_cutout(path: str, faces: Faces, segmenter: Segmenter, parts: Sequence[str], place: Path) -> None:
    """Write a picture file as a PNG in which only some parts of its faces are to be seen, with soft edges.

    Where nothing of them is, the pixels are black: who throws the alpha channel away does not get the photograph back.

    Raises:
        NnfaceError: the picture cannot be read at its full size, or the PNG cannot be written.
    """
    pixels = image.read(path)
    alpha = np.rint(segmenter.soft(pixels, faces, {"parts": parts})["parts"] * 255).astype(np.uint8)
    seen = np.where(alpha[:, :, None] > 0, pixels, 0)
    _, data = cv2.imencode(".png", np.dstack([seen, alpha]))
    write_atomic(place, data.tobytes())


def write_jpeg(path: str, canvas: image.Pixels, place: Path, quality: int) -> None:
    """Write what was made of the picture ``path`` as a JPEG.

    Raises:
        NnfaceError: it is too large for a JPEG, or cannot be written.
    """
    if max(canvas.shape) > 65500:
        raise NnfaceError(f"cannot write a copy of {path}: a JPEG has at most 65500 pixels a side")
    # Colour at full resolution: lines and lips are narrow.
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    _, data = cv2.imencode(".jpg", canvas, [cv2.IMWRITE_JPEG_QUALITY, quality, *sampling])
    write_atomic(place, data.tobytes())


def printable(text: str) -> str:
    """A file name as a terminal may show it: no control characters, nothing that cannot be encoded."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def counted(count: int, what: str) -> str:
    """``1 face``, ``1,200 faces``."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def say(sentence: str) -> None:
    """One sentence on stderr."""
    print(f"nnface: {printable(sentence)}", file=sys.stderr)


@contextmanager
def progress(what: str, total: int | None, hidden: bool = False) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr, where that is a terminal and there is more than one thing to do.

    Yields:
        what to call after each thing done.
    """
    if hidden or not sys.stderr.isatty() or total == 1:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            of = "" if task.total is None else f"/{task.total:.0f}"
            return Text(f"{task.completed:.0f}{of}  {task.speed or 0:.1f}/s")

    columns = (TextColumn("{task.description}"), BarColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)
