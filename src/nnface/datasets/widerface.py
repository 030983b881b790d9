"""WIDER FACE (Yang et al. 2016, http://shuoyang1213.me/WIDERFACE): official layout and texts, and RetinaFace's labels.

    DIR/WIDER_train/images/0--Parade/0_Parade_marchingband_1_849.jpg
    DIR/wider_face_split/wider_face_train_bbx_gt.txt
    DIR/retinaface/train/label.txt  or  DIR/wider_face_split/retinaface_train_label.txt   (five landmarks, optional)

or the layout that RetinaFace's label file comes in, which biubug6/Pytorch_Retinaface and its relatives train from:

    DIR/train/images/0--Parade/0_Parade_marchingband_1_849.jpg
    DIR/train/label.txt

Pictures may also be ``.webp`` or ``.png``, and may lie flat in ``images`` without the event's folder.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnface.datasets.interchange import placing
from nnface.datasets.interchange.placing import refuse
from nnface.datasets.samples import DetectionSample, empty_landmarks
from nnface.errors import DataError
from nnface.files import write_atomic

SUFFIXES = (".jpg", ".webp", ".png")
SPLITS = ("train", "val", "val416")
FLAGS = ("blur", "expression", "illumination", "invalid", "occlusion", "pose")
"""The columns of the official text after x y w h."""
_INVALID = 4 + FLAGS.index("invalid")


def read(root: str | Path, split: str = "train") -> list[DetectionSample]:
    """The pictures of a split that are there, with their faces; landmarks where RetinaFace's label file has them.

    Faces marked invalid are ignore regions; boxes without an area are left out. Pictures that the text names and that
    are not on the disk are left out too, for partial copies are common: ``nnface data verify`` tells how many.

    Raises:
        DataError: the folder, the text or every picture is absent, or the text is malformed (file and line named).
    """
    root = Path(root)
    if split not in SPLITS:
        raise DataError(f"WIDER FACE has no split {split!r} with published boxes; the splits are {', '.join(SPLITS)}")
    text = root / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt"
    images = root / f"WIDER_{split}" / "images"
    if not text.exists() and (root / split / "label.txt").exists():
        return _read_retinaface_layout(root / split)
    for path in (text, images):
        if not path.exists():
            raise DataError(f"{root} is not WIDER FACE in its official layout: {path} is not there")
    samples = []
    for key, boxes, ignored in read_boxes(text):
        image = find_image(images, key)
        if image is not None:
            points = empty_landmarks(len(boxes))
            samples.append(DetectionSample(key=key, path=image, boxes=boxes, landmarks=points, ignored=ignored))
    if not samples:
        raise DataError(f"none of the pictures that {text} names is in {images}")
    labels = landmark_file(root, split)
    if labels is not None:
        points_of = {key: (b, p) for key, b, p in read_retinaface(labels)}
        samples = [_with_landmarks(s, *points_of[s.key]) if s.key in points_of else s for s in samples]
    return samples


def landmark_file(root: Path, split: str) -> Path | None:
    """RetinaFace's label file of a split, where there is one."""
    places = (root / "retinaface" / split / "label.txt", root / "wider_face_split" / f"retinaface_{split}_label.txt")
    return next((path for path in places if path.exists()), None)


def _read_retinaface_layout(folder: Path) -> list[DetectionSample]:
    text, images = folder / "label.txt", folder / "images"
    samples = []
    for key, boxes, points in read_retinaface(text):
        keep = (boxes[:, 2:] > boxes[:, :2]).all(1)
        if (image := find_image(images, key)) is not None:
            ignored = np.zeros(int(keep.sum()), bool)
            samples.append(
                DetectionSample(key=key, path=image, boxes=boxes[keep], landmarks=points[keep], ignored=ignored)
            )
    if not samples:
        raise DataError(f"none of the pictures that {text} names is in {images}")
    return samples


def find_image(images: Path, key: str) -> Path | None:
    """The picture ``event/name`` below ``images``, with any of the known suffixes, or flat without its event."""
    for stem in (key, key.rsplit("/", 1)[-1]):
        for suffix in SUFFIXES:
            path = images / f"{stem}{suffix}"
            if path.exists():
                return path
    return None


