"""FairFace: face chips with perceived race, gender and age, in the layout in which it is published.

Karkkainen and Joo, "FairFace: Face Attribute Dataset for Balanced Race, Gender, and Age", WACV 2021; CC BY 4.0. A
folder of either padding looks so::

    fairface_label_train.csv    file,age,gender,race,service_test
    fairface_label_val.csv      train/1.jpg,50-59,Male,East Asian,True
    train/1.jpg ...
    val/1.jpg ...

Copies that went through a spreadsheet are met often: there ``3-9`` became ``9-Mar`` or ``03-Sep``, ``10-19`` became
``Oct-19``, and True became TRUE. What can mean one label only is mended, with a warning that says how often; all else
is an error that names the line.
"""

import csv
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from nnface.datasets.samples import AttributeSample
from nnface.errors import DataError
from nnface.spec import FAIRFACE_HEADS

Part = Literal["train", "val"]

COLUMNS = ("file", "age", "gender", "race")
FLAGS = {"True": True, "False": False}

# Spreadsheets take 3-9 for the 3rd or the 9th of a month, and 10-19 for October of a year or the 19th.
_DAMAGED_AGES = {
    "3-9": ("9-Mar", "03-Sep", "3-Sep", "09-Mar", "Mar-09", "Mar-9", "Sep-03", "Sep-3"),
    "10-19": ("19-Oct", "Oct-19"),
}
_MENDED_AGES = {damaged: age for age, forms in _DAMAGED_AGES.items() for damaged in forms}
_PLAIN_NAME = re.compile(r"\w+/\w+\.\w+")
_OTHER_WORDS = {"age": {"70+": "more than 70"}, "gender": {}, "race": {}}


def read(root: str | Path, part: Part = "train", pictures: bool = True) -> list[AttributeSample]:
    """The pictures of ``train`` or ``val`` with their labels, in the order of the label file.

    Args:
        root: the folder that holds the label files.
        part: which of the two.
        pictures: every labelled picture has to be there.

    Warns:
        UserWarning: labels that a spreadsheet damaged were mended.

    Raises:
        DataError: no label file, or one with missing columns, unknown labels, duplicate rows, names that lead out of
            the folder, or pictures that are not there.
    """
    root = Path(root)
    path = root / f"fairface_label_{part}.csv"
    if not path.is_file():
        raise DataError(f"{path} is not there; FairFace's folder holds it beside {part}/")
    samples = parse(path, root)
    if pictures:
        absent = [s.path for s in samples if not s.path.is_file()]
        if absent:
            raise DataError(
                f"{len(absent)} of the {len(samples)} pictures of {path} are not there, the first {absent[0]}; add "
                "them, or shorten the file to the pictures that are"
            )
    return samples


def parse(path: Path, root: Path) -> list[AttributeSample]:
    """The rows of a label file in FairFace's form; the pictures' names count from ``root``. Errors as :func:`read`."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a csv file: {error}") from error
    if not rows or any(column not in rows[0] for column in COLUMNS):
        raise DataError(f"{path} is no FairFace label file: its first line must name {', '.join(COLUMNS)}")
    columns = [rows[0].index(column) for column in COLUMNS]
    flag = rows[0].index("service_test") if "service_test" in rows[0] else None
    samples: list[AttributeSample] = []
    seen: dict[str, int] = {}
    mended: Counter[str] = Counter()
    for number, row in enumerate(rows[1:], 2):
        where = f"{path} line {number}"
        if not row:
            continue
        if len(row) != len(rows[0]):
            raise DataError(f"{where} has {len(row)} fields, not {len(rows[0])}")
        name, *values = (row[column] for column in columns)
        if flag is not None and row[flag] not in FLAGS:
            if row[flag].capitalize() not in FLAGS:
                raise DataError(f"{where}: service_test is {row[flag]!r}, neither True nor False")
            mended[f"{row[flag]} to {row[flag].capitalize()}"] += 1
        if name in seen:
            raise DataError(f"{where} names {name} again, which line {seen[name]} has already; remove one")
        seen[name] = number
        age, gender, race = values
        labels = {
            "race": _label("race", race, where, mended),
            "gender": _label("gender", gender, where, mended),
            "age": _label("age", age, where, mended),
        }
        samples.append(
            AttributeSample(
                key=name.rpartition(".")[0] or name,
                path=_inside(root, name, where),
                labels=labels,
            )
        )
    if mended:
        forms = ", ".join(f"{form} ({count} times)" for form, count in mended.most_common(6))
        warnings.warn(f"{path} went through a spreadsheet; mended: {forms}", stacklevel=3)
    return samples


def four_races(samples: Sequence[AttributeSample]) -> list[AttributeSample]:
    """The same for :data:`nnface.spec.FAIRFACE_HEADS_4`: both East and Southeast Asian are Asian.

    Latino_Hispanic and Middle Eastern have no place among the four, and get no race (-1).
    """
    places = (0, 1, -1, 2, 2, 3, -1)
    return [
        AttributeSample(key=s.key, path=s.path, labels={**s.labels, "race": places[s.labels["race"]]}) for s in samples
    ]


def _label(head: str, value: str, where: str, mended: Counter[str]) -> int:
    known = FAIRFACE_HEADS[head]
    if value in known:
        return known.index(value)
    right = _OTHER_WORDS[head].get(value) or (_MENDED_AGES.get(value) if head == "age" else None)
    if right is None:
        raise DataError(f"{where}: {head} is {value!r}, which FairFace does not have; it has {', '.join(known)}")
    if value in _MENDED_AGES:
        mended[f"{value} to {right}"] += 1
    return known.index(right)


def _inside(root: Path, name: str, where: str) -> Path:
    if _PLAIN_NAME.fullmatch(name):  # as published: Path's own parsing is half of the time that a label file takes
        return root / name
    place = Path(name)
    if not name or place.is_absolute() or ".." in place.parts or "\0" in name:
        raise DataError(f"{where}: the file name {name!r} leads out of the data set")
    return root / place
