"""Faces, their perceived attributes and their parts in one pass: detect, then classify and segment the faces."""

from collections.abc import Sequence
from typing import Literal

from nnface.image import ImageLike, as_array, require_many
from nnface.predict.classifier import Classifier
from nnface.predict.detector import Detector
from nnface.predict.segmenter import Segmenter
from nnface.results import Faces
from nnface.runtime import Runner


class Analyzer:
    """A :class:`Detector`, and behind it a :class:`Classifier`, a :class:`Segmenter`, or both.

    >>> from nnface import Analyzer  # doctest: +SKIP
    >>> for face in Analyzer()("team.jpg"):  # doctest: +SKIP
    ...     print(face.box, face.attributes["age"].label, face.parts["hair"])
    """

    def __init__(
        self,
        detector: Detector | None = None,
        classifier: Classifier | None = None,
        segmenter: Segmenter | None = None,
        *,
        chips: bool = False,
    ) -> None:
        """Tell what a classifier or a segmenter is given for; where neither is, both, by the bundled models.

        Args:
            detector: finds the faces; None: the bundled ``default``.
            classifier: tells their attributes.
            segmenter: labels their parts.
            chips: pictures are face chips, or portraits, already: no detector is asked.
        """
        self.detector = None if chips else detector or Detector()
        neither = classifier is None and segmenter is None
        self.classifier = Classifier() if neither else classifier
        self.segmenter = Segmenter() if neither else segmenter

    @property
    def runner(self) -> Runner:
        """The network that decides how pictures are batched: the first that looks at them."""
        first = self.detector or self.classifier or self.segmenter
        assert first is not None  # the constructor sees to it
        return first.runner

    def __call__(self, image: ImageLike, color: Literal["bgr", "rgb"] = "bgr") -> Faces:
        """The faces of one picture, best first, with attributes, parts, or both.

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
        """The faces of many pictures, in their order; faces of all pictures share the batches of what tells of them."""
        require_many(images)
        pixels = [as_array(image, color) for image in images]
        found = None if self.detector is None else self.detector.batch(pixels)
        if self.classifier is not None:
            found = self.classifier.batch(pixels, found)
        if self.segmenter is not None:
            found = self.segmenter.batch(pixels, found)
        assert found is not None  # the constructor sees to it
        return found
