"""Recipes: what a training does, as typed values. A recipe builds nothing and imports no torch.

Written as TOML, checked on load by pydantic (an unknown key is an error that names the nearest one), and overridden on
the command line with ``--set optimizer.lr=0.01``. The recipes that ship lie in ``training/recipes``.
"""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nnface.errors import RecipeError
from nnface.training.recipes import shipped

NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Part(BaseModel):
    """A part of a recipe: frozen, and strict about unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class Model(Part):
    """The network."""

    architecture: str
    """Its name in nnface.models.create."""
    settings: dict[str, Any] = {}
    """Its keyword arguments."""
    backbone: Path | None = None
    """A published ImageNet backbone that the body of a RetinaFace or BiSeNet, or a ResNet or MobileNetV2 classifier,
    starts from: a state dictionary of torchvision, or biubug6's ``mobilenetV1X0.25_pretrain.tar``."""


class Optimizer(Part):
    """SGD with momentum or AdamW."""

    name: Literal["sgd", "adamw"] = "adamw"
    lr: float = Field(1e-3, gt=0)
    """The learning rate for ``lr_batch`` pictures a step."""
    lr_batch: int = Field(32, ge=1)
    """The batch that ``lr`` was chosen for."""
    lr_rule: Literal["linear", "sqrt", "none"] = "linear"
    """How the rate moves with the batch: batch and rate belong together (Goyal et al. 2017), so that changing
    ``loop.batch`` or the number of processes keeps the recipe valid. The true rate is printed."""
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    """Not applied to batch norms and biases."""
    decay_all: bool | None = None
    """Apply it to those too, as the published detectors' trainings do; absent: no."""
    clip_norm: float = Field(0.0, ge=0)
    """Gradients are scaled down to this norm; 0: never."""


class Schedule(Part):
    """The learning rate over the steps."""

    shape: Literal["cosine", "steps", "constant"] = "cosine"
    warmup: int = Field(0, ge=0)
    """Steps of linear rise from nothing."""
    final: float = Field(0.0, ge=0, le=1)
    """cosine: the share of the rate that is left at the end."""
    milestones: list[Share] = []
    """steps: where the rate falls, in shares of all steps."""
    gamma: float = Field(0.1, gt=0, le=1)
    """steps: what it is multiplied by."""


class Loop(Part):
    """The loop: how long, how large, how precise."""

    steps: int = Field(ge=1)
    """Optimizer steps in all."""
    batch: int = Field(32, ge=1)
    """Pictures in an optimizer step, over all processes and accumulated parts."""
    accumulate: int = Field(1, ge=1)
    """Parts that a process's share of the batch is computed in, to fit the memory."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 is autocast: weights, losses and optimizer stay float32."""
    channels_last: bool = True
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay of the averaged weights, which are the ones that are evaluated and shipped; 0: none."""
    freeze_batch_norm: bool = False
    """Batch norms use their stored statistics: fine-tuning with small batches, and exact agreement of processes."""
    evaluate_every: int = Field(1000, ge=1)
    save_every: int = Field(200, ge=1)
    log_every: int = Field(20, ge=1)
    workers: int = Field(0, ge=0)
    """Loader processes, one thread each; 0: in the training process (best where each core has a training)."""


class Crops(Part):
    """Random crops. Faces are measured by the root of their area, in pixels of the crop."""

    size: int = Field(320, ge=32)
    """Side of the square crop, the network's input in training."""
    anchored: float = Field(0.5, ge=0, le=1)
    """Share of crops laid around a face, which gets a size from face_min to face_max."""
    face_min: float = Field(8.0, gt=0)
    face_max: float = Field(200.0, gt=0)
    enlarge: float = Field(2.0, gt=0)
    """Largest magnification of a picture."""
    cover: float = Field(0.85, ge=0, le=1)
    """The least share of the crop's width or height that the picture covers, however small the face should be."""
    side_min: float = Field(0.3, gt=0)
    """The other crops' height in short sides of the picture, from side_min to side_max, padded beyond it."""
    side_max: float = Field(2.0, gt=0)
    window: Literal["inside", "whole"] | None = None
    """How the other crops lie. ``inside``: biubug6's, never beyond the picture (side_max is at most 1) and with a whole
    face in them, or else the whole picture; ``whole``: always the whole picture, padded to a square; absent: freely."""
    smallest: float = Field(4.0, ge=0)
    """Smaller faces are ignore regions."""
    mosaic: float = Field(0.0, ge=0, le=1)
    """Share of mosaics of four crops."""
    sheets: float = Field(0.0, ge=0, le=1)
    """Share of sheets of small portraits from the sources named in ``data.portraits``."""
    paste: float = Field(0.0, ge=0, le=1)
    """Share of the other crops over which such portraits are laid, their faces from face_min to face_max."""
    occlude: float = Field(0.0, ge=0, le=1)
    """Share of faces that are partly covered."""
    limbs: float = Field(0.0, ge=0, le=1)
    """Share of faces across which a band lies, as the raised arms of a crowd do."""
    photometric: bool = True

    @model_validator(mode="after")
    def _least_is_not_above_most(self) -> Self:
        for name in ("face", "side"):
            least, most = getattr(self, f"{name}_min"), getattr(self, f"{name}_max")
            if least > most:
                raise ValueError(f"{name}_min is {least:g}, above {name}_max, {most:g}")
        return self


