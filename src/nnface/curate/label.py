"""Pseudo-labels: a draft of a data set, written by a model, for people to correct."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePath

import numpy as np

from nnface.datasets.samples import DetectionSample, empty_landmarks
from nnface.predict.detector import Detector
from nnface.predict.source import Source
from nnface.predict.stream import Failure, pictures
from nnface.results import Faces


def label(
    sources: Iterable[Source],
    detector: Detector,
    min_score: float,
    *,
    workers: int | None = None,
    batch: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Iterator[DetectionSample | Failure]:
    """Each picture with the faces that the detector finds, in order.

    Args:
        sources: pictures, of :func:`nnface.predict.source.expand`.
        detector: opened with ``threads=1`` where there are several workers; what it finds from its own ``min_score`` on
            is told.
        min_score: a weaker face is an ignore region: neither a face nor background.
        workers: threads; None: one a core.
        batch: pictures that a worker takes at a time.
        advance: called after each picture.

    Yields:
        for each picture its sample, the key being its path below the folder that was named; or why it cannot be read.
    """
    named = list(sources)
    found = pictures(detector, (source.path for source in named), workers=workers, batch=batch)
    for source, faces in zip(named, found, strict=True):
        yield faces if isinstance(faces, Failure) else _sample(source, faces, min_score)
        advance()


def unlabelled(source: Source) -> DetectionSample:
    """The sample of a picture before it was looked at."""
    return _sample(source, Faces(width=0, height=0, boxes=np.zeros((0, 4), np.float32), scores=None), 0.0)


def _sample(source: Source, faces: Faces, min_score: float) -> DetectionSample:
    boxes = np.clip(faces.boxes, 0, np.array([faces.width, faces.height] * 2, np.float32))
    keep = (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
    scores = faces.scores if faces.scores is not None else np.ones(len(faces), np.float32)
    points = faces.landmarks if faces.landmarks is not None else empty_landmarks(len(faces))
    return DetectionSample(
        key=PurePath(source.inside).with_suffix("").as_posix(),
        path=Path(source.path),
        boxes=boxes[keep],
        landmarks=points[keep],
        ignored=(scores < min_score)[keep],
    )
