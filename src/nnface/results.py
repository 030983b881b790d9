"""What a prediction is: :class:`Faces`, one typed object for the faces of a picture."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from nnface.errors import DependencyError

if TYPE_CHECKING:
    from supervision import Detections


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """One perceived attribute of a face, such as ``age``.

    ``label`` is always the likeliest one; ``certain`` is False where the model would rather not say.
    """

    label: str
    confidence: float
    certain: bool
    probabilities: Mapping[str, float]


def _equal(first: Any, second: Any) -> bool:
    """Whether two dataclasses of one class have equal fields; of arrays all values, NaN as itself."""
    if first.__class__ is not second.__class__:
        return False
    for field in fields(first):
        a, b = getattr(first, field.name), getattr(second, field.name)
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            same = np.array_equal(a, b, equal_nan=a.dtype.kind == "f" and b.dtype.kind == "f")
        else:
            same = a is b or (type(a) is type(b) and bool(a == b))
        if not same:
            return False
    return True


def words(attributes: Mapping[str, Attribute]) -> str:
    """Attributes for people to read, such as ``East Asian, Female?, 20-29``; a ? is behind what is not certain."""
    return ", ".join(a.label + ("" if a.certain else "?") for a in attributes.values()) or "too small to tell"


def part_words(parts: Mapping[str, int]) -> str:
    """Parts for people to read: the four largest with their shares of the face, such as ``hair 41%, skin 38%``."""
    largest = sorted(parts, key=lambda name: -parts[name])[:4]
    return ", ".join(f"{name} {parts[name] / sum(parts.values()):.0%}" for name in largest) or "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Face:
    """One face. Coordinates are pixels of the upright picture, x to the right and y down."""

    box: NDArray[np.float32]
    """(4,): x1, y1, x2, y2; may reach beyond the picture."""
    score: float | None
    """0..1, or None for a picture that was given as a face (``--crop none``)."""
    landmarks: NDArray[np.float32] | None = None
    """(5, 2): eyes, nose, mouth corners; the one on the picture's left first."""
    attributes: Mapping[str, Attribute] | None = None
    parts: Mapping[str, int] | None = None
    """Pixels of the picture for each part that is there."""

    def __eq__(self, other: object) -> bool:
        return _equal(self, other)

    def to_dict(self) -> dict[str, Any]:
        """The face as JSON values, in the form of the command line's JSON Lines; what was not asked for is absent."""
        row: dict[str, Any] = {
            "box": [round(v, 3) for v in self.box.tolist()],
            "score": None if self.score is None else round(float(self.score), 6),
            "landmarks": None
            if self.landmarks is None
            else [[round(x, 3), round(y, 3)] for x, y in self.landmarks.tolist()],
        }
        if self.attributes is not None:
            row["attributes"] = {
                name: {
                    "label": a.label,
                    "confidence": round(a.confidence, 6),
                    "certain": a.certain,
                    "probabilities": {k: round(v, 6) for k, v in a.probabilities.items()},
                }
                for name, a in self.attributes.items()
            }
        if self.parts is not None:
            row["parts"] = dict(self.parts)
        return row


