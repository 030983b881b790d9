"""Weights to start from: a model file of ours, or an exported ONNX file, the bundled ones among them.

Export folds each batch norm into its convolution. Coming back, the norm gets the statistics that a batch of pictures
has in front of it, and the scale and shift that undo them: the network computes what the file computes, and goes on
computing it when training normalises by the batch.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from nnface.errors import ModelFileError
from nnface.files import sha256
from nnface.header import open_header
from nnface.models import file as model_file
from nnface.models.checkpoint import read_backbone
from nnface.models.create import create
from nnface.models.narrow import widened
from nnface.runtime import open_model
from nnface.runtime.torch import TorchRunner
from nnface.spec import Spec
from nnface.training.recipe import Model

TOLERANCE = 1e-3
"""The largest difference from the file's own outputs, on their own scale, that a network from ONNX may have."""


_WEIGHTED = ("Conv", "Gemm")
"""What convolutions and linear layers become in the graph."""


def initial_weights(path: Path, pictures: Tensor) -> tuple[Mapping[str, Tensor], Spec]:
    """The state dict and the Spec of a model file.

    Args:
        path: a safetensors model file, or an ONNX file that nnface exported.
        pictures: (N, 3, H, W) float32, normalised as the network's input: what the statistics are taken from.

    Raises:
        ModelFileError: not such a file, or an ONNX file whose layers are not the network's.
    """
    kind, spec = open_header(path)
    if kind != "onnx":
        module, spec = model_file.load(path)
        return module.state_dict(), spec
    network = create(spec.architecture, spec.settings).eval()
    if spec.input.height is not None and spec.input.width is not None:  # the file takes no other size
        pictures = F.interpolate(pictures, (spec.input.height, spec.input.width), mode="bilinear", align_corners=False)
    order = _call_order(network, pictures[:1])
    _fill(path, order)
    _calibrate(network, pictures)
    _compare(path, network, spec, pictures[:1])
    return network.state_dict(), spec


def backbone(plan: Model) -> tuple[Mapping[str, Tensor] | None, dict[str, str]]:
    """The tensors of a recipe's ``model.backbone`` by their names in the network, and its line of provenance.

    Nothing of either where the recipe names none.

    Raises:
        ModelFileError: the backbone cannot be read or is not the network's.
        UsageError: the network has no backbone.
    """
    if plan.backbone is None:
        return None, {}
    with torch.device("meta"):
        network = create(plan.architecture, plan.settings)
    tensors = read_backbone(plan.backbone, network)
    return tensors, {"backbone": f"ImageNet weights {plan.backbone.name} (sha256 {sha256(plan.backbone)})"}


def _call_order(network: nn.Module, picture: Tensor) -> list[nn.Module]:
    """Convolutions, batch norms and linear layers in the order in which they are computed."""
    order: list[nn.Module] = []
    hooks = [
        module.register_forward_hook(lambda called, _inputs, _output: order.append(called))
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear)
    ]
    with torch.no_grad():
        network(picture)
    for hook in hooks:
        hook.remove()
    return order


def _fill(path: Path, order: list[nn.Module]) -> None:
    """Give each convolution its folded weights, and the batch norm behind it the folded bias as its shift."""
    weighted = [module for module in order if isinstance(module, nn.Conv2d | nn.Linear)]
    graph = widened(onnx.load(path)).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = [[arrays.get(name) for name in node.input[1:]] for node in graph.node if node.op_type in _WEIGHTED]
    shapes = [tuple(module.weight.shape) for module in weighted]
    if [None if node[0] is None else node[0].shape for node in nodes] != shapes:
        raise ModelFileError(f"{path}: its layers are not those of its network; start from a .safetensors file")
    for module, (weight, *rest) in zip(weighted, nodes, strict=True):
        bias = rest[0] if rest else None
        assert weight is not None  # its shape was compared
        module.weight.data.copy_(torch.from_numpy(weight.astype(np.float32)))
        norm = order[order.index(module) + 1] if order.index(module) + 1 < len(order) else None
        if isinstance(norm, nn.BatchNorm2d):
            _identity(norm, bias)
        elif module.bias is not None and bias is not None:
            module.bias.data.copy_(torch.from_numpy(bias.astype(np.float32)))


def _identity(norm: nn.BatchNorm2d, bias: NDArray[np.generic] | None) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)
    norm.weight.data.fill_(1)
    norm.bias.data.copy_(torch.from_numpy(np.array(bias, np.float32)) if bias is not None else torch.zeros(()))


def _calibrate(network: nn.Module, pictures: Tensor) -> None:
    """Let every batch norm hold the statistics of its input; what the network computes stays the same."""

    def hold(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.data.copy_((variance + norm.eps).sqrt())
        norm.bias.data.add_(mean)

    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(hold) for norm in norms]
    with torch.no_grad():
        network(pictures)
    for hook in hooks:
        hook.remove()


def _compare(path: Path, network: nn.Module, spec: Spec, picture: Tensor) -> None:
    wanted = open_model(path, "cpu", 1).run(picture.numpy())
    found = TorchRunner(network, spec).run(picture.numpy())
    for name, values in wanted.items():
        difference = float(np.abs(values - found[name]).max())
        if difference > TOLERANCE * max(1.0, float(np.abs(values).max())):
            raise ModelFileError(f"{path}: its {name} come out differently; start from a .safetensors file")
