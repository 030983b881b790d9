"""The Spec: what a model file says of itself, and the one thing that predictors read.

It travels as JSON in the metadata of our safetensors files and of the ONNX files that we export (key ``nnface``), so
a model file needs no companion and no constant is repeated in code. Reading one needs neither torch nor onnx.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from nnface.errors import ModelFileError

FORMAT = 1
"""The version of the Spec's layout; a file with a higher one is refused with words."""

METADATA_KEY = "nnface"
"""The key under which a model file's metadata holds the Spec."""

MAX_JSON = 1 << 20
"""The longest Spec that is read, in characters: model files are untrusted."""

Task = Literal["detect", "classify", "segment"]
Color = Literal["bgr", "rgb"]
Fit = Literal["letterbox", "stretch"]
Scaling = Literal["exact", "linear", "plain"]
Coding = Literal["ssd", "distance"]

FAIRFACE_HEADS: Mapping[str, tuple[str, ...]] = {
    "race": ("White", "Black", "Latino_Hispanic", "East Asian", "Southeast Asian", "Indian", "Middle Eastern"),
    "gender": ("Male", "Female"),
    "age": ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70"),
}
"""FairFace's labels in its own words, in the order in which its published networks put them out."""

FAIRFACE_HEADS_4 = {**FAIRFACE_HEADS, "race": ("White", "Black", "Asian", "Indian")}
"""The same with the four races of FairFace's second network."""

CELEBAMASK_LABELS = (
    "background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth", "u_lip",
    "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
)  # fmt: skip
"""CelebAMask-HQ's labels in its own order and words: ``l_`` is the subject's left, on the right of the picture;
``eye_g`` eyeglasses, ``ear_r`` earring, ``neck_l`` necklace, ``mouth`` the inside between the lips."""

LABEL_ORDERS: Mapping[str, tuple[str, ...]] = {
    "celebamask": CELEBAMASK_LABELS,
    "zllrunning": (
        "background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "l_ear", "r_ear", "ear_r", "nose",
        "mouth", "u_lip", "l_lip", "neck", "neck_l", "cloth", "hair", "hat",
    ),
}  # fmt: skip
"""Orders of the same labels, by name: the data set's own, and that of zllrunning/face-parsing.PyTorch and its kin."""


