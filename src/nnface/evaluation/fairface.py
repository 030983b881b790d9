"""The FairFace benchmark: a classifier over labelled chips, and its accuracy by group."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from nnface.datasets.fairface import four_races
from nnface.datasets.samples import AttributeSample
from nnface.errors import DataError, ModelFileError, UsageError
from nnface.image import Pixels, read
from nnface.metrics import fairness
from nnface.metrics.fairness import Gap, Share
from nnface.predict.classifier import Classifier, softmax
from nnface.predict.detector import Detector
from nnface.spec import FAIRFACE_HEADS, FAIRFACE_HEADS_4, ClassificationSpec

ORDERED = ("age",)
"""Heads whose labels have an order: off by one is told apart from off by five."""
LEAST = 20
"""Groups of fewer faces take no part in best, worst and gap: their figures are noise."""

Logits = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """How one attribute is told."""

    labels: Sequence[str]
    accuracy: Share
    balanced: float
    """Mean recall of the labels."""
    confusion: NDArray[np.int64]
    """Row: label; column: answer."""
    within_one: Share | None
    """Of an ordered head: off by one label at most."""
    mean_error: float | None
    """Of an ordered head: mean absolute difference in labels, over the faces that were found."""
    calibration_error: float
    calibration: NDArray[np.floating]
    """(bins, 3): confidence, accuracy, count."""
    temperature: float
    least: float
    """The confidence below which the model says that it is not certain."""
    abstained: float
    """The share of faces below it."""
    certain: Share
    """Accuracy of the others."""
    groups: Mapping[str, Mapping[str, Share]]
    """For each attribute of the faces: label to the accuracy of this head among those faces."""
    gaps: Mapping[str, Gap | None]
    """For each attribute: between the group that fares best and the one that fares worst."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The figures of one classifier on one set."""

    heads: Mapping[str, Head]
    cells: Mapping[str, Mapping[tuple[str, ...], Share]]
    """For each head: accuracy by race, gender and age together."""
    faces: int
    missed: int = 0
    """Pictures in which a detector found no face; their answers count as wrong."""

    @property
    def figures(self) -> dict[str, float]:
        """The figures that people compare, 0..1 (mean error: in labels)."""
        figures: dict[str, float] = {}
        for name, head in self.heads.items():
            figures[name] = head.accuracy.value
            figures[f"{name}_balanced"] = head.balanced
            if head.within_one is not None and head.mean_error is not None:
                figures |= {f"{name}_within_1": head.within_one.value, f"{name}_mean_error": head.mean_error}
            gap = head.gaps.get("race")
            if gap is not None:
                figures[f"{name}_worst_race"] = list(head.groups["race"].values())[gap.worst].value
                figures[f"{name}_race_gap"] = gap.value
            figures[f"{name}_calibration_error"] = head.calibration_error
            figures[f"{name}_abstained"] = head.abstained
        return figures


def fitting(classifier: Classifier, samples: Sequence[AttributeSample]) -> list[AttributeSample]:
    """The samples with labels as the classifier's heads count them.

    Raises:
        ModelFileError: the classifier tells other things than FairFace labels.
        DataError: there is no sample.
    """
    if not samples:
        raise DataError("there is no face to measure on")
    return list(samples) if check_heads(classifier) == 7 else four_races(samples)


def check_heads(classifier: Classifier) -> int:
    """The number of races that a classifier of FairFace's labels tells, 7 or 4.

    Raises:
        ModelFileError: it tells other things.
    """
    heads = {name: tuple(labels) for name, labels in classifier.heads.items()}
    if heads not in (dict(FAIRFACE_HEADS), FAIRFACE_HEADS_4):
        raise ModelFileError(f"{classifier.name} tells {', '.join(heads)} with other labels than FairFace has")
    return len(heads["race"])


def run(
    classifier: Classifier, samples: Sequence[AttributeSample], detector: Detector | None = None
) -> Iterator[tuple[AttributeSample, Logits | None]]:
    """The logits of each face, (labels,) for each head, in order; the next pictures are decoded meanwhile.

    Args:
        classifier: what is measured.
        samples: faces.
        detector: None: each picture is the chip. Else the face nearest the middle of each picture is cut out by its
            landmarks; where none is found, the answer is None.

    Raises:
        ImageError: a picture cannot be read: a benchmark with a hole has no figure.
        DataError: a picture is too small to be a chip.
    """
    with ThreadPoolExecutor(1) as pool:
        items = iter(samples)

        def load() -> list[tuple[AttributeSample, Pixels]]:
            return [(s, read(s.path)) for s in islice(items, classifier.batch_size)]

        coming = pool.submit(load)
        while loaded := coming.result():
            coming = pool.submit(load)
            chips = [_chip(classifier, detector, s, image) for s, image in loaded]
            logits = classifier.logits([chip for chip in chips if chip is not None])
            row = 0
            for (sample, _), chip in zip(loaded, chips, strict=True):
                if chip is None:
                    yield sample, None
                else:
                    yield sample, {name: values[row] for name, values in logits.items()}
                    row += 1


def gather(
    meaning: ClassificationSpec, found: Sequence[tuple[AttributeSample, Logits | None]]
) -> tuple[dict[str, NDArray[np.int64]], dict[str, NDArray[np.float32]], NDArray[np.bool_]]:
    """Labels (n,) and logits (n, labels) of each head, and (n,) whether there is a face; zeros where there is none."""
    labels = {name: np.array([s.labels.get(name, -1) for s, _ in found]) for name in meaning.heads}
    logits = {
        name: np.stack([np.zeros(len(options), np.float32) if row is None else row[name] for _, row in found])
        for name, options in meaning.heads.items()
    }
    return labels, logits, np.array([row is not None for _, row in found])


