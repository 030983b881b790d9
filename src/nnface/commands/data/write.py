"""``nnface data convert`` and ``nnface data label``: boxes in the form of other trainers, and drafts of new sets."""

from typing import TYPE_CHECKING, Literal

import click
import cv2

from nnface.commands.options import SIZE, running
from nnface.commands.output import counted, progress, say
from nnface.errors import UsageError

if TYPE_CHECKING:
    from nnface.curate.convert import Written

_copy = click.option("--copy", is_flag=True, help="Copy the pictures into the new folder; else they are linked to.")
_force = click.option("--force", is_flag=True, help="Replace labels that are there.")


@click.command()
@click.argument("source", metavar="NAME:PATH")
@click.argument("target", metavar="NAME:PATH")
@click.option("--split", metavar="NAME", help="This split alone, such as train; default: all that are there.")
@_copy
@_force
def convert(source: str, target: str, split: str | None, copy: bool, force: bool) -> None:
    """Write the boxes of the first data set in the form of the second.

    NAME is widerface, yolo or voc, PATH being a folder, or coco, PATH being a JSON file, which holds one split.
    """
    from nnface.curate import convert as work

    done, left_out = work.convert(work.place(source), work.place(target), split=split, copy=copy, force=force)
    for written in done:
        click.echo(_summary(written))
    if left_out:
        click.echo(f"left out: {', '.join(left_out)} (a COCO file holds one split; --split names another)")


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PHOTOS...")
@click.option("--with", "model", default="default", show_default=True, metavar="MODEL", help="A detector.")
@click.option("--out", "target", required=True, metavar="NAME:PATH", help="widerface:, yolo: or voc:DIR, or coco:FILE.")
@click.option("--split", default="train", show_default=True, metavar="NAME", help="The split to write.")
@click.option(
    "--ignore-score",
    type=click.FloatRange(0, 1),
    metavar="S",
    help="Faces from here to --min-score become ignore regions; default: half of --min-score.",
)
@click.option("--min-score", type=click.FloatRange(0, 1), metavar="S", help="A face has at least this score, 0 to 1.")
@click.option("--size", type=SIZE, help="Long side that the detector sees; small pictures are enlarged.")
@_copy
@_force
@running
def label(
    paths: tuple[str, ...],
    model: str,
    target: str,
    split: str,
    ignore_score: float | None,
    copy: bool,
    force: bool,
    size: int | Literal["original"] | None,
    min_score: float | None,
    device: str,
    batch: int | None,
    threads: int | None,
) -> int:
    """Write what a detector finds in PHOTOS as labels: a draft, to be corrected by people.

    Doubtful faces become ignore regions, which count neither as a face nor as background.
    """
    from nnface.curate import convert as work
    from nnface.curate.label import label as draft
    from nnface.curate.label import unlabelled
    from nnface.datasets.samples import DetectionSample
    from nnface.predict.detector import Detector
    from nnface.predict.source import expand
    from nnface.processors import physical_cores

    place = work.place(target)
    sources, problems = expand(paths)
    problems += [f"{source.path} is no picture, so it gets no labels" for source in sources if source.kind != "picture"]
    sources = [source for source in sources if source.kind == "picture"]
    work.check(place, split, [unlabelled(source) for source in sources], force)
    detector = Detector(model, device=device, threads=1, size=size)
    least = detector.min_score if min_score is None else min_score
    detector.min_score = least / 2 if ignore_score is None else ignore_score
    if detector.min_score > least:
        raise UsageError(f"--ignore-score {detector.min_score} is above --min-score {least}; give a lower one")
    cv2.setNumThreads(1)
    samples = []
    with progress("pictures", len(sources)) as advance:
        for found in draft(sources, detector, least, workers=threads or physical_cores(), batch=batch, advance=advance):
            if isinstance(found, DetectionSample):
                samples.append(found)
            else:
                problems.append(found.reason)
    for problem in problems:
        say(problem)
    if not samples:
        return 2
    work.write(place, split, samples, copy=copy, force=force)
    click.echo(_summary(work.count(split, samples)))
    return 1 if problems else 0


def _summary(written: "Written") -> str:
    ignored = f", {written.ignored:,} ignore regions" if written.ignored else ""
    landmarks = f", {written.landmarks:,} with landmarks" if written.landmarks else ""
    pictures, faces = counted(written.pictures, "picture"), counted(written.faces, "face")
    return f"{written.split}: {pictures}, {faces}{ignored}{landmarks}"
