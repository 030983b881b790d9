"""What a Spec promises of a network's outputs, for the runtimes that run files."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnface.errors import ModelFileError
from nnface.spec import Spec

Axes = tuple[int | None, ...]
"""Lengths of an output's axes after the first; None is any."""


def expected_outputs(spec: Spec) -> dict[str, Axes]:
    """The outputs by name, in the Spec's order."""
    if spec.detection is not None:
        outputs: dict[str, Axes] = {"scores": (None,), "boxes": (None, 4)}
        return outputs | ({"landmarks": (None, 10)} if spec.detection.landmarks else {})
    if spec.classification is not None:
        return {name: (len(labels),) for name, labels in spec.classification.heads.items()}
    assert spec.segmentation is not None  # a Spec has the part of its task
    return {"logits": (len(spec.segmentation.labels), None, None)}


def refuse_selected(spec: Spec, path: str | Path) -> None:
    """Refuse a detector that decodes and selects by itself.

    Raises:
        ModelFileError: it does.
    """
    if spec.detection is not None and spec.detection.selected:
        raise ModelFileError(
            f"{path} has non-maximum suppression inside, for use without nnface; open the file that was exported "
            "without --with-nms"
        )


def check_outputs(
    outputs: Mapping[str, NDArray[np.float32]], expected: Mapping[str, Axes], count: int, path: str | Path
) -> None:
    """Hold the outputs for a batch of ``count`` against what is expected.

    Raises:
        ModelFileError: a shape is another.
    """
    for name, tail in expected.items():
        shape = outputs[name].shape
        fits = len(shape) == len(tail) + 1 and shape[0] == count
        if not fits or any(want not in (None, got) for want, got in zip(tail, shape[1:], strict=True)):
            raise ModelFileError(f"{path} is not what it says: its output {name} has shape {tuple(shape)}")


def in_parts(
    run: Callable[[NDArray[np.float32]], dict[str, NDArray[np.float32]]],
    batch: NDArray[np.float32],
    size: int,
    fill: bool,
) -> dict[str, NDArray[np.float32]]:
    """Run a batch in parts of ``size``; ``fill``: the last one is filled up with its last picture, to be as large."""
    parts: list[dict[str, NDArray[np.float32]]] = []
    for start in range(0, len(batch), size):
        part = batch[start : start + size]
        filled = np.concatenate([part, np.repeat(part[-1:], size - len(part), 0)]) if fill else part
        parts.append({name: values[: len(part)] for name, values in run(filled).items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
