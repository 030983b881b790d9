"""Other people's PyTorch files, read as tensors and nothing else, and the ImageNet backbones among them."""

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from nnface.errors import ModelFileError, UsageError
from nnface.header import is_safetensors
from nnface.models.mobilenet import MobileNetV2
from nnface.models.resnet import ResNet

MAX_BYTES = 1 << 30
"""The largest checkpoint that is read: RetinaFace with ResNet-152 and an optimiser's state has half of it."""

CLASSIFIERS = ("fc.", "classifier.")
"""How the tensors of an ImageNet classifier begin, in torchvision's ResNets and MobileNets and in biubug6's."""


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The state dictionary of a PyTorch file, without the prefix ``module.``; nothing in the file is executed.

    Raises:
        ModelFileError: absent, too large, damaged, asking for more than tensors, or without a state dictionary.
    """
    path = Path(path)
    check_file(path)
    return _state(_load(path), path)


def check_file(path: str | Path) -> None:
    """Refuse what cannot be read, or is larger than any checkpoint.

    Raises:
        ModelFileError: the sentence names the path.
    """
    try:
        with Path(path).open("rb") as file:
            size = file.seek(0, 2)
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror or error}") from error
    if size > MAX_BYTES:
        raise ModelFileError(f"{path} has {size} bytes; checkpoints of more than {MAX_BYTES} are not read")


def read_backbone(path: str | Path, network: nn.Module) -> dict[str, Tensor]:
    """A published ImageNet backbone as tensors of ``network``, which may lie on the device ``meta``.

    Read are the state dictionaries of torchvision (ResNets, MobileNetV2), what ``nnface import torchvision`` made of
    them (safetensors), and biubug6's ``mobilenetV1X0.25_pretrain``.
    Every tensor is accounted for: the classifier's are left out, the others are exactly those of the network's body.
    Counters of batch norms may be missing, as in files of before 2018.

    Returns:
        the tensors by their names in the network.

    Raises:
        ModelFileError: as :func:`read_tensors`, not of this body, or not finite.
        UsageError: the network has no body for a backbone.
    """
    place, body = _body(network)
    found = _safetensors(path) if is_safetensors(path) else read_tensors(path)
    tensors = {name: tensor for name, tensor in found.items() if not name.startswith(CLASSIFIERS)}
    expected = {name: tensor for name, tensor in body.state_dict().items() if not name.startswith(CLASSIFIERS)}
    missing = [n for n in expected if n not in tensors and not n.endswith("num_batches_tracked")]
    extra = [n for n in tensors if n not in expected]
    wrong = [n for n in expected if n in tensors and tensors[n].shape != expected[n].shape]
    bad = [n for n, tensor in tensors.items() if not tensor.isfinite().all()]
    problems = {"missing": missing, "not of it": extra, "of another shape": wrong, "not finite": bad}
    words = "; ".join(f"{len(names)} {what} ({names[0]!r:.80})" for what, names in problems.items() if names)
    if words:
        raise ModelFileError(f"{path} is not a backbone for this network: {words}")
    return {f"{place}{name}": tensor for name, tensor in tensors.items()}


def _body(network: nn.Module) -> tuple[str, nn.Module]:
    """Where a network has its backbone, and the backbone; a classifier is one itself."""
    if isinstance(network, ResNet | MobileNetV2):
        return "", network
    for place in ("body", "cp.resnet"):  # RetinaFace, BiSeNet
        try:
            return f"{place}.", network.get_submodule(place)
        except AttributeError:
            continue
    raise UsageError(
        "model.backbone is for a network with a published backbone (RetinaFace, BiSeNet, the ResNet and MobileNetV2 "
        "classifiers); leave it out"
    )


def _safetensors(path: str | Path) -> dict[str, Tensor]:
    check_file(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelFileError(f"{path} is damaged: {error}; import it again") from error


def _load(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what old files make torch say is of no use to who imports one
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if wanted := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise ModelFileError(
                f"{path} is refused: it asks to run code ({wanted[1]}) when it is loaded; "
                "ask its maker for the state dictionary alone"
            ) from error
        raise ModelFileError(f"{path} is not a PyTorch checkpoint, is damaged, or holds more than tensors") from error
    except Exception as error:  # torch raises almost anything on a damaged file
        raise ModelFileError(f"{path} is not a PyTorch checkpoint, or is truncated or damaged; get it again") from error


def _state(content: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not content:
        raise ModelFileError(f"{path} holds no state dictionary (names with tensors); ask its maker for one")
    tensors: dict[str, Tensor] = {}
    for name, tensor in content.items():
        plain = isinstance(tensor, Tensor) and tensor.layout == torch.strided and not tensor.is_quantized
        if not isinstance(name, str) or not plain:
            raise ModelFileError(
                f"{path} holds {name!r:.100}, which is no plain tensor; ask its maker for the state dictionary"
            )
        tensors[name.removeprefix("module.")] = tensor
    return tensors
