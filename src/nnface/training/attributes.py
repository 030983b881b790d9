"""Training a classifier of perceived attributes: what :mod:`nnface.training.loop` needs to know of chips and labels."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nnface.datasets.fairface import four_races
from nnface.datasets.samples import AttributeSample, split
from nnface.errors import DataError, RecipeError
from nnface.models.create import create
from nnface.predict.chips import resized
from nnface.predict.classifier import Classifier
from nnface.runtime.torch import TorchRunner
from nnface.spec import Spec
from nnface.training.augment import attributes as augment
from nnface.training.initial import backbone
from nnface.training.inputs import normalised, square_spec
from nnface.training.loading import load
from nnface.training.losses.attributes import disagreement, soft_cross_entropy, soft_labels
from nnface.training.pictures import PictureCache
from nnface.training.recipe import AttributesRecipe
from nnface.training.task import Evaluation
from nnface.training.teacher import Teachers, learned


@dataclass(frozen=True, slots=True)
class Batch:
    """Chips of one size and their labels."""

    images: Tensor
    """(N, S, S, 3) uint8 BGR."""
    labels: Mapping[str, Tensor]
    """For each head (N,) int64, -1 where there is none."""
    others: Mapping[str, Tensor]
    """The labels of the chip that lies over each."""
    shares: Tensor
    """(N,) float32: what each counts by its own labels, 1 where no other chip lies over it; the rest by the other's."""
    names: list[str]
    others_names: list[str]


@dataclass(frozen=True, slots=True)
class Chip:
    """What the run sees under a number: a chip, perhaps with another one laid over it."""

    image: NDArray[np.uint8]
    """(S, S, 3) BGR."""
    own: AttributeSample
    other: AttributeSample
    """What lies over it; the same where nothing does."""
    share: float
    """How much of the picture is the chip's own, 0 to 1."""


