"""Run a model file on arrays: one small interface, a file for each runtime."""

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nnface.errors import DependencyError, DeviceError, UsageError
from nnface.header import kind_of
from nnface.spec import Spec


class Runner(Protocol):
    """What a predictor needs of a network, wherever it runs."""

    @property
    def spec(self) -> Spec:
        """What the model says of itself."""

    @property
    def device(self) -> str:
        """Where it runs, such as ``cpu`` or ``cuda:0``."""

    def run(self, batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """(N, 3, H, W) float32, normalised as the Spec says, to the outputs by name.

        Of a detector: ``scores`` (N, A) in 0..1, ``boxes`` (N, A, 4) and, where it has them, ``landmarks``
        (N, A, 10), still coded. Of a classifier the logits of each head, (N, labels), by its name. Of a parser
        ``logits`` (N, labels, h, w). May be called from several threads.
        """


def open_model(path: str | Path, device: str = "cpu", threads: int | None = None) -> Runner:
    """Open a model file in the runtime that fits its content and the device.

    Args:
        path: of an ONNX file that carries a Spec, a safetensors file that ``nnface train`` wrote, or what
            ``nnface export --to openvino`` or ``--to tensorrt`` wrote.
        device: ``cpu``, ``cuda`` or ``cuda:N``; for ONNX also ``tensorrt``, by ONNX Runtime, and ``openvino``,
            ``openvino:GPU`` or ``openvino:NPU``. A TensorRT engine runs on ``tensorrt`` alone, and OpenVINO's files by
            OpenVINO alone, ``cpu`` included. What is not there is an error.
        threads: of the network; None: the physical cores that this process may use.

    Raises:
        ModelFileError: not there, foreign, damaged, or not what its Spec says.
        UsageError: less than one thread.
        DeviceError: the device is not there, or not one for such a file.
        DependencyError: the runtime of such a file is not installed.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}; it must be at least 1")
    kind = kind_of(path)
    if kind == "tensorrt":
        from nnface.runtime.tensorrt import TensorrtRunner

        return TensorrtRunner(path, device)
    if kind == "safetensors":
        return _in_torch(path, device, threads)
    if kind == "openvino" or device.split(":")[0] == "openvino":
        return _in_openvino(path, device, threads)
    from nnface.runtime.onnx import OnnxRunner

    return OnnxRunner(path, device, threads)


def _in_openvino(path: str | Path, device: str, threads: int | None) -> Runner:
    if device != "cpu" and device.split(":")[0] != "openvino":
        raise DeviceError(f"{path} is OpenVINO's and does not run on {device}; use --device openvino")
    try:
        from nnface.runtime.openvino import OpenvinoRunner
    except ImportError as error:
        raise DependencyError(f"{path} on {device} needs OpenVINO: pip install 'nnface[openvino]'") from error
    return OpenvinoRunner(path, "openvino" if device == "cpu" else device, threads)


def _in_torch(path: str | Path, device: str, threads: int | None) -> Runner:
    if device.split(":")[0] in ("openvino", "tensorrt"):
        raise DeviceError(f"{path} holds weights for torch; nnface export it to ONNX, which {device} takes")
    try:
        import torch

        from nnface.models.file import load
        from nnface.runtime.torch import TorchRunner
    except ImportError as error:
        raise DependencyError(
            f"{path} holds weights for torch; nnface export them to ONNX, or install torch with "
            "pip install 'nnface[train]'"
        ) from error
    if threads is not None:
        torch.set_num_threads(threads)
    module, spec = load(path)
    return TorchRunner(module, spec, device)
