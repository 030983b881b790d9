"""WIDER FACE, verified and shown: are labels and pictures whole, what is in it, what stands in two splits."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from nnface import draw
from nnface.curate.findings import Advance, Findings, broken, compare
from nnface.curate.pictures import Cache, Seen, look, walk
from nnface.curate.show import Sizes, bands, made, picture_sizes, shares, spread
from nnface.datasets import widerface
from nnface.datasets.samples import DetectionSample
from nnface.datasets.widerface import FLAGS, SUFFIXES
from nnface.datasets.widerface_truth import read_truth
from nnface.errors import DataError, DependencyError, ImageError
from nnface.files import write_atomic
from nnface.image import IMAGE_SUFFIXES, read_reduced
from nnface.report.sheet import fit, sheet
from nnface.report.table import Table
from nnface.results import Faces
from nnface.version import __version__

COUNTS: dict[str, tuple[int, int | None]] = {"train": (12_880, 159_424), "val": (3_226, 39_708), "test": (16_097, None)}
"""Pictures and rows of boxes that are published (a picture without faces has a row too); with those of test, which are
kept back, there are 393,703 faces."""
SPLITS = ("train", "val", "test", "val416")
_HIGHEST = dict(zip(FLAGS, (2, 1, 1, 1, 2, 1), strict=True))
_TEXT = "wider_face_split/wider_face_{}_bbx_gt.txt"
_LIST = "wider_face_split/wider_face_test_filelist.txt"


@dataclass(frozen=True, slots=True)
class _Labelled:
    """A picture that the labels name."""

    key: str
    path: Path
    rows: NDArray[np.float64]
    """(n, 10) of the official text, or (n, 4) of RetinaFace's."""


def verify(root: str | Path, *, pixels: bool = True, again: bool = False, advance: Advance = lambda: None) -> Findings:
    """Look through a folder of WIDER FACE, in the official layout or in that of RetinaFace's label file.

    A split whose pictures all have labels is partial, and not wrong; so is one whose pictures are not there at all.

    Args:
        root: the folder.
        pixels: decode every picture, look whether boxes lie in them, and look for the same pictures in two splits.
        again: look at the pictures anew, whatever was seen before.
        advance: called after each picture.

    Raises:
        DataError: no split is there.
    """
    root = Path(root)
    found = Findings()
    seen: dict[str, list[tuple[str, Seen]]] = {}
    known = [split for split in SPLITS if _labels(root, split) is not None or _images(root, split).is_dir()]
    if not any(_images(root, split).is_dir() for split in known):
        raise DataError(
            f"{root} holds no pictures of WIDER FACE: neither {', '.join(f'WIDER_{s}/images' for s in SPLITS[:3])} nor "
            "train/images with train/label.txt"
        )
    with Cache(root, again) as cache:
        for split in known:
            labelled = _pictures(root, split, found)
            if pixels and labelled:
                looked = look([one.path for one in labelled], cache, advance)
                broken(split, looked, found)
                _outside(split, labelled, looked, found)
                seen[split] = [(f"{split}/{one.key}", eye) for one, eye in zip(labelled, looked, strict=True)]
        compare(seen, cache, found)
    _truth(root, found)
    return found


def _images(root: Path, split: str) -> Path:
    official = root / f"WIDER_{split}" / "images"
    return official if official.is_dir() or not (root / split / "label.txt").is_file() else root / split / "images"


def _labels(root: Path, split: str) -> Path | None:
    places = (root / (_LIST if split == "test" else _TEXT.format(split)), root / split / "label.txt")
    return next((path for path in places if path.is_file()), None)


