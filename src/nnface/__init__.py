"""nnface: faces in photographs, from data set to deployment.

>>> from nnface import Detector, read_image  # doctest: +SKIP
>>> faces = Detector()(read_image("team.jpg"))  # doctest: +SKIP

Importing the package imports none of its parts: each name is fetched on first use, so ``import nnface`` is quick and
never imports torch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from nnface.version import __version__

if TYPE_CHECKING:
    from nnface.effects import blur as blur
    from nnface.effects import recolor as recolor
    from nnface.errors import NnfaceError as NnfaceError
    from nnface.image import read as read_image
    from nnface.predict.analyzer import Analyzer as Analyzer
    from nnface.predict.classifier import Classifier as Classifier
    from nnface.predict.detector import Detector as Detector
    from nnface.predict.segmenter import Segmenter as Segmenter
    from nnface.results import Attribute as Attribute
    from nnface.results import Face as Face
    from nnface.results import Faces as Faces

# ONNX Runtime's packages report to Microsoft (1.32 does on Linux too): importing one writes a device's number and
# an event to be sent. Whoever looks at faces does not expect that; who wants it sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOME = {
    "Analyzer": ("nnface.predict.analyzer", "Analyzer"),
    "Attribute": ("nnface.results", "Attribute"),
    "Classifier": ("nnface.predict.classifier", "Classifier"),
    "Detector": ("nnface.predict.detector", "Detector"),
    "Face": ("nnface.results", "Face"),
    "Faces": ("nnface.results", "Faces"),
    "NnfaceError": ("nnface.errors", "NnfaceError"),
    "Segmenter": ("nnface.predict.segmenter", "Segmenter"),
    "blur": ("nnface.effects", "blur"),
    "read_image": ("nnface.image", "read"),
    "recolor": ("nnface.effects", "recolor"),
}

__all__ = [
    "Analyzer",
    "Attribute",
    "Classifier",
    "Detector",
    "Face",
    "Faces",
    "NnfaceError",
    "Segmenter",
    "__version__",
    "blur",
    "read_image",
    "recolor",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nnface' has no attribute {name!r}")
    module, attribute = _HOME[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return __all__
