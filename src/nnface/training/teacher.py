"""Networks that teach: what they answer to a student's pictures, in the student's own terms.

Teachers run in the runtime that fits their file (ONNX Runtime for ONNX), without gradients, on the device of the
student. Nothing of them goes into the student's file but a line of provenance; their licence does.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from nnface.errors import RecipeError
from nnface.files import sha256
from nnface.geometry import boxes
from nnface.geometry.anchors import grid
from nnface.header import read_spec
from nnface.runtime import Runner, open_model
from nnface.spec import DetectionSpec, InputSpec, Spec
from nnface.training.inputs import normalised
from nnface.training.recipe import Teacher
from nnface.zoo import resolve

Floats = NDArray[np.float32]


class Teachers:
    """The teachers of a recipe, opened; false where there are none.

    Args:
        plan: the recipe's part.
        student: the Spec of the network that is trained.
        size: side of the pictures that it is trained on, in pixels.
        device: where they run, such as ``cpu`` or ``cuda:0``.

    Raises:
        ModelFileError: no such model, or a file that is none.
        RecipeError: a teacher of another task, of other labels, or a detector whose cells are not the student's.
        DeviceError: the device is not one for such a file.
        DependencyError: the runtime of such a file is not installed.
    """

    def __init__(self, plan: Teacher, student: Spec, size: int, device: str = "cpu") -> None:
        self.plan = plan
        self._runners: list[Runner] = []
        for name in plan.models:
            runner = open_model(resolve(name), device, torch.get_num_threads())
            _require_fit(name, runner.spec, student, size)
            self._runners.append(runner)

    def __bool__(self) -> bool:
        return bool(self._runners)

    def probabilities(self, images: Tensor, size: tuple[int, ...] = ()) -> dict[str, Tensor]:
        """What classifiers and parsers answer, by the name of the output: their mean, at the recipe's temperature.

        A teacher answers in one view, and without the temperatures that were fitted for it.

        Args:
            images: (N, S, S, 3) uint8 BGR.
            size: rows and columns that parsers' logits are enlarged or reduced to.

        Returns:
            of a classifier (N, labels) for each head; of a parser ``logits`` (N, labels, *size).
        """
        answers: list[dict[str, Tensor]] = []
        for runner in self._runners:
            outputs = {name: torch.from_numpy(rows) for name, rows in self._run(runner, images).items()}
            answers.append(
                {
                    name: ((on_grid(rows, size) if size else rows) / self.plan.temperature).softmax(1)
                    for name, rows in outputs.items()
                }
            )
        return {name: torch.stack([each[name] for each in answers]).mean(0).to(images.device) for name in answers[0]}

    def faces(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What detectors see in each of the student's cells: the mean of their scores, the box of the surest.

        Args:
            images: (N, S, S, 3) uint8 BGR.

        Returns:
            scores (N, A) in 0..1 and boxes (N, A, 4), x1, y1, x2, y2 in pixels of the images.
        """
        seen = []
        for runner in self._runners:
            assert runner.spec.detection is not None  # a detector's Spec always has it
            seen.append(_per_cell(self._run(runner, images), runner.spec.detection, images.shape[1], images.shape[2]))
        scores = np.stack([each for each, _ in seen])
        surest = scores.argmax(0)[None, ..., None]
        found = np.take_along_axis(np.stack([each for _, each in seen]), surest, 0)[0]
        return torch.from_numpy(scores.mean(0)).to(images.device), torch.from_numpy(found).to(images.device)

    def _run(self, runner: Runner, images: Tensor) -> Mapping[str, Floats]:
        with torch.autocast(images.device.type, enabled=False):  # a teacher answers alike in every kind of file
            return runner.run(_as_input(images, runner.spec.input).cpu().numpy())


def teachers_origin(plan: Teacher) -> dict[str, str]:
    """Who teaches, as a line of provenance: each one's recipe or file, and its SHA-256; nothing without teachers.

    Raises:
        ModelFileError: no such model, or a file that is none.
    """
    paths = [resolve(name) for name in plan.models]
    names = [f"{read_spec(path).provenance.get('recipe', path.stem)} (sha256 {sha256(path)})" for path in paths]
    return {"distilled": ", ".join(names)} if names else {}


