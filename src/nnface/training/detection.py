"""Training a detector: what :mod:`nnface.training.loop` needs to know of faces, boxes and points."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nnface.datasets.samples import DetectionSample, split
from nnface.errors import DataError
from nnface.metrics import wider
from nnface.metrics.operating_point import operating_point
from nnface.models.create import create, default_spec
from nnface.predict.detector import Detector
from nnface.runtime.torch import TorchRunner
from nnface.spec import Spec
from nnface.training.augment import detection as augment
from nnface.training.augment.detection import CropPolicy, Labelled
from nnface.training.initial import backbone
from nnface.training.inputs import normalised
from nnface.training.loading import load
from nnface.training.matching import Target
from nnface.training.objectives import AnchorFree, Objective, objective
from nnface.training.pictures import PictureCache, Pictures, Source
from nnface.training.recipe import Crops, DetectionRecipe
from nnface.training.task import Evaluation
from nnface.training.teacher import Teachers


@dataclass(frozen=True, slots=True)
class Batch:
    """Pictures of one size and their faces."""

    images: Tensor
    """(N, H, W, 3) uint8 BGR."""
    targets: list[Target]
    names: list[str]
    """Keys of the pictures that each was made of."""


class DetectionTask:
    """A :class:`nnface.training.task.Task` for detectors.

    Args:
        recipe: what to train.
        sources: name to pictures, as ``--data`` names them; a tenth of each is kept for choosing.
        device: where teachers run: the student's.

    Raises:
        DataError: a source that the recipe names is not there, or there is no face to train on.
        RecipeError: the loss is not one for the network.
        UsageError: no such network.
        ModelFileError: the recipe's backbone cannot be read or is not the network's.
        NnfaceError: a teacher cannot be opened, see :class:`nnface.training.teacher.Teachers`.
    """

    def __init__(
        self,
        recipe: DetectionRecipe,
        sources: Mapping[str, Sequence[DetectionSample]],
        device: str = "cpu",
    ) -> None:
        self.recipe = recipe
        self.init, origin = backbone(recipe.model)  # weights to start from instead of random ones
        spec = default_spec(recipe.model.architecture, licence=recipe.licence, **recipe.model.settings)
        provenance = {"recipe": recipe.name, **origin, **recipe.provenance}
        self._spec = replace(spec, input=replace(spec.input, size=recipe.size), provenance=provenance)
        self.teachers = Teachers(recipe.teacher, self._spec, recipe.crops.size, device)
        self._objective(32, 32, torch.device("cpu"))  # before anything is written: does the loss fit the network?
        data = recipe.data
        for key, names in (
            ("data.weights", data.weights),
            ("data.portraits", data.portraits),
            ("evaluation.sources", recipe.evaluation.sources),
        ):
            for name in names:
                if name not in sources:
                    raise DataError(
                        f"the recipe {recipe.name} wants data named {name!r} ({key}); give it with --data, or set {key}"
                    )
        halves = {name: split(samples) for name, samples in sources.items()}
        self.chosen = [s for name in recipe.evaluation.sources or halves for s in halves[name][1]]
        train = {name: list(sources[name]) if data.all_pictures else halves[name][0] for name in sources}
        cache = PictureCache(data.cache, data.cache_side)
        weights = {name: data.weights.get(name, 0.0 if data.weights else float(len(train[name]))) for name in train}
        parts = [Source(name=name, samples=train[name], weight=weights[name]) for name in train]
        self.pictures = Pictures(parts, cache, recipe.seed, bool(data.weights))
        if all(sample.ignored.all() for sample in self.pictures.everything):
            raise DataError("there is no labelled face in the pictures to train on")
        self.portraits = None
        if data.portraits and recipe.crops.sheets + recipe.crops.paste:
            portraits = [Source(name=n, samples=train[n], weight=float(len(train[n]))) for n in data.portraits]
            self.portraits = Pictures(portraits, cache, recipe.seed, True)
        self._fingerprint = _fingerprint(sources)

    def model(self) -> nn.Module:
        """The recipe's network with random weights, or the ones that it is to start from."""
        network = create(self.recipe.model.architecture, self.recipe.model.settings)
        if self.init is not None:
            network.load_state_dict(dict(self.init), strict=False)  # a backbone is a part of it
        return network

    def spec(self) -> Spec:
        """What the model file says of itself."""
        return self._spec

    def sizes(self) -> tuple[int, int]:
        """How many pictures it trains on, and how many are kept for choosing."""
        return len(self.pictures.everything), len(self.chosen)

    def batches(self, step: int, rank: int, world: int) -> Iterator[Batch]:
        """This process's parts of the steps from ``step`` on."""
        return load(self.sample, _collate, self.recipe.loop, step, rank, world)

    def counts(self, batch: Batch) -> dict[str, float]:
        """What the losses are divided by; see :mod:`nnface.training.objectives`."""
        return self._objective(batch.images.shape[1], batch.images.shape[2], torch.device("cpu")).counts(batch.targets)

    def loss(self, model: nn.Module, batch: Batch, counts: Mapping[str, float]) -> dict[str, Tensor]:
        """The weighted parts of the recipe's loss."""
        device = next(model.parameters()).device
        targets = [
            Target(boxes=t.boxes.to(device), landmarks=t.landmarks.to(device), ignore=t.ignore.to(device))
            for t in batch.targets
        ]
        images = batch.images.to(device)
        outputs = model(normalised(images, self._spec.input))
        judge = self._objective(images.shape[1], images.shape[2], device)
        with torch.autocast(device.type, enabled=False):
            losses = judge.losses(outputs, targets, counts)
            if self.teachers:
                assert isinstance(judge, AnchorFree)  # others have no cells in common with a teacher
                taught = judge.taught(outputs, *self.teachers.faces(images), counts)
                losses |= {name: self.recipe.teacher.weight * value for name, value in taught.items()}
        return losses

    def names(self, batch: Batch) -> list[str]:
        """The pictures that the batch was made of."""
        return batch.names

    def evaluate(self, model: nn.Module) -> Evaluation:
        """AP by face height on the tenth kept for choosing, through the ordinary predictor.

        Names are ``easy@640`` and so on; ``best`` is the mean of the three at the recipe's ``evaluation.best``, and NaN
        where there is no face to choose on. The score that the Spec recommends is fitted at that size too, where there
        are faces enough (:func:`nnface.metrics.operating_point.operating_point`).
        """
        figures: dict[str, float] = {}
        detection = self._spec.detection
        assert detection is not None  # a detector's Spec always has it
        truth = wider.by_height(
            {str(i): s.boxes for i, s in enumerate(self.chosen)}, {str(i): s.ignored for i, s in enumerate(self.chosen)}
        )
        for size in self.recipe.evaluation.sizes:
            detector = Detector(TorchRunner(model, self._spec), size=size, min_score=0.02)
            found = {}
            for start in range(0, len(self.chosen), 8):
                pictures = [s.path for s in self.chosen[start : start + 8]]
                for number, faces in enumerate(detector.batch(pictures), start):
                    assert faces.scores is not None
                    found[str(number)] = (faces.boxes, faces.scores)
            curves = wider.score(found, truth) if self.chosen else {}
            for setting, curve in curves.items():
                figures[f"{setting}@{size}"] = curve.average_precision
            if size == self.recipe.evaluation.best and (point := operating_point(found, truth)):
                detection = replace(detection, min_score=point.score)
        chosen = [v for k, v in figures.items() if k.endswith(f"@{self.recipe.evaluation.best}") and not np.isnan(v)]
        best = float(np.mean(chosen)) if chosen else float("nan")
        return Evaluation(figures, best, replace(self._spec, detection=detection))

    def fingerprint(self) -> str:
        """A hash over every picture's key and labels."""
        return self._fingerprint

    def sample(self, number: int) -> Labelled:
        """What the run sees under this number: a sheet, or a crop or mosaic that may bear portraits; augmented."""
        rng = np.random.default_rng([self.recipe.seed, 0, number])
        crops = self.recipe.crops
        kind = rng.random()
        policy = _policy(crops)
        if self.portraits is not None and kind < crops.sheets:
            result = augment.sheet(self.portraits.draw, crops.size, rng, crops.face_min, min(crops.face_max, 64.0))
        elif kind < crops.sheets + crops.mosaic:
            result = augment.mosaic(self.pictures.draw, crops.size, rng, policy)
        else:
            result = augment.random_crop(lambda r: self.pictures.nth(number, r), crops.size, crops.size, rng, policy)
        if self.portraits is not None and crops.paste and kind >= crops.sheets and rng.random() < crops.paste:
            result = augment.paste(result, self.portraits.draw, rng, crops.face_min, crops.face_max)
        if crops.occlude:
            result = augment.occlude(result, rng, crops.occlude)
        if crops.limbs:
            result = augment.limbs(result, rng, crops.limbs)
        if crops.photometric:
            result = replace(result, image=augment.photometric(result.image, rng))
        return augment.ignore_small(result, crops.smallest)

    def _objective(self, height: int, width: int, device: torch.device) -> Objective:
        detection = self._spec.detection
        assert detection is not None  # a detector's Spec always has it
        return objective(self.recipe.loss, detection, height, width, device)


