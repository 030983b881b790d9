"""zllrunning/face-parsing.PyTorch: BiSeNet with ResNet-18, 19 labels in an order of its own.

It was trained on mirrored portraits whose left and right labels were not swapped, and so tells left from right less
well than its other parts; the weights are taken as they are.
"""

from dataclasses import replace

from torch import nn

from nnface.export.published.checkpoint import Checkpoint, fit
from nnface.models.create import default_spec
from nnface.spec import Spec

TERMS = "weights trained on CelebAMask-HQ: non-commercial research"


def network(checkpoint: Checkpoint) -> tuple[nn.Module, Spec]:
    """The network and its Spec. Our modules bear the published names, and our default Spec is this project's."""
    architecture, module = fit(checkpoint, ["bisenet-resnet18"])
    spec = default_spec(architecture, licence=f"MIT (zllrunning/face-parsing.PyTorch); {TERMS}")
    return module, replace(spec, provenance={"data": "CelebAMask-HQ, with ImageNet before", "terms": TERMS})
