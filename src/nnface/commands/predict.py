"""``nnface detect``, ``classify``, ``segment``, ``analyze``: pictures, videos in; tables, JSON Lines, pictures out."""

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import click
import cv2

from nnface import draw
from nnface.commands import output
from nnface.commands.options import detecting, finding, refuse_idle, running, writing
from nnface.commands.parquet import Parquet, run, to_parquet
from nnface.effects import PARTS as WORDS
from nnface.errors import ImageError, ModelFileError, NnfaceError
from nnface.files import make_folder
from nnface.predict.analyzer import Analyzer
from nnface.predict.detector import Detector
from nnface.predict.segmenter import HEAD, PARTS, Segmenter
from nnface.predict.source import Source, expand
from nnface.predict.stream import Failure, ordered, pictures, video
from nnface.predict.video import Frame, Video, VideoWriter
from nnface.results import Faces, part_words, words
from nnface.runtime.onnx import physical_cores
from nnface.scale.job import Job
from nnface.spec import CELEBAMASK_LABELS

_CROP = "none: each picture is a face chip already."
_PORTRAIT = "none: each picture is a portrait already."
_csv = click.option(
    "--csv", "csv_file", metavar="FILE|-", help="Write a csv file, a row a face, as FairFace's predict.py."
)


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@writing
@to_parquet
@detecting
@running
def detect(
    paths: tuple[str, ...],
    json_file: str | None,
    draw_folder: str | None,
    force: bool,
    parquet: Parquet | None,
    model: str,
    size: int | Literal["original"] | None,
    min_score: float | None,
    tile: int | None,
    device: str,
    batch: int | None,
    threads: int | None,
) -> int:
    """Find the faces in pictures, folders and videos.

    PATH is a picture, a folder (walked; its pictures are taken), a video, or a camera such as camera:0.

    On a terminal, pictures and videos named one by one get an annotated copy NAME.faces.jpg (.mp4) in the working
    folder. Where stdout is no terminal it gets JSON Lines. --json FILE is replaced when all is done; interrupted, it
    keeps what it held (redirect `--json -` to keep the lines so far).
    """

    job = Job(task="detect", detector=model, device=device, size=size, min_score=min_score, tile=tile)
    return _predict(paths, job, parquet, json_file, _Folders(draw_folder), force, batch, threads)


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@writing
@to_parquet
@_csv
@click.option("--crop", type=click.Choice(["faces", "none"]), default="faces", show_default=True, help=_CROP)
@click.option("--model", default="attributes", show_default=True, metavar="NAME|FILE", help="The classifier.")
@click.option("--detector", default="default", show_default=True, metavar="NAME|FILE", help="What finds the faces.")
@finding
@running
def classify(
    paths: tuple[str, ...],
    json_file: str | None,
    draw_folder: str | None,
    force: bool,
    parquet: Parquet | None,
    csv_file: str | None,
    crop: str,
    model: str,
    detector: str,
    size: int | Literal["original"] | None,
    min_score: float | None,
    tile: int | None,
    device: str,
    batch: int | None,
    threads: int | None,
) -> int:
    """Tell perceived race, gender and age of the faces in pictures, folders and videos.

    PATH is as for `nnface detect`, or a csv file with a column img_path. Faces are found first; --crop none takes
    pictures that are face chips already. What is told is how people label such pictures, and it may be wrong.
    """

    finder = _finder(crop, detector)
    job = Job(
        task="classify",
        detector=finder,
        classifier=model,
        device=device,
        size=size,
        min_score=min_score,
        tile=tile,
    )
    folders = _Folders(draw_folder)
    return _predict(output.listed(paths), job, parquet, json_file, folders, force, batch, threads, csv_file)


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@writing
@to_parquet
@_csv
@detecting
@click.option(
    "--classifier", default="attributes", show_default=True, metavar="NAME|FILE", help="What tells attributes."
)
@click.option("--parser", default="parser", show_default=True, metavar="NAME|FILE", help="What labels parts.")
@click.option("--parts/--no-parts", default=True, help="Whether to label parts, which takes the longest.")
@running
def analyze(
    paths: tuple[str, ...],
    json_file: str | None,
    draw_folder: str | None,
    force: bool,
    parquet: Parquet | None,
    csv_file: str | None,
    model: str,
    size: int | Literal["original"] | None,
    min_score: float | None,
    tile: int | None,
    classifier: str,
    parser: str,
    parts: bool,
    device: str,
    batch: int | None,
    threads: int | None,
) -> int:
    """Find the faces in pictures, folders and videos, tell their perceived race, gender and age, and label their parts.

    PATH and the results are as for `nnface detect`; --model is the detector. What is told is how people label such
    pictures, and it may be wrong.
    """

    if not parts:
        refuse_idle("parser", "has no part in it with --no-parts; leave one of them out")
    job = Job(
        task="analyze",
        detector=model,
        classifier=classifier,
        segmenter=parser if parts else None,
        device=device,
        size=size,
        min_score=min_score,
        tile=tile,
    )
    return _predict(paths, job, parquet, json_file, _Folders(draw_folder), force, batch, threads, csv_file)


