"""CelebAMask-HQ as published to what is trained on: part PNGs merged to label images, the official split as lists."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from nnface.curate.findings import Advance
from nnface.curate.show import made
from nnface.datasets import celebamask
from nnface.datasets.celebamask import FACES, MAPPING, MASKS, PARTITION, Part, PublishedFace
from nnface.errors import DataError, ImageError, NnfaceError, UsageError
from nnface.files import atomic_path, write_atomic
from nnface.image import read
from nnface.predict.stream import ordered
from nnface.processors import cores
from nnface.spec import CELEBAMASK_LABELS

Labels = NDArray[np.uint8]


@dataclass(kw_only=True)
class Merged:
    """What :func:`merge_all` did."""

    merged: int = 0
    """Label images that it wrote."""
    kept: int = 0
    """Label images that were there, whole."""
    lists: dict[Part, int] = field(default_factory=dict)
    """Portraits of each list."""
    notes: list[str] = field(default_factory=list)
    """What is worth knowing: a partial set, faces that were left out."""


def merge_all(
    root: str | Path,
    *,
    annotations: str | Path | None = None,
    force: bool = False,
    workers: int | None = None,
    advance: Advance = lambda: None,
) -> Merged:
    """Merge the part PNGs of the published layout to label images, and write the official split as lists.

    Into the same folder go ``masks/0.png`` and so on, 8-bit grey, and ``train.txt``, ``val.txt`` and ``test.txt``; the
    pictures stay in ``CelebA-HQ-img``, where :func:`nnface.datasets.celebamask.read` finds them. Each file is written
    whole or not at all, and is read again before it gets its name. Called again, it goes on where it was stopped: a
    label image that is whole is kept. A set whose faces all have picture and parts may be partial; faces that lack one
    of them are left out, with a note.

    Args:
        root: the folder that holds ``CelebA-HQ-img`` and ``CelebAMask-HQ-mask-anno``.
        annotations: the folder of the mapping and of CelebA's partition; None: ``root``, or ``annotations`` in it.
        force: merge again what is there.
        workers: threads; None: one a processor (decoding does not hold Python's lock).
        advance: called after each face.

    Raises:
        DataError: not the published layout, no mapping or partition, or part PNGs that cannot be merged.
        NnfaceError: the folder cannot be written.
    """
    root = Path(root)
    faces = celebamask.read_published(root)
    splits = celebamask.read_splits(*find_annotations(root, annotations))
    whole = [face for face in faces if face.parts and face.picture.is_file()]
    if not whole:
        raise DataError(f"{root} holds no face with both a picture and parts")
    done = Merged()
    if len(whole) < len(faces):
        first = next(face for face in faces if not face.parts or not face.picture.is_file())
        done.notes.append(
            f"{len(faces) - len(whole)} faces lack their picture or all of their parts and were left out, the first "
            f"{first.index}"
        )
    if len(whole) < FACES:
        done.notes.append(f"the set is partial: {len(whole):,} of {FACES:,} faces")
    folder = made(root / MASKS)

    def one(face: PublishedFace) -> bool:
        path = folder / f"{face.index}.png"
        if not force and _is_whole(path):
            return False
        _write(path, merge(face.parts))
        return True

    for written in ordered(one, whole, workers or cores()):
        done.merged += written
        done.kept += not written
        advance()
    there = {face.index for face in whole}
    for name, indices in splits.items():
        chosen = [index for index in indices if index in there]
        done.lists[name] = len(chosen)
        write_atomic(root / f"{name}.txt", "".join(f"{index}\n" for index in chosen))
    return done


def merge(parts: Mapping[str, Path]) -> Labels:
    """One label image, (H, W) uint8, of a face's part PNGs.

    The parts are painted in the order of :data:`nnface.spec.CELEBAMASK_LABELS`, later ones over earlier: skin first,
    then nose, eyeglasses, eyes, brows, ears, mouth, lips, hair, hat, earring, necklace, neck, clothes. So does the data
    set's own ``g_mask.py``. A part's pixels are those of more than 127, in grey or RGB.

    Raises:
        DataError: a part cannot be read, or parts of one face are of several sizes.
    """
    labels: Labels | None = None
    for number, name in enumerate(CELEBAMASK_LABELS):
        if name not in parts:
            continue
        try:
            part = read(parts[name])[:, :, 0] > 127
        except ImageError as error:
            raise DataError(f"the part {error}; unpack it again") from error
        if labels is None:
            labels = np.zeros(part.shape, np.uint8)
        if labels.shape != part.shape:
            raise DataError(
                f"the part {parts[name]} is {part.shape[1]} x {part.shape[0]}, others of its face "
                f"{labels.shape[1]} x {labels.shape[0]}; unpack it again"
            )
        labels[part] = number
    if labels is None:
        raise UsageError("there is no part to merge")
    return labels


def find_annotations(root: Path, folder: str | Path | None = None) -> tuple[Path, Path]:
    """CelebAMask-HQ's mapping and CelebA's partition: in ``folder`` where one is given, else in ``root`` or its
    ``annotations``.

    Raises:
        DataError: one of them is not there.
    """
    places = [Path(folder)] if folder is not None else [root, root / "annotations"]
    result = []
    for name, origin in ((MAPPING, "CelebAMask-HQ"), (PARTITION, "CelebA")):
        path = next((place / name for place in places if (place / name).is_file()), None)
        if path is None:
            raise DataError(
                f"{places[0] / name} is not there, and without it nobody knows which faces are for training; "
                f"it comes with {origin}"
            )
        result.append(path)
    return result[0], result[1]


def _is_whole(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        celebamask.read_mask(path)
    except DataError:
        return False
    return True


def _write(path: Path, labels: Labels) -> None:
    with atomic_path(path) as temporary:
        written, data = cv2.imencode(".png", labels, [cv2.IMWRITE_PNG_COMPRESSION, 9])
        temporary.write_bytes(data.tobytes() if written else b"")
        if not written or not np.array_equal(celebamask.read_mask(temporary), labels):
            raise NnfaceError(f"{path} was not written as it should be; is the disk sound?")