def _pictures(root: Path, split: str, found: Findings) -> list[_Labelled]:
    """The pictures of a split that labels name and that are there; what is wrong with the labels is told."""
    labels, images = _labels(root, split), _images(root, split)
    if labels is None:
        found.problems.append(f"{split}: {images} is there, and its labels {root / _TEXT.format(split)} are not")
        return []
    rows: list[tuple[str, NDArray[np.float64]]] = []
    try:
        for item in _rows(labels):
            rows.append(item)
    except DataError as error:
        found.problems.append(f"{split}: {error}")
    if not images.is_dir():
        found.notes.append(f"{split} is partial: {labels.name} is there, and no picture ({images})")
        return []
    repeated = [key for key, count in Counter(key for key, _ in rows).items() if count > 1]
    if repeated:
        found.problems.append(f"{split}: {labels} names {len(repeated)} pictures twice, the first {repeated[0]}")
    files = {name.rsplit(".", 1)[0]: name for name in walk(images, IMAGE_SUFFIXES)}
    labelled, missing = [], []
    for key, table in dict(rows).items():
        name = files.pop(key, None) or files.pop(key.rsplit("/", 1)[-1], None)
        if name is None or not name.endswith(SUFFIXES):
            missing.append(key)
        else:
            labelled.append(_Labelled(key, images / name, table))
    if missing:
        found.problems.append(f"{split}: {len(missing)} labelled pictures are missing, the first {images / missing[0]}")
    if files:
        spare = images / min(files.values())
        found.problems.append(f"{split}: {len(files)} pictures have no label, the first {spare}")
    _counts(split, rows, found)
    _flags(split, labels, rows, found)
    _landmarks(root, split, dict(rows), found)
    return labelled


def _rows(labels: Path) -> Iterator[tuple[str, NDArray[np.float64]]]:
    if labels.name == Path(_LIST).name:
        for number, line in enumerate(labels.read_text("utf-8", errors="replace").splitlines(), 1):
            name = line.strip()
            if name and ("/" not in name or ".." in name.split("/") or not name.endswith(SUFFIXES)):
                raise DataError(f"{labels}, line {number}: expected event/name.jpg, found {name[:60]!r}")
            if name:
                yield name.rsplit(".", 1)[0], np.zeros((0, 10))
    elif labels.name == "label.txt":
        for key, boxes, _ in widerface.read_retinaface(labels):
            yield key, np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).astype(np.float64)
    else:
        for name, table in widerface.read_rows(labels):
            yield name.rsplit(".", 1)[0], table


def _counts(split: str, rows: Sequence[tuple[str, NDArray[np.float64]]], found: Findings) -> None:
    if split not in COUNTS:
        found.notes.append(
            f"{split}: {len(rows):,} pictures, {sum(len(t) for _, t in rows):,} faces; it is not published"
        )
        return
    pictures, faces = COUNTS[split]
    lines = sum(max(len(table), 1) for _, table in rows)
    official = all(table.shape[1] == 10 for _, table in rows)
    if len(rows) != pictures:
        found.notes.append(f"{split} is partial: {len(rows):,} of {pictures:,} pictures")
    elif faces is not None and official and lines != faces:
        found.notes.append(f"{split} is partial: all {pictures:,} pictures, but {lines:,} of {faces:,} rows of boxes")
    else:
        found.notes.append(f"{split} is complete: {pictures:,} pictures" + (f", {faces:,} rows" if faces else ""))


def _flags(split: str, labels: Path, rows: Sequence[tuple[str, NDArray[np.float64]]], found: Findings) -> None:
    keys = np.repeat([key for key, _ in rows], [len(table) for _, table in rows])
    table = np.concatenate([table for _, table in rows]) if rows else np.zeros((0, 10))
    flat = keys[(table[:, 2] <= 0) | (table[:, 3] <= 0)]
    if len(flat):
        found.notes.append(f"{split}: {len(flat)} boxes have no area and are left out, the first in {flat[0]}")
    for number, (name, highest) in enumerate(_HIGHEST.items(), 4):
        odd = keys[~np.isin(table[:, number], range(highest + 1))] if table.shape[1] > number else flat[:0]
        if len(odd):
            found.warnings.append(
                f"{split}: {name} is not 0 to {highest} for {len(odd)} faces of {labels}, the first in {odd[0]}"
            )


def _landmarks(root: Path, split: str, rows: dict[str, NDArray[np.float64]], found: Findings) -> None:
    """RetinaFace's label file beside the official text: does it parse, and speak of the same pictures?"""
    labels = widerface.landmark_file(root, split)
    if labels is None:
        return
    try:
        points = {key: landmarks for key, _, landmarks in widerface.read_retinaface(labels)}
    except DataError as error:
        found.problems.append(f"{split}: {error}")
        return
    foreign = [key for key in points if key not in rows]
    if foreign and len(foreign) == len(points):
        found.problems.append(f"{split}: {labels} names none of the labelled pictures, but others such as {foreign[0]}")
    faces = sum(int((~np.isnan(p).any((1, 2))).sum()) for key, p in points.items() if key in rows)
    found.notes.append(f"{split}: {faces:,} faces have five landmarks")