class AttributesTask:
    """A :class:`nnface.training.task.Task` for classifiers.

    Args:
        recipe: what to train.
        sources: name to chips, as ``--data`` names them; a tenth of each is kept for choosing.
        device: where teachers run: the student's.
    """

    def __init__(
        self,
        recipe: AttributesRecipe,
        sources: Mapping[str, Sequence[AttributeSample]],
        device: str = "cpu",
    ) -> None:
        self.recipe = recipe
        self.init, origin = backbone(recipe.model)  # weights to start from instead of random ones
        self._spec = square_spec(recipe, origin)
        self.teachers = Teachers(recipe.teacher, self._spec, recipe.augment.size, device)
        assert self._spec.classification is not None  # a classifier's Spec always has it
        self.heads = self._spec.classification.heads
        if len(self.heads["race"]) != recipe.data.races:
            raise RecipeError(
                f"{recipe.name}: data.races is {recipe.data.races}, but the network has {len(self.heads['race'])} "
                f"races; set model.settings.races to {recipe.data.races} too"
            )
        for part in (recipe.loss.weights, recipe.loss.neighbours, recipe.loss.balance):
            for name in part:
                if name not in self.heads:
                    raise RecipeError(
                        f"{recipe.name}: the loss names a head {name!r}; there are {', '.join(self.heads)}"
                    )
        prepare = four_races if recipe.data.races == 4 else list
        halves = [split(prepare(samples)) for samples in sources.values()]
        self.chosen = [s for _, chosen in halves for s in chosen]
        self.train = [s for train, _ in halves for s in train]
        if recipe.data.all_pictures:
            self.train += self.chosen
        if not self.train:
            raise DataError("there is no chip to train on")
        self._require_pairs(1)  # before the run's folder is made; of several processes each looks again
        self.cache = PictureCache(recipe.data.cache, recipe.data.cache_side)
        self._fingerprint = _fingerprint(sources)
        self.soft = {
            name: soft_labels(len(labels), recipe.loss.smoothing, recipe.loss.neighbours.get(name, 0.0))
            for name, labels in self.heads.items()
        }
        self.priors = {name: self._prior(name) for name in self.heads}

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
        """This process's parts from ``step`` on; part p of a step holds its p-th share of the step's numbers.

        Raises:
            RecipeError: chips come in pairs, and a part would part one.
        """
        self._require_pairs(world)
        return load(self.sample, self._collate, self.recipe.loop, step, rank, world)

    def _require_pairs(self, world: int) -> None:
        loop = self.recipe.loop
        if self.recipe.loss.agreement and loop.batch // (world * loop.accumulate) % 2:
            raise RecipeError(
                f"{self.recipe.name}: chips come in pairs (loss.agreement), so loop.batch over processes times "
                "accumulated parts must be even"
            )

    def counts(self, batch: Batch) -> dict[str, float]:
        """For each head the labels that there are; and the chips."""
        counts = {
            name: float((batch.shares * (labels >= 0) + (1 - batch.shares) * (batch.others[name] >= 0)).sum())
            for name, labels in batch.labels.items()
        }
        return {**counts, "chips": float(len(batch.images))}

    def loss(self, model: nn.Module, batch: Batch, counts: Mapping[str, float]) -> dict[str, Tensor]:
        """The weighted loss of each head; of all together ``agreement`` and, where there are teachers, ``taught``."""
        device = next(model.parameters()).device
        images = batch.images.to(device)
        outputs = model(normalised(images, self._spec.input))
        taught = self.teachers.probabilities(images) if self.teachers else {}
        plan, losses = self.recipe.teacher, {}
        for name, logits in outputs.items():
            weight = self.recipe.loss.weights.get(name, 0.0)
            if not weight:
                continue
            with torch.autocast(device.type, enabled=False):
                losses[name] = weight * self._of_labels(name, logits.float(), batch) / max(counts[name], 1.0)
                if taught:
                    apart = learned(logits.float(), taught[name], plan.temperature).sum() / max(counts["chips"], 1.0)
                    losses["taught"] = losses.get("taught", 0.0) + plan.weight * weight * apart
        agreement = self.recipe.loss.agreement
        if agreement:  # of all heads together, in pairs of rows
            with torch.autocast(device.type, enabled=False):
                apart = torch.stack([disagreement(logits.float()) for logits in outputs.values()]).sum()
            losses["agreement"] = agreement * apart / max(counts["chips"], 1.0)
        return losses

    def _of_labels(self, name: str, logits: Tensor, batch: Batch) -> Tensor:
        """The cross-entropy of a head with the chips' own labels and those of what lies over them."""
        soft, prior = self.soft[name].to(logits.device), self.priors[name]
        shifted = logits if prior is None else logits + prior.to(logits.device)
        shares = batch.shares.to(logits.device)
        total = soft_cross_entropy(shifted, batch.labels[name].to(logits.device), soft, shares)
        if self.recipe.augment.mixup:
            total = total + soft_cross_entropy(shifted, batch.others[name].to(logits.device), soft, 1 - shares)
        return total

    def names(self, batch: Batch) -> list[str]:
        """The pictures of the batch, those that lie over others too."""
        return sorted({*batch.names, *batch.others_names})

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Accuracies on the tenth kept for choosing, through the ordinary predictor.

        ``race``, ``gender``, ``age`` exact, ``age_within_1``, ``worst_race`` (the recall of the race that fares
        worst); ``best`` as the recipe weighs them, NaN without chips to choose on.
        """
        if not self.chosen:
            return Evaluation({}, float("nan"), self._spec)
        classifier = Classifier(TorchRunner(model, self._spec), batch=64)
        chips = [resized(np.asarray(self.cache.load(s.path)[0]), classifier.size) for s in self.chosen]
        logits = classifier.logits(chips)
        figures: dict[str, float] = {}
        for name, rows in logits.items():
            labels = np.array([s.labels[name] for s in self.chosen])
            there, found = labels >= 0, rows.argmax(1)
            figures[name] = float((found == labels)[there].mean()) if there.any() else 0.0
            if name == "age":
                figures["age_within_1"] = float((abs(found - labels) <= 1)[there].mean()) if there.any() else 0.0
            if name == "race":
                recalls = [float((found == k)[labels == k].mean()) for k in range(rows.shape[1]) if (labels == k).any()]
                figures["worst_race"] = min(recalls, default=0.0)
        share = self.recipe.evaluation.worst_race
        mean = float(np.mean([figures[name] for name in self.heads]))
        return Evaluation(figures, (1 - share) * mean + share * figures["worst_race"], self._spec)

    def fingerprint(self) -> str:
        """A hash over every chip's key and labels."""
        return self._fingerprint

    def sample(self, number: int) -> Chip:
        """What the run sees under this number: each chip once an epoch, varied; in pairs where they shall agree."""
        turn = number // 2 if self.recipe.loss.agreement else number
        epoch, place = divmod(turn, len(self.train))
        own = self.train[self._order(epoch)[place]]
        rng = np.random.default_rng([self.recipe.seed, 0, number])
        image = self._varied(own, number, rng)
        alpha = self.recipe.augment.mixup
        if not alpha:
            return Chip(image, own, own, 1.0)
        pair_rng = np.random.default_rng([self.recipe.seed, 2, turn])  # a pair has the same other chip, as strong
        other, share = self.train[int(pair_rng.integers(len(self.train)))], float(pair_rng.beta(alpha, alpha))
        over = self._varied(other, number, rng)
        return Chip(np.asarray(cv2.addWeighted(image, share, over, 1 - share, 0.0), np.uint8), own, other, share)

    def _varied(self, sample: AttributeSample, number: int, rng: np.random.Generator) -> NDArray[np.uint8]:
        image, _ = self.cache.load(sample.path)
        return augment.vary(image, self.size_at(number), rng, self.recipe.augment)

    def size_at(self, number: int) -> int:
        """The side of the chips of the step that sample ``number`` belongs to."""
        plan, loop = self.recipe.augment, self.recipe.loop
        progress = min(1.0, number // loop.batch / max(loop.steps * plan.growth, 1))
        return plan.size_start + int((plan.size - plan.size_start) * progress / 8) * 8 if progress < 1 else plan.size

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if self._known_order is None or self._known_order[0] != epoch:
            order = np.random.default_rng([self.recipe.seed, 1, epoch]).permutation(len(self.train))
            self._known_order = (epoch, order)
        return self._known_order[1]

    _known_order: tuple[int, NDArray[np.int64]] | None = None

    def _prior(self, head: str) -> Tensor | None:
        power = self.recipe.loss.balance.get(head, 0.0)
        if not power:
            return None
        labels = np.array([s.labels[head] for s in self.train])
        counts = np.bincount(labels[labels >= 0], minlength=len(self.heads[head]))
        return torch.from_numpy(power * np.log(np.maximum(counts, 1) / max(counts.sum(), 1))).float()

    def _collate(self, chips: list[Chip]) -> Batch:
        return Batch(
            images=torch.from_numpy(np.stack([chip.image for chip in chips])),
            labels={name: torch.tensor([chip.own.labels[name] for chip in chips]) for name in self.heads},
            others={name: torch.tensor([chip.other.labels[name] for chip in chips]) for name in self.heads},
            shares=torch.tensor([chip.share for chip in chips]),
            names=[chip.own.key for chip in chips],
            others_names=[chip.other.key for chip in chips],
        )


def _fingerprint(sources: Mapping[str, Sequence[AttributeSample]]) -> str:
    digest = hashlib.sha256()
    for name, samples in sorted(sources.items()):
        digest.update(name.encode())
        for sample in samples:
            digest.update(f"{sample.key} {sorted(sample.labels.items())}".encode())
    return digest.hexdigest()