class DetectionData(Part):
    """Where pictures come from and how often; names are the labels of ``--data`` (a COCO file's stem)."""

    weights: dict[str, NotNegative] = {}
    """Relative frequency of each source; empty: every picture equally often, each once an epoch."""
    portraits: list[str] = []
    """Sources for ``crops.sheets`` and ``crops.paste``; used for nothing else unless they have a weight."""
    all_pictures: bool = False
    """Train on the tenth kept for choosing too (only once everything is chosen)."""
    cache: Literal["none", "ram", "disk"] = "none"
    """Decoded pictures are kept, with their long side at most ``cache_side``."""
    cache_side: int = Field(1280, ge=64)


class DetectionLoss(Part):
    """The loss, by the network's coding: ``anchorfree`` networks use SimOTA, anchor networks MultiBox."""

    score: NotNegative = 1.0
    box: NotNegative = 2.0
    landmark: NotNegative = 4.0
    kind: Literal["anchorfree", "multibox", "ultralight", "supernotman"] = "anchorfree"


class Evaluation(Part):
    """Figures on the tenth of train kept for choosing."""

    sources: list[str] = []
    """Data whose tenth is used; empty: all."""
    sizes: list[Annotated[int, Field(ge=32, le=8192)]] = [640]
    """Long sides that the detector sees."""
    best: int = 640
    """The long side whose mean AP over easy, medium and hard chooses the checkpoint."""

    @model_validator(mode="after")
    def _best_is_measured(self) -> Self:
        if self.best not in self.sizes:
            raise ValueError(f"best is {self.best}, which is none of the sizes {self.sizes}")
        return self


class Teacher(Part):
    """Networks whose answers are learned beside the labels (Hinton, Vinyals and Dean, "Distilling the knowledge in a
    neural network", 2015). They see what the student sees, varied alike (Beyer et al., "Knowledge distillation: a good
    teacher is patient and consistent", CVPR 2022); of several the mean is learned, of boxes that of the surest."""

    models: list[str] = []
    """Model files or names of the zoo, of the student's task; empty: labels alone are learned."""
    weight: float = Field(1.0, gt=0)
    """What the difference from the teachers counts; the labels count 1."""
    temperature: float = Field(1.0, gt=0)
    """Of classifiers and parsers: both logits are divided by it, and the difference is multiplied by its square."""


class _Training(Part):
    """What the recipes of all tasks have."""

    name: str
    about: str = ""
    """One line: what it makes, how long it takes, what it reaches."""
    seed: int = Field(1, ge=0, lt=2**32)
    licence: str = "trained on the user's data"
    provenance: dict[str, str] = {}
    model: Model
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    loop: Loop
    teacher: Teacher = Teacher()


class DetectionRecipe(_Training):
    """A training of a detector."""

    task: Literal["detect"] = "detect"
    size: int = Field(640, ge=32)
    """The long side that the model file recommends."""
    crops: Crops = Crops()
    data: DetectionData = DetectionData()
    loss: DetectionLoss = DetectionLoss()
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _portraits_are_named(self) -> Self:
        if self.crops.sheets + self.crops.paste and not self.data.portraits:
            raise ValueError("crops.sheets and crops.paste need portraits: name their sources in data.portraits")
        return self


class ChipAugment(Part):
    """How face chips are varied: the crop as another detector would lay it, then the picture's quality."""

    size: int = Field(96, ge=32)
    """Side of the chip at the end of the training, the network's input afterwards."""
    size_start: int = Field(96, ge=32)
    """Side at the beginning; it grows in steps of 8 pixels over the first ``growth`` of the training, which saves time
    (progressive resizing; Tan and Le, "EfficientNetV2", ICML 2021)."""
    growth: float = Field(0.7, ge=0, le=1)
    shift: float = Field(0.06, ge=0, le=0.5)
    """Standard deviation of the shift, in sides of the chip."""
    scale: float = Field(0.08, ge=0, le=1)
    """Standard deviation of the logarithm of the scale."""
    rotate: float = Field(6.0, ge=0, le=180)
    """Standard deviation of the turn, in degrees."""
    flip: bool = True
    color: float = Field(0.2, ge=0, le=1)
    """Largest relative change of brightness, contrast and each channel."""
    grey: float = Field(0.05, ge=0, le=1)
    """Share of chips without colour."""
    blur: float = Field(0.1, ge=0, le=1)
    """Share of chips that are blurred."""
    reduce: float = Field(0.2, ge=0, le=1)
    """Share of chips that are reduced, down to a third of their side, and enlarged again."""
    erase: float = Field(0.1, ge=0, le=1)
    """Share of chips with a covered rectangle."""
    mixup: float = Field(0.0, ge=0)
    """Each chip is laid over another one, and so are their labels; the shares come from a beta distribution whose two
    parameters are this (Zhang et al., "mixup: beyond empirical risk minimization", ICLR 2018). 0: none."""


