"""A job run over pictures, folders, videos and cameras, and its results written where they were asked for."""

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from nnface import draw
from nnface.commands import output
from nnface.commands.parquet import Parquet, run
from nnface.commands.plan import plan
from nnface.commands.terminal import FaceTable, Result
from nnface.errors import ImageError, ModelFileError, NnfaceError
from nnface.files import make_folder
from nnface.predict.analyzer import Analyzer
from nnface.predict.detector import Detector
from nnface.predict.segmenter import HEAD, Segmenter
from nnface.predict.source import Source
from nnface.predict.stream import Failure, ordered, pictures, video
from nnface.predict.video import Video, VideoWriter
from nnface.results import Faces
from nnface.scale.job import Job


@dataclass(frozen=True, slots=True)
class Folders:
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


def predict(
    paths: Sequence[str],
    job: Job,
    parquet: Parquet | None,
    json_file: str | None,
    folders: Folders,
    force: bool,
    batch: int | None,
    threads: int | None,
    csv_file: str | None = None,
) -> int:
    """Run the job over all sources, and write what was asked for."""
    if parquet is not None:
        return run(job, paths, parquet, batch, threads)
    output.refuse_same("--csv and --json", csv_file, json_file)
    output.refuse_same("--labels and --soft", folders.labels, folders.soft)
    terminal = sys.stdout.isatty()
    todo = plan(paths, threads)
    if not todo.sources:
        return 2
    with ExitStack() as stack:
        lines = stack.enter_context(output.json_lines(json_file or (None if terminal or csv_file else "-")))
        detector = job.open(todo.threads)
        if job.device != "cpu":
            output.say(f"running on {job.device}")
        for folder in filter(None, (folders.drawn, folders.labels, folders.soft)):
            make_folder(folder)  # before the work, which would be in vain
        automatic = terminal and json_file is None and csv_file is None
        heads = detector.classifier.heads if isinstance(detector, Analyzer) and detector.classifier else ()
        rows = stack.enter_context(output.csv_rows(csv_file, heads))
        work = list(zip(todo.sources, folders.copies(todo.sources, automatic), strict=True))
        table = FaceTable(todo.sources) if automatic else None
        if table:
            stack.callback(table.show)
        advance = stack.enter_context(output.progress("faces", todo.total, hidden=terminal and json_file == "-"))
        results = _results(detector, work, todo.workers, batch, force)
        done = failed = 0
        try:
            for result in stack.enter_context(closing(results)):
                done += result.faces is not None
                for sentence in filter(None, (result.error, *result.not_written)):
                    failed += 1
                    output.say(sentence)
                if lines and (result.faces is not None or result.error):
                    lines.write(result.row())
                if rows and result.faces is not None:
                    rows.write(result.source.path, result.faces, result.frame)
                if table:
                    table.add(result)
                advance()
        except KeyboardInterrupt:
            if not todo.endless:
                raise
            return 130  # what there is, is kept
    return todo.exit_code(done, failed)


def _results(
    detector: Detector | Analyzer,
    work: Sequence[tuple[Source, _Copies]],
    workers: int,
    batch: int | None,
    force: bool,
) -> Generator[Result, None, None]:
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
) -> Generator[Result, None, None]:
    def finish(item: tuple[tuple[Source, _Copies], Faces | Failure]) -> Result:
        (source, copies), found = item
        if isinstance(found, Failure):
            return Result(source=source, error=found.reason)
        problems = copies.write(source.path, found, detector, force)
        drawn = None if copies.drawn in problems else copies.drawn
        found = replace(found, labels=None)  # they are large, and many results may wait
        return Result(source=source, faces=found, drawn=drawn, not_written=tuple(problems.values()))

    with closing(pictures(detector, (source.path for source, _ in work), workers=workers, batch=batch)) as found:
        pairs = zip(work, found, strict=True)
        if any(copies.wanted for _, copies in work):  # in threads of its own, beside those that find the next faces
            yield from ordered(finish, pairs, workers)
        else:
            yield from map(finish, pairs)


def _video(
    detector: Detector | Analyzer, source: Source, copies: _Copies, workers: int, force: bool
) -> Generator[Result, None, None]:
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
                yield Result(source=source, faces=found, frame=frame, drawn=place, not_written=tuple(problems))
                problems = []
    except ImageError as error:
        yield Result(source=source, error=str(error))
    except ModelFileError:
        raise
    except NnfaceError as error:  # the copy, when it is closed: the faces were found
        yield Result(source=source, not_written=(str(error),))
