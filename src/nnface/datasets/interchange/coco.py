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

    ``file_name`` is taken from the folder of the JSON file, or from a folder ``images`` beside it. The key is the
    picture's own ``key`` if it has one, else ``file_name`` without its suffix. All categories count as faces.

    Raises:
        DataError: not there, not JSON, not COCO, an annotation of an unknown picture, or a malformed box.
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
    rows: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in data["images"]}
    for row in data.get("annotations", []):
        if row.get("image_id") not in rows:
            raise DataError(
                f"{path}: annotation {row.get('id')} belongs to no picture (image_id {row.get('image_id')})"
            )
        rows[row["image_id"]].append(row)
    return [_sample(path, image, rows[image["id"]]) for image in data["images"]]


def _sample(path: Path, image: dict[str, Any], rows: list[dict[str, Any]]) -> DetectionSample:
    name = Path(image["file_name"])
    places = [path.parent / name, path.parent / "images" / name]
    try:
        boxes = np.array([row["bbox"] for row in rows], np.float32).reshape(len(rows), 4)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: an annotation of {name} has no bbox of four numbers") from error
    landmarks = empty_landmarks(len(rows))
    for i, row in enumerate(rows):
        keypoints = row.get("keypoints") or []
        if len(keypoints) == 15 and min(keypoints[2::3]) > 0:
            landmarks[i] = np.array(keypoints, np.float32).reshape(5, 3)[:, :2]
    keep = (boxes[:, 2] > 0) & (boxes[:, 3] > 0)
    return DetectionSample(
        key=str(image.get("key", name.with_suffix("").as_posix())),
        path=next((p for p in places if p.exists()), places[0]),
        boxes=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)[keep],
        landmarks=landmarks[keep],
        ignored=np.array([bool(row.get("iscrowd", 0)) for row in rows], bool)[keep],
    )
