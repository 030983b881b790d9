"""Faces and their perceived attributes in one pass: detect, cut chips, classify the faces of many pictures together."""

from collections.abc import Sequence
from typing import Literal

from nnface.image import ImageLike, as_array
from nnface.predict.classifier import Classifier
from nnface.predict.detector import Detector
from nnface.results import Faces
from nnface.runtime import Runner


class Analyzer:
    """A :class:`Detector` and a :class:`Classifier` behind one another.

    >>> from nnface import Analyzer  # doctest: +SKIP
    >>> for face in Analyzer()("team.jpg"):  # doctest: +SKIP
    ...     print(face.box, face.attributes["age"].label)
    """

    def __init__(
        self, detector: Detector | None = None, classifier: Classifier | None = None, *, chips: bool = False
    ) -> None:
        """Open the models that are not given: the bundled ``default`` and ``attributes``.

        Args:
            detector: finds the faces.
            classifier: tells their attributes.
            chips: pictures are face chips already: no detector is asked.
        """
        self.detector = None if chips else detector or Detector()
        self.classifier = classifier or Classifier()

    @property
    def runner(self) -> Runner:
        """The network that decides how pictures are batched: the detector's, or the classifier's for chips."""
        return (self.detector or self.classifier).runner

    def __call__(self, image: ImageLike, color: Literal["bgr", "rgb"] = "bgr") -> Faces:
        """The faces of one picture, best first, with attributes.

        Args:
            image: a path, a PIL image, or an array (H, W, 3) uint8, upright.
            color: the order of an array's channels: **bgr**, OpenCV's, unless told otherwise.

        Raises:
            ImageError: the path cannot be read.
            UsageError: not a picture, or a chip with a side under 10 pixels.
            ModelFileError: a network's outputs are not what its Spec says.
        """
        return self.batch([image], color)[0]

    def batch(self, images: Sequence[ImageLike], color: Literal["bgr", "rgb"] = "bgr") -> list[Faces]:
        """The faces of many pictures, in their order; faces of all pictures share the classifier's batches."""
        if self.detector is None:
            return self.classifier.batch(images, None, color)
        pixels = [as_array(image, color) for image in images]
        return self.classifier.batch(pixels, self.detector.batch(pixels))