def learned(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Row by row, over the labels in dimension 1, the Kullback-Leibler divergence from the teachers' probabilities.

    Args:
        logits: (N, C, ...) of the student.
        taught: (N, C, ...) probabilities at the temperature.
        temperature: the logits are divided by it, the result is multiplied by its square, so that the gradient keeps
            its size (Hinton, Vinyals and Dean 2015).

    Returns:
        (N, ...), 0 where the student answers as the teachers do.
    """
    return F.kl_div(F.log_softmax(logits / temperature, 1), taught, reduction="none").sum(1) * temperature**2


def on_grid(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """(N, C, h, w) enlarged or reduced to (N, C, *size)."""
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def _require_fit(name: str, teacher: Spec, student: Spec, size: int) -> None:
    """Refuse a teacher whose answers are not in the student's terms."""
    if teacher.task != student.task:
        raise RecipeError(f"the teacher {name} is for the task {teacher.task}, the student for {student.task}")
    if student.detection is not None and teacher.detection is not None:
        _require_cells(name, teacher.detection, student.detection)
        _require_size(name, teacher.input, size)
    elif student.classification is not None and teacher.classification is not None:
        _require_labels(name, dict(teacher.classification.heads) == dict(student.classification.heads))
    elif student.segmentation is not None and teacher.segmentation is not None:
        _require_labels(name, teacher.segmentation.labels == student.segmentation.labels)


def _require_labels(name: str, same: bool) -> None:
    if not same:
        raise RecipeError(f"the teacher {name} has other labels than the student, or another order of them")


def _require_cells(name: str, teacher: DetectionSpec, student: DetectionSpec) -> None:
    if student.coding != "distance":
        raise RecipeError("only anchor-free detectors learn from a teacher; remove teacher.models")
    if teacher.coding != "distance" or teacher.strides != student.strides:
        raise RecipeError(
            f"the teacher {name} must say distances in the student's cells, of strides "
            f"{', '.join(map(str, student.strides))}, as the bundled detectors and SCRFD do"
        )
    if len({len(level) for level in teacher.anchor_sizes}) > 1:
        raise RecipeError(f"the teacher {name} has more anchors in the cells of one level than in another's")


def _require_size(name: str, teacher: InputSpec, size: int) -> None:
    if (teacher.height or size, teacher.width or size) != (size, size) or size % teacher.multiple:
        raise RecipeError(f"the teacher {name} takes no pictures of {size} x {size} pixels, which crops.size says")


def _as_input(images: Tensor, plan: InputSpec) -> Tensor:
    """(N, H, W, 3) uint8 BGR to (N, 3, h, w) float32 as a teacher's Spec says, of the size that it insists on."""
    inputs = normalised(images, plan)
    size = (plan.height or images.shape[1], plan.width or images.shape[2])
    if inputs.shape[2:] == size:
        return inputs
    return F.interpolate(inputs, size=size, mode="bilinear", align_corners=False, antialias=True)


def _per_cell(outputs: Mapping[str, Floats], plan: DetectionSpec, height: int, width: int) -> tuple[Floats, Floats]:
    """Scores (N, A) and boxes (N, A, 4), in pixels, of the surest anchor in each of A cells."""
    sizes = plan.anchor_sizes or tuple((float(stride),) for stride in plan.strides)
    found = boxes.decode_distance(outputs["boxes"], grid(height, width, plan.strides, sizes, plan.clip_anchors))
    each, count = len(sizes[0]), len(outputs["scores"])
    scores = outputs["scores"].reshape(count, -1, each)  # the anchors of a cell stand side by side
    surest = scores.argmax(2)[..., None]
    found = np.take_along_axis(found.reshape(count, -1, each, 4), surest[..., None], 2)[:, :, 0]
    return np.take_along_axis(scores, surest, 2)[..., 0], found
