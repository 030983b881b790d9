"""What is done with every picture: a task, its models and the options that decide what comes out."""

from dataclasses import dataclass
from typing import Any, Literal

from nnface.predict.analyzer import Analyzer
from nnface.predict.classifier import Classifier
from nnface.predict.detector import Detector, Size
from nnface.predict.segmenter import Segmenter


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Models by name or file, and options, as the command line takes them; it travels to other machines as it is."""

    task: Literal["detect", "classify", "segment", "analyze"]
    detector: str | None
    """None: each picture is a face chip, or a portrait, already."""
    classifier: str | None = None
    segmenter: str | None = None
    device: str = "cpu"
    size: Size = None
    """As ``min_score`` and ``tile``: of the detector."""
    min_score: float | None = None
    tile: int | None = None

    @property
    def models(self) -> dict[str, str]:
        """Name or file of each model, by what it is for."""
        roles = {"detector": self.detector, "classifier": self.classifier, "segmenter": self.segmenter}
        return {role: model for role, model in roles.items() if model is not None}

    @property
    def options(self) -> dict[str, Any]:
        """What changes the results beside the models, as JSON values; devices agree up to rounding."""
        return {"size": self.size, "min_score": self.min_score, "tile": self.tile}

    def open(self, threads: int) -> Detector | Analyzer:
        """Open the models, with so many threads for a network.

        Raises:
            UsageError: an impossible option.
            ModelFileError: no such model, a damaged one, or one of another task.
            DeviceError: the device is not there.
        """
        detector = classifier = segmenter = None
        if self.detector is not None:
            detector = Detector(
                self.detector,
                device=self.device,
                threads=threads,
                size=self.size,
                min_score=self.min_score,
                tile=self.tile,
            )
            if self.task == "detect":
                return detector
        if self.classifier is not None:
            classifier = Classifier(self.classifier, device=self.device, threads=threads)
        if self.segmenter is not None:
            segmenter = Segmenter(self.segmenter, device=self.device, threads=threads)
        return Analyzer(detector, classifier, segmenter, chips=detector is None)