def _outside(split: str, labelled: Sequence[_Labelled], looked: Sequence[Seen], found: Findings) -> None:
    """Boxes whose centre is not in their picture; where they are many, the labels are those of other pictures."""
    total = 0
    outside = []
    for one, seen in zip(labelled, looked, strict=True):
        if seen.problem or not len(one.rows):
            continue
        centres = one.rows[:, :2] + one.rows[:, 2:4] / 2
        real = (one.rows[:, 2] > 0) & (one.rows[:, 3] > 0)
        beyond: NDArray[np.bool_] = real & np.any((centres < 0) | (centres > [seen.width, seen.height]), axis=1)
        total += len(beyond)
        outside += [one.key] * int(beyond.sum())
    if outside:
        sentence = f"{split}: {len(outside)} of {total:,} boxes lie outside of their picture, the first in {outside[0]}"
        if len(outside) > total / 100:
            found.problems.append(f"{sentence}; the labels do not fit these pictures")
        else:
            found.warnings.append(sentence)


def _truth(root: Path, found: Findings) -> None:
    folder = root / "ground_truth"
    if not folder.is_dir():
        return
    try:
        truth = read_truth(folder)
    except DependencyError as error:
        found.notes.append(f"the ground truth was not looked at: {error}")
    except DataError as error:
        found.problems.append(str(error))
    else:
        if len(truth.boxes) != COUNTS["val"][0]:
            found.problems.append(f"{folder} knows {len(truth.boxes):,} pictures, not the {COUNTS['val'][0]:,} of val")


def splits(root: str | Path) -> list[str]:
    """The splits with boxes whose labels and pictures are there.

    Raises:
        DataError: there is none.
    """
    found = [split for split in widerface.splits(root) if _images(Path(root), split).is_dir()]
    if not found:
        raise DataError(f"{root} holds no split of WIDER FACE with labels and pictures; see nnface data verify")
    return found


_HEIGHTS = (8, 16, 32, 64, 128, 256, 512)
_FACES = (1, 2, 3, 5, 10, 20, 50, 100)


def count(samples: Sequence[DetectionSample]) -> dict[str, Any]:
    """What a split holds, as JSON values: pictures, faces, their heights, faces a picture, events."""
    boxes = [s.boxes[~s.ignored] for s in samples]
    heights = np.concatenate([b[:, 3] - b[:, 1] for b in boxes]) if boxes else np.zeros(0)
    events: Counter[str] = Counter()
    faces: Counter[str] = Counter()
    for sample, some in zip(samples, boxes, strict=True):
        event = sample.key.split("/")[0] if "/" in sample.key else "(none)"
        events[event] += 1
        faces[event] += len(some)
    return {
        "pictures": len(samples),
        "faces": len(heights),
        "invalid": sum(int(s.ignored.sum()) for s in samples),
        "landmarks": sum(int((~np.isnan(s.landmarks).any((1, 2))).sum()) for s in samples),
        "heights": bands(np.floor(heights), _HEIGHTS),
        "faces_per_picture": bands([len(b) for b in boxes], _FACES),
        "events": {event: {"pictures": count, "faces": faces[event]} for event, count in events.most_common()},
    }


def statistics(counts: dict[str, Any]) -> list[Table]:
    """Tables of :func:`count`."""
    numbers = [[what, f"{counts[what]:,}"] for what in ("pictures", "faces", "invalid", "landmarks")]
    events = [[event, f"{row['pictures']:,}", f"{row['faces']:,}"] for event, row in counts["events"].items()]
    return [
        Table("in all", ["what", "count"], numbers),
        shares("height of the faces", "pixels", "faces", counts["heights"]),
        shares("faces a picture", "faces", "pictures", counts["faces_per_picture"]),
        Table(f"events, {len(events)}", ["event", "pictures", "faces"], events),
    ]