@dataclass(frozen=True, slots=True, kw_only=True)
class Faces(Sequence[Face]):
    """The faces of one picture, best first: a sequence of :class:`Face`, and the arrays behind it.

    >>> faces = Faces.empty(640, 480)
    >>> len(faces), faces.boxes.shape
    (0, (0, 4))
    """

    width: int
    """Width of the upright picture in pixels."""
    height: int
    boxes: NDArray[np.float32]
    """(n, 4): x1, y1, x2, y2 in pixels of the upright picture."""
    scores: NDArray[np.float32] | None
    """(n,) in 0..1, or None where the picture itself was given as a face."""
    landmarks: NDArray[np.float32] | None = None
    """(n, 5, 2) in pixels, or None for a detector without landmarks."""
    attributes: Sequence[Mapping[str, Attribute]] | None = None
    parts: Sequence[Mapping[str, int]] | None = None
    labels: NDArray[np.uint8] | None = None
    """(height, width): the label of each pixel of the picture, a number in ``spec.CELEBAMASK_LABELS``; all faces
    together, 0 where there is none. Not in the JSON, and None for a part of the faces, which it cannot be split by."""

    @classmethod
    def empty(cls, width: int, height: int, landmarks: bool = False) -> "Faces":
        """No faces in a picture of this size."""
        points = np.zeros((0, 5, 2), np.float32) if landmarks else None
        zeros = np.zeros((0, 4), np.float32)
        return cls(width=width, height=height, boxes=zeros, scores=np.zeros(0, np.float32), landmarks=points)

    def __eq__(self, other: object) -> bool:
        return _equal(self, other)

    def __len__(self) -> int:
        return len(self.boxes)

    @overload
    def __getitem__(self, index: int) -> Face: ...
    @overload
    def __getitem__(self, index: "slice | NDArray[Any] | Sequence[int]") -> "Faces": ...
    def __getitem__(self, index: Any) -> "Face | Faces":
        """A face by its number, or the Faces that a slice, an array of numbers or a mask selects."""
        if isinstance(index, int | np.integer):
            index = int(index)
            return Face(
                box=self.boxes[index],
                score=None if self.scores is None else float(self.scores[index]),
                landmarks=None if self.landmarks is None else self.landmarks[index],
                attributes=None if self.attributes is None else self.attributes[index],
                parts=None if self.parts is None else self.parts[index],
            )
        chosen = np.arange(len(self))[index]
        return Faces(
            width=self.width,
            height=self.height,
            boxes=self.boxes[chosen],
            scores=None if self.scores is None else self.scores[chosen],
            landmarks=None if self.landmarks is None else self.landmarks[chosen],
            attributes=None if self.attributes is None else [self.attributes[i] for i in chosen],
            parts=None if self.parts is None else [self.parts[i] for i in chosen],
        )

    def __iter__(self) -> Iterator[Face]:
        return (self[i] for i in range(len(self)))

    def with_attributes(self, attributes: Sequence[Mapping[str, Attribute]]) -> "Faces":
        """The same faces with attributes, a mapping for each face."""
        return replace(self, attributes=list(attributes))

    def with_parts(self, parts: Sequence[Mapping[str, int]], labels: NDArray[np.uint8] | None = None) -> "Faces":
        """The same faces with the pixels of their parts, a mapping for each face, and the label image."""
        return replace(self, parts=list(parts), labels=labels)

    def to_dict(self) -> dict[str, Any]:
        """``{"width", "height", "faces": [...]}`` with JSON values, as in the command line's JSON Lines."""
        return {"width": self.width, "height": self.height, "faces": [face.to_dict() for face in self]}

    def to_json(self) -> str:
        """:meth:`to_dict` as one line of JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def to_supervision(self) -> "Detections":
        """The same as a ``supervision.Detections``: class 0, which its annotators label ``face``.

        ``data`` has the landmarks, (n, 5, 2), and of each attribute the labels, (n,), and under ``NAME_confidence`` how
        sure they are; of a face too small to tell, ``""`` and 0.

        Raises:
            DependencyError: supervision is not installed.
        """
        try:
            from supervision import Detections
        except ImportError as error:
            raise DependencyError("to_supervision needs the package supervision: pip install supervision") from error
        data: dict[str, NDArray[Any] | list[Any]] = {"class_name": np.full(len(self), "face")}
        if self.landmarks is not None:
            data["landmarks"] = self.landmarks
        for name in dict.fromkeys(name for told in self.attributes or () for name in told):
            told = [attributes.get(name) for attributes in self.attributes or ()]
            data[name] = np.array(["" if one is None else one.label for one in told])
            data[f"{name}_confidence"] = np.array([0.0 if one is None else one.confidence for one in told], np.float32)
        return Detections(
            xyxy=self.boxes.astype(np.float32),
            confidence=self.scores,
            class_id=np.zeros(len(self), int),
            data=data,
        )

    def crops(self, image: NDArray[np.uint8], margin: float = 0.0) -> list[NDArray[np.uint8]]:
        """The pixels of each face, copied from the picture that the faces were found in.

        Args:
            image: (height, width, channels) uint8, the upright picture.
            margin: enlarges each box by this share of its width and height on every side.

        Returns:
            an array for each face, cut at the picture's border; empty (0 rows or columns) where a box lies outside.
        """
        width, height = self.boxes[:, 2] - self.boxes[:, 0], self.boxes[:, 3] - self.boxes[:, 1]
        grow = np.stack([-width, -height, width, height], 1) * margin
        limits = np.array([image.shape[1], image.shape[0]] * 2)
        cuts = np.clip(np.round(self.boxes + grow), 0, limits).astype(int)
        return [image[y1:y2, x1:x2].copy() for x1, y1, x2, y2 in cuts]