def score(meaning: ClassificationSpec, found: Sequence[tuple[AttributeSample, Logits | None]]) -> Result:
    """All figures; a face that was not found counts as a wrong answer of no confidence.

    Args:
        meaning: heads, temperatures and confidences, as a classifier's Spec has them.
        found: of :func:`run`.
    """
    labels, logits, there = gather(meaning, found)
    heads, cells, answers = {}, {}, {}
    axes = {name: (labels[name], len(options)) for name, options in meaning.heads.items()}
    for name, options in meaning.heads.items():
        temperature = meaning.temperatures.get(name, 1.0)
        probabilities = softmax(logits[name] / np.float32(temperature))
        answers[name] = np.where(there, probabilities.argmax(1), -2)  # a face that was missed: near no label
        confidence = np.where(there, probabilities.max(1), 0.0)
        known = labels[name] >= 0
        right = (answers[name] == labels[name])[known]
        error, bins = fairness.calibration(confidence[known], right)
        least = meaning.min_confidence.get(name, 0.0)
        abstained, certain = fairness.selective(confidence[known], right, least)
        seen = known & there
        table = fairness.confusion(np.where(seen, labels[name], -1), np.maximum(answers[name], 0), len(options))
        totals = np.bincount(labels[name][known], minlength=len(options))
        occurring = totals > 0
        groups = {
            axis: dict(
                zip(
                    meaning.heads[axis],
                    fairness.by_group(labels[name], answers[name], members, count),
                    strict=True,
                )
            )
            for axis, (members, count) in axes.items()
        }
        ordered = name in ORDERED
        heads[name] = Head(
            labels=options,
            accuracy=fairness.accuracy(labels[name], answers[name]),
            balanced=float((np.diag(table)[occurring] / totals[occurring]).mean()),
            confusion=table,
            within_one=fairness.within(labels[name], answers[name], 1) if ordered else None,
            mean_error=fairness.mean_error(np.where(seen, labels[name], -1), answers[name]) if ordered else None,
            calibration_error=error,
            calibration=bins,
            temperature=temperature,
            least=least,
            abstained=abstained,
            certain=certain,
            groups=groups,
            gaps={axis: fairness.gap(list(shares.values()), LEAST) for axis, shares in groups.items()},
        )
        numbered = fairness.cells(labels[name], answers[name], list(axes.values()))
        cells[name] = {
            tuple(meaning.heads[axis][number] for axis, number in zip(axes, place, strict=True)): share
            for place, share in numbered.items()
        }
    return Result(heads=heads, cells=cells, faces=len(found), missed=int((~there).sum()))


def joined_races(
    meaning: ClassificationSpec, found: Sequence[tuple[AttributeSample, Logits | None]]
) -> tuple[ClassificationSpec, list[tuple[AttributeSample, Logits | None]]]:
    """What a classifier of seven races says of four, for data sets that have no more (UTKFace).

    East and Southeast Asian are added up to Asian; Latino_Hispanic and Middle Eastern have no place among the four and
    are left out of the answer.
    """
    if len(meaning.heads["race"]) == len(FAIRFACE_HEADS_4["race"]):
        return meaning, list(found)
    temperature = np.float32(meaning.temperatures.get("race", 1.0))
    places = [FAIRFACE_HEADS["race"].index(name) for name in ("White", "Black", "East Asian", "Indian")]
    southeast = FAIRFACE_HEADS["race"].index("Southeast Asian")

    def joined(logits: Logits) -> Logits:
        probabilities = softmax(logits["race"] / temperature)
        four = probabilities[places]
        four[2] += probabilities[southeast]
        return {**logits, "race": np.log(np.maximum(four / max(four.sum(), 1e-30), 1e-30))}

    temperatures = {name: value for name, value in meaning.temperatures.items() if name != "race"}
    four = replace(meaning, heads=FAIRFACE_HEADS_4, temperatures=temperatures)
    return four, [(sample, None if logits is None else joined(logits)) for sample, logits in found]


def compare(
    meaning: ClassificationSpec,
    found: Sequence[tuple[AttributeSample, Logits | None]],
    other: ClassificationSpec,
    others: Sequence[tuple[AttributeSample, Logits | None]],
) -> dict[str, tuple[float, tuple[float, float]]]:
    """By how much the first is better than the other on the same faces: for each head, and each race within it.

    Raises:
        UsageError: the two have other heads.
    """
    if dict(meaning.heads) != dict(other.heads):
        raise UsageError("the two models tell different labels, so that they do not compare")
    labels, first, there = gather(meaning, found)
    _, second, others_there = gather(other, others)
    differences = {}
    for name in meaning.heads:
        known = labels[name] >= 0
        right = (first[name].argmax(1) == labels[name]) & there
        others_right = (second[name].argmax(1) == labels[name]) & others_there
        differences[name] = fairness.paired(right[known], others_right[known])
        for number, race in enumerate(meaning.heads["race"]):
            chosen = known & (labels["race"] == number)
            if chosen.any():
                differences[f"{name}, {race}"] = fairness.paired(right[chosen], others_right[chosen])
    return differences


def _chip(classifier: Classifier, detector: Detector | None, sample: AttributeSample, image: Pixels) -> Pixels | None:
    if detector is None:
        try:
            return classifier.whole_chip(image)
        except UsageError as error:
            raise DataError(f"{sample.path}: {error}") from error
    faces = detector(image)
    if len(faces) == 0:
        return None
    middle = np.array([faces.width, faces.height], np.float32) / 2
    nearest = int(np.abs((faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2 - middle).sum(1).argmin())
    return classifier.chips(image, faces[[nearest]])[0]
