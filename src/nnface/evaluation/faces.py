"""A detector measured on any labelled pictures: people's own, of which there is no benchmark."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from nnface.datasets.samples import DetectionSample
from nnface.evaluation.agreement import read_samples
from nnface.evaluation.protocol import Measured, parse_protocol
from nnface.header import read_spec
from nnface.metrics import wider
from nnface.metrics.operating_point import OperatingPoint, at_score
from nnface.report.table import Table, percent
from nnface.zoo import resolve


def opened(model: str, protocol: str | None, device: str = "cpu", threads: int | None = None) -> Measured:
    """A detector under a protocol (:func:`nnface.evaluation.protocol.parse_protocol`), or at the size it is made for.

    Raises:
        NnfaceError: as :class:`nnface.evaluation.protocol.Measured`.
        UsageError: no such protocol.
    """
    chosen = parse_protocol(protocol or str(read_spec(resolve(model)).input.size))
    return Measured(model, chosen, device, threads)


def read(data: str, *, whole: bool = False) -> list[DetectionSample]:
    """The pictures to measure on, of ``NAME:PATH``; see :func:`nnface.evaluation.agreement.read_samples`."""
    return cast(list[DetectionSample], read_samples("detect", data, training=False, whole=whole))


def pictures(samples: Sequence[DetectionSample]) -> dict[str, Path]:
    """Each picture by its path: two of one name but for the folder or the suffix are two."""
    return {str(s.path): s.path for s in samples}


def truth(samples: Sequence[DetectionSample]) -> wider.Truth:
    """The faces of each of :func:`pictures`, in settings by their height."""
    return wider.by_height({str(s.path): s.boxes for s in samples}, {str(s.path): s.ignored for s in samples})


def reported(detector: Measured, predictions: Mapping[str, wider.Prediction], faces: wider.Truth) -> OperatingPoint:
    """What people get to see of it: at the score that its Spec recommends."""
    assert detector.spec.detection is not None  # it was opened as a detector
    return at_score(predictions, faces, detector.spec.detection.min_score)


def points_table(names: Sequence[str], points: Sequence[OperatingPoint]) -> Table:
    """The result of :func:`reported` of each detector."""
    rows = [
        [name, f"{point.score:.2f}", percent(point.precision), percent(point.recall)]
        for name, point in zip(names, points, strict=True)
    ]
    columns = ["model", "from a score of", "right, of the boxes", "found, of the faces"]
    return Table("What is reported, of more than 30 pixels in height", columns, rows)
