"""Detection data from one form into another: WIDER FACE, COCO, YOLO, VOC."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnface.datasets import widerface
from nnface.datasets.interchange import coco, voc, yolo
from nnface.datasets.interchange.placing import refuse
from nnface.datasets.samples import DetectionSample
from nnface.errors import DataError, NnfaceError, UsageError

FORMATS = ("widerface", "coco", "yolo", "voc")
_WITHOUT_BOXES = {
    "fairface": "FairFace has labels of whole pictures and no boxes",
    "celebamask": "CelebAMask-HQ has label images and no boxes",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """``NAME:PATH``."""

    name: str
    """One of :data:`FORMATS`."""
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What was written of a split."""

    split: str
    pictures: int
    faces: int
    ignored: int
    """Ignore regions beside the faces."""
    landmarks: int
    """Faces that have landmarks."""


def place(text: str) -> Place:
    """The place that ``NAME:PATH`` means.

    Raises:
        UsageError: not of that form, or a name that is no format of boxes.
    """
    name, sign, path = text.partition(":")
    if name in _WITHOUT_BOXES and sign:
        raise UsageError(f"{_WITHOUT_BOXES[name]}, so it cannot be turned into or made from {', '.join(FORMATS)}")
    if not sign or not path or name not in FORMATS:
        raise UsageError(f"{text!r} is not NAME:PATH with NAME one of {', '.join(FORMATS)}")
    return Place(name=name, path=Path(path))


def convert(
    source: Place, target: Place, *, split: str | None = None, copy: bool = False, force: bool = False
) -> tuple[list[Written], list[str]]:
    """Write the data of ``source`` in the form and place of ``target``.

    Every box is kept, to half a pixel, and landmarks and ignore regions wherever the form has a place for them; see
    :mod:`nnface.datasets.interchange.yolo` for what YOLO has not.

    Args:
        source: what to read.
        target: a COCO file, whose folder must exist, or a folder, which is made.
        split: this split alone; None: all that are there (a COCO file holds one: ``train``, where it is there).
        copy: copy the pictures; else they are linked to (COCO names them where they are).
        force: replace labels that are there.

    Returns:
        what was written, and the splits that were left out.

    Raises:
        DataError: the source is absent or malformed, or has no such split.
        ImageError: a picture that cannot be read.
        NnfaceError: labels are there already, or cannot be written.
    """
    there = splits(source)
    if split is not None and source.name != "coco" and split not in there:
        raise DataError(f"{source.path} has no split {split}; it has {', '.join(there) or 'none'}")
    chosen = [split] if split is not None else there
    if target.name == "coco":
        chosen = chosen[:1]
    done = []
    for name in chosen:
        samples = read(source, name)
        write(target, name, samples, copy=copy, force=force)
        done.append(count(name, samples))
    return done, [name for name in there if name not in chosen and split is None]


def splits(source: Place) -> list[str]:
    """The splits of a data set; a COCO file is one, ``train``.

    Raises:
        DataError: there is none.
    """
    if source.name == "coco":
        return ["train"]
    found = {"widerface": widerface.splits, "yolo": yolo.splits, "voc": voc.splits}[source.name](source.path)
    if source.name == "widerface":  # the official texts come in one archive, the pictures in several
        found = [s for s in found if (source.path / f"WIDER_{s}").is_dir() or (source.path / s / "label.txt").is_file()]
    if not found:
        raise DataError(f"{source.path} holds no data in the form of {source.name}")
    return found


def read(source: Place, split: str) -> list[DetectionSample]:
    """The pictures of a split. Raises as the form's reader does."""
    if source.name == "coco":
        return coco.read(source.path)
    return {"widerface": widerface.read, "yolo": yolo.read, "voc": voc.read}[source.name](source.path, split)


def write(
    target: Place, split: str, samples: Sequence[DetectionSample], *, copy: bool = False, force: bool = False
) -> None:
    """Write a split. Raises as the form's writer does."""
    if target.name == "coco":
        refuse(target.path, force)
        coco.write(target.path, samples)
    else:
        writer = {"widerface": widerface.write, "yolo": yolo.write, "voc": voc.write}[target.name]
        writer(target.path, split, samples, copy=copy, force=force)


def check(target: Place, split: str, samples: Sequence[DetectionSample], force: bool) -> None:
    """Before long work: may these pictures, whose labels are still to be found, be written there as ``split``?

    Raises:
        DataError: the form has no such split, not their suffix, or no two names for them.
        NnfaceError: labels are there already, or the folder of a COCO file is not there.
    """
    if target.name == "coco":
        if not target.path.parent.is_dir():
            raise NnfaceError(
                f"cannot write {target.path}: the folder {target.path.parent} does not exist; make it first"
            )
        refuse(target.path, force)
        return
    if target.name == "voc":
        voc.written(samples)
    else:
        {"widerface": widerface.written, "yolo": yolo.written}[target.name](split, samples)
    marks = {
        "widerface": Path("wider_face_split", f"wider_face_{split}_bbx_gt.txt"),
        "yolo": Path("labels", split),
        "voc": Path("ImageSets", "Main", f"{split}.txt"),
    }
    refuse(target.path / marks[target.name], force)


def count(split: str, samples: Sequence[DetectionSample]) -> Written:
    """What these samples hold."""
    ignored = sum(int(s.ignored.sum()) for s in samples)
    return Written(
        split=split,
        pictures=len(samples),
        faces=sum(len(s.boxes) for s in samples) - ignored,
        ignored=ignored,
        landmarks=sum(int((~np.isnan(s.landmarks).any((1, 2))).sum()) for s in samples),
    )
