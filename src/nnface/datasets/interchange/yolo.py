"""The text labels of the YOLO family, and folders of them (https://docs.ultralytics.com/datasets/detect).

A picture ``images/train/NAME.jpg`` has the text ``labels/train/NAME.txt``, a row a face: class, centre x, centre y,
width, height, as shares of the picture's width and height. Pose rows go on with five points, x y (YOLOv5-face, -1 where
there are none) or x y visibility (Ultralytics, 0 where there are none): eyes, nose, mouth corners, the picture's left
first. A picture without a text, or with an empty one, has no face.

The format has no ignore regions. They are kept in ``ignored/train/NAME.txt``, in the same rows, where other trainers do
not look.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnface.datasets.interchange.placing import names, place, refuse, write_quickly
from nnface.datasets.samples import DetectionSample, empty_landmarks
from nnface.errors import DataError, NnfaceError
from nnface.files import write_atomic
from nnface.image import IMAGE_SUFFIXES, read_sized

_SPLITS = {"train": ("train",), "val": ("val", "valid"), "test": ("test",), "val416": ("val416",)}


def splits(root: str | Path) -> list[str]:
    """The splits that are there; a folder without any is ``train``."""
    return [split for split in _SPLITS if _folders(Path(root), split) is not None]


def read(root: str | Path, split: str = "train") -> list[DetectionSample]:
    """The pictures of a split with their faces, sorted by name; all classes count as faces.

    Pictures lie in ``images/SPLIT`` beside ``labels/SPLIT``, in ``SPLIT/images`` beside ``SPLIT/labels``, or, for
    ``train``, in ``images`` beside ``labels`` or together with their texts in one folder. The key is the picture's path
    in that folder without suffix.

    Raises:
        DataError: no such folders, a malformed row (file and line named), or a text without a picture.
        ImageError: a picture with faces that cannot be read: its size is needed.
    """
    root = Path(root)
    folders = _folders(root, split)
    if folders is None:
        raise DataError(
            f"{root} holds no YOLO data for {split}: it needs images/{split} and labels/{split}, or images and labels"
        )
    images, labels = folders
    pictures = sorted(p for p in images.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not pictures:
        raise DataError(f"{images} holds no picture")
    keys = [p.relative_to(images).with_suffix("").as_posix() for p in pictures]
    texts = (
        {p.relative_to(labels).with_suffix("").as_posix() for p in labels.rglob("*.txt")} if images != labels else set()
    )
    orphans = sorted(
        key for key in texts - set(keys) if key.rsplit("/", 1)[-1] not in ("classes", "train", "val", "test")
    )
    if orphans:
        raise DataError(
            f"{len(orphans)} texts of {labels} have no picture in {images}, the first {orphans[0]}.txt; add it, or "
            "take the text away"
        )
    ignored = _ignored(labels, root)
    return [
        _sample(key, path, labels / f"{key}.txt", ignored / f"{key}.txt")
        for key, path in zip(keys, pictures, strict=True)
    ]


def _folders(root: Path, split: str) -> tuple[Path, Path] | None:
    for name in _SPLITS.get(split, (split,)):
        for images, labels in (
            (root / "images" / name, root / "labels" / name),
            (root / name / "images", root / name / "labels"),
        ):
            if images.is_dir() and labels.is_dir():
                return images, labels
    parts = [name for names in _SPLITS.values() for name in names]
    divided = any((root / "images" / part).is_dir() or (root / part / "images").is_dir() for part in parts)
    if split != "train" or divided:
        return None
    if (root / "images").is_dir() and (root / "labels").is_dir():
        return root / "images", root / "labels"
    return (root, root) if root.is_dir() and any(p.suffix == ".txt" for p in root.iterdir()) else None


def _ignored(labels: Path, root: Path) -> Path:
    return root / "ignored" / (labels.name if labels.parent.name == "labels" else "")


def _sample(key: str, path: Path, text: Path, ignored: Path) -> DetectionSample:
    rows = [*_rows(text)]
    skipped = [*_rows(ignored)]
    boxes, points = np.zeros((0, 4)), empty_landmarks(0).astype(np.float64)
    if rows or skipped:
        width, height = read_sized(path)
        table = np.array([row for row, _ in (*rows, *skipped)])
        points = np.array([p for _, p in (*rows, *skipped)])
        boxes = np.concatenate([table[:, :2] - table[:, 2:] / 2, table[:, :2] + table[:, 2:] / 2], 1)
        boxes *= [width, height, width, height]
        points = points * [width, height]
    keep = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return DetectionSample(
        key=key,
        path=path,
        boxes=boxes.astype(np.float32)[keep],
        landmarks=points.astype(np.float32)[keep],
        ignored=np.array([False] * len(rows) + [True] * len(skipped), bool)[keep],
    )


def _rows(text: Path) -> Iterator[tuple[list[float], NDArray[np.float64]]]:
    """Centre, width and height, and the points (5, 2), NaN where there are none, of each row."""
    try:
        lines = text.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {text}: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = np.array([float(v) for v in line.split()])
        except ValueError as error:
            raise DataError(f"{text}, line {number}: not a row of numbers: {line[:60]!r}") from error
        if len(row) not in (5, 15, 20) or not np.isfinite(row).all():
            raise DataError(
                f"{text}, line {number}: {len(row)} numbers; a row has 5 (class and box), 15 or 20 (with five points)"
            )
        if np.abs(row[1:5]).max() > 4:
            raise DataError(f"{text}, line {number}: the box is no share of the picture; divide pixels by its sides")
        points = np.full((5, 2), np.nan)
        if len(row) == 15 and row[5:].min() >= 0:
            points = row[5:].reshape(5, 2)
        elif len(row) == 20 and row[7::3].min() > 0:
            points = row[5:].reshape(5, 3)[:, :2]
        yield row[1:5].tolist(), points


def written(split: str, samples: Sequence[DetectionSample]) -> list[str]:
    """The pictures' names below ``images/SPLIT`` in a set that is written.

    Raises:
        DataError: another split, two pictures of one name, or a suffix that other trainers do not take.
    """
    if split not in _SPLITS:
        raise DataError(f"there is no split {split!r}; the splits are {', '.join(_SPLITS)}")
    return names(samples, {}, IMAGE_SUFFIXES)


def write(
    root: str | Path, split: str, samples: Sequence[DetectionSample], *, copy: bool = False, force: bool = False
) -> None:
    """Write a split: texts, then pictures, then ``data.yaml``, which names the splits that are there.

    Rows are pose rows (with visibility) in a set that has landmarks. Trainers of the family drop a picture with numbers
    outside 0..1: a box whose centre or size is outside is cut to the picture (one that lies beside it becomes an
    ignore region), and so are points.

    Args:
        root: the folder, which is made.
        split: ``train``, ``val``, ``test`` or ``val416``.
        samples: what to write.
        copy: copy the pictures; else they are linked to.
        force: replace texts that are there.

    Raises:
        DataError: another split, or two pictures of one name.
        ImageError: a picture that cannot be read: its size is needed.
        NnfaceError: the split is there already, with other pictures, or cannot be written.
    """
    root = Path(root)
    files = written(split, samples)
    images, labels, ignored = (root / kind / split for kind in ("images", "labels", "ignored"))
    refuse(labels, force)
    keys = {file.rsplit(".", 1)[0] for file in files}
    for folder in (images, labels, ignored):
        for other in folder.rglob("*"):
            if not other.is_dir() and other.relative_to(folder).with_suffix("").as_posix() not in keys:
                raise NnfaceError(f"{folder} holds other data, such as {other.name}; name an empty folder")
    pose = any(not np.isnan(s.landmarks).any((1, 2)).all() for s in samples)
    for file, sample in zip(files, samples, strict=True):
        width, height = read_sized(sample.path)
        rows: tuple[list[str], list[str]] = [], []
        for box, points, skipped in zip(sample.boxes, sample.landmarks, sample.ignored, strict=True):
            corners = box.astype(np.float64) / [width, height, width, height]
            row, beside = _row(corners)
            shown = not np.isnan(points).any()
            triples = np.concatenate([np.clip(points / [width, height], 0, 1), np.full((5, 1), 2.0)], 1)
            tail = (triples if shown else np.zeros((5, 3))).ravel().tolist() if pose else []
            rows[bool(skipped) or beside].append(" ".join(["0", *(f"{v:.8g}" for v in (*row, *tail))]))
        text = file.rsplit(".", 1)[0] + ".txt"
        write_quickly(labels / text, "".join(f"{row}\n" for row in rows[0]))
        if rows[1]:
            write_quickly(ignored / text, "".join(f"{row}\n" for row in rows[1]))
        else:
            (ignored / text).unlink(missing_ok=True)
    place(samples, [images / file for file in files], copy=copy)
    there = [name for name in _SPLITS if (root / "images" / name).is_dir()]
    lines = [f"{name}: images/{name}" for name in there]
    if "train" in there and "val" not in there:
        lines.append("val: images/train  # there is no other; Ultralytics wants one")
    lines.append("names:\n  0: face")
    if pose:
        lines.append("kpt_shape: [5, 3]\nflip_idx: [1, 0, 2, 4, 3]")
    write_atomic(root / "data.yaml", "\n".join(lines) + "\n")


def _row(corners: NDArray[np.float64]) -> tuple[list[float], bool]:
    """Centre and size as trainers take them, and whether the box lies beside the picture and stays as it is."""
    row = [*((corners[:2] + corners[2:]) / 2).tolist(), *(corners[2:] - corners[:2]).tolist()]
    if min(row) >= 0 and max(row) <= 1:
        return row, False
    cut = np.clip(corners, 0, 1)
    if (cut[2:] <= cut[:2]).any():
        return row, True
    return [*((cut[:2] + cut[2:]) / 2).tolist(), *(cut[2:] - cut[:2]).tolist()], False
