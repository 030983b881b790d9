"""biubug6/Face-Detector-1MB-with-landmark: slim, RFB and MobileNet-0.25, all with five landmarks.

Its MobileNet-0.25 has the keys, shapes and bytes of Pytorch_Retinaface's, but plain ReLUs and smaller anchors: nothing
in the file says so, which is why the FORMAT must.
"""

import re

from torch import nn

from nnface.export.published.checkpoint import WIDER_FACE, Checkpoint, fit
from nnface.models.create import default_spec
from nnface.spec import Spec

MOBILENET = "retinaface-mobilenet025-relu"
HEADS = {"conf": "classification_headers", "loc": "regression_headers", "landm": "landmark_headers"}


def network(checkpoint: Checkpoint) -> tuple[nn.Module, Spec]:
    """The network and its Spec."""
    architectures = ["ultralight-slim-landmarks", "ultralight-rfb-landmarks", MOBILENET]
    architecture, module = fit(checkpoint, architectures, _rename)
    return module, default_spec(architecture, licence=f"MIT (biubug6/Face-Detector-1MB-with-landmark); {WIDER_FACE}")


def _rename(architecture: str, name: str) -> str:
    if architecture == MOBILENET:
        return name
    first, _, rest = name.partition(".")
    if number := re.fullmatch(r"conv(\d{1,2})", first):
        index = int(number[1]) - 1
        return f"extras.0.{rest}" if index == 13 else f"base_net.{index}.{rest}"
    return f"{HEADS.get(first, first)}.{rest}"