def mirrored_labels(names: Sequence[str]) -> tuple[int, ...]:
    """The number of the label that each label becomes in a mirror image: that of ``r_eye`` for ``l_eye``, its own for
    ``nose`` and for a side whose other is not among the names."""
    other = {"l_": "r_", "r_": "l_"}
    partners = [other.get(name[:2], name[:2]) + name[2:] for name in names]
    return tuple(names.index(p) if p in names else number for number, p in enumerate(partners))


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """How a picture becomes the network's input, a float32 tensor (N, 3, height, width).

    ``mean`` and ``std`` are on the scale 0..255 and in the order of ``color``: input = (pixel - mean) / std.
    """

    size: int
    """The long side, in pixels, that the network was made for: what a predictor uses unless told otherwise."""
    width: int | None = None
    """Fixed width of the network's input; None: any multiple of ``multiple``."""
    height: int | None = None
    """Fixed height, likewise."""
    multiple: int = 32
    """Free sides are padded on the right and below to a multiple of this."""
    fit: Fit = "letterbox"
    """letterbox keeps the aspect ratio and pads with ``mean``; stretch squashes to width x height (Ultra-Light)."""
    scaling: Scaling = "exact"
    """How letterbox makes a picture smaller or larger. exact: by one factor, in float32, whole blocks of pixels
    averaged first where it shrinks by more than half, in JPEGs by the decoder. linear: the same without averaging, as
    the published RetinaFaces have it. plain: ``cv2.resize`` on 8 bits to whole pixels (YuNet, SCRFD)."""
    color: Color = "bgr"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionSpec:
    """How a detector's outputs become faces.

    The outputs, in the runtime's coordinates and for A anchors in the order level, row, column, anchor of the cell:
    ``scores`` (N, A) in 0..1, ``boxes`` (N, A, 4) and, with ``landmarks``, ``landmarks`` (N, A, 10) still coded.
    Codings, for an anchor with centre (cx, cy) and size (w, h), and a cell of stride s with centre (cx, cy):

    ssd
        centre = c + d[:2] * variances[0] * size, size = size * exp(d[2:] * variances[1]);
        point = c + p * variances[0] * size (SSD, RetinaFace, Ultra-Light).
    distance
        left, top, right, bottom = d * s away from the centre; point = c + p * s (FCOS, SCRFD).
    """

    coding: Coding
    strides: tuple[int, ...]
    anchor_sizes: tuple[tuple[float, ...], ...] = ()
    """Sides of the square anchors in pixels, a tuple for each stride. For ``distance`` what distances count in instead
    of the stride, an anchor each (SCRFD has two of a stride); empty: one a cell."""
    clip_anchors: bool = False
    """Ultra-Light's layout: the cells of a level share the input evenly, and no anchor is larger than the input."""
    clip_boxes: bool = False
    """Boxes and points are clamped to the input (supernotman)."""
    variances: tuple[float, float] = (0.1, 0.2)
    landmarks: bool = True
    """Whether five points (eyes, nose, mouth corners; the picture's left first) come with each box."""
    min_score: float = 0.5
    """The recommended threshold, fitted for the model."""
    nms_iou: float = 0.4
    selected: bool = False
    """The file decodes and selects by itself (``nnface export --with-nms``): it has one output, ``detections``, is
    meant for use without nnface, and is not run by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassificationSpec:
    """What a classifier's outputs mean: for each head its name (also the output's) and its labels in order."""

    heads: Mapping[str, tuple[str, ...]]
    temperatures: Mapping[str, float] = field(default_factory=dict)
    """Logits are divided by the head's temperature (1 where none is given) before the softmax."""
    min_confidence: Mapping[str, float] = field(default_factory=dict)
    """Below the head's confidence an answer is marked as not certain."""
    views: Literal[1, 2, 4] = 1
    """A predictor takes the mean of the logits over so many views of a chip, at so many times the cost: 2 are the chip
    and its mirror image; 4 are the chip moved right, left, up and down by a thirty-second of its side, two of them
    mirrored. Answers are better, and hang less on the crop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentationSpec:
    """What a parser's output ``logits`` (N, C, h, w) means: the names of the C labels, in order.

    The logits lie on a grid of any size that covers the network's input; a predictor enlarges them, bilinear with
    pixel centres at 0.5 (``align_corners`` false), before it takes the likeliest label.
    """

    labels: tuple[str, ...]
    views: Literal[1, 2] = 1
    """A predictor takes the mean of the logits over so many views of a portrait, at so many times the cost: 2 are the
    portrait and its mirror image, whose logits are mirrored back, left and right parts exchanged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignmentSpec:
    """Where the five landmarks lie in the chip that a network was trained on, in units of the chip's side."""

    points: tuple[tuple[float, float], ...]
    margin: float = 0.25
    """Where there are no landmarks: the box's longer side is enlarged by this share on each side."""
    correction: tuple[tuple[float, ...], ...] = ()
    """Where there are landmarks and a box: how the chip by the landmarks is then moved, enlarged and turned, as 4 rows
    of 15 weights (``geometry.align.corrected``); empty: not at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """Everything that is needed to run a model file, and where it comes from."""

    task: Task
    architecture: str
    """The network's name in ``nnface.models.create``."""
    input: InputSpec
    licence: str
    """The terms of the weights, as people should read them."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the network; JSON values."""
    detection: DetectionSpec | None = None
    classification: ClassificationSpec | None = None
    segmentation: SegmentationSpec | None = None
    alignment: AlignmentSpec | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Origin: data, teachers, recipe, commit, the source file's SHA-256."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Measured figures by name, such as ``widerface/holdout/vga/easy``."""
    format: int = FORMAT

    def to_json(self) -> str:
        """The Spec as compact JSON; parts that are None are left out."""
        return json.dumps({k: v for k, v in asdict(self).items() if v is not None}, ensure_ascii=False)


def parse(text: str, origin: str) -> Spec:
    """Read a Spec from JSON; ``origin`` names the file in errors.

    Raises:
        ModelFileError: not JSON, too long, of a newer format, or a field is missing, unknown or of the wrong kind.
    """
    if len(text) > MAX_JSON:
        raise ModelFileError(f"{origin}: its nnface metadata is longer than {MAX_JSON} characters; the file is refused")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{origin}: its nnface metadata is not JSON; the file is damaged") from error
    reader = _Reader(origin)
    if not isinstance(data, dict):
        raise ModelFileError(f"{origin}: its nnface metadata is not an object; the file is damaged")
    version = data.get("format")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ModelFileError(f"{origin}: its nnface metadata has no format version; the file is damaged")
    if version > FORMAT:
        raise ModelFileError(f"{origin}: written in format {version}, this nnface reads up to {FORMAT}; update nnface")
    return reader.spec(data)


