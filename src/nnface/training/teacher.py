"""Networks that teach: what they answer to a student's pictures, in the student's own terms.

Teachers run in the runtime that fits their file (ONNX Runtime for ONNX), without gradients, on the device of the
student. Nothing of them goes into the student's file but a line of provenance; their licence does.
"""

from collections.abc import Mapping

import numpy as np
import torch
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


class Teachers:
    """The teachers of a recipe.

    Args:
        plan: the recipe's part.
        student: the Spec of the network that is trained.
        size: side of the pictures that it is trained on, in pixels.

    Raises:
        ModelFileError: no such model, or a file that is none.
        RecipeError: a teacher of another task, of other labels, or a detector whose cells are not the student's.
    """

    def __init__(self, plan: Teacher, student: Spec, size: int) -> None:
        self.plan = plan
        self.student = student
        self._paths = [resolve(name) for name in plan.models]
        self._specs = [read_spec(path) for path in self._paths]
        for name, spec in zip(plan.models, self._specs, strict=True):
            _fits(name, spec, student, size)
        self._runners: dict[str, list[Runner]] = {}  # by device

    def __bool__(self) -> bool:
        return bool(self._paths)

    def origin(self) -> dict[str, str]:
        """Who taught, as a line of provenance; none where there is no teacher."""
        if not self._paths:
            return {}
        names = [
            f"{spec.provenance.get('recipe', path.stem)} (sha256 {sha256(path)})"
            for path, spec in zip(self._paths, self._specs, strict=True)
        ]
        return {"distilled": ", ".join(names)}

    def probabilities(self, images: Tensor) -> dict[str, Tensor]:
        """What classifiers and parsers answer, by the name of the output: their mean, at the recipe's temperature.

        Args:
            images: (N, S, S, 3) uint8 BGR.

        Returns:
            of a classifier (N, labels) for each head; of a parser ``logits`` (N, labels, h, w).
        """
        answers = [
            {name: (torch.from_numpy(rows) / self.plan.temperature).softmax(1) for name, rows in outputs.items()}
            for outputs in self._run(images)
        ]
        size = max((rows.shape[2:] for each in answers for rows in each.values()), key=lambda shape: shape.numel())
        if size:  # parsers' grids may differ
            answers = [{name: on_grid(rows, size) for name, rows in each.items()} for each in answers]
        return {name: torch.stack([each[name] for each in answers]).mean(0).to(images.device) for name in answers[0]}

    def faces(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What detectors see in each of the student's cells: the mean of their scores, the box of the surest.

        Args:
            images: (N, S, S, 3) uint8 BGR.

        Returns:
            scores (N, A) in 0..1 and boxes (N, A, 4), x1, y1, x2, y2 in pixels of the images.
        """
        seen = [
            _per_cell(outputs, spec.detection, images.shape[1], images.shape[2])
            for outputs, spec in zip(self._run(images), self._specs, strict=True)
            if spec.detection is not None
        ]
        scores = np.stack([each for each, _ in seen])
        surest = scores.argmax(0)[None, ..., None]
        found = np.take_along_axis(np.stack([each for _, each in seen]), surest, 0)[0]
        return torch.from_numpy(scores.mean(0)).to(images.device), torch.from_numpy(found).to(images.device)

    def _run(self, images: Tensor) -> list[Mapping[str, np.ndarray]]:
        device = str(images.device)
        if device not in self._runners:
            self._runners[device] = [open_model(path, device, torch.get_num_threads()) for path in self._paths]
        return [
            runner.run(_as_input(images, spec.input).cpu().numpy())
            for runner, spec in zip(self._runners[device], self._specs, strict=True)
        ]


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
    answered = F.log_softmax(logits / temperature, 1)
    return (taught * (taught.clamp(min=1e-9).log() - answered)).sum(1) * temperature**2


def on_grid(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """(N, C, h, w) enlarged or reduced to (N, C, *size)."""
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def _fits(name: str, teacher: Spec, student: Spec, size: int) -> None:
    """Refuse a teacher whose answers are not in the student's terms."""
    if teacher.task != student.task:
        raise RecipeError(f"the teacher {name} is for the task {teacher.task}, the student for {student.task}")
    if student.classification is not None and teacher.classification is not None:
        same = dict(teacher.classification.heads) == dict(student.classification.heads)
    elif student.segmentation is not None and teacher.segmentation is not None:
        same = teacher.segmentation.labels == student.segmentation.labels
    else:
        _same_cells(name, teacher, student, size)
        same = True
    if not same:
        raise RecipeError(f"the teacher {name} has other labels than the student, or another order of them")


def _same_cells(name: str, teacher: Spec, student: Spec, size: int) -> None:
    theirs, ours = teacher.detection, student.detection
    assert theirs is not None
    assert ours is not None
    if "ssd" in (theirs.coding, ours.coding) or theirs.strides != ours.strides or theirs.selected:
        raise RecipeError(
            f"the teacher {name} must say distances in the student's cells, of strides "
            f"{', '.join(map(str, ours.strides))}, as the bundled detectors and SCRFD do"
        )
    if len({len(level) for level in theirs.anchor_sizes}) > 1:
        raise RecipeError(f"the teacher {name} has more anchors in the cells of one level than in another's")
    if (teacher.input.height or size, teacher.input.width or size) != (size, size):
        raise RecipeError(f"the teacher {name} takes no pictures of {size} x {size}, on which the student is trained")


def _as_input(images: Tensor, plan: InputSpec) -> Tensor:
    """(N, H, W, 3) uint8 BGR to (N, 3, h, w) float32 as a teacher's Spec says, of the size that it insists on."""
    inputs = normalised(images, plan)
    size = (plan.height or images.shape[1], plan.width or images.shape[2])
    if inputs.shape[2:] == size:
        return inputs
    return F.interpolate(inputs, size=size, mode="bilinear", align_corners=False, antialias=True)


def _per_cell(
    outputs: Mapping[str, np.ndarray], plan: DetectionSpec, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N, A) and boxes (N, A, 4) of each cell's surest anchor."""
    sizes = plan.anchor_sizes or tuple((float(stride),) for stride in plan.strides)
    found = boxes.decode_distance(outputs["boxes"], grid(height, width, plan.strides, sizes, plan.clip_anchors))
    each, count = len(sizes[0]), len(outputs["scores"])
    scores = outputs["scores"].reshape(count, -1, each)  # the anchors of a cell stand side by side
    surest = scores.argmax(2)[..., None]
    found = np.take_along_axis(found.reshape(count, -1, each, 4), surest[..., None], 2)[:, :, 0]
    return np.take_along_axis(scores, surest, 2)[..., 0], found
