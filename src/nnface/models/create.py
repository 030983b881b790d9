"""Every network by name: one line each."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from nnface.errors import UsageError
from nnface.models import anchorfree, bisenet, classifier, parser, retinaface, retinaface_dense, ultralight
from nnface.models.layers import ClassificationNetwork, DetectionNetwork, SegmentationNetwork
from nnface.spec import ClassificationSpec, SegmentationSpec, Spec

ARCHITECTURES: Mapping[str, Callable[..., nn.Module]] = {
    "anchorfree": anchorfree.AnchorFree,
    "ultralight-slim": ultralight.slim,
    "ultralight-rfb": ultralight.rfb,
    "ultralight-slim-landmarks": ultralight.slim_landmarks,
    "ultralight-rfb-landmarks": ultralight.rfb_landmarks,
    "retinaface-mobilenet025": retinaface.mobilenet025,
    "retinaface-mobilenet025-relu": retinaface.mobilenet025_relu,
    "retinaface-mobilenet050": retinaface.mobilenet050,
    "retinaface-mobilenet100": retinaface.mobilenet100,
    "retinaface-mobilenetv2": retinaface.mobilenetv2,
    "retinaface-resnet18": retinaface.resnet18,
    "retinaface-resnet34": retinaface.resnet34,
    "retinaface-resnet50": retinaface.resnet50,
    "retinaface-resnet101": retinaface.resnet101,
    "retinaface-resnet152": retinaface.resnet152,
    "retinaface-dense-resnet50": retinaface_dense.resnet50,
    "classifier-compact": classifier.CompactClassifier,
    "classifier-ensemble": classifier.ClassifierEnsemble,
    "classifier-mobilenetv2": classifier.mobilenetv2,
    "classifier-resnet18": classifier.resnet18,
    "classifier-resnet34": classifier.resnet34,
    "classifier-resnet50": classifier.resnet50,
    "parser": parser.Parser,
    "bisenet-resnet18": bisenet.resnet18,
    "bisenet-resnet34": bisenet.resnet34,
    "bisenet-mobile": bisenet.mobile,
}
"""What builds each network; its keyword arguments are the network's settings."""

# Settings come out of untrusted files too, and each part of a network takes time to build, even without memory.
_MAX_NUMBER, _MAX_LIST, _MAX_BLOCKS = 1 << 16, 64, 1024
_COUNTS = ("depths", "head_depth", "members")
"""Settings that say how many parts are built; together they multiply. ResNet-152 has 50 blocks."""


def create(architecture: str, settings: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a network with random weights, in training mode.

    Args:
        architecture: a name of :data:`ARCHITECTURES`.
        settings: keyword arguments of the network, as ``Spec.settings`` keeps them.

    Raises:
        UsageError: no such architecture, one that has no such setting, or settings that make no network.
    """
    if architecture not in ARCHITECTURES:
        near = difflib.get_close_matches(architecture, ARCHITECTURES, 1, 0.4)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(ARCHITECTURES)}"
        raise UsageError(f"there is no network named {architecture!r}; {hint}")
    build, settings = ARCHITECTURES[architecture], settings or {}
    known = inspect.signature(build).parameters
    for name in settings:
        if name not in known:
            hint = f"it has {', '.join(known)}" if known else "it has none"
            raise UsageError(f"the network {architecture} has no setting named {name!r}; {hint}")
    _check_bounds(architecture, settings)
    try:
        network = build(**settings)
    except (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError, AttributeError) as error:
        raise UsageError(f"the settings of the network {architecture} are impossible: {error}") from error
    for name, parameter in network.named_parameters():
        if parameter.numel() == 0:  # torch builds it, and fails where it is first run
            raise UsageError(f"the settings of the network {architecture} are impossible: {name} has no weights")
    return network


def _check_bounds(architecture: str, settings: Mapping[str, Any]) -> None:
    parts = 1
    for name, value in settings.items():
        values = value if isinstance(value, list | tuple) else [value]
        numbers = [item for item in values if isinstance(item, int | float)]
        if len(values) > _MAX_LIST or any(abs(number) > _MAX_NUMBER for number in numbers):
            raise UsageError(
                f"the settings of the network {architecture} are impossible: {name} has more than {_MAX_LIST} values "
                f"or one beyond {_MAX_NUMBER}"
            )
        if name in _COUNTS:
            parts *= max(1, sum(int(number) for number in numbers if number > 0))
    if parts > _MAX_BLOCKS:
        raise UsageError(
            f"the settings of the network {architecture} are impossible: {' times '.join(_COUNTS)} make more than "
            f"{_MAX_BLOCKS} blocks"
        )


def default_spec(architecture: str, *, licence: str = "not stated", **settings: Any) -> Spec:
    """The Spec that weights of a network have unless their maker says otherwise (with ``dataclasses.replace``).

    Weights of one network may differ in what is not the network's own: input size, anchor sizes, thresholds.

    Raises:
        UsageError: no such architecture, one that has no such setting, or one whose Spec has no defaults.
    """
    with torch.device("meta"):  # only its description is wanted: no memory, no random numbers
        network = create(architecture, settings)
    if isinstance(network, ClassificationNetwork):
        return Spec(
            task="classify",
            architecture=architecture,
            settings=settings,
            input=network.default_input,
            classification=ClassificationSpec(heads=network.heads),
            alignment=network.default_alignment,
            licence=licence,
        )
    if isinstance(network, SegmentationNetwork):
        return Spec(
            task="segment",
            architecture=architecture,
            settings=settings,
            input=network.default_input,
            segmentation=SegmentationSpec(labels=network.labels),
            alignment=network.default_alignment,
            licence=licence,
        )
    if not isinstance(network, DetectionNetwork):
        raise UsageError(f"the network {architecture} does none of our tasks; its Spec has no defaults")
    return Spec(
        task="detect",
        architecture=architecture,
        settings=settings,
        input=network.default_input,
        detection=network.default_detection,
        licence=licence,
    )
