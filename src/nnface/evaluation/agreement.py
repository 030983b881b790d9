"""What a change of a network's numbers (fp16, INT8, another runtime) costs: its figures before and after.

With labels they are the metric's: average precision and landmark error, accuracy, F1. Without labels, what the network
said before is taken for the truth, and the figures tell how far the two agree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from nnface.datasets import celebamask, fairface, widerface
from nnface.datasets.interchange import coco, voc, yolo
from nnface.datasets.samples import AttributeSample, DetectionSample, SegmentationSample, is_chosen
from nnface.errors import DataError, ImageError, UsageError
from nnface.evaluation import celebamask as parsing_benchmark
from nnface.evaluation.fairface import fitting
from nnface.evaluation.protocol import MIN_SCORE
from nnface.geometry.boxes import iou
from nnface.image import Pixels, read
from nnface.metrics import parsing, wider
from nnface.predict.chips import SMALLEST, places, resized, warp
from nnface.predict.classifier import Classifier
from nnface.predict.detector import Detector
from nnface.predict.segmenter import Segmenter
from nnface.predict.source import expand
from nnface.results import Faces
from nnface.runtime import Runner
from nnface.spec import CELEBAMASK_LABELS, Spec, Task

Samples: TypeAlias = Sequence[DetectionSample] | Sequence[AttributeSample] | Sequence[SegmentationSample]
Material: TypeAlias = Sequence[Path] | Sequence[Pixels]
"""What a network looks at: pictures for a detector, else chips (size, size, 3) uint8 BGR."""

T = TypeVar("T")

ERROR = "landmark_error"
"""The one figure of which less is better: mean distance of the landmarks over the face's size."""

_LOWEST = min(wider.HEIGHTS.values())