class _Reader:
    """Turns untrusted JSON into a Spec, with errors that name the field."""

    def __init__(self, origin: str) -> None:
        self.origin = origin

    def spec(self, data: dict[str, Any]) -> Spec:
        fields = self.known(data, Spec, "")
        spec = Spec(
            task=self.choice(fields, "task", get_args(Task)),
            architecture=self.text(fields, "architecture"),
            input=self.input(self.object(fields, "input")),
            licence=self.text(fields, "licence"),
            settings=self.object(fields, "settings", {}),
            detection=self.detection(fields["detection"]) if fields.get("detection") is not None else None,
            classification=self.classification(fields["classification"]) if fields.get("classification") else None,
            segmentation=self.segmentation(fields["segmentation"]) if fields.get("segmentation") else None,
            alignment=self.alignment(fields["alignment"]) if fields.get("alignment") else None,
            provenance={k: str(v) for k, v in self.object(fields, "provenance", {}).items()},
            figures={k: self.number(v, f"figures.{k}") for k, v in self.object(fields, "figures", {}).items()},
            format=data["format"],
        )
        part = {"detect": spec.detection, "classify": spec.classification, "segment": spec.segmentation}[spec.task]
        if part is None:
            raise self.error("task", f"is {spec.task!r}, but what its outputs mean is not given")
        return spec

    def input(self, data: dict[str, Any]) -> InputSpec:
        fields = self.known(data, InputSpec, "input.")
        fixed = {
            side: self.integer(fields[side], f"input.{side}", 1, 1 << 14) if fields.get(side) is not None else None
            for side in ("width", "height")
        }
        if (fixed["width"] is None) != (fixed["height"] is None):
            raise self.error("input", "fixes one side and not the other")
        std = self.numbers(fields.get("std", [1, 1, 1]), "input.std", 3)
        if min(std) <= 0:
            raise self.error("input.std", "must be positive")
        fit: Fit = self.choice({"fit": "letterbox", **fields}, "fit", get_args(Fit))
        if fit == "stretch" and fixed["width"] is None:
            raise self.error("input.fit", "is stretch, which needs a width and a height")
        mean = self.numbers(fields.get("mean", [0, 0, 0]), "input.mean", 3)
        return InputSpec(
            size=self.integer(fields.get("size"), "input.size", 1, 1 << 14),
            width=fixed["width"],
            height=fixed["height"],
            multiple=self.integer(fields.get("multiple", 32), "input.multiple", 1, 1024),
            fit=fit,
            scaling=self.choice({"scaling": "exact", **fields}, "scaling", get_args(Scaling)),
            color=self.choice({"color": "bgr", **fields}, "color", get_args(Color)),
            mean=(mean[0], mean[1], mean[2]),
            std=(std[0], std[1], std[2]),
        )

    def detection(self, data: Any) -> DetectionSpec:
        fields = self.known(self.as_object(data, "detection"), DetectionSpec, "detection.")
        coding: Coding = self.choice(fields, "coding", get_args(Coding))
        strides = tuple(
            self.integer(s, "detection.strides", 1, 1024) for s in self.list(fields.get("strides"), "strides")
        )
        sizes = tuple(
            self.numbers(level, "detection.anchor_sizes")
            for level in self.list(fields.get("anchor_sizes", []), "anchor_sizes")
        )
        if not strides or len(strides) > 16:
            raise self.error("detection.strides", "must name one to sixteen levels")
        sized = coding == "ssd" or sizes
        if sized and (len(sizes) != len(strides) or any(not level or min(level) <= 0 for level in sizes)):
            raise self.error("detection.anchor_sizes", "must give positive sizes for each stride")
        variances = self.numbers(fields.get("variances", [0.1, 0.2]), "detection.variances", 2)
        return DetectionSpec(
            coding=coding,
            strides=strides,
            anchor_sizes=sizes,
            clip_anchors=self.flag(fields.get("clip_anchors", False), "detection.clip_anchors"),
            clip_boxes=self.flag(fields.get("clip_boxes", False), "detection.clip_boxes"),
            variances=(variances[0], variances[1]),
            landmarks=self.flag(fields.get("landmarks", True), "detection.landmarks"),
            min_score=self.number(fields.get("min_score", 0.5), "detection.min_score", 0, 1),
            nms_iou=self.number(fields.get("nms_iou", 0.4), "detection.nms_iou", 0, 1),
            selected=self.flag(fields.get("selected", False), "detection.selected"),
        )

    def classification(self, data: Any) -> ClassificationSpec:
        fields = self.known(self.as_object(data, "classification"), ClassificationSpec, "classification.")
        heads = {k: self.texts(v, f"classification.heads.{k}") for k, v in self.object(fields, "heads").items()}
        if not heads or any(len(labels) < 2 for labels in heads.values()):
            raise self.error("classification.heads", "must give each head at least two labels")
        per_head = {
            name: {k: self.number(v, f"classification.{name}.{k}", 0) for k, v in self.object(fields, name, {}).items()}
            for name in ("temperatures", "min_confidence")
        }
        if not all(per_head["temperatures"].values()):
            raise self.error("classification.temperatures", "must be above 0")
        views: Literal[1, 2, 4] = self.choice({"views": 1, **fields}, "views", (1, 2, 4))
        return ClassificationSpec(heads=heads, **per_head, views=views)

    def segmentation(self, data: Any) -> SegmentationSpec:
        fields = self.known(self.as_object(data, "segmentation"), SegmentationSpec, "segmentation.")
        labels = self.texts(fields.get("labels"), "segmentation.labels")
        if not 2 <= len(labels) <= 256:
            raise self.error("segmentation.labels", "must be 2 to 256 names")
        views: Literal[1, 2] = self.choice({"views": 1, **fields}, "views", (1, 2))
        return SegmentationSpec(labels=labels, views=views)

    def alignment(self, data: Any) -> AlignmentSpec:
        fields = self.known(self.as_object(data, "alignment"), AlignmentSpec, "alignment.")
        pairs = [self.numbers(p, "alignment.points", 2) for p in self.list(fields.get("points"), "alignment.points")]
        if len(pairs) != 5:
            raise self.error("alignment.points", "must be five points")
        rows = self.list(fields.get("correction", []), "alignment.correction")
        if len(rows) not in (0, 4):
            raise self.error("alignment.correction", "must be four rows")
        return AlignmentSpec(
            points=tuple((x, y) for x, y in pairs),
            margin=self.number(fields.get("margin", 0.25), "alignment.margin", 0, 4),
            correction=tuple(self.numbers(row, "alignment.correction", 15) for row in rows),
        )

    # The smallest parts, each with the field's name for the error.

    def error(self, name: str, problem: str) -> ModelFileError:
        return ModelFileError(f"{self.origin}: in its nnface metadata, {name} {problem}")

    def known(self, data: dict[str, Any], kind: type, prefix: str) -> dict[str, Any]:
        unknown = sorted(set(data) - set(kind.__dataclass_fields__))  # type: ignore[attr-defined]
        if unknown:
            raise self.error(prefix + unknown[0], "is not a field that this nnface knows")
        return data

    def as_object(self, value: Any, name: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.error(name, "is not an object")
        return value

    def object(self, fields: dict[str, Any], name: str, default: dict[str, Any] | None = None) -> dict[str, Any]:
        return self.as_object(fields.get(name, default), name)

    def list(self, value: Any, name: str) -> list[Any]:
        if not isinstance(value, list) or len(value) > 4096:
            raise self.error(name, "is not a list of sensible length")
        return value

    def text(self, fields: dict[str, Any], name: str) -> str:
        value = fields.get(name)
        if not isinstance(value, str):
            raise self.error(name, "is not a text")
        return value

    def texts(self, value: Any, name: str) -> tuple[str, ...]:
        items = self.list(value, name)
        if not all(isinstance(item, str) for item in items):
            raise self.error(name, "is not a list of texts")
        return tuple(items)

    def choice(self, fields: dict[str, Any], name: str, options: tuple[Any, ...]) -> Any:
        value = fields.get(name)
        if value not in options:
            raise self.error(name, f"is {value!r}, not one of {', '.join(map(str, options))}")
        return value

    def flag(self, value: Any, name: str) -> bool:
        if not isinstance(value, bool):
            raise self.error(name, "is not true or false")
        return value

    def integer(self, value: Any, name: str, low: int, high: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(name, f"is not a whole number from {low} to {high}")
        return value

    def number(self, value: Any, name: str, low: float = -1e9, high: float = 1e9) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self.error(name, f"is not a number from {low:g} to {high:g}")
        return float(value)

    def numbers(self, value: Any, name: str, count: int | None = None) -> tuple[float, ...]:
        items = self.list(value, name)
        if count is not None and len(items) != count:
            raise self.error(name, f"is not {count} numbers")
        return tuple(self.number(item, name) for item in items)