def read_boxes(text: Path) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.bool_]]]:
    """Key without suffix, boxes (n, 4) x1 y1 x2 y2 and the invalid ones' mask (n,) from an official ``bbx_gt.txt``.

    Boxes without an area are left out. Raises as :func:`read_rows` does.
    """
    for name, table in read_rows(text):
        table = table[(table[:, 2] > 0) & (table[:, 3] > 0)]
        boxes = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:4]], 1).astype(np.float32)
        yield name.rsplit(".", 1)[0], boxes, table[:, _INVALID] > 0


def read_rows(text: Path) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """The name ``event/name.jpg`` and all rows (n, 10) of each picture of an official ``bbx_gt.txt``.

    A picture is three parts: ``event/name.jpg``, the number of faces, a row a face (``x y w h`` and six
    :data:`FLAGS`, which other texts may lack: 0); a picture without faces has one row of zeros.

    Raises:
        DataError: a line that is not what it should be, by its number, or a name that leads out of the folder.
    """
    lines = _lines(text)
    at = 0
    while at < len(lines):
        name = lines[at].strip()
        if not name:
            at += 1
            continue
        if "/" not in name or not name.endswith(SUFFIXES):
            raise DataError(
                f"{text}, line {at + 1}: expected a picture's name such as event/name.jpg, found {name[:60]!r}"
            )
        _check_name(name, text, at + 1)
        try:
            count = int(lines[at + 1])
            rows = [[float(v) for v in line.split()] for line in lines[at + 2 : at + 2 + count]]
            table = np.array(rows, np.float64).reshape(count, -1) if count else np.zeros((0, 10))
        except (ValueError, IndexError) as error:
            raise DataError(
                f"{text}, after line {at + 1}: the number of faces or a row of {name} is malformed"
            ) from error
        if table.shape[1] < 4 or (count and len(rows) < count) or not np.isfinite(table).all():
            raise DataError(f"{text}, after line {at + 1}: {name} should have {count} rows of x y w h and flags")
        at += 2 + max(count, 1)
        yield name, np.pad(table[:, :10], ((0, 0), (0, max(10 - table.shape[1], 0))))


def _check_name(name: str, text: Path, line: int) -> None:
    if name.startswith("/") or ".." in name.split("/") or "\0" in name or "\\" in name:
        raise DataError(f"{text}, line {line}: the name {name[:60]!r} leads out of the data set")


def read_retinaface(labels: Path) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.float32]]]:
    """Key without suffix, boxes (n, 4) x1 y1 x2 y2 and landmarks (n, 5, 2) from RetinaFace's ``label.txt``.

    A picture is ``# event/name.jpg``, then a row a face: x y w h, then x y flag for each point (-1: no landmarks), and
    the blur. Validation labels have the four numbers only.

    Raises:
        DataError: a malformed line, by its number.
    """
    key: str | None = None
    rows: list[list[float]] = []
    for number, line in enumerate(_lines(labels), 1):
        if line.startswith("#"):
            if key is not None:
                yield (key, *_retinaface_rows(rows))
            _check_name(line[1:].strip(), labels, number)
            key, rows = line[1:].strip().rsplit(".", 1)[0], []
            continue
        if not line.strip():
            continue
        try:
            row = [float(v) for v in line.split()]
        except ValueError as error:
            raise DataError(f"{labels}, line {number}: not a row of numbers: {line[:60]!r}") from error
        if key is None or len(row) not in (4, 19, 20) or not np.isfinite(row).all():
            raise DataError(f"{labels}, line {number}: expected '# event/name.jpg', or 4 or 20 numbers")
        rows.append((row + [-1.0] * 15)[:19])
    if key is not None:
        yield (key, *_retinaface_rows(rows))


def _lines(text: Path) -> list[str]:
    try:
        return text.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {text}: {error}") from error


