"""COCO's detection JSON (https://cocodataset.org/#format-data), as far as faces need it.

``bbox`` is x, y, width, height in pixels; ``iscrowd`` 1 marks an ignore region; ``keypoints`` are five triples x, y,
visibility (0: not labelled) in the order eyes, nose, mouth corners, the picture's left first.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from nnface.datasets.samples import DetectionSample, empty_landmarks
from nnface.errors import DataError


def read(path: str | Path) -> list[DetectionSample]:
    """The pictures of a COCO file with their faces, in the file's order.

    ``file_name`` is taken from the folder of the JSON file, or from a folder ``images`` beside it; an absolute path is
    taken as it is. The key is the
    picture's own ``key`` if it has one, else ``file_name`` without its suffix. All categories count as faces.

    Raises:
        DataError: not there, not JSON, not COCO, a picture without an id of its own or a file name, an annotation of an
            unknown picture, or a malformed box.
    """
    path = Path(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("images"), list):
        raise DataError(f"{path} is not COCO's detection form: it has no list of images")
    annotations = data.get("annotations", [])
    if not isinstance(annotations, list):
        raise DataError(f"{path} is not COCO's detection form: its annotations are no list")
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
        rows[owner].append(row)
    return [_sample(path, image, rows[image["id"]]) for image in data["images"]]


def _sample(path: Path, image: dict[str, Any], rows: list[dict[str, Any]]) -> DetectionSample:
    name = Path(image["file_name"])
    places = [path.parent / name, path.parent / "images" / name]
    try:
        boxes = np.array([row["bbox"] for row in rows], np.float32).reshape(len(rows), 4)
        if not np.isfinite(boxes).all():
            raise ValueError("not finite")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: an annotation of {name} has no bbox of four numbers") from error
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
        path=next((p for p in places if p.exists()), places[0]),
        boxes=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)[keep],
        landmarks=landmarks[keep],
        ignored=np.array([bool(row.get("iscrowd", 0)) for row in rows], bool)[keep],
    )
