"""biubug6/Pytorch_Retinaface: RetinaFace with MobileNet-0.25 or ResNet-50."""

from torch import nn

from nnface.export.published.checkpoint import WIDER_FACE, Checkpoint, fit
from nnface.models.create import default_spec
from nnface.spec import Spec


def network(checkpoint: Checkpoint) -> tuple[nn.Module, Spec]:
    """The network and its Spec. Our modules bear the published names, and our default Spec is this project's."""
    architecture, module = fit(checkpoint, ["retinaface-mobilenet025", "retinaface-resnet50"])
    return module, default_spec(architecture, licence=f"MIT (biubug6/Pytorch_Retinaface); {WIDER_FACE}")