class AttributesData(Part):
    """Where face chips come from."""

    all_pictures: bool = False
    """Train on the tenth kept for choosing too (only once everything is chosen)."""
    races: Literal[4, 7] = 7
    """4 joins the Asian races, and has no label for Latino_Hispanic and Middle Eastern."""
    cache: Literal["none", "ram", "disk"] = "ram"
    """Decoded chips are kept, with their side at most ``cache_side``."""
    cache_side: int = Field(112, ge=32)


class AttributesLoss(Part):
    """Cross-entropy for each head, on softened labels."""

    weights: dict[str, NotNegative] = {"race": 1.0, "gender": 1.0, "age": 1.0}
    smoothing: float = Field(0.05, ge=0, lt=1)
    """The share of a label that is spread over all labels of its head."""
    neighbours: dict[str, NotNegative] = {"age": 0.5}
    """Heads whose labels are ordered: a label is a bell over its neighbours, with this standard deviation in labels."""
    balance: dict[str, float] = {}
    """For each head the power of the labels' frequency that is taken out of the answers: the logits get this times the
    logarithm of the frequency in training and do without it afterwards (Menon et al., "Long-tail learning via logit
    adjustment", ICLR 2021). 0: rare labels lose; 1: all count the same."""
    agreement: float = Field(0.0, ge=0)
    """Weight of the disagreement between two variations of each chip, which then come together in a batch: answers
    shall not hang on how a detector lays the crop. 0: each chip comes alone."""


class AttributesEvaluation(Part):
    """What chooses the checkpoint, on the tenth of train kept for it."""

    worst_race: float = Field(0.25, ge=0, le=1)
    """Weight of the accuracy for the race that fares worst; the rest is the mean accuracy of the heads."""


class AttributesRecipe(_Training):
    """A training of a classifier of perceived attributes."""

    task: Literal["classify"] = "classify"
    augment: ChipAugment = ChipAugment()
    data: AttributesData = AttributesData()
    loss: AttributesLoss = AttributesLoss()
    evaluation: AttributesEvaluation = AttributesEvaluation()


class PortraitAugment(Part):
    """How portraits are varied, with their labels."""

    size: int = Field(256, ge=32)
    """Side of the portrait, the network's input afterwards."""
    label_size: int = Field(128, ge=32)
    """Side of the label image that the loss is counted on; logits on another grid are enlarged or reduced to it."""
    shift: float = Field(0.06, ge=0, le=0.5)
    """Standard deviation of the shift, in sides of the portrait."""
    scale: float = Field(0.15, ge=0, le=1)
    """Standard deviation of the logarithm of the scale."""
    rotate: float = Field(10.0, ge=0, le=180)
    """Standard deviation of the turn, in degrees."""
    flip: bool = True
    """Mirror half of them; left and right parts change their names."""
    color: float = Field(0.2, ge=0, le=1)
    """Largest relative change of brightness, contrast and each channel."""
    grey: float = Field(0.05, ge=0, le=1)
    """Share without colour."""
    blur: float = Field(0.1, ge=0, le=1)
    """Share that is blurred."""
    reduce: float = Field(0.2, ge=0, le=1)
    """Share that is reduced, down to a third of the side, and enlarged again: small faces in photographs."""


class SegmentationData(Part):
    """Where portraits come from."""

    all_pictures: bool = False
    """Train on the tenth kept for choosing too (only once everything is chosen)."""
    rare: list[str] = ["hat", "neck_l", "eye_g", "ear_r"]
    """Portraits that show one of these parts are drawn more often."""
    rare_weight: float = Field(1.0, ge=1)
    """How many times as often."""
    cache: Literal["none", "ram", "disk"] = "disk"
    """Decoded portraits are kept, with their side at most ``cache_side``."""
    cache_side: int = Field(320, ge=32)


