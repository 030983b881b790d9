"""FairFace, verified and shown: are labels and pictures whole, who is in it, what stands in both parts."""

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from nnface.curate import duplicates
from nnface.datasets import fairface
from nnface.datasets.fairface import Part
from nnface.datasets.samples import AttributeSample
from nnface.errors import DataError, ImageError, NnfaceError
from nnface.files import write_atomic
from nnface.image import IMAGE_SUFFIXES, read
from nnface.report.table import Table
from nnface.spec import FAIRFACE_HEADS
from nnface.version import __version__

COUNTS = {"train": 86_744, "val": 10_954}
"""The pictures that are published."""

Advance = Callable[[], None]


@dataclass(kw_only=True)
class Findings:
    """What :func:`verify` found."""

    problems: list[str] = field(default_factory=list)
    """What is wrong; empty: nothing."""
    notes: list[str] = field(default_factory=list)
    """What is worth knowing: parts that are partial, labels that were mended, near-duplicates."""
    duplicates: list[tuple[str, str, float]] = field(default_factory=list)
    """Pictures of train and val that are nearly the same, and their correlation."""


def parts(root: str | Path) -> list[Part]:
    """The parts whose label files are there.

    Raises:
        DataError: there is none.
    """
    found = [part for part in get_args(Part) if (Path(root) / f"fairface_label_{part}.csv").is_file()]
    if not found:
        raise DataError(f"{root} holds neither fairface_label_train.csv nor fairface_label_val.csv")
    return found


def verify(root: str | Path, *, pixels: bool = True, advance: Advance = lambda: None) -> Findings:
    """Look through a FairFace folder.

    A part of the set whose pictures all have labels is partial, and not wrong.

    Args:
        root: the folder that holds the label files.
        pixels: decode every picture, and look for near-duplicates between the parts.
        advance: called after each picture.

    Raises:
        DataError: there is no label file at all.
    """
    root = Path(root)
    found = Findings()
    prints: dict[str, tuple[list[str], duplicates.Prints]] = {}
    for part in parts(root):
        samples = _labels(root, part, found)
        if samples is None:
            continue
        there = [s for s in samples if s.path.is_file()]
        if len(there) < len(samples):
            first = next(s.path for s in samples if not s.path.is_file())
            found.problems.append(
                f"{part}: {len(samples) - len(there)} labelled pictures are missing, the first {first}"
            )
        known = {s.path for s in samples}
        folder = root / part
        spare = (
            [p for p in sorted(folder.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES and p not in known]
            if (folder.is_dir())
            else []
        )
        if spare:
            found.problems.append(f"{part}: {len(spare)} pictures have no label, the first {spare[0]}")
        if len(samples) < COUNTS[part]:
            found.notes.append(f"{part} is partial: {len(samples):,} of {COUNTS[part]:,} pictures")
        if pixels:
            keys: list[str] = []
            prints[part] = keys, duplicates.prints(_decoded(there, part, keys, found, advance))
    if len(prints) == 2:
        (train_keys, train), (val_keys, val) = prints["train"], prints["val"]
        found.duplicates = [(train_keys[j], val_keys[i], c) for i, j, c in duplicates.pairs(val, train)]
        if found.duplicates:
            val_pictures = len({pair[1] for pair in found.duplicates})
            found.notes.append(
                f"{len(found.duplicates)} pictures of train are nearly the same as one of val ({val_pictures} of val), "
                f"such as {found.duplicates[0][0]} and {found.duplicates[0][1]}"
            )
    return found


def _labels(root: Path, part: Part, found: Findings) -> list[AttributeSample] | None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            samples = fairface.read(root, part, pictures=False)
        except DataError as error:
            found.problems.append(str(error))
            return None
    found.notes += [str(warning.message) for warning in caught]
    return samples


def _decoded(
    samples: Sequence[AttributeSample], part: str, keys: list[str], found: Findings, advance: Advance
) -> Iterator[NDArray[np.uint8]]:
    """The pictures that can be read, their keys noted; the others are problems."""
    broken = []
    for sample in samples:
        try:
            image = read(sample.path)
        except ImageError as error:
            broken.append(str(error))
        else:
            keys.append(sample.key)
            yield image
        advance()
    if broken:
        found.problems.append(f"{part}: {len(broken)} pictures cannot be read; the first: {broken[0]}")


def statistics(samples: Sequence[AttributeSample]) -> list[Table]:
    """How often each label occurs, and each race with each gender and age."""
    numbers = {head: np.array([s.labels[head] for s in samples], int) for head in FAIRFACE_HEADS}
    tables = []
    for head, options in FAIRFACE_HEADS.items():
        counts = np.bincount(numbers[head], minlength=len(options))
        rows = [
            [label, f"{count:,}", f"{100 * count / max(len(samples), 1):.1f}"]
            for label, count in zip(options, counts.tolist(), strict=True)
        ]
        tables.append(Table(f"{head}, {len(samples):,} pictures", [head, "pictures", "per cent"], rows))
    for other in ("gender", "age"):
        counts = np.zeros((len(FAIRFACE_HEADS["race"]), len(FAIRFACE_HEADS[other])), int)
        np.add.at(counts, (numbers["race"], numbers[other]), 1)
        rows = [
            [race, *(f"{c:,}" for c in row)] for race, row in zip(FAIRFACE_HEADS["race"], counts.tolist(), strict=True)
        ]
        tables.append(Table(f"race and {other}", ["race", *FAIRFACE_HEADS[other]], rows))
    return tables


def save(root: str | Path, folder: str | Path) -> None:
    """Write ``data.json``, ``data.html`` and plots of both parts into a folder, which is made.

    Raises:
        DependencyError: matplotlib or jinja2 is not installed (the extra ``[eval]``).
        DataError: the label files are absent or malformed.
        NnfaceError: the folder cannot be made or written.
    """
    from nnface.report import html, plots

    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NnfaceError(f"cannot make the folder {folder}: {error.strerror}; name another") from error
    sections, content = [], {}
    for part in parts(root):
        samples = fairface.read(root, part, pictures=False)
        drawn = []
        content[part] = _counts(samples)
        for head, options in FAIRFACE_HEADS.items():
            plot = plots.bars(
                {label.replace("_", " ").replace(" ", "\n", 1): content[part][head][label] for label in options},
                title=f"FairFace {part}: pictures by {head}",
                x=head,
                y="pictures",
            )
            write_atomic(folder / f"{part}_{head}.png", plot)
            drawn.append((f"Pictures of {part} by {head}", plot))
        sections.append(html.Section(heading=part, tables=statistics(samples), plots=drawn))
    write_atomic(folder / "data.json", json.dumps(content, indent=1) + "\n")
    footer = f"Made by nnface {__version__}. FairFace: Karkkainen and Joo, WACV 2021, CC BY 4.0."
    write_atomic(folder / "data.html", html.page("FairFace: who is in it", sections, footer))


def _counts(samples: Sequence[AttributeSample]) -> dict[str, Any]:
    result: dict[str, Any] = {"pictures": len(samples)}
    for head, options in FAIRFACE_HEADS.items():
        counts = np.bincount([s.labels[head] for s in samples], minlength=len(options))
        result[head] = dict(zip(options, counts.tolist(), strict=True))
    return result