def flag_table(root: str | Path, split: str) -> Table | None:
    """How often each value of the official text's flags occurs; None where there is no such text."""
    text = Path(root) / _TEXT.format(split)
    if not text.is_file():
        return None
    tables = [table for _, table in widerface.read_rows(text)]
    flags = np.concatenate(tables)[:, 4:] if tables else np.zeros((0, len(FLAGS)))
    rows = []
    for number, name in enumerate(FLAGS):
        values = flags[:, number]
        shares_ = [
            f"{100 * float((values == v).mean()):.1f}" if len(values) and v <= _HIGHEST[name] else "" for v in range(3)
        ]
        rows.append([name, *shares_])
    return Table("flags, per cent of the faces", ["flag", "0", "1", "2"], rows)


def tables(root: str | Path, split: str) -> list[Table]:
    """What a split holds: :func:`count`, sizes of the pictures, and flags.

    Raises:
        DataError: it is not there, or its labels are malformed.
    """
    samples = widerface.read(root, split)
    return _tables(root, split, count(samples), picture_sizes(root, [s.path for s in samples]))


def _tables(root: str | Path, split: str, counts: dict[str, Any], sizes: Sizes) -> list[Table]:
    flags = flag_table(root, split)
    head, *others, events = statistics(counts)
    return [head, sizes.table(), *others, *([flags] if flags else []), events]


def save(root: str | Path, folder: str | Path) -> None:
    """Write ``data.json``, ``data.html``, plots and sheets of annotated samples into a folder, which is made.

    Raises:
        DependencyError: matplotlib or jinja2 is not installed (the extra ``[eval]``).
        DataError: no split is there, or its labels are malformed.
        NnfaceError: the folder cannot be made or written.
    """
    from nnface.report import html, plots

    folder = made(folder)
    sections, content = [], {}
    for split in splits(root):
        samples = widerface.read(root, split)
        counts = count(samples)
        sizes = picture_sizes(root, [s.path for s in samples])
        content[split] = counts | {"sizes": sizes.counts()}
        drawn = []
        for name, what, unit in (
            ("heights", "height of the face in pixels", "faces"),
            ("faces_per_picture", "faces", "pictures"),
        ):
            title = f"WIDER FACE {split}: {unit} by {what}"
            plot = plots.bars(counts[name], title=title, x=what, y=unit)
            write_atomic(folder / f"{split}_{name}.png", plot)
            drawn.append((title, plot))
        examples = sheet(_examples(samples), columns=4, side=300)
        write_atomic(folder / f"{split}_samples.png", examples)
        drawn.append((f"Some pictures of {split}, with their boxes and landmarks; ignore regions are red", examples))
        sections.append(html.Section(heading=split, tables=_tables(root, split, counts, sizes), plots=drawn))
    write_atomic(folder / "data.json", json.dumps(content, indent=1) + "\n")
    footer = f"Made by nnface {__version__}. WIDER FACE: Yang et al., CVPR 2016; non-commercial research."
    write_atomic(folder / "data.html", html.page("WIDER FACE: what is in it", sections, footer))


def _examples(samples: Sequence[DetectionSample]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Pictures from all over the split, with their boxes."""
    for sample in spread(samples, 24):
        with suppress(ImageError):  # nnface data verify tells
            yield sample.key.rsplit("/", 1)[-1], annotated(sample, 300)


def annotated(sample: DetectionSample, side: int) -> NDArray[np.uint8]:
    """The picture with boxes and landmarks, its long side ``side``: (h, w, 3) uint8 BGR. Ignore regions are red.

    Raises:
        ImageError: it cannot be read.
    """
    picture = read_reduced(sample.path, side)
    pixels = fit(picture.pixels, side)
    scale = pixels.shape[1] / picture.width
    faces = Faces(
        width=pixels.shape[1],
        height=pixels.shape[0],
        boxes=sample.boxes[~sample.ignored] * np.float32(scale),
        scores=None,
        landmarks=sample.landmarks[~sample.ignored] * np.float32(scale),
    )
    canvas = draw.faces(pixels, faces)
    for x1, y1, x2, y2 in (sample.boxes[sample.ignored] * scale).round().astype(int).tolist():
        cv2.rectangle(canvas, (x1, y1), (x2, y2), (40, 40, 230), 1, cv2.LINE_AA)
    return canvas
