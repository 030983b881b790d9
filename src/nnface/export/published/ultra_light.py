"""Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB: slim and RFB, without landmarks, for inputs of fixed size."""

from dataclasses import replace

from torch import nn

from nnface.errors import UsageError
from nnface.export.published.checkpoint import WIDER_FACE, Checkpoint, fit
from nnface.models.create import default_spec
from nnface.spec import Spec

SIZES = {128: 96, 160: 120, 320: 240, 480: 360, 640: 480, 1280: 960}
"""Width and height of the inputs that the project trains for."""


def network(checkpoint: Checkpoint, size: int | None) -> tuple[nn.Module, Spec]:
    """The network and its Spec.

    Args:
        checkpoint: the tensors, which do not tell for which input they were trained.
        size: the width of that input; None where the file is known.

    Raises:
        UsageError: the size is not said where it must be, is none of the project's, or contradicts what is known.
    """
    known = checkpoint.known.size if checkpoint.known else None
    if known is not None and size not in (None, known):
        raise UsageError(f"{checkpoint.path} is known to be trained at {known}, not {size}; leave --size out")
    width = known or size
    if width is None:
        raise UsageError(
            f"{checkpoint.path} is not a file that nnface knows; say its training width with --size 320 or 640"
        )
    if width not in SIZES:
        raise UsageError(f"Ultra-Light has no input of width {width}; --size is one of {', '.join(map(str, SIZES))}")
    architecture, module = fit(checkpoint, ["ultralight-slim", "ultralight-rfb"])
    spec = default_spec(architecture, licence=f"MIT (Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB); {WIDER_FACE}")
    return module, replace(spec, input=replace(spec.input, size=width, width=width, height=SIZES[width]))
