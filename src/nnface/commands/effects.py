"""``nnface recolor`` and ``nnface blur``: pictures, folders and videos in, changed copies of them out."""

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import click
import cv2

from nnface import effects
from nnface.commands import output
from nnface.commands.options import detecting, running
from nnface.commands.plan import plan
from nnface.errors import ModelFileError, NnfaceError, UsageError
from nnface.files import make_folder
from nnface.image import Pixels, read
from nnface.predict.detector import Detector
from nnface.predict.segmenter import BATCH, Segmenter
from nnface.predict.segmenter import PARTS as LABELS
from nnface.predict.source import Source
from nnface.predict.stream import ordered
from nnface.predict.video import Frame, Video, VideoWriter
from nnface.results import Faces

Effect: TypeAlias = Callable[[Pixels], tuple[Pixels, Faces]]
"""A picture to its changed copy and the faces that were found in it."""
F = TypeVar("F", bound=Callable[..., Any])

_QUICK = ("hair", "lips", "eyebrows", "eyes", "skin", "hat", "cloth", "background")
"""The parts that have an option of their own."""
_QUALITY = 95


def _colors(command: F) -> F:
    """``--hair COLOUR`` and so on, and ``--part NAME=COLOUR``."""
    command = click.option(
        "--part", "more", multiple=True, metavar="NAME=COLOUR", help="Any other part; may be given several times."
    )(command)
    for part in reversed(_QUICK):
        command = click.option(f"--{part}", metavar="COLOUR")(command)
    return command


def _writing(command: F) -> F:
    command = click.option("--force", is_flag=True, help="Overwrite copies that are there.")(command)
    return click.option("--out", "folder", metavar="DIR", help="Write the copies here; the folder is made.")(command)


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@_colors
@click.option("--strength", type=click.FloatRange(0, 1), default=1.0, show_default=True, help="0: none, 1: all of it.")
@_writing
@click.option("--parser", default="parser", show_default=True, metavar="NAME|FILE", help="What finds the parts.")
@detecting
@running
def recolor(
    paths: tuple[str, ...],
    more: tuple[str, ...],
    strength: float,
    folder: str | None,
    force: bool,
    parser: str,
    model: str,
    size: int | Literal["original"] | None,
    min_score: float | None,
    tile: int | None,
    device: str,
    batch: int | None,
    threads: int | None,
    **quick: str | None,
) -> int:
    """Give hair, lips and other parts of faces another colour; texture and light stay.

    COLOUR is #rrggbb (in quotes, or without the #) or a basic CSS name such as navy. PATH is as for `nnface detect`.
    Pictures and videos named one by one get a copy NAME.recolored.jpg (.mp4, without the sound) in the working folder;
    --out DIR takes the copies of anything. --model is the detector.
    """
    colors = {part: color for part, color in quick.items() if color is not None}
    for text in more:
        part, equals, color = text.partition("=")
        if not equals:
            raise UsageError(f"--part {text} must be NAME=COLOUR, such as hair=#7a3b1d")
        colors[part] = color
    if not colors:
        raise UsageError("nothing to colour: name a part and its colour, such as --hair '#7a3b1d'")
    for part, color in colors.items():
        effects.part_labels(part)
        effects.parse_color(color)
    background = "background" in colors
    # What is no part of a face has no soft mask of its own: it is where no part is.
    groups = {part: effects.PARTS[part] if part != "background" else LABELS for part in colors}

    def make(threads: int) -> Effect:
        detector = Detector(model, device=device, threads=threads, size=size, min_score=min_score, tile=tile)
        segmenter = Segmenter(parser, device=device, threads=threads, batch=batch or BATCH)

        def effect(image: Pixels) -> tuple[Pixels, Faces]:
            faces = detector(image)
            if not len(faces):
                return image, faces
            masks = segmenter.soft(image, faces, groups)
            if background:
                masks["background"] = 1 - masks["background"]
            return effects.recolor(image, masks, colors, strength=strength, faces=faces), faces

        return effect

    return _apply(paths, make, "recolored", folder, force, threads)


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--parts", default=None, metavar="NAME,...", help="What to blur, such as hair,skin; by default the face.")
@click.option("--whole", is_flag=True, help="Blur whole heads, with hair, ears and hat.")
@click.option("--pixelate", is_flag=True, help="Coarse squares instead of a smooth blur.")
@click.option(
    "--strength",
    type=click.FloatRange(0, 6, min_open=True),
    default=1.0,
    show_default=True,
    help="1: six cells across a face; below, people may be recognised.",
)
@_writing
@click.option(
    "--parser",
    default="parser",
    show_default=True,
    metavar="NAME|FILE|none",
    help="What finds the outlines of faces; none: ellipses, which is quicker.",
)
@detecting
@running
def blur(
    paths: tuple[str, ...],
    parts: str | None,
    whole: bool,
    pixelate: bool,
    strength: float,
    folder: str | None,
    force: bool,
    parser: str,
    model: str,
    size: int | Literal["original"] | None,
    min_score: float | None,
    tile: int | None,
    device: str,
    batch: int | None,
    threads: int | None,
) -> int:
    """Blur faces, or parts of them, so that they cannot be made out. No guarantee of anonymity: look at the result.

    A face that the detector misses is not blurred; a lower --min-score misses fewer. Faces are covered along their
    outline, or by an ellipse where that is not seen. PATH is as for `nnface detect`. Pictures and videos named one by
    one get a copy NAME.blurred.jpg (.mp4, without the sound) in the working folder; --out DIR takes the copies of
    anything. --model is the detector.
    """
    if whole and parts is not None:
        raise UsageError("--whole and --parts exclude each other")
    names = ["head"] if whole else [name.strip() for name in (parts or "face").split(",")]
    numbers = {number for name in names for number in effects.part_labels(name)}
    if parser == "none" and not numbers.issuperset(effects.part_labels("face")):
        raise UsageError("--parts needs a parser, which finds them; leave out --parser none")

    def make(threads: int) -> Effect:
        detector = Detector(model, device=device, threads=threads, size=size, min_score=min_score, tile=tile)
        segmenter = (
            None if parser == "none" else Segmenter(parser, device=device, threads=threads, batch=batch or BATCH)
        )
        mode: Literal["blur", "pixelate"] = "pixelate" if pixelate else "blur"

        def effect(image: Pixels) -> tuple[Pixels, Faces]:
            faces = detector(image)
            if not len(faces):
                return image, faces
            labels = None if segmenter is None else segmenter.labels(image, faces)
            return effects.blur(image, faces, labels=labels, parts=names, mode=mode, strength=strength), faces

        return effect

    return _apply(paths, make, "blurred", folder, force, threads)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Result:
    """What became of a picture or video."""

    source: Source
    error: str | None = None
    place: Path | None = None
    faces: Faces | None = None
    """Of a picture."""
    frames: int | None = None
    """Of a video."""
    shown: int = 0
    """How many faces there are, in all frames."""
    empty: int = 0
    """Frames of a video in which no face was found."""

    def row(self) -> dict[str, Any]:
        """The line of JSON."""
        row: dict[str, Any] = {"file": self.source.path}
        if self.error is not None:
            return row | {"error": self.error}
        row["written"] = str(self.place)
        if self.faces is not None:
            return row | self.faces.to_dict()
        return row | {"frames": self.frames, "frames_without_faces": self.empty, "detections": self.shown}

    def line(self) -> str:
        """The line for people."""
        if self.frames is None and not self.shown:
            return f"{self.source.path}: no face was found; written unchanged to {self.place}"
        where = "" if self.frames is None else f" in {output.counted(self.frames, 'frame')}"
        return f"{self.source.path}: {output.counted(self.shown, 'face')}{where}, written to {self.place}"


