"""The ONNX file that every other export starts from, and the comparison with it that every other export ends with."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from nnface.errors import NnfaceError, UsageError
from nnface.files import atomic_path
from nnface.header import open_header
from nnface.models.narrow import is_narrow, widened
from nnface.runtime.onnx import OnnxRunner
from nnface.runtime.promise import refuse_selected
from nnface.spec import InputSpec, Spec

Outputs = Mapping[str, NDArray[np.float32]]


def as_onnx(model: str | Path, folder: Path) -> tuple[Path, Spec]:
    """The model file itself if it is ONNX with plain weights, or else its export or a plain copy, in ``folder``.

    Raises:
        ModelFileError: no model file of ours, or neither ONNX nor safetensors, or with the selection inside.
        NnfaceError: as :func:`nnface.export.onnx.export`.
    """
    kind, spec = open_header(model)
    refuse_selected(spec, model)
    if kind == "onnx":
        proto = onnx.load(model, load_external_data=False)
        if not is_narrow(proto):
            return Path(model), spec
        onnx.save(widened(proto), folder / "network.onnx")
        return folder / "network.onnx", spec
    from nnface.export.onnx import export  # here: what is ONNX already needs no torch

    return folder / "network.onnx", export(model, folder / "network.onnx")


def widen(model: str | Path, out: str | Path) -> Spec:
    """Write an ONNX file with plain float32 weights in place of those that are stored in fewer bits.

    The bundled files are such; what runs them widens the weights each time that it opens them.

    Raises:
        UsageError: its weights are plain already.
        NnfaceError: ``out`` cannot be written.
    """
    proto = onnx.load(model, load_external_data=False)
    if not is_narrow(proto):
        raise UsageError(f"{model} is ONNX already; --precision, --with-nms, --size or --batch make another of it")
    with atomic_path(Path(out)) as temporary:
        onnx.save(widened(proto), temporary)
    return open_header(out)[1]


def sides(spec: InputSpec) -> list[tuple[int, int]]:
    """Heights and widths to compare at: the fixed one, or some that are free."""
    if spec.height and spec.width:
        return [(spec.height, spec.width)]
    step = np.lcm(spec.multiple, 32)
    return [(int(4 * step), int(5 * step)), (int(3 * step), int(2 * step))]


def example(spec: InputSpec, count: int, height: int, width: int) -> NDArray[np.float32]:
    """Random pixels as a network gets them: (count, 3, height, width), normalised."""
    pixels = np.random.default_rng(height * width + count).uniform(0, 255, (count, 3, height, width))
    mean, std = (np.array(value).reshape(3, 1, 1) for value in (spec.mean, spec.std))
    images: NDArray[np.float32] = ((pixels - mean) / std).astype(np.float32)
    return images


def compare(
    run: Callable[[NDArray[np.float32]], Outputs], original: str | Path, spec: Spec, out: str, tolerance: float = 1e-3
) -> None:
    """Hold a network against its ONNX file in ONNX Runtime, at several sizes.

    A difference is absolute for scores, and for others relative to the largest value where that exceeds 1.

    Raises:
        NnfaceError: a difference exceeds the tolerance; ``out`` is the file that is not written then.
    """
    reference = OnnxRunner(original, threads=1)
    for height, width in sides(spec.input):
        images = example(spec.input, 1, height, width)
        found = run(images)
        for name, expected in reference.run(images).items():
            if found[name].shape != expected.shape:
                what = f"has the shape {found[name].shape} instead of {expected.shape}"
            else:
                scale = 1.0 if name == "scores" else max(1.0, float(np.abs(expected).max(initial=0)))
                difference = float(np.abs(found[name] - expected).max(initial=0)) / scale
                if difference <= tolerance:
                    continue
                what = f"differs from ONNX Runtime's by {difference:.2g}"
            raise NnfaceError(f"cannot write {out}: for a picture of {width}x{height} its {name} {what}")


def put(source: Path, target: Path) -> None:
    """Give a finished file its name, synced to disk; ``source`` is in the folder of ``target``."""
    with atomic_path(target) as temporary:
        source.replace(temporary)
