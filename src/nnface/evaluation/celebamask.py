"""The CelebAMask-HQ benchmark: a parser over labelled portraits at 512 pixels, F1 by part, a report."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from nnface import draw
from nnface.datasets.celebamask import check_size, read_mask
from nnface.datasets.samples import SegmentationSample
from nnface.errors import DataError, NnfaceError, UsageError
from nnface.evaluation.figures import json_number
from nnface.image import Pixels, read
from nnface.metrics import parsing
from nnface.report.table import Table, percent, percent_interval
from nnface.spec import CELEBAMASK_LABELS

if TYPE_CHECKING:
    from nnface.report import html

SIDE = 512
"""The long side of the label images that are scored, whatever the network's input."""
SHOWN = 6
"""So many of the best portraits are shown, and of the worst."""
PROTOCOL = f"long side {SIDE}, boundary F1 within {parsing.TOLERANCE:g} px"

Labels = NDArray[np.uint8]
Parse = Callable[[Pixels], Labels]
"""An upright BGR portrait to its label image of the same size, such as :meth:`nnface.predict.Segmenter.labels`."""

_PARTS = len(CELEBAMASK_LABELS) - 1
_FREQUENT = _PARTS - len(parsing.RARE)
FIGURES = {
    "mean_f1": f"mean F1, {_PARTS} parts",
    "frequent_f1": f"mean F1, {_FREQUENT} parts without {', '.join(parsing.RARE)}",
    "mean_iou": f"mean IoU, {_PARTS} parts and background",
    "boundary_f1": f"boundary F1, {_PARTS} parts",
    "accuracy": "right pixels",
}
"""The main figures, as they are told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """The counts of one portrait."""

    confusion: NDArray[np.int64]
    """(labels, labels): of :func:`nnface.metrics.parsing.confusion`."""
    outlines: NDArray[np.int64]
    """(labels, 4): of :func:`nnface.metrics.parsing.outlines`."""

    @property
    def f1(self) -> float:
        """The mean F1 of the parts that the portrait has or was given, 0..1; 1 where there is none."""
        mean = parsing.scores(self.confusion).mean_f1
        return 1.0 if mean != mean else mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The figures of one parser on one set; 0..1, NaN where nothing is to be told."""

    keys: Sequence[str]
    """Of the portraits."""
    counted: Sequence[Counted]
    """Of each portrait."""
    scores: parsing.Scores
    boundary: NDArray[np.float64]
    """(labels,): boundary F1."""
    draws: Mapping[str, NDArray[np.float64]]
    """Bootstrap samples over portraits, of :func:`nnface.metrics.parsing.bootstrap`."""

    @property
    def confusion(self) -> NDArray[np.int64]:
        """(labels, labels), in pixels: row is the truth, column what was found."""
        total: NDArray[np.int64] = np.stack([c.confusion for c in self.counted]).sum(0)
        return total

    @property
    def figures(self) -> dict[str, float]:
        """The main figures, and ``f1/PART`` for each part."""
        main = {
            "mean_f1": self.scores.mean_f1,
            "frequent_f1": self.scores.frequent_f1,
            "mean_iou": self.scores.mean_iou,
            "boundary_f1": float(parsing.mean_boundary_f1(self.outlines)),
            "accuracy": self.scores.accuracy,
        }
        return main | {f"f1/{CELEBAMASK_LABELS[n]}": float(self.scores.f1[n]) for n in range(1, _PARTS + 1)}

    @property
    def outlines(self) -> NDArray[np.int64]:
        """(labels, 4): outline pixels of the set."""
        total: NDArray[np.int64] = np.stack([c.outlines for c in self.counted]).sum(0)
        return total

    def interval(self, figure: str) -> tuple[float, float]:
        """The 95 % interval of one of :attr:`figures`, bootstrap over portraits."""
        return parsing.interval(_draws(self, figure))

    @property
    def order(self) -> list[int]:
        """Numbers of the portraits, the worst by their own mean F1 first."""
        return sorted(range(len(self.keys)), key=lambda number: self.counted[number].f1)


def evaluate(parse: Parse, samples: Sequence[SegmentationSample]) -> Result:
    """All figures of a parser; see :func:`run` for arguments and errors."""
    return score(list(run(parse, samples)))


def run(parse: Parse, samples: Iterable[SegmentationSample]) -> Iterator[tuple[SegmentationSample, Counted]]:
    """The counts of each portrait, in order; the next portraits are decoded meanwhile.

    Raises:
        ImageError: a portrait cannot be read: a benchmark with a hole has no figure.
        DataError: a label image cannot be read, holds values that are no labels, or has another shape.
        NnfaceError: the parser's label image is not of the portrait's size.
    """
    with ThreadPoolExecutor(1) as pool:
        items = iter(samples)

        def load() -> list[tuple[SegmentationSample, Pixels, Labels]]:
            return [(s, *portrait(s)) for s in islice(items, 4)]

        coming = pool.submit(load)
        while loaded := coming.result():
            coming = pool.submit(load)
            for sample, image, truth in loaded:
                found = parse(image)
                if found.shape != truth.shape:
                    raise NnfaceError(f"the parser gave {sample.path} labels of shape {found.shape}, not {truth.shape}")
                count = len(CELEBAMASK_LABELS)
                yield (
                    sample,
                    Counted(
                        confusion=parsing.confusion(truth, found, count),
                        outlines=parsing.outlines(truth, found, count),
                    ),
                )


