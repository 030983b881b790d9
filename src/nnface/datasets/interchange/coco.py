"""COCO's detection JSON (https://cocodataset.org/#format-data), as far as faces need it.

``bbox`` is x, y, width, height in pixels; ``iscrowd`` 1 marks an ignore region; ``keypoints`` are five triples x, y,
visibility (0: not labelled) in the order eyes, nose, mouth corners, the picture's left first.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnface.datasets.samples import DetectionSample, empty_landmarks
from nnface.errors import DataError
from nnface.files import write_atomic
from nnface.image import read_sized

POINTS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
"""Names of the keypoints; left and right are the picture's."""

_FAR = 1e7
"""No picture has so many pixels a side."""


def read(path: str | Path) -> list[DetectionSample]:
    """The pictures of a COCO file with their faces, in the file's order.

    ``file_name`` is taken from the folder of the JSON file, or from a folder ``images`` beside it; an absolute path is
    taken as it is. The key is the
    picture's own ``key`` if it has one, else ``file_name`` without its suffix. Where exactly one category is called
    face, in whatever case, the annotations of the others are left out; else all categories count as faces. Boxes
    without width or height are left out.

    Raises:
        DataError: not there, a folder, not JSON, not COCO, a picture without an id of its own or a file name or that is
            not there, an annotation of an unknown picture, or a malformed box.
    """
    path = Path(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder; coco wants the JSON file, such as {path / 'faces.json'}") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("images"), list):
        raise DataError(f"{path} is not COCO's detection form: it has no list of images")
    annotations = data.get("annotations", [])
    if not isinstance(annotations, list):
        raise DataError(f"{path} is not COCO's detection form: its annotations are no list")
    others = _other_categories(data.get("categories"))
    rows: dict[int | str | float, list[dict[str, Any]]] = {}
    for number, image in enumerate(data["images"]):
        known = isinstance(image, dict) and isinstance(image.get("id"), int | str | float)
        if not known or not isinstance(image.get("file_name"), str) or not image["file_name"]:
            raise DataError(f"{path}: picture {number} of its list needs an id and a file_name")
        if image["id"] in rows:
            raise DataError(f"{path}: two pictures have the id {image['id']!r}")
        rows[image["id"]] = []
    for number, row in enumerate(annotations):
        owner = row.get("image_id") if isinstance(row, dict) else None
        if not isinstance(owner, int | str | float) or owner not in rows:
            raise DataError(f"{path}: annotation {number} of its list belongs to no picture (image_id {owner!r:.60})")
        if row.get("category_id") not in others:
            rows[owner].append(row)
    return [_sample(path, image, rows[image["id"]]) for image in data["images"]]


def _other_categories(categories: Any) -> list[Any]:
    """The ids of the categories that are no faces: where one alone is called face, all others that are listed."""
    known = [c for c in categories if isinstance(c, dict) and "id" in c] if isinstance(categories, list) else []
    faces = [c["id"] for c in known if str(c.get("name")).strip().casefold() == "face"]
    return [c["id"] for c in known if c["id"] != faces[0]] if len(faces) == 1 else []


def _sample(path: Path, image: dict[str, Any], rows: list[dict[str, Any]]) -> DetectionSample:
    name = Path(image["file_name"])
    try:
        picture = next(p for p in (path.parent / name, path.parent / "images" / name) if p.exists())
    except (StopIteration, ValueError) as error:  # ValueError: a name that no file can have
        raise DataError(f"{path}: its picture {str(name)!r} is not there, nor in a folder images beside it") from error
    except OSError as error:
        raise DataError(f"{path}: its picture {str(name)!r} cannot be reached: {error.strerror}") from error
    try:
        numbers = np.array([row["bbox"] for row in rows], np.float64).reshape(len(rows), 4)
        if not (np.abs(numbers) < _FAR).all():  # nor NaN
            raise ValueError("not finite, or too far")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: an annotation of {name} has no bbox of four numbers in a picture's range") from error
    if (numbers[:, 2:] < 0).any():
        raise DataError(f"{path}: an annotation of {name} has a bbox of negative width or height")
    boxes = numbers.astype(np.float32)
    landmarks = empty_landmarks(len(rows))
    for i, row in enumerate(rows):
        try:
            keypoints = np.array(row.get("keypoints") or [], np.float32)
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}: an annotation of {name} has keypoints that are no numbers") from error
        if keypoints.shape == (15,) and keypoints[2::3].min() > 0:
            landmarks[i] = keypoints.reshape(5, 3)[:, :2]
    keep = (boxes[:, 2] > 0) & (boxes[:, 3] > 0)
    return DetectionSample(
        key=str(image.get("key", name.with_suffix("").as_posix())),
        path=picture,
        boxes=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)[keep],
        landmarks=landmarks[keep],
        ignored=np.array([bool(row.get("iscrowd", 0)) for row in rows], bool)[keep],
    )


def write(path: str | Path, samples: Sequence[DetectionSample]) -> None:
    """Write a COCO file; the pictures stay where they are.

    ``file_name`` is relative to the file where the picture lies in its folder or below, else absolute. ``key`` is added
    where the name does not give it, and ``keypoints`` in a set that has landmarks.

    Raises:
        ImageError: a picture that cannot be read: its size is needed.
        NnfaceError: the folder does not exist or cannot be written.
    """
    path = Path(path)
    home = Path(os.path.abspath(path)).parent  # noqa: PTH100 - not resolved: a link's own name is meant
    images: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    pose = any(not np.isnan(s.landmarks).any((1, 2)).all() for s in samples)
    for number, sample in enumerate(samples, 1):
        width, height = read_sized(sample.path)
        place = Path(os.path.abspath(sample.path))  # noqa: PTH100
        name = (place.relative_to(home) if place.is_relative_to(home) else place).as_posix()
        image = {"id": number, "file_name": name, "width": width, "height": height}
        images.append(image if name.rsplit(".", 1)[0] == sample.key else image | {"key": sample.key})
        for box, points, ignored in zip(sample.boxes.tolist(), sample.landmarks, sample.ignored, strict=True):
            x, y, w, h = (round(v, 3) for v in (box[0], box[1], box[2] - box[0], box[3] - box[1]))
            row = {"id": len(rows) + 1, "image_id": number, "category_id": 1, "bbox": [x, y, w, h]}
            row |= {"area": round(w * h, 3), "iscrowd": int(ignored)}
            if pose:
                known = not np.isnan(points).any()
                triples = (
                    [v for px, py in points.tolist() for v in (round(px, 3), round(py, 3), 2)] if known else [0] * 15
                )
                row |= {"keypoints": triples, "num_keypoints": 5 * known}
            rows.append(row)
    category: dict[str, Any] = {"id": 1, "name": "face", "supercategory": "person"}
    if pose:
        category |= {"keypoints": list(POINTS), "skeleton": []}
    content = {"images": images, "annotations": rows, "categories": [category]}
    write_atomic(path, json.dumps(content, ensure_ascii=False) + "\n")
