"""CelebAMask-HQ verified and shown: is all of it whole, and what is in it."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from nnface import draw
from nnface.curate.findings import Advance, Findings, compare
from nnface.curate.merging import Labels, find_annotations, merge
from nnface.curate.pictures import Cache, Seen, look
from nnface.curate.show import made, spread
from nnface.datasets import celebamask
from nnface.datasets.celebamask import COUNTS, FACES, MASKS, PARTS, PICTURES, Part, PublishedFace
from nnface.datasets.samples import SegmentationSample
from nnface.errors import DataError, NnfaceError
from nnface.files import write_atomic
from nnface.image import IMAGE_SUFFIXES, read
from nnface.predict.stream import ordered
from nnface.processors import cores
from nnface.report.sheet import fit, sheet
from nnface.report.table import Table, percent
from nnface.results import Faces
from nnface.spec import CELEBAMASK_LABELS
from nnface.version import __version__

TERMS = "CelebAMask-HQ: Lee et al., CVPR 2020; non-commercial research and education."


def splits(root: str | Path) -> list[str]:
    """Names of the lists that a prepared folder has, such as ``train``; empty: it has none, and all pairs count."""
    return [name for name in (*get_args(Part), "holdout") if (Path(root) / f"{name}.txt").is_file()]


def verify(root: str | Path, *, pixels: bool = True, again: bool = False, advance: Advance = lambda: None) -> Findings:
    """Look through a folder of CelebAMask-HQ: as published, prepared, or both.

    A set that lacks whole faces is partial, and not wrong. Wrong are a picture without labels or labels without a
    picture, files that cannot be read or are of another size, values that are no labels, label images that are not
    their merged parts, palettes that disagree, and lists that name what is not there, or one face twice. Pictures that
    stand in two lists, as the same file or as nearly the same picture, are warned of.

    Args:
        root: the folder.
        pixels: decode every picture, label image and part; else look at names, counts and lists alone.
        again: look at the pictures anew, whatever was seen before; labels are decoded each time.
        advance: called after each picture and after each face's labels.

    Raises:
        DataError: neither layout is there.
    """
    root = Path(root)
    found = Findings()
    published = (root / PICTURES).is_dir() and (root / PARTS).is_dir()
    prepared = (root / MASKS).is_dir() and any((root / name).is_dir() for name in ("images", PICTURES))
    if not published and not prepared:
        raise DataError(f"{root} holds neither {PICTURES}/ and {PARTS}/ nor images/ and {MASKS}/")
    faces = _verify_published(root, found) if published else []
    lists = _verify_lists(root, found) if prepared else {}
    samples = _pairs(root, found, published) if prepared else []
    if not pixels:
        return found
    with Cache(root, again) as cache:
        if prepared:
            by_key = {str(face.index): face for face in faces}
            colours: dict[int, tuple[tuple[int, int, int], Path]] = {}
            seen = look([s.path for s in samples], cache, advance)
            pairs = zip(samples, seen, strict=True)
            problems = ordered(lambda p: _problems(*p, by_key.get(p[0].key), colours), pairs, cores())
            _gather(problems, "faces", len(samples), found, advance)
            by_path = {one.path: one for one in seen}
            compare(
                {n: [(s.key, by_path[s.path]) for s in some if s.path in by_path] for n, some in lists.items()},
                cache,
                found,
            )
        else:
            whole = [face for face in faces if face.parts and face.picture.is_file()]
            seen = look([face.picture for face in whole], cache, advance)
            problems = ordered(lambda p: _face_problems(*p), zip(whole, seen, strict=True), cores())
            _gather(problems, "faces", len(whole), found, advance)
    return found


def _verify_published(root: Path, found: Findings) -> list[PublishedFace]:
    try:
        faces = celebamask.read_published(root)
    except DataError as error:
        found.problems.append(str(error))
        return []
    for what, lacking in (
        ("pictures have no part", [f for f in faces if not f.parts]),
        ("faces have parts and no picture", [f for f in faces if not f.picture.is_file()]),
    ):
        if lacking:
            found.problems.append(f"{len(lacking)} {what}, the first {lacking[0].index}")
    if len(faces) < FACES:
        found.notes.append(f"the set is partial: {len(faces):,} of {FACES:,} faces")
    try:
        official = celebamask.read_splits(*find_annotations(root))
    except DataError as error:
        found.notes.append(f"the official split was not looked at: {error}")
        return faces
    counts = {name: len(indices) for name, indices in official.items()}
    told = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    if sum(counts.values()) < FACES:
        found.notes.append(f"the mapping is partial: it names {sum(counts.values()):,} of {FACES:,} faces ({told})")
    elif counts != COUNTS:
        official_counts = ", ".join(f"{name} {count:,}" for name, count in COUNTS.items())
        found.problems.append(f"the mapping gives {told} faces, the official split {official_counts}")
    there = {face.index for face in faces}
    for name, indices in official.items():
        path = root / f"{name}.txt"
        if path.is_file() and (root / MASKS).is_dir():
            listed = set(path.read_text("utf-8", errors="replace").split())
            foreign = listed - set(map(str, indices))
            absent = {str(i) for i in indices if i in there} - listed
            if foreign or absent:
                found.problems.append(
                    f"{path} is not the official split: {len(foreign)} faces too many, {len(absent)} too few"
                )
    return faces


def _verify_lists(root: Path, found: Findings) -> dict[str, list[SegmentationSample]]:
    """The portraits of each list that can be read."""
    lists: dict[str, list[SegmentationSample]] = {}
    owner: dict[str, str] = {}
    for name in splits(root):
        try:
            samples = celebamask.read(root, name)
        except DataError as error:
            if str(error) not in found.problems:  # what is wrong with the folder is wrong for each list
                found.problems.append(str(error))
            continue
        lists[name] = samples
        found.notes.append(f"{name}: {len(samples):,} portraits")
        twice = [s.key for s in samples if owner.setdefault(s.key, name) != name]
        if twice:
            found.problems.append(
                f"{len(twice)} portraits stand in {name} and in another list, the first {twice[0]} "
                f"in {owner[twice[0]]} too"
            )
    return lists


def _pairs(root: Path, found: Findings, published: bool) -> list[SegmentationSample]:
    folder = root / "images" if (root / "images").is_dir() else root / PICTURES
    pictures, twice = celebamask.by_stem(folder, IMAGE_SUFFIXES)
    masks, masks_twice = celebamask.by_stem(root / MASKS, IMAGE_SUFFIXES)
    for what, paths in (("pictures", twice), ("label images", masks_twice)):
        if paths:
            found.problems.append(
                f"{len(paths)} {what} have the name of another one but for the suffix, the first {paths[0]}"
            )
    for what, one, other in (
        ("pictures have no label image", pictures, masks),
        ("label images have no picture", masks, pictures),
    ):
        lacking = [path for key, path in one.items() if key not in other]
        if lacking:
            found.problems.append(f"{len(lacking)} {what}, the first {lacking[0]}")
    if not published and len(pictures) < FACES:
        found.notes.append(f"{len(pictures):,} portraits")
    return [SegmentationSample(key=key, path=path, mask=masks[key]) for key, path in pictures.items() if key in masks]


def _problems(
    sample: SegmentationSample,
    seen: Seen,
    face: PublishedFace | None,
    colours: dict[int, tuple[tuple[int, int, int], Path]],
) -> str | None:
    try:
        values, palette = celebamask.stored_values(sample.mask)
        labels = celebamask.as_labels(values, palette, sample.mask)
        if seen.problem:
            return seen.problem
        celebamask.check_size((labels.shape[1], labels.shape[0]), (seen.width, seen.height), sample.mask)
        _check_palette(values, palette, sample.mask, colours)
        if face is not None and face.parts and not np.array_equal(labels, merge(face.parts)):
            return f"{sample.mask} is not its merged parts; prepare it again with --force"
    except NnfaceError as error:
        return str(error)
    return None


def _check_palette(
    values: Labels,
    palette: Labels | None,
    path: Path,
    colours: dict[int, tuple[tuple[int, int, int], Path]],
) -> None:
    """The same value must have the same colour in all palettes of a folder: else an editor has sorted them anew, and
    values mean something else in each file."""
    if palette is None or (palette == palette[:, :1]).all():
        return
    for value in np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist():
        if value < len(palette):
            red, green, blue = palette[value].tolist()
            first, other = colours.setdefault(value, ((red, green, blue), path))
            if first != (red, green, blue):
                raise DataError(
                    f"the palette of the mask {path} shows the value {value} in another colour than {other}, so that "
                    "its values may mean other labels; save the label numbers anew"
                )


def _face_problems(face: PublishedFace, seen: Seen) -> str | None:
    if seen.problem:
        return seen.problem
    try:
        labels, part = merge(face.parts), next(iter(face.parts.values()))
        celebamask.check_size((labels.shape[1], labels.shape[0]), (seen.width, seen.height), part)
    except NnfaceError as error:
        return str(error)
    return None


def _gather(problems: Iterable[str | None], what: str, count: int, found: Findings, advance: Advance) -> None:
    wrong = []
    for problem in problems:
        if problem is not None:
            wrong.append(problem)
        advance()
    if wrong:
        found.problems.append(f"{len(wrong)} of {count:,} {what} are wrong; the first: {wrong[0]}")


def areas(samples: Sequence[SegmentationSample], advance: Advance = lambda: None) -> NDArray[np.int64]:
    """Pixels of each label in each label image, (n, labels).

    Raises:
        DataError: a label image cannot be read.
    """

    def one(sample: SegmentationSample) -> NDArray[np.int64]:
        labels = celebamask.read_mask(sample.mask)
        return np.bincount(labels.ravel(), minlength=len(CELEBAMASK_LABELS)).astype(np.int64)

    counts = np.zeros((len(samples), len(CELEBAMASK_LABELS)), np.int64)
    for number, counted in enumerate(ordered(one, samples, cores())):
        counts[number] = counted
        advance()
    return counts


def statistics(pixels: NDArray[np.int64]) -> list[Table]:
    """How many portraits have each part, and how large it is there.

    Args:
        pixels: of :func:`areas`.
    """
    rows = []
    shares = pixels / np.maximum(pixels.sum(1, keepdims=True), 1)
    for number, name in enumerate(CELEBAMASK_LABELS):
        having = shares[pixels[:, number] > 0, number]
        middle = np.percentile(having, [5, 50, 95]) if len(having) else np.full(3, np.nan)
        rows.append(
            [
                name,
                f"{len(having):,}",
                percent(len(having) / len(pixels) if len(pixels) else float("nan")),
                *(_fine(v) for v in middle.tolist()),
                _fine(float(pixels[:, number].sum() / max(pixels.sum(), 1))),
            ]
        )
    columns = ["part", "portraits", "per cent", "area: 5th percentile", "median", "95th percentile", "of all pixels"]
    return [
        Table(f"Parts of {len(pixels):,} portraits; areas in per cent of a portrait that has the part", columns, rows)
    ]


def _fine(share: float) -> str:
    return "-" if share != share else f"{100 * share:.3f}"


def save(
    pixels: Mapping[str, NDArray[np.int64]],
    folder: str | Path,
    samples: Mapping[str, Sequence[SegmentationSample]] | None = None,
) -> None:
    """Write ``data.json``, ``data.html``, plots and sheets of samples into a folder, which is made.

    Args:
        pixels: for each list (or one name for all) what :func:`areas` gave.
        folder: where to.
        samples: the portraits of each list, some of which are shown with their parts tinted.

    Raises:
        DependencyError: matplotlib or jinja2 is not installed (the extra ``[eval]``).
        NnfaceError: the folder cannot be made or written.
    """
    from nnface.report import html, plots

    folder = made(folder)
    sections, content = [], {}
    for name, counts in pixels.items():
        having = (counts > 0).sum(0)
        content[name] = _content(counts)
        plot = plots.bars(
            {label: 100 * n / max(len(counts), 1) for label, n in zip(CELEBAMASK_LABELS[1:], having[1:], strict=True)},
            title=f"CelebAMask-HQ {name}, {len(counts):,} portraits: how many have each part",
            x="part",
            y="per cent of the portraits",
        )
        write_atomic(folder / f"{name}_parts.png", plot)
        heading = f"{name}, {len(counts):,} portraits"
        drawn = [(f"Share of the portraits of {name} that have each part", plot)]
        if samples is not None and samples[name]:
            examples = sheet(_examples(samples[name]), columns=5, side=230)
            write_atomic(folder / f"{name}_samples.png", examples)
            drawn.append((f"Some portraits of {name}, their parts tinted", examples))
        sections.append(html.Section(heading=heading, tables=statistics(counts), plots=drawn))
    write_atomic(folder / "data.json", json.dumps(content, indent=1) + "\n")
    write_atomic(
        folder / "data.html",
        html.page("CelebAMask-HQ: what is in it", sections, f"Made by nnface {__version__}. {TERMS}"),
    )


def _examples(samples: Sequence[SegmentationSample]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Portraits from all over the list, with their parts."""
    for sample in spread(samples, 20):
        with suppress(NnfaceError):  # nnface data verify tells
            image = fit(read(sample.path), 230)
            size = (image.shape[1], image.shape[0])
            labels = cv2.resize(celebamask.read_mask(sample.mask), size, interpolation=cv2.INTER_NEAREST)
            parts = replace(Faces.empty(*size), labels=np.asarray(labels, np.uint8))
            yield sample.key, draw.faces(image, parts)


def _content(counts: NDArray[np.int64]) -> dict[str, Any]:
    having, total = (counts > 0).sum(0).tolist(), counts.sum(0).tolist()
    return {
        "portraits": len(counts),
        "parts": {
            label: {"portraits": having[number], "pixels": total[number]}
            for number, label in enumerate(CELEBAMASK_LABELS)
        },
    }
