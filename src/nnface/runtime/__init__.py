"""Run a model file on arrays: one small interface, a file for each runtime."""

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nnface.errors import DependencyError, UsageError
from nnface.header import is_safetensors
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
    """Open a model file in the runtime that fits its content: ONNX Runtime, or torch for our safetensors.

    Args:
        path: of an ONNX file that carries a Spec, or of a safetensors file that ``nnface train`` wrote.
        device: ``cpu``, ``cuda``, ``cuda:N`` or, for ONNX, ``tensorrt``; what is not there is an error.
        threads: of the network; None: the physical cores that this process may use.

    Raises:
        ModelFileError: not there, foreign, damaged, or not what its Spec says.
        UsageError: less than one thread.
        DeviceError: the device is not there.
        DependencyError: a safetensors file, and torch is not installed.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}; it must be at least 1")
    if not is_safetensors(path):
        from nnface.runtime.onnx import OnnxRunner

        return OnnxRunner(path, device, threads)
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
