"""``nnface detect``, ``classify``, ``segment``, ``analyze``: pictures, videos in; tables, JSON Lines, pictures out."""

from typing import Literal

import click

from nnface.commands import output
from nnface.commands.options import detecting, finding, refuse_idle, running, writing
from nnface.commands.parquet import Parquet, to_parquet
from nnface.commands.predictions import Folders, predict
from nnface.effects import PARTS as WORDS
from nnface.predict.segmenter import HEAD, PARTS
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
    return predict(paths, job, parquet, json_file, Folders(draw_folder), force, batch, threads)


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
    folders = Folders(draw_folder)
    return predict(output.listed(paths), job, parquet, json_file, folders, force, batch, threads, csv_file)


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
    return predict(paths, job, parquet, json_file, Folders(draw_folder), force, batch, threads, csv_file)


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
    folders = Folders(draw_folder, labels_folder, soft_folder, parts)
    return predict(paths, job, parquet, json_file, folders, force, batch, threads)
