"""The official ground truth of WIDER FACE val: four MATLAB files, read with scipy (the extra ``[eval]``).

``wider_face_val.mat`` holds every face; ``wider_easy_val.mat``, ``wider_medium_val.mat`` and ``wider_hard_val.mat``
hold the numbers of those that each setting counts. Lists of pictures, one ``event/name[.jpg]`` a line, are read here
too.
"""

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from nnface.errors import DataError, DependencyError
from nnface.metrics.wider import Flags, Floats, Truth

SETTINGS = ("easy", "medium", "hard")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_ONE_SOURCE = "take the four files from one source"


def read_truth(folder: str | Path) -> Truth:
    """The faces of the 3,226 pictures of val, keyed ``event/name`` without suffix, in the order of the files.

    Raises:
        DataError: the folder lacks a file, or a file is not what it should be.
        DependencyError: scipy is not installed.
    """
    folder = Path(folder)
    everything = _load(folder / "wider_face_val.mat", "face_bbx_list")
    boxes: dict[str, Floats] = {}
    counted: dict[str, dict[str, Flags]] = {name: {} for name in SETTINGS}
    for key, value in everything.items():
        box = np.asarray(value, np.float64)
        if box.ndim != 2 or box.shape[1] != 4:
            raise DataError(f"{folder / 'wider_face_val.mat'}: the boxes of {key} are no rows of four; take it anew")
        boxes[key] = np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], 1)
    for name in SETTINGS:
        path = folder / f"wider_{name}_val.mat"
        listed = _load(path, "gt_list")
        if listed.keys() != boxes.keys():
            raise DataError(f"{path}: lists other pictures than wider_face_val.mat; {_ONE_SOURCE}")
        for key, box in boxes.items():
            numbers = np.asarray(listed[key], np.int64).reshape(-1)
            if len(numbers) and not 1 <= numbers.min() <= numbers.max() <= len(box):
                raise DataError(f"{path}: counts a face of {key} that is not there; {_ONE_SOURCE}")
            flags = np.zeros(len(box), bool)
            flags[numbers - 1] = True
            counted[name][key] = flags
    return Truth(boxes, counted)


def read_list(path: str | Path) -> list[str]:
    """The keys ``event/name`` of a list of pictures, one a line, with or without suffix; repetitions are dropped.

    Raises:
        DataError: the file cannot be read, is empty, or a line is no ``event/name``.
    """
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the list {path}: {_reason(error)}; it needs one event/name a line") from error
    keys: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        key = picture_key(line.strip())
        if key.count("/") != 1 or not all(part.strip(".") for part in key.split("/")):
            raise DataError(
                f"{path}, line {number}: {line.strip()[:80]!r} is no event/name of a picture; correct the line"
            )
        keys[key] = None
    if not keys:
        raise DataError(f"the list {path} names no picture; it needs one event/name a line")
    return list(keys)


def picture_key(name: str) -> str:
    """``event/name`` without the suffix of a picture; names may hold dots of their own."""
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in IMAGE_SUFFIXES else name


def choose(truth: Truth, keys: list[str], origin: str | Path) -> Truth:
    """The pictures of ``keys``; ``origin`` names the list in errors.

    Raises:
        DataError: the truth lacks a picture.
    """
    unknown = [key for key in keys if key not in truth.boxes]
    if unknown:
        raise DataError(
            f"{origin}: {len(unknown)} of {len(keys)} pictures have no ground truth, the first is {unknown[0]}; "
            "list pictures of WIDER FACE val"
        )
    return truth.subset(keys)


def _load(path: Path, field: str) -> dict[str, Any]:
    """One list of a MATLAB file: key of a picture to its entry."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DependencyError("reading WIDER FACE's ground truth needs scipy: pip install 'nnface[eval]'") from error
    if not path.is_file():
        raise DataError(
            f"{path} is not there: the folder must hold WIDER FACE's four ground-truth files "
            "(wider_face_val.mat and wider_easy_val.mat, wider_medium_val.mat, wider_hard_val.mat)"
        )
    entries: dict[str, Any] = {}
    try:
        content = loadmat(str(path), variable_names=["event_list", "file_list", field])
        events, files, values = content["event_list"], content["file_list"], content[field]
        for event, names, listed in zip(events[:, 0], files[:, 0], values[:, 0], strict=True):
            for name, value in zip(names[:, 0], listed[:, 0], strict=True):
                entries[f"{event[0]}/{name[0]}"] = value
    except Exception as error:  # scipy raises whatever a damaged file leads it to
        raise DataError(f"{path} is no ground-truth file of WIDER FACE or is damaged; take it anew") from error
    return entries


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error.strerror)
