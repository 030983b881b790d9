"""WIDER FACE's official prediction files: a folder of ``event/name.txt``, one a picture.

The first line is the picture's name, the second the number of boxes, and each further line a box, ``x y width height
score`` in pixels. It is the form in which the challenge takes results. A file that is malformed is an error that names
the line: it is never scored as if nothing had been found.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nnface.datasets.widerface_truth import picture_key
from nnface.errors import DataError
from nnface.files import write_atomic
from nnface.metrics.wider import Prediction


class PredictionFiles(NamedTuple):
    """What a folder of prediction files held."""

    predictions: dict[str, Prediction]
    """Key to boxes (n, 4) x1 y1 x2 y2 and scores (n,), float64, by falling score."""
    unsorted: int
    """Files whose boxes were not by falling score, and were sorted (equal scores keep their order)."""


def read_predictions(folder: str | Path, keys: Sequence[str]) -> PredictionFiles:
    """Read the files of the pictures ``keys`` (``event/name``).

    Raises:
        DataError: the folder is absent, a picture has no file, or a file is malformed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give one that holds event/name.txt for each picture")
    predictions: dict[str, Prediction] = {}
    missing, unsorted = [], 0
    for key in keys:
        path = folder / f"{key}.txt"
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            missing.append(key)
            continue
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}; make the file readable") from error
        boxes, scores = _parse(path, data)
        if len(scores) > 1 and (scores[1:] > scores[:-1]).any():
            unsorted += 1
            order = np.argsort(-scores, kind="stable")
            boxes, scores = boxes[order], scores[order]
        predictions[key] = boxes, scores
    if missing:
        raise DataError(
            f"{folder} lacks the prediction files of {len(missing)} of {len(keys)} pictures, the first is "
            f"{missing[0]}.txt; write an empty list (name, 0) where nothing was found, or give --list"
        )
    return PredictionFiles(predictions, unsorted)


def write_predictions(folder: str | Path, predictions: Mapping[str, Prediction]) -> None:
    """Write each picture's file, whole or not at all; the folder and its event folders are made.

    Args:
        folder: files of the same names in it are replaced.
        predictions: key ``event/name`` to boxes (n, 4) x1 y1 x2 y2 and scores (n,), by falling score.

    Raises:
        DataError: a folder cannot be made; NnfaceError: a file cannot be written.
    """
    for key, (boxes, scores) in predictions.items():
        path = Path(folder) / f"{key}.txt"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"cannot make the folder {path.parent}: {error.strerror}; name another") from error
        rows = [
            f"{x1:.3f} {y1:.3f} {x2 - x1:.3f} {y2 - y1:.3f} {score:.6f}"
            for (x1, y1, x2, y2), score in zip(boxes.tolist(), scores.tolist(), strict=True)
        ]
        write_atomic(path, "\n".join([key.rpartition("/")[2], str(len(rows)), *rows]) + "\n")


def rounded(boxes: np.ndarray, scores: np.ndarray) -> Prediction:
    """Predictions as their file says them, so that a score from memory equals the score of the files."""
    wide = np.round(np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1, dtype=np.float64), 3)
    return np.concatenate([wide[:, :2], wide[:, :2] + wide[:, 2:]], 1), np.round(scores.astype(np.float64), 6)


def _parse(path: Path, data: bytes) -> Prediction:
    lines = data.split(b"\n")
    while lines and not lines[-1].strip():
        lines.pop()
    try:
        name, count = lines[0].decode().strip(), int(lines[1])
    except (IndexError, ValueError) as error:
        where = min(len(lines), 1) + 1
        raise DataError(f"{path}, line {where}: a picture's name and a number of boxes must come first") from error
    if picture_key(name).rpartition("/")[2] != path.name.removesuffix(".txt"):
        raise DataError(f"{path}, line 1: names the picture {name[:80]!r}; the file belongs to another picture")
    rows = [line.split() for line in lines[2:]]
    if count != len(rows):
        raise DataError(f"{path}, line 2: says {count} boxes, but {len(rows)} follow; write the file anew")
    try:
        values = np.array(list(map(float, chain.from_iterable(rows)))).reshape(-1, 5)
        whole = all(len(row) == 5 for row in rows) and b"_" not in b"".join(lines[2:])
    except ValueError:
        whole = False
    if not whole or not np.isfinite(values).all() or (values[:, 2:4] < 0).any():
        number = next(number for number, row in enumerate(rows, 3) if not _is_box(row))
        raise DataError(f"{path}, line {number}: is no box 'x y width height score'; write the file anew")
    return np.concatenate([values[:, :2], values[:, :2] + values[:, 2:4]], 1), values[:, 4]


def _is_box(row: list[bytes]) -> bool:
    try:
        numbers = [float(item) for item in row if b"_" not in item]
    except ValueError:
        return False
    return len(row) == len(numbers) == 5 and all(map(isfinite, numbers)) and min(numbers[2:4]) >= 0
