"""UTKFace: pictures of faces whose names are their labels, ``AGE_GENDER_RACE_DATE.jpg``.

Zhang, Song and Qi, "Age Progression/Regression by Conditional Adversarial Autoencoder", CVPR 2017; for non-commercial
research. Age is in years, gender 0 male and 1 female, race 0 White, 1 Black, 2 Asian, 3 Indian, 4 others. FairFace has
bins for the age. Of its seven races Asian could be two, and others anything, so races are those of FairFace's second
network (:data:`nnface.spec.FAIRFACE_HEADS_4`), and "others" have none (-1).
"""

import re
from pathlib import Path

from nnface.datasets.samples import AttributeSample
from nnface.errors import DataError
from nnface.image import IMAGE_SUFFIXES

RACES = (0, 1, 2, 3, -1)
"""UTKFace's number to the place among White, Black, Asian, Indian; the last are "others"."""
FIRST_YEARS = (0, 3, 10, 20, 30, 40, 50, 60, 70)
"""Where FairFace's bins of age begin; its last, "more than 70", takes 70 in, as FairFace's paper does."""

_NAME = re.compile(r"(\d{1,3})_([01])_([0-4])_\d+")
_UNLABELLED = re.compile(r"\d{1,3}_[01]?_?\d*")


def read(root: str | Path) -> tuple[list[AttributeSample], list[Path]]:
    """All pictures below a folder, sorted, with their labels.

    Returns:
        the samples, and the pictures whose names lack a label: the published set has a few such as
        ``39_1_20170116174525125.jpg``, and they are left out.

    Raises:
        DataError: no folder, a folder without pictures, or names that are not UTKFace's at all.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root} is no folder; give the one that holds UTKFace's pictures")
    samples, left_out = [], []
    for path in sorted(p for p in root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()):
        stem = path.name.split(".")[0]
        match = _NAME.fullmatch(stem)
        if match is None:
            if _UNLABELLED.match(stem) is None:
                raise DataError(f"{path} is not named as UTKFace's pictures are: AGE_GENDER_RACE_DATE.jpg")
            left_out.append(path)
            continue
        years, gender, race = (int(part) for part in match.groups())
        labels = {"race": RACES[race], "gender": gender, "age": age_bin(years)}
        samples.append(AttributeSample(key=path.relative_to(root).as_posix(), path=path, labels=labels))
    if not samples:
        raise DataError(f"{root} holds no picture named as UTKFace's are: AGE_GENDER_RACE_DATE.jpg")
    return samples, left_out


def age_bin(years: int) -> int:
    """The number of FairFace's bin."""
    return max(number for number, first in enumerate(FIRST_YEARS) if years >= first)