def _apply(
    paths: Sequence[str],
    make: Callable[[int], Effect],
    word: str,
    folder: str | None,
    force: bool,
    threads: int | None,
) -> int:
    """Write a copy of each source, made by what ``make`` opens with so many threads, and say what was done."""
    terminal = sys.stdout.isatty()
    todo = plan(paths, threads)
    if not todo.sources:
        return 2
    if folder is None and not all(source.named for source in todo.sources):
        raise UsageError("the copies of a folder's pictures need a folder of their own: name one with --out DIR")
    work = list(zip(todo.sources, output.targets(todo.sources, folder, word), strict=True))
    effect = make(todo.threads)
    if folder:  # before the work, which would be in vain
        make_folder(folder)
    done = failed = 0
    with ExitStack() as stack:
        lines = None if terminal else stack.enter_context(output.json_lines("-"))
        advance = stack.enter_context(output.progress(word, todo.total, hidden=terminal and todo.single))
        results = _results(effect, work, todo.workers, force, advance)
        try:
            for result in stack.enter_context(closing(results)):
                if result.error is not None:
                    failed += 1
                    output.say(result.error)
                else:
                    done += 1
                    if terminal:
                        print(output.printable(result.line()))
                if lines:
                    lines.write(result.row())
        except KeyboardInterrupt:
            if not todo.endless:
                raise
            return 130  # what there is, is kept
    return todo.exit_code(done, failed)


def _results(
    effect: Effect,
    work: Sequence[tuple[Source, Path | None]],
    workers: int,
    force: bool,
    advance: Callable[[], None],
) -> Generator[_Result, None, None]:
    """All results, in the order of the sources; pictures in threads, the frames of each video too."""

    def picture(item: tuple[Source, Path]) -> _Result:
        source, place = item
        try:
            output.prepare_place(place, force)
            image, faces = effect(read(source.path))
            output.write_jpeg(source.path, image, place, _QUALITY)
            return _Result(source=source, place=place, faces=faces, shown=len(faces))
        except ModelFileError:
            raise
        except NnfaceError as error:
            return _Result(source=source, error=str(error))
        except MemoryError:
            return _Result(source=source, error=f"{source.path} needs more memory than there is; fewer --threads help")
        except (OSError, cv2.error) as error:
            return _Result(source=source, error=f"{source.path} cannot be read: {' '.join(str(error).split())}")

    waiting: list[tuple[Source, Path]] = []
    for source, place in work:
        assert place is not None  # nothing of a folder comes here without --out
        if source.kind == "picture":
            waiting.append((source, place))
            continue
        for result in ordered(picture, waiting, workers):
            yield result
            advance()
        waiting.clear()
        yield _video(effect, source, place, workers, force, advance)
    for result in ordered(picture, waiting, workers):
        yield result
        advance()


def _video(
    effect: Effect, source: Source, place: Path, workers: int, force: bool, advance: Callable[[], None]
) -> _Result:
    def work(frame: Frame) -> tuple[Pixels, Faces]:
        return effect(frame.image)

    frames = shown = empty = 0
    try:
        clip = Video(source.path)
        output.prepare_place(place, force)
        with (
            VideoWriter(place, clip.fps, endless=clip.camera) as writer,
            closing(ordered(work, clip, workers)) as results,
        ):
            for image, faces in results:
                writer.write(image)
                frames, shown, empty = frames + 1, shown + len(faces), empty + (not len(faces))
                advance()
    except ModelFileError:
        raise
    except NnfaceError as error:
        return _Result(source=source, error=str(error))
    return _Result(source=source, place=place, frames=frames, shown=shown, empty=empty)
