"""FDDB (Jain and Learned-Miller, 2010): faces as ellipses, in ten folds of text files.

``FDDB-folds/FDDB-fold-NN-ellipseList.txt`` holds, picture by picture, its name (``2002/08/11/big/img_591``), the number
of faces, and each face as ``major-radius minor-radius angle centre-x centre-y 1``, the angle in radians between the
major axis and the x axis. The pictures lie beside, or in ``originalPics``.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnface.datasets.widerface_truth import IMAGE_SUFFIXES
from nnface.errors import DataError

Ellipses = NDArray[np.float64]
"""(n, 5): major radius, minor radius, angle, centre x, centre y; pixels and radians."""


def read_truth(data: str | Path) -> dict[str, Ellipses]:
    """The ellipses of each picture, in the order of the folds.

    Raises:
        DataError: there are no such files, or one is malformed.
    """
    folder = _folds(Path(data))
    paths = sorted(folder.glob("FDDB-fold-*-ellipseList.txt"))
    if not paths:
        raise DataError(f"{folder} holds no FDDB-fold-NN-ellipseList.txt; give the folder that holds FDDB-folds")
    faces: dict[str, Ellipses] = {}
    for path in paths:
        faces.update(_read_fold(path))
    return faces


def find_pictures(data: str | Path, keys: list[str]) -> dict[str, Path]:
    """The file of each picture.

    Raises:
        DataError: pictures are missing.
    """
    data = Path(data)
    folder = data / "originalPics" if (data / "originalPics").is_dir() else data
    found = {}
    for key in keys:
        path = next((path for suffix in IMAGE_SUFFIXES if (path := folder / f"{key}{suffix}").is_file()), None)
        if path is None:
            raise DataError(f"{folder} lacks the picture {key}.jpg of FDDB; unpack originalPics there")
        found[key] = path
    return found


def _folds(data: Path) -> Path:
    if not data.is_dir():
        raise DataError(f"{data} is no folder; give the one that holds FDDB-folds")
    return data / "FDDB-folds" if (data / "FDDB-folds").is_dir() else data


def _read_fold(path: Path) -> dict[str, Ellipses]:
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path} as text; take it anew") from error
    faces: dict[str, Ellipses] = {}
    at = 0
    while at < len(lines):
        key = lines[at]
        if not key:
            at += 1
            continue
        if Path(key).is_absolute() or ".." in Path(key).parts:
            raise DataError(
                f"{path}, line {at + 1}: {key[:80]!r} is no picture inside the data set; take the file anew"
            )
        count = lines[at + 1] if at + 1 < len(lines) else ""
        if not count.isdecimal():
            raise DataError(f"{path}, line {at + 2}: must be the number of faces of {key[:80]}; take the file anew")
        rows = []
        for number in range(at + 2, at + 2 + int(count)):
            rows.append(_ellipse(path, number + 1, lines[number] if number < len(lines) else ""))
        faces[key] = np.array(rows, np.float64).reshape(-1, 5)
        at += 2 + int(count)
    return faces


def _ellipse(path: Path, line: int, text: str) -> list[float]:
    try:
        numbers = [float(item) for item in text.split()]
    except ValueError:
        numbers = []
    if len(numbers) not in (5, 6) or not np.isfinite(numbers).all() or min(numbers[:2]) <= 0:
        raise DataError(f"{path}, line {line}: is no ellipse 'major minor angle x y 1'; take the file anew")
    return numbers[:5]
