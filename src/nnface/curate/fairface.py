"""FairFace, verified and shown: are labels and pictures whole, who is in it, what stands in both parts."""

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from nnface.curate.findings import Advance, Findings, broken, compare
from nnface.curate.pictures import Cache, Seen, look, walk
from nnface.curate.show import made, picture_sizes, spread
from nnface.datasets import fairface
from nnface.datasets.fairface import Part
from nnface.datasets.samples import AttributeSample
from nnface.errors import DataError, ImageError
from nnface.files import write_atomic
from nnface.image import IMAGE_SUFFIXES, read
from nnface.report.sheet import sheet
from nnface.report.table import Table
from nnface.spec import FAIRFACE_HEADS
from nnface.version import __version__

COUNTS = {"train": 86_744, "val": 10_954}
"""The pictures that are published."""


def parts(root: str | Path) -> list[Part]:
    """The parts whose label files are there.

    Raises:
        DataError: there is none.
    """
    found = [part for part in get_args(Part) if (Path(root) / f"fairface_label_{part}.csv").is_file()]
    if not found:
        raise DataError(f"{root} holds neither fairface_label_train.csv nor fairface_label_val.csv")
    return found


def verify(root: str | Path, *, pixels: bool = True, again: bool = False, advance: Advance = lambda: None) -> Findings:
    """Look through a FairFace folder.

    A part of the set whose pictures all have labels is partial, and not wrong.

    Args:
        root: the folder that holds the label files.
        pixels: decode every picture, and look for near-duplicates between the parts.
        again: look at the pictures anew, whatever was seen before.
        advance: called after each picture.

    Raises:
        DataError: there is no label file at all.
    """
    root = Path(root)
    found = Findings()
    seen: dict[str, list[tuple[str, Seen]]] = {}
    with Cache(root, again) as cache:
        for part in parts(root):
            samples = _labels(root, part, found)
            if samples is None:
                continue
            folder = root / part
            files = {str(folder / name) for name in walk(folder, IMAGE_SUFFIXES)}
            # A file that the walk saw may be a link to nothing; where pictures are decoded that shows by itself.
            absent = [s.path for s in samples if not (pixels and str(s.path) in files) and not s.path.is_file()]
            if absent:
                found.problems.append(f"{part}: {len(absent)} labelled pictures are missing, the first {absent[0]}")
            missing = set(absent)
            there = [s for s in samples if s.path not in missing]
            spare = sorted(files - {str(s.path) for s in samples})
            if spare:
                found.problems.append(f"{part}: {len(spare)} pictures have no label, the first {spare[0]}")
            if len(samples) < COUNTS[part]:
                found.notes.append(f"{part} is partial: {len(samples):,} of {COUNTS[part]:,} pictures")
            if pixels:
                looked = look([s.path for s in there], cache, advance)
                broken(part, looked, found)
                seen[part] = [(s.key, one) for s, one in zip(there, looked, strict=True)]
        compare(seen, cache, found)
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

    folder = made(folder)
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
        there = [s for s in samples if s.path.is_file()]
        sizes = picture_sizes(root, [s.path for s in there])
        content[part]["sizes"] = sizes.counts()
        if there:
            examples = sheet(_examples(there), columns=6, side=160)
            write_atomic(folder / f"{part}_samples.png", examples)
            drawn.append((f"Some pictures of {part}, with their labels", examples))
        sections.append(html.Section(heading=part, tables=[*statistics(samples), sizes.table()], plots=drawn))
    write_atomic(folder / "data.json", json.dumps(content, indent=1) + "\n")
    footer = f"Made by nnface {__version__}. FairFace: Karkkainen and Joo, WACV 2021, CC BY 4.0."
    write_atomic(folder / "data.html", html.page("FairFace: who is in it", sections, footer))


def _examples(samples: Sequence[AttributeSample]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Pictures from all over the part, with their labels in words."""
    for sample in spread(samples, 36):
        with suppress(ImageError):  # nnface data verify tells
            words = ", ".join(options[sample.labels[head]] for head, options in FAIRFACE_HEADS.items())
            yield words, read(sample.path)


def _counts(samples: Sequence[AttributeSample]) -> dict[str, Any]:
    result: dict[str, Any] = {"pictures": len(samples)}
    for head, options in FAIRFACE_HEADS.items():
        counts = np.bincount([s.labels[head] for s in samples], minlength=len(options))
        result[head] = dict(zip(options, counts.tolist(), strict=True))
    return result
