"""supernotman/RetinaFace_Pytorch: RetinaFace with ResNet-50, three anchors a cell, face before background.

The published file was saved from ``DataParallel``: every name begins with ``module.``.
"""

from torch import nn

from nnface.export.published.checkpoint import WIDER_FACE, Checkpoint, fit
from nnface.models.create import default_spec
from nnface.spec import Spec


def network(checkpoint: Checkpoint) -> tuple[nn.Module, Spec]:
    """The network and its Spec. Our modules bear the published names, and our default Spec is this project's."""
    architecture, module = fit(checkpoint, ["retinaface-dense-resnet50"])
    licence = f"no licence stated by supernotman/RetinaFace_Pytorch; {WIDER_FACE}"
    return module, default_spec(architecture, licence=licence)