def _collate(samples: list[Labelled]) -> Batch:
    return Batch(
        images=torch.from_numpy(np.stack([s.image for s in samples])),
        targets=[
            Target(
                boxes=torch.from_numpy(np.ascontiguousarray(s.boxes, np.float32)),
                landmarks=torch.from_numpy(np.ascontiguousarray(s.landmarks, np.float32)),
                ignore=torch.from_numpy(np.ascontiguousarray(s.ignored)),
            )
            for s in samples
        ],
        names=[name for s in samples for name in s.names],
    )


def _policy(crops: Crops) -> CropPolicy:
    return CropPolicy(
        anchored=crops.anchored,
        face_min=crops.face_min,
        face_max=crops.face_max,
        enlarge=crops.enlarge,
        cover=crops.cover,
        side_min=crops.side_min,
        side_max=crops.side_max,
        window=crops.window,
    )


def _fingerprint(sources: Mapping[str, Sequence[DetectionSample]]) -> str:
    digest = hashlib.sha256()
    for name, samples in sorted(sources.items()):
        digest.update(name.encode())
        for sample in samples:
            arrays: list[NDArray[Any]] = [sample.boxes, sample.landmarks, sample.ignored]
            digest.update(b"".join(chain([sample.key.encode()], (np.ascontiguousarray(a).tobytes() for a in arrays))))
    return digest.hexdigest()
