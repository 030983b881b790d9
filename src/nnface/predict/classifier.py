"""Perceived attributes of faces: cut a chip for each face, run the network on many chips, turn logits into answers.

The stages of :class:`Classifier` (``chips``, ``prepare``, ``probabilities``, ``answers``) can be called on their own,
so that the faces of many pictures go through the network together; none of them keeps state.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nnface.errors import ModelFileError, UsageError
from nnface.image import ImageLike, Pixels, as_array, require_many
from nnface.predict.chips import check_batch, check_chip, normalised, places, resized, warp, whole
from nnface.predict.opening import opened
from nnface.results import Attribute, Faces
from nnface.runtime import Runner

BATCH = 32
"""Chips that go through the network together, unless told otherwise."""


class Classifier:
    """Tells perceived attributes with any model file whose Spec says ``classify``.

    >>> from nnface import Classifier, Detector, read_image  # doctest: +SKIP
    >>> image = read_image("team.jpg")  # doctest: +SKIP
    >>> faces = Classifier()(image, Detector()(image))  # doctest: +SKIP

    What it tells is how people label such a picture. It is nothing that a person is, and it may be wrong.
    """

    def __init__(
        self,
        model: str | Path | Runner = "attributes",
        *,
        device: str = "cpu",
        threads: int | None = None,
        batch: int = BATCH,
        views: Literal[1, 2, 4] | None = None,
    ) -> None:
        """Open the model.

        Args:
            model: a file, a name of the zoo, or a runner (a module in training, say), which has its own device.
            device: ``cpu``, ``cuda``, ``cuda:N``, ``tensorrt`` or ``openvino``; see :func:`nnface.runtime.open_model`.
            threads: of the network; None: the physical cores that this process may use.
            batch: the most chips that go through the network together.
            views: of each chip, see :attr:`nnface.spec.ClassificationSpec.views`: 1 for speed; None: as the Spec says.
                Temperatures and confidences were fitted for the Spec's own number.

        Raises:
            ModelFileError: no such model, a damaged one, or one of another task.
            UsageError: another number of views, or less than one chip together.
            DeviceError: the device is not there.
        """
        self.runner, self.name = opened(model, device, threads)
        self.spec = self.runner.spec
        if self.spec.classification is None:
            raise ModelFileError(f"{self.name} is a model to {self.spec.task}, not to classify faces")
        self.meaning = self.spec.classification
        self.size = self.spec.input.size
        self.batch_size = check_batch(batch)
        self.views = self.meaning.views if views is None else views
        if self.views not in (1, 2, 4):
            raise UsageError(f"views is {self.views}; a classifier takes 1, 2 or 4")

    @property
    def heads(self) -> Mapping[str, tuple[str, ...]]:
        """Each attribute with its labels, in order."""
        return self.meaning.heads

    def __call__(self, image: ImageLike, faces: Faces | None = None, color: Literal["bgr", "rgb"] = "bgr") -> Faces:
        """The attributes of a picture's faces.

        Args:
            image: a path, a PIL image, or an array (H, W, 3) uint8, upright.
            faces: what a detector found in it; None: the picture is a face chip itself.
            color: the order of an array's channels: **bgr**, OpenCV's, unless told otherwise.

        Returns:
            the same faces with ``attributes``. A face that is too small to tell anything of has none (an empty
            mapping). For a chip: one face whose box is the picture and whose score is None.

        Raises:
            ImageError: the path cannot be read.
            UsageError: not a picture, or a chip with a side under 10 pixels.
            ModelFileError: the network's outputs are not what its Spec says.
        """
        return self.batch([image], None if faces is None else [faces], color)[0]

    def batch(
        self,
        images: Sequence[ImageLike],
        faces: Sequence[Faces] | None = None,
        color: Literal["bgr", "rgb"] = "bgr",
    ) -> list[Faces]:
        """The attributes of the faces of many pictures, each as :meth:`__call__` gives them.

        Faces of all pictures share batches. Memory holds one picture at a time, and all chips.
        """
        require_many(images)
        if faces is not None and len(faces) != len(images):
            raise UsageError(f"{len(images)} pictures and the faces of {len(faces)} were given")
        found: list[Faces] = []
        chips: list[Pixels | None] = []
        for number, image in enumerate(images):
            pixels = as_array(image, color)
            given = whole(pixels) if faces is None else faces[number]
            if faces is None:
                chips.append(self.whole_chip(pixels))
            else:
                chips += self.chips(pixels, given)
            found.append(given)
        answers = self.answers(chips)
        results: list[Faces] = []
        for given in found:
            results.append(given.with_attributes(answers[: len(given)]))
            del answers[: len(given)]
        return results

    def chips(self, image: Pixels, faces: Faces) -> list[Pixels | None]:
        """A chip (size, size, 3) uint8 BGR for each face; None where the face is too small or nowhere.

        By its landmarks where it has them and the Spec has a template, or else by its box and the Spec's margin.
        What lies outside the picture is black.
        """
        transforms = places(faces, self.spec)
        return [None if transform is None else warp(image, transform, self.size) for transform in transforms]

    def whole_chip(self, image: Pixels) -> Pixels:
        """A picture that is a face chip already, at the network's size.

        Raises:
            UsageError: a side has fewer than 10 pixels.
        """
        check_chip(image)
        return resized(image, self.size)

    def answers(self, chips: Sequence[Pixels | None]) -> list[dict[str, Attribute]]:
        """The attributes of each chip, in order; none (an empty dict) where there is no chip."""
        there = [chip for chip in chips if chip is not None]
        rows = iter(self._attributes(self.probabilities(there)))
        return [{} if chip is None else next(rows) for chip in chips]

    def probabilities(self, chips: Sequence[Pixels]) -> dict[str, NDArray[np.float32]]:
        """For each head (n, labels): the softmax of the logits, divided by the Spec's temperature.

        Raises:
            ModelFileError: the network's outputs are not numbers.
        """
        heads = self.meaning.heads
        scaled = {
            name: values / np.float32(self.meaning.temperatures.get(name, 1.0))
            for name, values in self.logits(chips).items()
        }
        return {name: softmax(scaled[name]) for name in heads}

    def logits(self, chips: Sequence[Pixels]) -> dict[str, NDArray[np.float32]]:
        """For each head (n, labels), as the network gives them; chips (size, size, 3) uint8 BGR.

        Of several views of a chip, the mean of what it gives for them.
        """
        parts: dict[str, list[NDArray[np.float32]]] = {
            name: [np.zeros((0, len(labels)), np.float32)] for name, labels in self.meaning.heads.items()
        }
        for start in range(0, len(chips), self.batch_size):
            inputs = self.prepare(chips[start : start + self.batch_size])
            runs = [self.runner.run(view) for view in viewed(inputs, self.views)]
            for name, rows in parts.items():
                values = np.mean([outputs[name] for outputs in runs], axis=0)
                if not np.isfinite(values).all():
                    raise ModelFileError(f"{self.name} gives numbers that are not finite; the file is damaged")
                rows.append(values)
        return {name: np.concatenate(rows) for name, rows in parts.items()}

    def prepare(self, chips: Sequence[Pixels]) -> NDArray[np.float32]:
        """(n, size, size, 3) uint8 BGR to the network's input (n, 3, size, size), normalised as the Spec says."""
        return normalised(chips, self.spec.input)

    def _attributes(self, probabilities: Mapping[str, NDArray[np.float32]]) -> list[dict[str, Attribute]]:
        count = len(next(iter(probabilities.values())))
        return [{name: self._attribute(name, rows[i]) for name, rows in probabilities.items()} for i in range(count)]

    def _attribute(self, head: str, row: NDArray[np.float32]) -> Attribute:
        labels = self.meaning.heads[head]
        best = int(row.argmax())
        confidence = float(row[best])
        return Attribute(
            label=labels[best],
            confidence=confidence,
            certain=confidence >= self.meaning.min_confidence.get(head, 0.0),
            probabilities=dict(zip(labels, map(float, row), strict=True)),
        )


def viewed(inputs: NDArray[np.float32], count: int) -> Iterator[NDArray[np.float32]]:
    """The 1, 2 or 4 views of :attr:`nnface.spec.ClassificationSpec.views`, each (n, 3, size, size).

    Args:
        inputs: (n, 3, size, size). What a move leaves open repeats the last pixel.
        count: how many.
    """
    if count < 4:
        yield inputs
        if count == 2:
            yield np.ascontiguousarray(inputs[..., ::-1])
        return
    size = inputs.shape[-1]
    step = size // 32
    padded = np.pad(inputs, ((0, 0), (0, 0), (step, step), (step, step)), mode="edge")
    for x, y, side in ((0, step, 1), (2 * step, step, -1), (step, 0, -1), (step, 2 * step, 1)):
        yield np.ascontiguousarray(padded[..., y : y + size, x : x + size][..., ::side])


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Along the last axis, for logits of any size."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    result: NDArray[np.float32] = powers / powers.sum(-1, keepdims=True)
    return result