def _finder(crop: str, detector: str) -> str | None:
    """The detector of ``--crop``."""
    if crop == "faces":
        return detector
    for option in ("detector", "size", "min_score", "tile"):
        refuse_idle(option, "has no part in it with --crop none, for no faces are looked for; leave one of them out")
    return None


def _parts(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    """``--parts``, checked."""
    if value is None:
        return HEAD
    several = {word: labels for word, labels in WORDS.items() if word not in CELEBAMASK_LABELS}
    names: list[str] = []
    for name in (word.strip() for word in value.split(",")):
        if name not in PARTS and name not in several:
            raise click.BadParameter(f"{name!r} is no part; the parts are {', '.join((*PARTS, *several))}")
        names += several.get(name, (name,))
    return tuple(dict.fromkeys(names))


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@writing
@to_parquet
@click.option("--labels", "labels_folder", metavar="DIR", help="Write label images here, 8-bit PNGs with a palette.")
@click.option("--soft", "soft_folder", metavar="DIR", help="Write what --parts names, cut out with soft edges, here.")
@click.option("--parts", callback=_parts, metavar="NAME,...", help="The parts of --soft; by default the head.")
@click.option("--crop", type=click.Choice(["faces", "none"]), default="faces", show_default=True, help=_PORTRAIT)
@click.option("--model", default="parser", show_default=True, metavar="NAME|FILE", help="The parser.")
@click.option("--detector", default="default", show_default=True, metavar="NAME|FILE", help="What finds the faces.")
@finding
@running
def segment(
    paths: tuple[str, ...],
    json_file: str | None,
    draw_folder: str | None,
    force: bool,
    parquet: Parquet | None,
    labels_folder: str | None,
    soft_folder: str | None,
    parts: tuple[str, ...],
    crop: str,
    model: str,
    detector: str,
    size: int | Literal["original"] | None,
    min_score: float | None,
    tile: int | None,
    device: str,
    batch: int | None,
    threads: int | None,
) -> int:
    """Label the parts of faces (skin, eyes, lips, hair, ...) in pictures, folders and videos.

    PATH and the results are as for `nnface detect`. Faces are found first; --crop none takes portraits. A label image
    has the picture's size and stem and the values 0 to 18: 0 where there is no face, then skin, nose, eye_g
    (eyeglasses), l_eye, r_eye, l_brow, r_brow, l_ear, r_ear, mouth, u_lip, l_lip, hair, hat, ear_r (earring), neck_l
    (necklace), neck, cloth; l_ is the person's left. Of a video there is one a frame, in a folder of its name.
    """

    if soft_folder is None:
        refuse_idle("parts", "names what --soft DIR cuts out; give that too")
    finder = _finder(crop, detector)
    job = Job(
        task="segment",
        detector=finder,
        segmenter=model,
        device=device,
        size=size,
        min_score=min_score,
        tile=tile,
    )
    folders = _Folders(draw_folder, labels_folder, soft_folder, parts)
    return _predict(paths, job, parquet, json_file, folders, force, batch, threads)


@dataclass(frozen=True, slots=True)
class _Folders:
    """Folders that pictures are written to."""

    drawn: str | None
    labels: str | None = None
    soft: str | None = None
    parts: tuple[str, ...] = HEAD
    """What is cut out for ``soft``."""

    def copies(self, sources: Sequence[Source], automatic: bool) -> list["_Copies"]:
        """For each source what is to be written; ``automatic``: annotated copies in the working folder."""
        none: list[Path | None] = [None] * len(sources)
        drawn = output.targets(sources, self.drawn) if self.drawn or automatic else none
        labels = output.png_targets(sources, self.labels) if self.labels else none
        soft = output.png_targets(sources, self.soft) if self.soft else none
        return [_Copies(*places, self.parts) for places in zip(drawn, labels, soft, strict=True)]


@dataclass(frozen=True, slots=True)
class _Copies:
    """Where the copies of one picture or video go, None where there is none."""

    drawn: Path | None
    labels: Path | None
    soft: Path | None
    parts: tuple[str, ...]

    @property
    def wanted(self) -> bool:
        """Whether there is something to write."""
        return any((self.drawn, self.labels, self.soft))

    def write(self, path: str, faces: Faces, detector: Detector | Analyzer, force: bool) -> dict[Path, str]:
        """Write all copies of a picture file; gives a sentence for each place where there is none now."""
        writers: list[tuple[Path | None, Callable[[Path], None]]] = [
            (self.drawn, lambda place: output.draw_picture(path, faces, place)),
            (self.labels, lambda place: output.write_labels(faces, place)),
            (self.soft, lambda place: output.write_cutout(path, faces, _segmenter(detector), self.parts, place)),
        ]
        problems: dict[Path, str] = {}
        for place, write in writers:
            if place is None:
                continue
            try:
                output.prepare_place(place, force)
                write(place)
            except NnfaceError as error:
                problems[place] = str(error)
        return problems


def _segmenter(detector: Detector | Analyzer) -> Segmenter:
    assert isinstance(detector, Analyzer) and detector.segmenter is not None  # only segment asks
    return detector.segmenter


def _predict(
    paths: Sequence[str],
    job: Job,
    parquet: Parquet | None,
    json_file: str | None,
    folders: _Folders,
    force: bool,
    batch: int | None,
    threads: int | None,
    csv_file: str | None = None,
) -> int:
    """Run the job over all sources, and write what was asked for."""
    if parquet is not None:
        return run(job, paths, parquet, batch, threads)
    terminal = sys.stdout.isatty()
    notes: list[str] = []
    sources, problems = expand(paths, notes)
    for sentence in (*problems, *notes):
        output.say(sentence)
    if not sources:
        return 2
    with ExitStack() as stack:
        lines = stack.enter_context(output.json_lines(json_file or (None if terminal or csv_file else "-")))
        workers = threads or physical_cores()
        one = len(sources) == 1 and sources[0].kind == "picture"
        if not one:
            cv2.setNumThreads(1)  # the workers take up the cores; OpenCV's own threads would be in their way
        detector = job.open(workers if one else 1)
        if job.device != "cpu":
            output.say(f"running on {job.device}")
        for folder in filter(None, (folders.drawn, folders.labels, folders.soft)):
            make_folder(folder)  # before the work, which would be in vain
        automatic = terminal and json_file is None and csv_file is None
        heads = detector.classifier.heads if isinstance(detector, Analyzer) and detector.classifier else ()
        rows = stack.enter_context(output.csv_rows(csv_file, heads))
        work = list(zip(sources, folders.copies(sources, automatic), strict=True))
        table = _Table(sources) if automatic else None
        if table:
            stack.callback(table.show)
        total = None if any(source.kind != "picture" for source in sources) else len(sources)
        advance = stack.enter_context(output.progress("faces", total, hidden=terminal and json_file == "-"))
        results = _results(detector, work, 1 if one else workers, batch, force)
        done, failed = 0, len(problems)
        try:
            for result in stack.enter_context(closing(results)):
                done += result.faces is not None
                for sentence in filter(None, (result.error, *result.not_written)):
                    failed += 1
                    output.say(sentence)
                if lines and (result.faces is not None or result.error):
                    lines.write(result.row())
                if rows and result.faces is not None:
                    rows.write(result.source.path, result.faces)
                if table:
                    table.add(result)
                advance()
        except KeyboardInterrupt:
            if sources[-1].kind != "camera":
                raise
            return 130  # a camera has no other end: what there is, is kept
    return 0 if not failed else 1 if done else 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Result:
    """What there is to say of a picture, or of a frame of a video."""

    source: Source
    faces: Faces | None = None
    frame: Frame | None = None
    drawn: Path | None = None
    error: str | None = None
    """Why there are no faces."""
    not_written: tuple[str, ...] = ()
    """Why there is no copy, a sentence for each that was due."""

    def row(self) -> dict[str, Any]:
        """The line of JSON."""
        row: dict[str, Any] = {"file": self.source.path}
        if self.frame is not None:
            row |= {"frame": self.frame.index, "time": self.frame.time}
        return row | ({"error": self.error} if self.faces is None else self.faces.to_dict())


def _results(
    detector: Detector | Analyzer,
    work: Sequence[tuple[Source, _Copies]],
    workers: int,
    batch: int | None,
    force: bool,
) -> Generator[_Result, None, None]:
    """All results, in the order of the sources."""
    for still, group in groupby(work, key=lambda pair: pair[0].kind == "picture"):
        if still:
            yield from _pictures(detector, list(group), workers, batch, force)
        else:
            for source, copies in group:
                yield from _video(detector, source, copies, workers, force)


def _pictures(
    detector: Detector | Analyzer,
    work: Sequence[tuple[Source, _Copies]],
    workers: int,
    batch: int | None,
    force: bool,
) -> Generator[_Result, None, None]:
    def finish(item: tuple[tuple[Source, _Copies], Faces | Failure]) -> _Result:
        (source, copies), found = item
        if isinstance(found, Failure):
            return _Result(source=source, error=found.reason)
        problems = copies.write(source.path, found, detector, force)
        drawn = None if copies.drawn in problems else copies.drawn
        found = replace(found, labels=None)  # they are large, and many results may wait
        return _Result(source=source, faces=found, drawn=drawn, not_written=tuple(problems.values()))

    with closing(pictures(detector, (source.path for source, _ in work), workers=workers, batch=batch)) as found:
        pairs = zip(work, found, strict=True)
        if any(copies.wanted for _, copies in work):  # in threads of its own, beside those that find the next faces
            yield from ordered(finish, pairs, workers)
        else:
            yield from map(finish, pairs)


def _video(
    detector: Detector | Analyzer, source: Source, copies: _Copies, workers: int, force: bool
) -> Generator[_Result, None, None]:
    place, labels = copies.drawn, copies.labels
    problems = [f"{source.path}: only pictures are cut out, not videos"] if copies.soft else []
    try:
        clip = Video(source.path)
        with ExitStack() as stack:
            writer = None
            if place is not None:
                try:
                    output.prepare_place(place, force)
                    writer = stack.enter_context(VideoWriter(place, clip.fps, endless=clip.camera))
                except NnfaceError as error:
                    place = None
                    problems.append(str(error))
            for frame, faces in stack.enter_context(closing(video(detector, clip, workers=workers))):
                if writer is not None:
                    try:
                        writer.write(draw.faces(frame.image, faces))
                    except NnfaceError as error:  # the faces of the other frames are found all the same
                        writer = place = None
                        problems.append(str(error))
                if labels is not None:
                    try:
                        image = labels / f"{frame.index:06}.png"
                        output.prepare_place(image, force)
                        output.write_labels(faces, image)
                    except NnfaceError as error:  # the others would fare no better
                        labels = None
                        problems.append(str(error))
                found = replace(faces, labels=None)
                yield _Result(source=source, faces=found, frame=frame, drawn=place, not_written=tuple(problems))
                problems = []
    except ImageError as error:
        yield _Result(source=source, error=str(error))
    except ModelFileError:
        raise
    except NnfaceError as error:  # the copy, when it is closed: the faces were found
        yield _Result(source=source, not_written=(str(error),))


class _Table:
    """What a terminal shows: a row a face where pictures were named one by one, or else a row a picture or video."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._by_face = all(source.named and source.kind == "picture" for source in sources)
        self._rows: list[list[str]] = []
        self._drawn: dict[Path, None] = {}
        self._faces = 0
        self._told: list[str] = []
        self._done: dict[str, int] = {}

    def add(self, result: _Result) -> None:
        """Take a result in."""
        name = output.printable(result.source.path)
        if result.drawn is not None:
            self._drawn[result.drawn] = None
        if result.faces is None:
            return
        self._faces += len(result.faces)
        if result.frame is not None:
            self._add_frame(name, result.faces)
            return
        self._count("picture")
        size = f"{result.faces.width} x {result.faces.height}"
        if not self._by_face:
            best = _score(result.faces[0].score) if result.faces else ""
            self._rows.append([name, size, str(len(result.faces)), best])
            return
        for number, face in enumerate(result.faces):
            x1, y1, x2, y2 = (str(round(v)) for v in face.box.tolist())
            told = {}
            if face.attributes is not None:
                told["perceived (?: not certain)"] = words(face.attributes)
            if face.parts is not None:
                told["parts"] = part_words(face.parts)
            self._told = list(told)
            row = ["" if number else name, str(number + 1), _score(face.score), x1, y1, x2, y2, *told.values()]
            self._rows.append(row)
        if not result.faces:
            self._rows.append([name, "none", "", "", "", "", ""])

    def show(self) -> None:
        """Print it, also what was done before an interruption."""
        from nnface.report.table import Table

        if not self._done:
            return
        columns = (
            ["picture", "face", "score", "x1", "y1", "x2", "y2"] if self._by_face else ["", "size", "faces", "best"]
        )
        columns += self._told
        Table("", columns, [row + [""] * (len(columns) - len(row)) for row in self._rows]).show()
        counts = " and ".join(f"{n} {what}{'' if n == 1 else 's'}" for what, n in self._done.items())
        print(f"{self._faces} face{'' if self._faces == 1 else 's'} in {counts}")
        drawn = [place for place in self._drawn if place.exists()]  # a video may have come to grief at its end
        if len(drawn) > 8:
            print(f"{len(drawn)} annotated copies, the last: {output.printable(str(drawn[-1]))}")
        else:
            for place in drawn:
                print(f"annotated: {output.printable(str(place))}")

    def _add_frame(self, name: str, faces: Faces) -> None:
        """A video has one row, which grows: its size, its faces in all frames, the best score."""
        best = faces[0].score or 0.0 if faces else 0.0
        if not self._rows or self._rows[-1][0] != name:
            self._rows.append([name, f"{faces.width} x {faces.height}", "0", ""])
        row = self._rows[-1]
        row[2] = str(int(row[2]) + len(faces))
        row[3] = max(row[3], f"{best:.2f}" if faces else "")
        self._count("frame")

    def _count(self, what: str) -> None:
        self._done[what] = self._done.get(what, 0) + 1


def _score(score: float | None) -> str:
    """A chip that was given as a face has no score."""
    return "" if score is None else f"{score:.2f}"