def portrait(sample: SegmentationSample) -> tuple[Pixels, Labels]:
    """A portrait and its label image at the size that is scored: both with a long side of 512.

    Returns:
        (H, W, 3) uint8 BGR, scaled by areas where it becomes smaller, else bilinear; (H, W) uint8, scaled by nearest.

    Raises:
        ImageError: the portrait cannot be read.
        DataError: the label image cannot be read, or has another shape than the portrait.
    """
    image, labels = read(sample.path), read_mask(sample.mask)
    height, width = image.shape[:2]
    check_size((labels.shape[1], labels.shape[0]), (width, height), sample.mask)
    scale = SIDE / max(height, width)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    if size != (width, height):
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        image = np.asarray(cv2.resize(image, size, interpolation=way), np.uint8)
    if size != labels.shape[::-1]:
        labels = np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
    return image, labels


def score(found: Sequence[tuple[SegmentationSample, Counted]]) -> Result:
    """All figures, from what :func:`run` gives.

    Raises:
        DataError: there is no portrait.
    """
    if not found:
        raise DataError("there is no portrait to measure on")
    counted = [counts for _, counts in found]
    confusion, outlines = np.stack([c.confusion for c in counted]), np.stack([c.outlines for c in counted])
    return Result(
        keys=[sample.key for sample, _ in found],
        counted=counted,
        scores=parsing.scores(confusion.sum(0)),
        boundary=parsing.boundary_f1(outlines.sum(0)),
        draws=parsing.bootstrap(confusion, outlines),
    )


def compare(result: Result, other: Result) -> dict[str, tuple[float, tuple[float, float]]]:
    """By how much a parser is better than another on the same portraits, with the 95 % interval, paired.

    Returns:
        for each of :attr:`Result.figures`; a difference whose interval holds 0 is no difference.

    Raises:
        UsageError: the two were not measured on the same portraits.
    """
    if list(result.keys) != list(other.keys):
        raise UsageError("the two models were not measured on the same portraits, so that they do not compare")
    others = other.figures
    return {
        name: (value - others[name], parsing.interval(_draws(result, name) - _draws(other, name)))
        for name, value in result.figures.items()
    }


def figures_table(result: Result, name: str = "CelebAMask-HQ") -> Table:
    """The main figures with their intervals."""
    figures = result.figures
    rows = [[text, percent(figures[key]), percent_interval(result.interval(key))] for key, text in FIGURES.items()]
    return Table(f"{name}, {len(result.keys):,} portraits, {PROTOCOL}", ["", "per cent", "95 % interval"], rows)


def parts_table(result: Result) -> Table:
    """The figures of each label."""
    true = np.stack([c.confusion.sum(1) for c in result.counted])
    rows = []
    for number, name in enumerate(CELEBAMASK_LABELS):
        rows.append(
            [
                name,
                percent(float(result.scores.f1[number])),
                percent_interval(parsing.interval(result.draws["f1"][:, number])),
                percent(float(result.scores.iou[number])),
                percent(float(result.boundary[number])),
                f"{int((true[:, number] > 0).sum()):,}",
                f"{100 * true[:, number].sum() / true.sum():.3f}",
            ]
        )
    columns = ["part", "F1", "95 % interval", "IoU", "boundary F1", "portraits", "% of pixels"]
    return Table("Each part, counted over the pixels of the set", columns, rows)


def differences_table(differences: Mapping[str, tuple[float, tuple[float, float]]], other: str) -> Table:
    """The result of :func:`compare`."""
    rows = [
        [FIGURES.get(name, f"F1, {name.removeprefix('f1/')}"), percent(gain), percent_interval(bounds)]
        for name, (gain, bounds) in differences.items()
    ]
    return Table(f"Better than {other} by", ["", "per cent", "95 % interval, paired"], rows)


def confusion_table(result: Result) -> Table:
    """Where the pixels of each part went, in per cent of its true pixels; under 0.05 is left empty."""
    counts = result.confusion
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    rows = [
        [name, *(f"{v:.1f}" if v >= 0.05 else "" for v in row)]
        for name, row in zip(CELEBAMASK_LABELS, shares.tolist(), strict=True)
    ]
    return Table("Truth down, found across, per cent of the true pixels", ["", *CELEBAMASK_LABELS], rows)


def to_dict(result: Result) -> dict[str, Any]:
    """Everything as JSON values; NaN becomes None."""
    parts = {
        name: {
            "f1": json_number(float(result.scores.f1[n])),
            "f1_interval": [json_number(v) for v in parsing.interval(result.draws["f1"][:, n])],
            "iou": json_number(float(result.scores.iou[n])),
            "boundary_f1": json_number(float(result.boundary[n])),
        }
        for n, name in enumerate(CELEBAMASK_LABELS)
    }
    figures = result.figures
    return {
        "protocol": PROTOCOL,
        "portraits": len(result.keys),
        "figures": {
            name: {"value": json_number(figures[name]), "interval": [json_number(v) for v in result.interval(name)]}
            for name in FIGURES
        },
        "parts": parts,
        "labels": list(CELEBAMASK_LABELS),
        "confusion": result.confusion.tolist(),
        "mean_f1_of_portraits": {key: round(c.f1, 6) for key, c in zip(result.keys, result.counted, strict=True)},
    }