_FORMS: Mapping[Task, tuple[str, ...]] = {
    "detect": ("widerface", "coco", "yolo", "voc"),
    "classify": ("fairface",),
    "segment": ("celebamask",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Figures of one network before and after."""

    on: str
    """What they were measured on, in words."""
    labelled: bool
    """By people's labels; else by what the network said before."""
    before: Mapping[str, float]
    after: Mapping[str, float]

    @property
    def lost(self) -> dict[str, float]:
        """Points (of 100) that each figure lost; negative where it gained."""
        differences = {name: self.before[name] - self.after[name] for name in self.before}
        return {name: 100 * (-value if name == ERROR else value) for name, value in differences.items()}

    @property
    def most_lost(self) -> float:
        """The points of the figure that lost most."""
        return max(value if value == value else 100.0 for value in self.lost.values())


def is_data(text: str) -> bool:
    """Whether it is NAME:PATH of a data set, and not a folder of photographs."""
    name, sign, _ = text.partition(":")
    return bool(sign) and any(name in forms for forms in _FORMS.values())


def read_samples(task: Task, text: str, *, training: bool, whole: bool = False) -> Samples:
    """The pictures of a data set ``NAME:PATH`` that fit a task.

    Args:
        task: widerface, coco, yolo and voc fit ``detect``, fairface ``classify``, celebamask ``segment``.
        text: ``NAME:PATH``.
        training: those to train on, without the tenth that is kept for choosing; else ``val``, or where the set has
            none, that tenth.
        whole: to measure on every picture of ``train`` and ``val`` instead.

    Raises:
        UsageError: not of that form, or of another task.
        DataError: the data is absent or malformed, or there is no picture; to measure a detector, no face of more than
            10 pixels in height.
    """
    name, sign, place = text.partition(":")
    if not sign or name not in _FORMS[task]:
        forms = " or ".join(f"{form}:PATH" for form in _FORMS[task])
        raise UsageError(f"{text!r} is no data for a model to {task}; give {forms}")
    if whole:
        samples: Samples = [s for part in _parts(name, Path(place)) for s in _read(name, place, part)]  # type: ignore[assignment]
    else:
        samples = _read(name, place, "train") if training else _validation(name, place)
    if training:
        samples = [s for s in samples if not is_chosen(s.key)]  # type: ignore[assignment]
    if not samples:
        raise DataError(f"{text} has no picture to measure on; name another set")
    if not training and task == "detect" and not _measurable(samples):  # type: ignore[arg-type]
        raise DataError(
            f"{text} has no labelled face of more than {_LOWEST:g} pixels in height to measure on, in {len(samples)} "
            "pictures; name another set"
        )
    return samples


def _measurable(samples: Sequence[DetectionSample]) -> bool:
    """Whether there is a face of which :func:`nnface.metrics.wider.by_height` has a figure."""
    return any(((s.boxes[:, 3] - s.boxes[:, 1] > _LOWEST) & ~s.ignored).any() for s in samples)


def _parts(name: str, root: Path) -> list[str]:
    """Those of ``train`` and ``val`` that a set for ``detect`` has; a set without parts is all ``train``."""
    if not _has_validation(name, root):
        return ["train"]
    named = {"widerface": widerface.splits, "yolo": yolo.splits, "voc": voc.splits}[name](root)
    return ["train", "val"] if "train" in named else ["val"]


def _validation(name: str, place: str) -> Samples:
    if _has_validation(name, Path(place)):
        return _read(name, place, "val")
    return [s for s in _read(name, place, "train") if is_chosen(s.key)]  # type: ignore[return-value]


def _has_validation(name: str, root: Path) -> bool:
    """Whether a set has a part ``val``, be it broken."""
    if name == "widerface":  # its text comes with the other texts, whether the pictures were fetched or not
        return "val" in widerface.splits(root) and any((root / d).is_dir() for d in ("WIDER_val", "val"))
    if name == "fairface":
        return (root / "fairface_label_val.csv").is_file()
    if name == "celebamask":
        return any(root.glob("val.txt")) or any(root.glob("val_*.txt"))
    return name != "coco" and "val" in (yolo if name == "yolo" else voc).splits(root)  # coco: one file, one split


def _read(name: str, place: str, split: str) -> Samples:
    if name == "coco":
        return coco.read(place)
    if name == "fairface":
        return fairface.read(place, "val" if split == "val" else "train")
    readers = {"widerface": widerface.read, "yolo": yolo.read, "voc": voc.read, "celebamask": celebamask.read}
    return readers[name](place, split)  # type: ignore[operator, no-any-return]


def drawn(task: Task, spec: Spec, text: str, count: int, detector: Detector | None = None) -> Material:
    """What to calibrate on: ``count`` pictures or chips, evenly drawn from a data set or a folder of photographs.

    Args:
        task: of the network.
        spec: says how chips are cut.
        text: ``NAME:PATH``, whose pictures for training are taken (of a classifier or parser they are chips), or a
            folder of photographs.
        count: the most.
        detector: finds the faces in photographs; not needed for detectors.

    Raises:
        UsageError, DataError: as :func:`read_samples`; or no picture, or none with a face, in the folder.
        ImageError: a picture of a data set cannot be read.
    """
    if is_data(text):
        samples = read_samples(task, text, training=True)
        paths: list[Path] = [s.path for s in _evenly(samples, count)]  # type: ignore[attr-defined]
        return paths if task == "detect" else [chip for path in paths if (chip := _whole(read(path), spec)) is not None]
    if not Path(text).is_dir():
        raise UsageError(f"{text} is neither a folder of photographs nor NAME:PATH of a data set; name one")
    sources, problems = expand([text])
    if problems:
        raise DataError(problems[0])
    files = [Path(source.path) for source in sources]
    if task == "detect":
        chosen = [path for path in _evenly(files, count) if _readable(path) is not None]
        if not chosen:
            raise DataError(f"no picture in {text} can be read; name another folder")
        return chosen
    assert detector is not None
    chips: list[Pixels] = []
    for path in _evenly(files, 4 * count):
        if len(chips) < count and (image := _readable(path)) is not None:
            cuts = [place for place in places(detector(image), spec) if place is not None]
            chips += [warp(image, place, spec.input.size) for place in cuts[: max(1, count // 20)]]
    if not chips:
        raise DataError(f"no face was found in the pictures of {text}; name a folder of photographs of people")
    return chips[:count]


def _whole(image: Pixels, spec: Spec) -> Pixels | None:
    return resized(image, spec.input.size) if min(image.shape[:2]) >= SMALLEST else None


def _readable(path: Path) -> Pixels | None:
    try:
        return read(path)
    except ImageError:
        return None


def _evenly(items: Sequence[T], count: int) -> list[T]:
    if len(items) <= count:
        return list(items)
    return [items[int(index)] for index in np.linspace(0, len(items) - 1, count)]


def figures(runner: Runner, samples: Samples) -> dict[str, float]:
    """The figures of a network by people's labels, 0..1.

    Of a detector, at the size that it was made for, average precision by face height (``easy``, ``medium``, ``hard``;
    those that have faces) and ``landmark_error``; of a classifier the accuracy of each head; of a parser ``mean_f1``
    and ``frequent_f1``.

    Raises:
        ImageError: a picture cannot be read.
        ModelFileError: a classifier of other labels.
    """
    first = samples[0]
    if isinstance(first, DetectionSample):
        return _detection(Detector(runner, min_score=MIN_SCORE), samples)  # type: ignore[arg-type]
    if isinstance(first, AttributeSample):
        classifier = Classifier(runner)
        fit = fitting(classifier, samples)  # type: ignore[arg-type]
        counts = {head: [0, 0] for head in classifier.heads}
        for start in range(0, len(fit), classifier.batch_size):
            part = fit[start : start + classifier.batch_size]
            logits = classifier.logits([classifier.whole_chip(read(s.path)) for s in part])
            for head, values in logits.items():
                truth = np.array([s.labels.get(head, -1) for s in part])
                counts[head][0] += int(((values.argmax(1) == truth) & (truth >= 0)).sum())
                counts[head][1] += int((truth >= 0).sum())
        return {head: right / total for head, (right, total) in counts.items() if total}
    result = parsing_benchmark.evaluate(Segmenter(runner).labels, samples)  # type: ignore[arg-type]
    return {name: result.figures[name] for name in ("mean_f1", "frequent_f1")}


class Agreement:
    """What a network said of some material, to hold others against."""

    def __init__(self, runner: Runner, material: Material) -> None:
        """Run the network on pictures (paths), or chips."""
        self.material = material
        self.task = runner.spec.task
        if self.task == "detect":
            self._samples = _said(Detector(runner, min_score=runner.spec.detection.min_score / 2), material)  # type: ignore[union-attr, arg-type]
            self.before = _detection(Detector(runner, min_score=MIN_SCORE), self._samples)
        else:
            self._answers = _answers(runner, material)  # type: ignore[arg-type]
            self.before = self._agreement(self._answers)

    def of(self, runner: Runner) -> dict[str, float]:
        """The figures of another network, 0..1, with what the first said as the truth."""
        if self.task == "detect":
            return _detection(Detector(runner, min_score=MIN_SCORE), self._samples)
        return self._agreement(_answers(runner, self.material))  # type: ignore[arg-type]

    def _agreement(self, answers: Mapping[str, NDArray[np.integer]]) -> dict[str, float]:
        if self.task == "classify":
            return {head: float((answers[head] == said).mean()) for head, said in self._answers.items()}
        truth, found = (a["labels"].astype(np.uint8) for a in (self._answers, answers))
        counts = parsing.confusion(truth.reshape(len(truth), -1), found.reshape(len(found), -1), len(CELEBAMASK_LABELS))
        return {"mean_f1": parsing.scores(counts).mean_f1}


def _said(detector: Detector, paths: Sequence[Path]) -> list[DetectionSample]:
    """What a detector finds, as labels: what is under its recommended threshold counts neither way."""
    assert detector.spec.detection is not None
    samples = []
    for number, path in enumerate(paths):
        faces = detector(path)
        assert faces.scores is not None
        none = np.full((len(faces), 5, 2), np.nan, np.float32)
        samples.append(
            DetectionSample(
                key=str(number),
                path=path,
                boxes=faces.boxes,
                landmarks=none if faces.landmarks is None else faces.landmarks,
                ignored=faces.scores < detector.spec.detection.min_score,
            )
        )
    if not _measurable(samples):
        raise DataError(
            f"no face of more than {_LOWEST:g} pixels in height was found in {len(paths)} pictures such as {paths[0]}; "
            "name photographs of people"
        )
    return samples


def _answers(runner: Runner, chips: Sequence[Pixels]) -> dict[str, NDArray[np.integer]]:
    if runner.spec.task == "classify":
        return {head: values.argmax(1) for head, values in Classifier(runner).logits(chips).items()}
    segmenter = Segmenter(runner)
    labels = [
        segmenter.numbers[segmenter.logits(chips[start : start + 8]).argmax(1)] for start in range(0, len(chips), 8)
    ]
    return {"labels": np.concatenate(labels)}


def _detection(detector: Detector, samples: Sequence[DetectionSample]) -> dict[str, float]:
    samples = [replace(sample, key=str(number)) for number, sample in enumerate(samples)]
    truth = wider.by_height({s.key: s.boxes for s in samples}, {s.key: s.ignored for s in samples})
    found, errors = {}, []
    for sample in samples:
        faces = detector(sample.path)
        assert faces.scores is not None
        found[sample.key] = (faces.boxes, faces.scores)
        if faces.landmarks is not None and len(faces) and len(sample.boxes):
            errors.append(_landmark_errors(faces, sample))
    curves = wider.score(found, truth)
    result = {name: curve.average_precision for name, curve in curves.items() if curve.faces}
    distances = np.concatenate([np.zeros(0), *errors])
    return result | ({ERROR: float(distances.mean())} if len(distances) else {})


def _landmark_errors(faces: Faces, sample: DetectionSample) -> NDArray[np.float64]:
    """Of each labelled face that was found: the mean distance of its points over the root of its box's area."""
    assert faces.landmarks is not None
    overlap = iou(sample.boxes, faces.boxes)
    best = overlap.argmax(1)
    hit = (overlap.max(1) >= 0.5) & ~sample.ignored & np.isfinite(sample.landmarks).all((1, 2))
    sides = np.sqrt(np.prod(sample.boxes[hit, 2:] - sample.boxes[hit, :2], axis=1))
    away = np.linalg.norm(faces.landmarks[best[hit]] - sample.landmarks[hit], axis=2).mean(1)
    return np.asarray(away / sides, np.float64)
