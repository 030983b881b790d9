"""Training a parser of portraits: what :mod:`nnface.training.loop` needs to know of pixels and parts."""

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nnface.datasets.celebamask import read_mask
from nnface.datasets.samples import SegmentationSample, split
from nnface.errors import DataError, RecipeError
from nnface.files import sha256
from nnface.metrics import parsing
from nnface.models.create import create
from nnface.runtime.torch import TorchRunner
from nnface.spec import CELEBAMASK_LABELS, Spec
from nnface.training.augment import segmentation as augment
from nnface.training.initial import backbone
from nnface.training.inputs import normalised, square_spec
from nnface.training.loading import load
from nnface.training.losses.segmentation import cross_entropy, dice, ohem_cross_entropy
from nnface.training.pictures import PictureCache
from nnface.training.recipe import SegmentationRecipe
from nnface.training.task import Evaluation
from nnface.training.teacher import Teachers, learned, on_grid


@dataclass(frozen=True, slots=True)
class Batch:
    """Portraits and their label images."""

    images: Tensor
    """(N, S, S, 3) uint8 BGR."""
    labels: Tensor
    """(N, L, L) uint8, 255 where nothing counts."""
    names: list[str]


class SegmentationTask:
    """A :class:`nnface.training.task.Task` for parsers.

    Args:
        recipe: what to train.
        sources: name to portraits, as ``--data`` names them; a tenth of each is kept for choosing. A portrait that is
            in several of them, with the same key and the same label image, counts once; other portraits of one key
            count each, and are chosen or trained on together.
        device: where teachers run: the student's.
    """

    def __init__(
        self, recipe: SegmentationRecipe, sources: Mapping[str, Sequence[SegmentationSample]], device: str = "cpu"
    ) -> None:
        self.recipe = recipe
        self.init, origin = backbone(recipe.model)  # weights to start from instead of random ones
        self._spec = square_spec(recipe, origin)
        self.teachers = Teachers(recipe.teacher, self._spec, recipe.augment.size, device)
        assert self._spec.segmentation is not None  # a parser's Spec always has it
        if self._spec.segmentation.labels != CELEBAMASK_LABELS:
            raise RecipeError(
                f"{recipe.name}: the network {recipe.model.architecture} has its labels in another order than "
                "CelebAMask-HQ, in which trainings count; set model.settings.labels to 'celebamask'"
            )
        for part in recipe.data.rare:
            if part not in CELEBAMASK_LABELS:
                raise RecipeError(f"{recipe.name}: data.rare names {part!r}; there are {', '.join(CELEBAMASK_LABELS)}")
        everything = _each_once(sample for samples in sources.values() for sample in samples)
        self.train, self.chosen = split(everything)
        if recipe.data.all_pictures:
            self.train += self.chosen
        if not self.train:
            raise DataError("there is no portrait to train on")
        self.chosen = sorted(self.chosen, key=lambda s: s.key)[: recipe.evaluation.most]
        self.cache = PictureCache(recipe.data.cache, recipe.data.cache_side)
        self._fingerprint = _fingerprint(everything)
        self._known_pixels: NDArray[np.int64] | None = None
        self._packed: dict[Path, tuple[tuple[int, ...], bytes]] = {}

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
        return len(self.train), len(self.chosen)

    def batches(self, step: int, rank: int, world: int) -> Iterator[Batch]:
        """This process's parts from ``step`` on; part p of a step holds its p-th share of the step's numbers."""
        return load(self.sample, _collate, self.recipe.loop, step, rank, world)

    def counts(self, batch: Batch) -> dict[str, float]:
        """How many portraits: every loss is a mean over them."""
        return {"portraits": float(len(batch.images))}

    def loss(self, model: nn.Module, batch: Batch, counts: Mapping[str, float]) -> dict[str, Tensor]:
        """Cross-entropy and Dice, of auxiliary outputs together as ``auxiliary``; from teachers ``taught``."""
        device = next(model.parameters()).device
        images = batch.images.to(device)
        outputs = model(normalised(images, self._spec.input))
        labels = batch.labels.to(device).long()
        losses: dict[str, Tensor] = {}
        for name, logits in outputs.items():
            with torch.autocast(device.type, enabled=False):
                parts = self._losses(on_grid(logits.float(), labels.shape[-2:]), labels)
            if name == "logits":
                losses |= parts
            elif self.recipe.loss.auxiliary:
                weight = self.recipe.loss.auxiliary
                losses["auxiliary"] = losses.get("auxiliary", 0.0) + weight * torch.stack(list(parts.values())).sum()
        if self.teachers:
            with torch.autocast(device.type, enabled=False):
                losses["taught"] = self.recipe.teacher.weight * self._taught(outputs["logits"].float(), images, labels)
        return {name: value / counts["portraits"] for name, value in losses.items()}

    def names(self, batch: Batch) -> list[str]:
        """The pictures of the batch."""
        return batch.names

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Figures on the tenth kept for choosing, at the label images' own size.

        ``f1_18`` and ``f1_14``, the mean F1 over all parts and over the frequent ones, and ``iou`` with background;
        ``best`` as the recipe weighs the first two, NaN without portraits to choose on.
        """
        if not self.chosen:
            return Evaluation({}, float("nan"), self._spec)
        runner, size = TorchRunner(model, self._spec), self.recipe.augment.size
        matrix = np.zeros((len(CELEBAMASK_LABELS),) * 2, np.int64)
        for sample in self.chosen:
            truth = self._mask(sample.mask)
            image = cv2.resize(self.cache.load(sample.path)[0], (size, size), interpolation=cv2.INTER_AREA)
            pixels = normalised(torch.from_numpy(np.asarray(image)[None]), self._spec.input).numpy()
            logits = np.ascontiguousarray(runner.run(pixels)["logits"][0].transpose(1, 2, 0))
            found = cv2.resize(logits, truth.shape[::-1], interpolation=cv2.INTER_LINEAR).argmax(2)
            matrix += parsing.confusion(truth, found.astype(np.uint8), len(CELEBAMASK_LABELS))
        scores = parsing.scores(matrix)
        share = self.recipe.evaluation.frequent
        figures = {"f1_18": scores.mean_f1, "f1_14": scores.frequent_f1, "iou": scores.mean_iou}
        return Evaluation(figures, share * scores.frequent_f1 + (1 - share) * scores.mean_f1, self._spec)

    def fingerprint(self) -> str:
        """A hash over every portrait's key and its label image."""
        return self._fingerprint

    def sample(self, number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], str]:
        """What the run sees under this number: portrait, label image, name. Each once an epoch, or by its weight."""
        rng = np.random.default_rng([self.recipe.seed, 0, number])
        chosen = self.train[self._pick(number, rng)]
        image, _ = self.cache.load(chosen.path)
        varied, labels = augment.vary(image, self._mask(chosen.mask), rng, self.recipe.augment)
        return varied, labels, chosen.key

    def _pick(self, number: int, rng: np.random.Generator) -> int:
        if self.recipe.data.rare_weight > 1:
            return int(np.searchsorted(self._shares(), rng.random(), side="right").clip(0, len(self.train) - 1))
        epoch, place = divmod(number, len(self.train))
        if self._known_order is None or self._known_order[0] != epoch:
            order = np.random.default_rng([self.recipe.seed, 1, epoch]).permutation(len(self.train))
            self._known_order = (epoch, order)
        return int(self._known_order[1][place])

    _known_order: tuple[int, NDArray[np.int64]] | None = None
    _known_shares: NDArray[np.float64] | None = None
    _known_weights: Tensor | None = None

    def _shares(self) -> NDArray[np.float64]:
        """(portraits,) rising to 1: where each one's share of all draws ends."""
        if self._known_shares is None:
            rare = [CELEBAMASK_LABELS.index(name) for name in self.recipe.data.rare]
            shown = self._pixels()[:, rare].any(1)
            weights = np.where(shown, self.recipe.data.rare_weight, 1.0)
            self._known_shares = np.cumsum(weights / weights.sum())
        return self._known_shares

    def _pixels(self) -> NDArray[np.int64]:
        """(portraits, labels): the pixels of each label in each portrait's label image."""
        if self._known_pixels is None:
            count = len(CELEBAMASK_LABELS)
            rows = [np.bincount(self._mask(s.mask).ravel(), minlength=count)[:count] for s in self.train]
            self._known_pixels = np.stack(rows)
        return self._known_pixels

    def _label_weights(self) -> Tensor:
        """(labels,): what a pixel of each label counts, in pixels; the average pixel counts 1."""
        if self._known_weights is None:
            plan = self.recipe.loss
            if plan.balance:
                shares = self._pixels().sum(0) / self._pixels().sum()
                weights = np.maximum(shares, 1e-9) ** -plan.balance
                weights = np.minimum(weights / (weights * shares).sum(), plan.balance_most)
            else:
                weights = np.ones(len(CELEBAMASK_LABELS))
            self._known_weights = torch.from_numpy(weights).float()
        return self._known_weights

    def _mask(self, path: Path) -> NDArray[np.uint8]:
        """A label image; kept packed in memory, some ten kilobytes each, for inflating is quicker than reading PNG."""
        if path not in self._packed:
            mask = read_mask(path)
            self._packed[path] = mask.shape, zlib.compress(mask.tobytes(), 1)
        shape, packed = self._packed[path]
        return np.frombuffer(zlib.decompress(packed), np.uint8).reshape(shape)

    def _losses(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        plan = self.recipe.loss
        losses: dict[str, Tensor] = {}
        if plan.cross_entropy and plan.hardest:  # mined in each portrait, so that several processes equal one
            least = labels[0].numel() // 16
            mined = [
                ohem_cross_entropy(a, b, plan.hardest, least)
                for a, b in zip(logits[:, None], labels[:, None], strict=True)
            ]
            losses["cross_entropy"] = plan.cross_entropy * torch.stack(mined).sum()
        elif plan.cross_entropy:
            losses["cross_entropy"] = plan.cross_entropy * cross_entropy(
                logits, labels, self._label_weights().to(logits.device), plan.outlines
            )
        if plan.dice:
            losses["dice"] = plan.dice * dice(logits, labels)
        return losses

    def _taught(self, logits: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """The sum over the portraits of each one's mean difference from the teachers, over its pixels."""
        size, inside = labels.shape[-2:], labels != augment.IGNORED
        taught = self.teachers.probabilities(images, size)["logits"]
        apart = learned(on_grid(logits, size), taught, self.recipe.teacher.temperature) * inside
        return (apart.sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)).sum()


def _collate(samples: list[tuple[NDArray[np.uint8], NDArray[np.uint8], str]]) -> Batch:
    images, labels, names = zip(*samples, strict=True)
    return Batch(
        images=torch.from_numpy(np.stack(images)), labels=torch.from_numpy(np.stack(labels)), names=list(names)
    )


def _each_once(samples: Iterable[SegmentationSample]) -> list[SegmentationSample]:
    """Without repeated portraits, of which the last one counts, in the order of their keys' first ones."""
    by_key: dict[str, list[SegmentationSample]] = {}
    for sample in samples:
        there = by_key.setdefault(sample.key, [])
        place = next((n for n, other in enumerate(there) if _same_labels(sample.mask, other.mask)), len(there))
        there[place : place + 1] = [sample]
    return [sample for there in by_key.values() for sample in there]


def _same_labels(one: Path, other: Path) -> bool:
    """Whether it is one portrait, however its files were encoded: no two of them have the same label image."""
    return one == other or np.array_equal(read_mask(one), read_mask(other))


def _fingerprint(samples: Sequence[SegmentationSample]) -> str:
    digest = hashlib.sha256()
    for key, labels in sorted((sample.key, sha256(sample.mask)) for sample in samples):
        digest.update(f"{key} {labels}\n".encode())
    return digest.hexdigest()
