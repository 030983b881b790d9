"""torchvision's ImageNet ResNets and MobileNetV2: no network of ours, but the backbone that a training starts from.

What comes out is the backbone alone, without the classifier, as safetensors: nothing in it can run, each tensor is
accounted for, and it says where it comes from. ``model.backbone`` of a recipe takes it.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from nnface.errors import ModelFileError
from nnface.export.published.checkpoint import Checkpoint, fit, read
from nnface.files import write_atomic
from nnface.header import BACKBONE_KEY
from nnface.models import mobilenet, resnet
from nnface.models.checkpoint import CLASSIFIERS

TERMS = "BSD-3-Clause (pytorch/vision); weights trained on ImageNet, whose terms are non-commercial research"

BACKBONES: Mapping[str, Callable[[], nn.Module]] = {
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "resnet50": resnet.resnet50,
    "resnet101": resnet.resnet101,
    "resnet152": resnet.resnet152,
    "mobilenetv2": mobilenet.MobileNetV2,
}


def write_backbone(path: str | Path, out: str | Path) -> tuple[str, str, bool]:
    """Read torchvision's checkpoint and write the backbone.

    Returns:
        the backbone's name, its terms, and whether the file is one that nnface knows by its SHA-256.

    Raises:
        ModelFileError: as :func:`read` and :func:`fit`, or weights that are not finite.
        NnfaceError: ``out`` cannot be written.
    """
    checkpoint = _body(read(path, "torchvision"))
    name, module = fit(checkpoint, BACKBONES, build=lambda name: BACKBONES[name]())
    tensors = {key: tensor.contiguous() for key, tensor in module.state_dict().items()}
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise ModelFileError(f"{path} holds weights that are not finite numbers; get it again")
    about = {"network": name, **checkpoint.provenance, "data": "ImageNet", "terms": TERMS}
    write_atomic(out, save(tensors, metadata={BACKBONE_KEY: json.dumps(about, ensure_ascii=False)}))
    return name, TERMS, checkpoint.known is not None


def _body(checkpoint: Checkpoint) -> Checkpoint:
    """Without the classifier, and with the counters of batch norms, which files of before 2018 do not have."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in checkpoint.tensors.items():
        if name.startswith(CLASSIFIERS):
            continue
        tensors[name] = tensor
        if name.endswith("running_mean"):
            counter = name.replace("running_mean", "num_batches_tracked")
            tensors[counter] = checkpoint.tensors.get(counter, torch.zeros((), dtype=torch.int64))
    return replace(checkpoint, tensors=tensors)