class SegmentationLoss(Part):
    """Cross-entropy over the pixels, Dice over the parts."""

    cross_entropy: float = Field(1.0, ge=0)
    dice: float = Field(1.0, ge=0)
    """Weight of the Dice loss (Milletari et al., "V-Net", 3DV 2016), of each portrait over the parts that it shows."""
    balance: float = Field(0.0, ge=0, le=1)
    """Pixels of a label count by its frequency to minus this power; 0: all the same."""
    balance_most: float = Field(10.0, ge=1)
    """The most that a pixel counts, in weights of the average pixel."""
    outlines: float = Field(0.0, ge=0)
    """How much more, in weights, a pixel counts that lies on the outline of a part: its own or a neighbour's label,
    to the sides or above and below, is another's."""
    hardest: float = Field(0.0, ge=0, lt=1)
    """Online hard example mining: only pixels whose label has less than this probability count, and at least the
    hardest sixteenth of each portrait. 0: all count."""
    auxiliary: float = Field(1.0, ge=0)
    """Weight of a network's auxiliary outputs."""

    @model_validator(mode="after")
    def _mined_pixels_count_alike(self) -> Self:
        if self.hardest and (self.balance or self.outlines):
            raise ValueError(
                "hardest lets the pixels that it mines count alike; balance and outlines must be 0 with it"
            )
        return self


class SegmentationEvaluation(Part):
    """What chooses the checkpoint, on the tenth of train kept for it."""

    most: int = Field(400, ge=1)
    """At most this many portraits of the tenth, the first by name."""
    frequent: float = Field(0.5, ge=0, le=1)
    """Weight of the mean F1 over the 14 frequent parts; the rest is the mean over all 18."""


class SegmentationRecipe(_Training):
    """A training of a parser of portraits."""

    task: Literal["segment"] = "segment"
    augment: PortraitAugment = PortraitAugment()
    data: SegmentationData = SegmentationData()
    loss: SegmentationLoss = SegmentationLoss()
    evaluation: SegmentationEvaluation = SegmentationEvaluation()


Recipe = DetectionRecipe | AttributesRecipe | SegmentationRecipe

TASKS: Mapping[str, type[DetectionRecipe] | type[AttributesRecipe] | type[SegmentationRecipe]] = {
    "detect": DetectionRecipe,
    "classify": AttributesRecipe,
    "segment": SegmentationRecipe,
}
"""The kind of recipe for each ``task``; one that names none is a detector's."""


def load(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a TOML file, or a shipped one by its name, with ``KEY=VALUE`` overrides applied.

    Raises:
        RecipeError: no such recipe, not TOML, an unknown key (the nearest is named) or an impossible value.
    """
    path = Path(name)
    if path.suffix == ".toml":
        if not path.is_file():
            raise RecipeError(f"there is no recipe file {path}")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"cannot read the recipe {path}: {error}") from error
    else:
        text = _shipped(str(name))
    return parse(text, str(name), overrides)


def parse(text: str, origin: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from TOML text; ``origin`` names it in errors. Raises RecipeError as :func:`load` does."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{origin} is not TOML: {error}") from error
    for override in overrides:
        _override(data, override)
    task = data.get("task", "detect")
    if not isinstance(task, str) or task not in TASKS:
        raise RecipeError(f"{origin}: task is {task!r}, not one of {', '.join(TASKS)}")
    try:
        return TASKS[task].model_validate(data)
    except ValidationError as error:
        raise RecipeError(f"{origin}: {_sentence(error, TASKS[task])}") from error


def dump(recipe: Recipe) -> str:
    """The whole recipe as TOML, defaults included: what a run folder keeps."""
    return tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True))


def _shipped(name: str) -> str:
    known = shipped()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else "nnface recipes lists them"
        raise RecipeError(f"there is no recipe {name!r}; {hint}")
    return known[name]


def _override(data: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise RecipeError(f"--set takes KEY=VALUE, such as optimizer.lr=0.01, not {override!r}")
    try:  # a TOML value; anything else is a text
        value = tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        value = text
    *path, last = key.split(".")
    for part in path:
        data = data.setdefault(part, {})
        if not isinstance(data, dict):
            raise RecipeError(f"--set {override}: {part} is a value, not a part of the recipe")
    data[last] = value


def _sentence(error: ValidationError, kind: type[Part]) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _keys_beside(first["loc"], kind)
        near = difflib.get_close_matches(str(first["loc"][-1]), known, 1, 0.5)
        return f"{place} is not a key of the recipe; " + (
            f"did you mean {near[0]!r}?" if near else f"keys: {', '.join(known)}"
        )
    return f"{place}: {first['msg'].lower()}"


def _keys_beside(place: tuple[int | str, ...], kind: type[Part]) -> list[str]:
    part: Any = kind
    for name in place[:-1]:
        part = part.model_fields[name].annotation
    fields: Mapping[str, Any] = part.model_fields
    return list(fields)