def _retinaface_rows(rows: list[list[float]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    table = np.array(rows, np.float32).reshape(-1, 19)
    boxes = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:4]], 1)
    points = table[:, 4:].reshape(-1, 5, 3)[:, :, :2].copy()
    points[table[:, 4] < 0] = np.nan
    return boxes, points


def _with_landmarks(
    sample: DetectionSample, boxes: NDArray[np.float32], points: NDArray[np.float32]
) -> DetectionSample:
    """The sample with the points of the rows whose box is the same (the two files round alike, to a pixel)."""
    landmarks = sample.landmarks.copy()
    for i, box in enumerate(sample.boxes):
        distance = np.abs(boxes - box).max(1) if len(boxes) else np.array([np.inf])
        if distance.min() <= 1:
            landmarks[i] = points[distance.argmin()]
    return replace(sample, landmarks=landmarks)


def splits(root: str | Path) -> list[str]:
    """The splits with published boxes whose texts are there, in either layout."""
    root = Path(root)
    return [
        name
        for name in SPLITS
        if (root / "wider_face_split" / f"wider_face_{name}_bbx_gt.txt").is_file()
        or (root / name / "label.txt").is_file()
    ]


def written(split: str, samples: Sequence[DetectionSample]) -> list[str]:
    """The pictures' names below ``images`` in a split that is written.

    Raises:
        DataError: another split, a picture that the layout has no suffix for, or two of one name.
    """
    if split not in SPLITS:
        raise DataError(f"WIDER FACE has no split {split!r} with boxes; the splits are {', '.join(SPLITS)}")
    names = placing.names(samples, {".jpeg": ".jpg", ".jpe": ".jpg", ".jfif": ".jpg"}, SUFFIXES)
    return [name if "/" in name else f"0--Photos/{name}" for name in names]


def write(
    root: str | Path, split: str, samples: Sequence[DetectionSample], *, copy: bool = False, force: bool = False
) -> None:
    """Write a split in the official layout: the pictures, the text, and RetinaFace's label file for landmarks.

    The name is the sample's key; a key without a folder goes into the event ``0--Photos``. Ignore regions are marked
    invalid. A JPEG, whatever its suffix, becomes ``.jpg``. The text comes last: once it is there, the split is whole.

    Args:
        root: the folder, which is made.
        split: ``train``, ``val`` or ``val416``.
        samples: what to write.
        copy: copy the pictures; else they are linked to.
        force: replace the split that is there.

    Raises:
        DataError: another split, a picture that the layout has no suffix for, or two of one name.
        NnfaceError: the split is there already, or cannot be written.
    """
    root = Path(root)
    names = written(split, samples)
    text = root / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt"
    refuse(text, force)
    placing.place(samples, [root / f"WIDER_{split}" / "images" / name for name in names], copy=copy)
    rows, points = [], []
    for name, sample in zip(names, samples, strict=True):
        rows += [name, str(len(sample.boxes))]
        points.append(f"# {name}")
        for box, landmarks, ignored in zip(sample.boxes, sample.landmarks, sample.ignored, strict=True):
            x, y, w, h = (placing.number(v) for v in (*box[:2], *(box[2:] - box[:2])))
            rows.append(f"{x} {y} {w} {h} 0 0 0 {int(ignored)} 0 0")
            known = not np.isnan(landmarks).any()
            triples = [f"{px:.3f} {py:.3f} 0.0" if known else "-1.0 -1.0 -1.0" for px, py in landmarks.tolist()]
            points.append(f"{x} {y} {w} {h} {' '.join(triples)} {'1.0' if known else '0.0'}")
        if not len(sample.boxes):
            rows.append("0 0 0 0 0 0 0 0 0 0")
    text.parent.mkdir(exist_ok=True)
    labels = text.with_name(f"retinaface_{split}_label.txt")
    if any(not np.isnan(s.landmarks).any((1, 2)).all() for s in samples):
        write_atomic(labels, "\n".join(points) + "\n")
    else:
        labels.unlink(missing_ok=True)
    write_atomic(text, "\n".join(rows) + "\n")
