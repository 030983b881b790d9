"""The WIDER FACE benchmark: a detector over its pictures, prediction files, figures, a report."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from nnface.datasets.widerface_predictions import rounded
from nnface.datasets.widerface_truth import IMAGE_SUFFIXES
from nnface.errors import DataError
from nnface.evaluation.figures import json_number
from nnface.image import Pixels, read
from nnface.metrics import wider
from nnface.metrics.wider import Curve, Prediction, Truth
from nnface.report.table import Table, percent, percent_interval

SMALL = 500
"""Up to so many pictures, each figure gets its bootstrap interval."""

Detect = Callable[[Sequence[Pixels]], Sequence[Prediction]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The figures of one set of predictions."""

    curves: Mapping[str, Curve]
    """For each setting."""
    heights: Mapping[tuple[float, float], Curve] = field(default_factory=dict)
    """For each range of face heights in pixels of the original picture."""
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """95 % bootstrap interval over pictures of each setting; empty for long lists."""
    height_intervals: Mapping[tuple[float, float], tuple[float, float]] = field(default_factory=dict)
    missed: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Key of a picture to the faces of the last setting that nothing found, and all of them; most missed first."""
    pictures: int

    @property
    def figures(self) -> dict[str, float]:
        """Average precision of each setting, 0..1."""
        return {name: curve.average_precision for name, curve in self.curves.items()}


def score(predictions: Mapping[str, Prediction], truth: Truth, *, details: bool = True, iou: float = 0.5) -> Result:
    """Score predictions, sorted by falling score, that are there for every picture of ``truth``.

    Args:
        predictions: key to boxes (n, 4) x1 y1 x2 y2 and scores (n,).
        truth: its last setting is the one that is broken down by face height.
        details: heights, intervals and missed faces too; without them only the curves.
        iou: the least overlap of a hit.
    """
    keys = list(truth.boxes)
    matches = wider.match([predictions[key] for key in keys], [truth.boxes[key] for key in keys], iou)
    counted = {name: [flags[key] for key in keys] for name, flags in truth.counted.items()}
    curves = {name: wider.curve(matches, flags) for name, flags in counted.items()}
    if not details:
        return Result(curves=curves, pictures=len(keys))
    widest = list(truth.counted)[-1]
    ranges = {bounds: wider.in_range(truth, widest, bounds) for bounds in wider.ranges()}
    intervals, height_intervals = {}, {}
    if len(keys) <= SMALL:
        intervals = {name: wider.interval(wider.bootstrap(matches, flags)) for name, flags in counted.items()}
        height_intervals = {b: wider.interval(wider.bootstrap(matches, flags, b)) for b, flags in ranges.items()}
    return Result(
        curves=curves,
        heights={bounds: wider.curve(matches, flags, bounds) for bounds, flags in ranges.items()},
        intervals=intervals,
        height_intervals=height_intervals,
        missed=_missed(matches, keys, counted[widest]),
        pictures=len(keys),
    )


def compare(
    predictions: Mapping[str, Prediction], other: Mapping[str, Prediction], truth: Truth
) -> dict[str, tuple[float, float, float]]:
    """By how much predictions are better than others on the same pictures.

    Returns:
        setting to the difference of average precision and the bounds of its 95 % interval, from a bootstrap over
        pictures that draws the same ones for both. A difference whose interval holds 0 is no difference.
    """
    keys = list(truth.boxes)
    truths = [truth.boxes[key] for key in keys]
    first, second = (wider.match([found[key] for key in keys], truths) for found in (predictions, other))
    differences = {}
    for name, flags in truth.counted.items():
        counted = [flags[key] for key in keys]
        gain = wider.curve(first, counted).average_precision - wider.curve(second, counted).average_precision
        samples = wider.bootstrap(first, counted) - wider.bootstrap(second, counted)
        differences[name] = (gain, *wider.interval(samples))
    return differences


def evaluate(detect: Detect, pictures: Mapping[str, Path], truth: Truth, batch: int = 8) -> dict[str, float]:
    """Average precision of each setting of ``truth``, for a training to watch.

    Args:
        detect: upright BGR pictures to predictions, such as :class:`nnface.evaluation.protocol.Measured`.
        pictures: key to file, for each picture of ``truth``.
        truth: of :func:`nnface.datasets.widerface_truth.read_truth`, or made by the faces' heights
            (:func:`nnface.metrics.wider.by_height`).
        batch: pictures given to ``detect`` at once.
    """
    predictions = dict(run(detect, {key: pictures[key] for key in truth.boxes}, batch))
    return score(predictions, truth, details=False).figures


def run(detect: Detect, pictures: Mapping[str, Path], batch: int = 1) -> Iterator[tuple[str, Prediction]]:
    """Key and predictions of each picture, in order and rounded as prediction files are.

    The next pictures are decoded while the detector runs.

    Raises:
        ImageError: a picture cannot be read: a benchmark with a hole has no figure.
    """
    with ThreadPoolExecutor(1) as pool:
        items = iter(pictures.items())

        def load() -> list[tuple[str, Pixels]]:
            return [(key, read(path)) for key, path in islice(items, batch)]

        coming = pool.submit(load)
        while loaded := coming.result():
            coming = pool.submit(load)
            for (key, _), (boxes, scores) in zip(loaded, detect([image for _, image in loaded]), strict=True):
                yield key, rounded(boxes, scores)


def find_pictures(data: str | Path, keys: Sequence[str], split: str = "val") -> dict[str, Path]:
    """The file of each picture: ``event/name`` under ``WIDER_<split>/images`` of ``data``, or under ``data`` itself.

    Raises:
        DataError: the folder is absent or lacks pictures.
    """
    folder = image_folder(data, split)
    found, missing = {}, []
    for key in keys:
        path = next((path for suffix in IMAGE_SUFFIXES if (path := folder / f"{key}{suffix}").is_file()), None)
        if path is None:
            missing.append(key)
        else:
            found[key] = path
    if missing:
        raise DataError(
            f"{folder} lacks {len(missing)} of {len(keys)} pictures, the first is {missing[0]}.jpg; "
            "add them, or name the pictures that are there with --list"
        )
    return found


def walk_pictures(data: str | Path, split: str = "test") -> dict[str, Path]:
    """Every picture ``event/name`` of a split whose truth is not published, sorted.

    Raises:
        DataError: the folder is absent or holds none.
    """
    folder = image_folder(data, split)
    paths = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not paths:
        raise DataError(f"{folder} holds no pictures event/name.jpg; give the folder that holds WIDER_{split}")
    return {f"{path.parent.name}/{path.stem}": path for path in paths}


def image_folder(data: str | Path, split: str) -> Path:
    """``WIDER_<split>/images`` below ``data``, or ``data`` itself where that is the folder of the events."""
    data = Path(data)
    if not data.is_dir():
        raise DataError(f"{data} is no folder; give the one that holds WIDER_{split}/images")
    official = data / f"WIDER_{split}" / "images"
    return official if official.is_dir() else data


def figures_table(result: Result, protocol: str, title: str = "WIDER FACE") -> Table:
    """Average precision of each setting of the set called ``title``, with the protocol beside each figure."""
    columns = ["setting", "AP", *(["95 % interval"] if result.intervals else []), "faces", "protocol"]
    rows = [
        [
            name,
            percent(curve.average_precision),
            *([percent_interval(result.intervals[name])] if result.intervals else []),
            f"{curve.faces:,}",
            protocol,
        ]
        for name, curve in result.curves.items()
    ]
    return Table(f"{title}, {result.pictures:,} pictures", columns, rows)


def heights_table(result: Result) -> Table:
    """Average precision by face height."""
    columns = ["face height, px", "AP", *(["95 % interval"] if result.height_intervals else []), "faces"]
    rows = [
        [
            range_name(bounds),
            percent(curve.average_precision),
            *([percent_interval(result.height_intervals[bounds])] if result.height_intervals else []),
            f"{curve.faces:,}",
        ]
        for bounds, curve in result.heights.items()
    ]
    return Table("By face height in the original picture", columns, rows)


def differences_table(differences: Mapping[str, tuple[float, float, float]], other: str) -> Table:
    """The result of :func:`compare`."""
    rows = [[name, percent(gain), percent_interval((low, high))] for name, (gain, low, high) in differences.items()]
    return Table(f"Better than {other} by", ["setting", "AP", "95 % interval, paired"], rows)


def range_name(bounds: tuple[float, float]) -> str:
    """A range of heights in words, such as ``16 to 32``."""
    low, high = bounds
    if low <= 0:
        return f"under {high:g}"
    return f"{low:g} and more" if high == float("inf") else f"{low:g} to {high:g}"


def to_dict(result: Result) -> dict[str, Any]:
    """Everything as JSON values; NaN becomes None."""
    return {
        "pictures": result.pictures,
        "settings": {name: _entry(curve, result.intervals.get(name)) for name, curve in result.curves.items()},
        "heights": {
            range_name(bounds): _entry(curve, result.height_intervals.get(bounds))
            for bounds, curve in result.heights.items()
        },
    }


def save(
    result: Result,
    folder: str | Path,
    about: Mapping[str, str],
    differences: Table | None = None,
    title: str = "WIDER FACE",
) -> None:
    """Write ``report.json``, ``report.html`` and the plots as PNG into a folder, which is made.

    Args:
        result: what is reported.
        folder: where to.
        about: model, protocol, device and the like.
        differences: a table to show beside the figures.
        title: what the set is called.

    Raises:
        DependencyError: matplotlib or jinja2 is not installed (the extra ``[eval]``).
        NnfaceError: the folder cannot be made or written.
    """
    from nnface.report import folder as report
    from nnface.report import html, plots

    protocol = about.get("protocol", "")
    shown = {f"{n}, AP {percent(c.average_precision)}": (c.recall, c.precision) for n, c in result.curves.items()}
    recall = plots.lines(
        shown,
        title=f"{title}, {result.pictures:,} pictures, {protocol}",
        x="recall",
        y="precision",
        x_range=(0, 1),
        y_range=(0, 1.02),
    )
    heights = plots.bars(
        {range_name(bounds): 100 * curve.average_precision for bounds, curve in result.heights.items()},
        title=f"Average precision by face height, {protocol}",
        x="face height in the original picture, pixels",
        y="AP, per cent",
        intervals={range_name(b): (100 * low, 100 * high) for b, (low, high) in result.height_intervals.items()},
        y_range=(0, 108),
    )
    worst = [(key, str(missed), str(total)) for key, (missed, total) in islice(result.missed.items(), 30)]
    sections = [
        html.Section(
            heading="Average precision",
            text="By the rules of the WIDER FACE evaluation, IoU 0.5. Figures of different protocols do not compare."
            + (" Intervals: 95 %, bootstrap over pictures." if result.intervals else ""),
            tables=[figures_table(result, protocol, title)],
            plots=[("Precision against recall for each setting", recall)],
        ),
        html.Section(
            heading="By face height",
            text="Faces of the widest setting; boxes outside the range that find no face do not count.",
            tables=[heights_table(result)],
            plots=[("Average precision for each range of face heights", heights)],
        ),
        html.Section(
            heading="Pictures with the most missed faces",
            text="Faces that no prediction of any score found.",
            tables=[Table("", ["picture", "missed", "of"], worst)],
        ),
    ]
    if differences is not None:
        text = "On the same pictures; a difference whose interval holds 0 is no difference."
        sections.insert(1, html.Section(heading="Side by side", text=text, tables=[differences]))
    report.save(
        folder,
        title=f"{title} evaluation",
        about=about,
        sections=sections,
        pictures={"precision_recall": recall, "heights": heights},
        numbers=to_dict(result),
    )


def _entry(curve: Curve, interval: tuple[float, float] | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"ap": json_number(curve.average_precision), "faces": curve.faces}
    if interval is not None:
        entry["interval"] = [json_number(bound) for bound in interval]
    return entry


def _missed(matches: wider.Matches, keys: Sequence[str], counted: Iterable[wider.Flags]) -> dict[str, tuple[int, int]]:
    flags = np.concatenate([np.zeros(0, bool), *counted])
    found = np.zeros(len(flags), bool)
    found[matches.face[matches.first]] = True
    missed = np.bincount(matches.face_picture[flags & ~found], minlength=len(keys))
    total = np.bincount(matches.face_picture[flags], minlength=len(keys))
    order = [int(number) for number in np.argsort(-missed, kind="stable") if missed[number]]
    return {keys[number]: (int(missed[number]), int(total[number])) for number in order}
