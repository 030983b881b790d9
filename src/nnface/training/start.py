"""From names to a running training: the recipe, the data, the weights to start from."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import cv2
import torch
from torch import Tensor

from nnface.datasets import celebamask, fairface, widerface
from nnface.datasets.interchange import coco, voc, yolo
from nnface.datasets.samples import AttributeSample, DetectionSample, SegmentationSample
from nnface.errors import ModelFileError, TrainingError, UsageError
from nnface.header import read_content, read_header
from nnface.training import loop, recipe
from nnface.training.attributes import AttributesTask
from nnface.training.detection import DetectionTask
from nnface.training.initial import initial_weights
from nnface.training.inputs import normalised
from nnface.training.segmentation import SegmentationTask
from nnface.training.state import RunFolder
from nnface.training.teacher import teachers_origin
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
        data: ``widerface:DIR`` (source ``widerface``), ``coco:FILE``, ``yolo:DIR`` or ``voc:DIR`` (source: the stem of
            the file or folder) for a detector, ``fairface:DIR`` (its train part) for a classifier, ``celebamask:DIR``
            for a parser; several add up.
        out: the run folder; None: ``runs/NAME``.
        resume: go on with the run in ``out``.
        init: a model file of the same network to start from: safetensors, exported ONNX, or a name of the zoo. A run
            that stopped before its first state was saved needs it again; of any other, ``resume`` has no use for it.
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
    folder = out if out is not None else Path("runs") / plan.name
    plan = _with_origin(plan, init, folder if resume else None)
    place = str(loop.find_device(device))
    task: AnyTask
    if isinstance(plan, recipe.DetectionRecipe):
        task = DetectionTask(plan, read_sources(data), place)
    elif isinstance(plan, recipe.AttributesRecipe):
        task = AttributesTask(plan, read_chips(data), place)
    else:
        task = SegmentationTask(plan, read_portraits(data), place)
    if init is not None and not (resume and RunFolder(folder).state.exists()):  # else its state has its weights
        task.init = _weights_of(init, task)
    return loop.train(
        task,
        plan,
        folder,
        resume=resume,
        device=device,
        tensorboard=tensorboard,
        measure_start=init is not None,
    )


def _with_origin(plan: recipe.Recipe, init: str | Path | None, resumed: Path | None) -> recipe.Recipe:
    """The recipe whose provenance says, as ``init``, which weights the run starts from, and, as ``distilled``, who
    teaches: what it trains carries it, and a run does not go on with another teacher than it began with."""
    provenance = {name: words for name, words in plan.provenance.items() if name not in ("init", "distilled")}
    provenance |= teachers_origin(plan.teacher)
    run = None if resumed is None else RunFolder(resumed)
    begun = None
    if run is not None and run.recipe.is_file():
        begun = recipe.load(str(run.recipe)).provenance.get("init")
    if run is not None and run.state.exists():  # which has its weights, whether or not --init is given again
        given = begun
    else:
        given = None if init is None else _origin(init)
        if run is not None and run.recipe.is_file() and given != begun:
            raise TrainingError(
                f"the run in {resumed} stopped before its first state was saved, so it needs what it began with: "
                + (f"--init with {begun}" if begun else "no --init")
            )
    if given is not None:
        provenance["init"] = given
    return plan.model_copy(update={"provenance": provenance})


def _origin(init: str | Path) -> str:
    """The recipe that made a model file, and the file's hash."""
    content = read_content(resolve(init))
    made = read_header(memoryview(content), str(init))[1].provenance.get("recipe", Path(init).stem)
    return f"{made} (sha256 {hashlib.sha256(content).hexdigest()})"


AnyTask = DetectionTask | AttributesTask | SegmentationTask


class _Images(Protocol):
    """What the batches of all tasks have."""

    @property
    def images(self) -> Tensor: ...


def _weights_of(init: str | Path, task: AnyTask) -> Mapping[str, Tensor]:
    """The state dict of a model file whose network is the task's own."""
    path = resolve(init)
    parts: Iterator[_Images] = task.batches(0, 0, 1)
    weights, spec = initial_weights(path, normalised(next(parts).images, task.spec().input))
    wanted = task.spec()
    for what, given, needed in (
        ("network", spec.architecture, wanted.architecture),
        ("settings", dict(spec.settings), dict(wanted.settings)),
    ):
        if given != needed:
            raise ModelFileError(f"--init {init}: its {what} is {given}, the recipe trains {needed}")
    return weights


def read_sources(data: Sequence[str]) -> dict[str, list[DetectionSample]]:
    """The pictures of each ``KIND:PATH`` for a detector, by the source's name.

    Raises:
        UsageError: not of that form, an unknown kind, or two sources of one name.
        DataError: the data is absent or malformed.
    """
    return _read(data, "detector", {"widerface": widerface.read, "coco": coco.read, "yolo": yolo.read, "voc": voc.read})


def read_chips(data: Sequence[str]) -> dict[str, list[AttributeSample]]:
    """The face chips of each ``fairface:DIR``; raises as :func:`read_sources` does."""
    return _read(data, "classifier", {"fairface": fairface.read})


def read_portraits(data: Sequence[str]) -> dict[str, list[SegmentationSample]]:
    """The portraits of each ``celebamask:DIR``; raises as :func:`read_sources` does."""
    return _read(data, "parser", {"celebamask": celebamask.read})


Sample = TypeVar("Sample")


def _read(
    data: Sequence[str], what: str, kinds: Mapping[str, Callable[[str], list[Sample]]]
) -> dict[str, list[Sample]]:
    sources: dict[str, list[Sample]] = {}
    for item in data:
        kind, sign, place = item.partition(":")
        if not sign or kind not in kinds:
            forms = " or ".join(f"{name}:PATH" for name in kinds)
            raise UsageError(f"this recipe trains a {what}, whose --data is {forms}, not {item!r}")
        name = "widerface" if kind == "widerface" else Path(place).resolve().stem
        if name in sources:
            raise UsageError(f"--data names {name!r} twice; give one of them another name")
        sources[name] = kinds[kind](place)
    return sources
