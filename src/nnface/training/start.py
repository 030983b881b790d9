"""From names to a running training: the recipe, the data, the weights to start from."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import cv2
import torch
from torch import Tensor

from nnface.datasets import fairface, widerface
from nnface.datasets.interchange import coco
from nnface.datasets.samples import AttributeSample, DetectionSample
from nnface.errors import ModelFileError, UsageError
from nnface.training import loop, recipe
from nnface.training.attributes import AttributesTask
from nnface.training.detection import DetectionTask, normalised
from nnface.training.initial import initial_weights
from nnface.zoo import resolve


def start(
    name: str,
    data: Sequence[str],
    out: Path | None = None,
    *,
    resume: bool = False,
    init: str | Path | None = None,
    overrides: Sequence[str] = (),
    device: str = "cpu",
    threads: int | None = None,
    tensorboard: bool = False,
) -> Path:
    """Train a recipe by its name or file on data named as ``KIND:PATH``; returns the best model file.

    Args:
        name: a shipped recipe or a TOML file.
        data: ``widerface:DIR`` (source ``widerface``) or ``coco:FILE`` (source: the file's stem) for a detector,
            ``fairface:DIR`` (its train part) for a classifier; several add up.
        out: the run folder; None: ``runs/NAME``.
        resume: go on with the run in ``out``.
        init: a model file of the same network to start from: safetensors, exported ONNX, or a name of the zoo.
        overrides: ``KEY=VALUE`` for the recipe.
        device: ``cpu`` or ``cuda``.
        threads: of the network; None: torch's own choice.
        tensorboard: write events too.

    Raises:
        NnfaceError: see :func:`nnface.training.recipe.load`, the data sets and :func:`nnface.training.loop.train`.
    """
    plan = recipe.load(name, overrides)
    if threads is not None:
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
    if init is not None and plan.model.backbone is not None:
        raise UsageError("--init and model.backbone both name weights to start from; give one of them")
    task: DetectionTask | AttributesTask
    if isinstance(plan, recipe.DetectionRecipe):
        task = DetectionTask(plan, read_sources(data))
    else:
        task = AttributesTask(plan, read_chips(data))
    if init is not None and not resume:  # a resumed run has its weights in its state
        task.init = _weights_of(init, task)
    folder = out if out is not None else Path("runs") / plan.name
    return loop.train(task, plan, folder, resume=resume, device=device, tensorboard=tensorboard)


class _Images(Protocol):
    """What the batches of all tasks have."""

    @property
    def images(self) -> Tensor: ...


def _weights_of(init: str | Path, task: DetectionTask | AttributesTask) -> Mapping[str, Tensor]:
    """The state dict of a model file whose network is the task's own."""
    path = resolve(init)
    parts: Iterator[_Images] = task.batches(0, 0, 1)
    weights, spec = initial_weights(path, normalised(next(parts).images, task.spec()))
    wanted = task.spec()
    for what, given, needed in (
        ("network", spec.architecture, wanted.architecture),
        ("settings", dict(spec.settings), dict(wanted.settings)),
    ):
        if given != needed:
            raise ModelFileError(f"--init {init}: its {what} is {given}, the recipe trains {needed}")
    return weights


def read_sources(data: Sequence[str]) -> dict[str, list[DetectionSample]]:
    """The pictures of each ``KIND:PATH``, by the source's name.

    Raises:
        UsageError: not of that form, an unknown kind, or two sources of one name.
        DataError: the data is absent or malformed.
    """
    sources: dict[str, list[DetectionSample]] = {}
    for item in data:
        kind, sign, place = item.partition(":")
        if not sign or kind not in ("widerface", "coco"):
            raise UsageError(f"--data takes widerface:DIR or coco:FILE, not {item!r}")
        source = "widerface" if kind == "widerface" else Path(place).stem
        if source in sources:
            raise UsageError(f"--data names {source!r} twice; give the file another name")
        sources[source] = widerface.read(place) if kind == "widerface" else coco.read(place)
    return sources


def read_chips(data: Sequence[str]) -> dict[str, list[AttributeSample]]:
    """The face chips of each ``fairface:DIR``, by the folder's name.

    Raises:
        UsageError: not of that form, an unknown kind, or two sources of one name.
        DataError: the data is absent or malformed.
    """
    sources: dict[str, list[AttributeSample]] = {}
    for item in data:
        kind, sign, place = item.partition(":")
        if not sign or kind != "fairface":
            raise UsageError(f"this recipe trains a classifier, whose --data is fairface:DIR, not {item!r}")
        source = Path(place).resolve().name
        if source in sources:
            raise UsageError(f"--data names {source!r} twice; give the folder another name")
        sources[source] = fairface.read(place)
    return sources
