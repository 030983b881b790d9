"""Run a torch module on arrays: a network in training meets the same predictor as the exported file."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nnface.errors import DeviceError, ModelFileError
from nnface.models.layers import DetectionNetwork
from nnface.spec import Spec


class TorchRunner:
    """A module and its Spec as a runner (see ``docs/architecture.md``); the module's weights are shared, not copied."""

    def __init__(self, module: nn.Module, spec: Spec, device: str | None = None) -> None:
        """Move the module to the device, such as ``cpu``, ``cuda``, ``cuda:1`` or ``mps``; None: it stays where it is.

        Raises:
            DeviceError: the device is unknown or not there.
        """
        self.spec = spec
        self.device = device or str(next((p.device for p in module.parameters()), "cpu"))
        self._device = _find(self.device)
        self._module = module.to(self._device)
        self._lock = threading.Lock()  # the mode belongs to the module, which one thread would take from another

    def run(self, batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """The outputs of a batch by name, float32.

        The module runs in evaluation mode and without gradients; afterwards each of its parts is in the mode in which
        it was.

        Args:
            batch: (N, 3, H, W) float32, normalised as the Spec says.

        Returns:
            of a detector ``scores`` (N, A) in 0..1, ``boxes`` (N, A, 4) and, where it has them, ``landmarks``
            (N, A, 10), both still coded; of a classifier each head's logits (N, labels); of a parser ``logits``
            (N, labels, h, w).

        Raises:
            ModelFileError: a parser's logits are not as many as the Spec has labels.
        """
        images = torch.from_numpy(np.ascontiguousarray(batch, np.float32)).to(self._device)
        with self._lock, _evaluating(self._module), torch.no_grad():
            outputs = dict(self._module(images))
            if self.spec.task == "detect":
                outputs["scores"] = cast(DetectionNetwork, self._module).scores(outputs.pop("logits"))
        if self.spec.segmentation is not None:
            outputs = {"logits": outputs["logits"]}
            shape, labels = tuple(outputs["logits"].shape), len(self.spec.segmentation.labels)
            if len(shape) != 4 or shape[1] != labels:
                raise ModelFileError(
                    f"the network {self.spec.architecture} gives logits of shape {shape}, its Spec has {labels} labels"
                )
        return {name: values.float().cpu().numpy() for name, values in outputs.items()}


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]  # each one: frozen batch norms stay frozen
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _find(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()  # the only question that every kind of device answers
    except (RuntimeError, AssertionError, ImportError) as error:
        raise DeviceError(f"this torch cannot use the device {name!r}; choose another with --device, or cpu") from error
    return device
