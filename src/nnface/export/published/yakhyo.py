"""yakhyo/retinaface-pytorch: RetinaFace with six backbones, named otherwise than by biubug6.

Its pictures, anchors and coding are biubug6's.
"""

import re

from torch import nn

from nnface.export.published.checkpoint import WIDER_FACE, Checkpoint, fit
from nnface.models.create import default_spec
from nnface.spec import Spec

ARCHITECTURES = (
    "retinaface-mobilenet025",
    "retinaface-mobilenet050",
    "retinaface-mobilenet100",
    "retinaface-mobilenetv2",
    "retinaface-resnet18",
    "retinaface-resnet34",
)


def network(checkpoint: Checkpoint) -> tuple[nn.Module, Spec]:
    """The network and its Spec."""
    architecture, module = fit(checkpoint, ARCHITECTURES, lambda architecture, name: _rename(name))
    return module, default_spec(architecture, licence=f"MIT (yakhyo/retinaface-pytorch); {WIDER_FACE}")


def _rename(name: str) -> str:
    if head := re.fullmatch(r"(class|bbox|landmark)_head\.\1_head\.(\d)\.(\w+)", name):
        return f"{head[1].capitalize()}Head.{head[2]}.conv1x1.{head[3]}"
    if block := re.fullmatch(r"fx\.(stage\d\.\d+)\.([01])\.([01])\.(\w+)", name):
        # Depthwise and pointwise are a Sequential each; here the six layers are one.
        return f"body.{block[1]}.{3 * int(block[2]) + int(block[3])}.{block[4]}"
    return re.sub(r"^fx\.", "body.", name)