def save(
    result: Result,
    folder: str | Path,
    about: Mapping[str, str],
    samples: Sequence[SegmentationSample],
    parse: Parse,
    differences: Table | None = None,
) -> None:
    """Write ``report.json``, ``report.html``, plots and sheets of the best and worst portraits into a folder.

    Args:
        result: of :func:`score`.
        folder: is made.
        about: what was measured, in words.
        samples: the portraits, in the result's order.
        parse: labels the shown portraits again.
        differences: a table to show beside the figures.

    Raises:
        DependencyError: matplotlib or jinja2 is not installed (the extra ``[eval]``).
        NnfaceError: the folder cannot be made or written.
    """
    from nnface.report import folder as report

    drawn = _drawn(result, samples, parse)
    report.save(
        folder,
        title="How well the parser labels faces",
        about=about,
        sections=_sections(result, differences, drawn),
        pictures=drawn,
        numbers=to_dict(result),
        terms="CelebAMask-HQ: Lee et al., CVPR 2020; non-commercial research and education.",
    )


def _drawn(result: Result, samples: Sequence[SegmentationSample], parse: Parse) -> dict[str, bytes]:
    """The report's pictures by their names, as PNG."""
    from nnface.report import plots

    f1 = {name: 100 * float(result.scores.f1[n]) for n, name in enumerate(CELEBAMASK_LABELS) if n}
    bounds = {n: result.interval(f"f1/{n}") for n in f1}
    order = result.order
    return {
        "parts": plots.bars(
            f1,
            title=f"F1 of each part, {len(result.keys):,} portraits, long side {SIDE}",
            x="part",
            y="F1, per cent",
            intervals={name: (100 * low, 100 * high) for name, (low, high) in bounds.items() if low == low},
            y_range=(0, 105),
        ),
        "confusion": plots.matrix(
            result.confusion,
            CELEBAMASK_LABELS,
            title="Share of each part's true pixels by the part that was found",
            x="found",
            y="truth",
        ),
        "worst": _sheet(result, samples, parse, order[:SHOWN]),
        "best": _sheet(result, samples, parse, order[::-1][:SHOWN]),
    }


def _sections(result: Result, differences: Table | None, drawn: Mapping[str, bytes]) -> "list[html.Section]":
    """The report's page, from top to bottom."""
    from nnface.report import html

    sections = [
        html.Section(
            heading="In short",
            text="F1 and IoU from pixels counted over the whole set. Intervals are 95 %, bootstrap over portraits. "
            "Boundary F1: of the pixels on a part's outline, those that have one of the same part within "
            f"{parsing.TOLERANCE:g} pixels in the other label image.",
            tables=[figures_table(result)],
        ),
    ]
    if differences is not None:
        text = "On the same portraits; a difference whose interval holds 0 is no difference."
        sections.append(html.Section(heading="Side by side", text=text, tables=[differences]))
    sections += [
        html.Section(
            heading="Parts", tables=[parts_table(result)], plots=[("F1 of each part with its interval", drawn["parts"])]
        ),
        html.Section(
            heading="What is taken for what",
            tables=[confusion_table(result)],
            plots=[("Confusion matrix of the parts", drawn["confusion"])],
        ),
    ]
    shown = min(SHOWN, len(result.keys))
    for which in ("worst", "best"):
        sections.append(
            html.Section(
                heading=f"The {which} portraits",
                text="By the mean F1 of the parts of the portrait. From left to right: portrait, truth, found.",
                plots=[(f"The {shown} {which} portraits, each beside truth and answer", drawn[which])],
            )
        )
    return sections


def _sheet(result: Result, samples: Sequence[SegmentationSample], parse: Parse, numbers: Sequence[int]) -> bytes:
    from nnface.report.sheet import sheet

    pictures: list[tuple[str, Pixels]] = []
    for number in numbers:
        image, truth = portrait(samples[number])
        name = f"{samples[number].key}: {percent(result.counted[number].f1)}"
        pictures += [(name, image), ("truth", _coloured(image, truth)), ("found", _coloured(image, parse(image)))]
    return sheet(pictures, columns=6, side=256)


def _coloured(image: Pixels, labels: Labels) -> Pixels:
    """The portrait under a colour for each part."""
    painted = cv2.addWeighted(image, 0.45, draw.PALETTE[:, ::-1][labels], 0.55, 0)
    return np.asarray(np.where(labels[:, :, None] > 0, painted, image), np.uint8)


def _draws(result: Result, figure: str) -> NDArray[np.float64]:
    if figure.startswith("f1/"):
        return result.draws["f1"][:, CELEBAMASK_LABELS.index(figure.removeprefix("f1/"))]
    return result.draws[figure]
