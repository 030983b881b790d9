"""The published archives of each data set: where each is, how large it is, and its checksum where one is known.

Sizes and checksums of WIDER FACE are those of its authors' copy at huggingface.co/datasets/CUHK-CSE/wider_face and of
their own page; the MD5 of CelebAMask-HQ and of CelebA's partition are those that torchvision and its kin check.
FairFace and RetinaFace publish none: what was downloaded first is recorded, and anything else is refused from then on.
"""

import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nnface.errors import DataError, UsageError

DRIVE = "drive:"
"""What a source on Google's shared drive begins with; the rest is the file's id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """One published file of a data set."""

    part: str
    """What ``--only`` calls it; several files may be one part."""
    file: str
    """Its name in the folder ``archives``."""
    sources: tuple[str, ...]
    """URLs and ``drive:ID``, in the order in which they are tried."""
    size: int | None = None
    """Bytes, where published."""
    about: int = 0
    """Roughly how many bytes, where they are not published: the disk is checked for them."""
    sha256: str | None = None
    """Published checksum, or None."""
    md5: str | None = None
    """Published checksum, or None."""
    holds: tuple[str, ...] = ()
    """Folders and files that it holds and that are unpacked, whatever folder of the archive they lie in."""
    into: str = ""
    """The folder of the data set that they go to."""
    begins: str = ""
    """Of a text file, which is copied and not unpacked: a regular expression that its beginning matches."""

    @property
    def text(self) -> bool:
        """A label file rather than an archive."""
        return bool(self.begins)

    @property
    def published(self) -> bool:
        """A checksum is known."""
        return bool(self.sha256 or self.md5)

    @property
    def weight(self) -> int:
        """Bytes to expect, for the disk."""
        return self.size or self.about

    @property
    def pages(self) -> tuple[str, ...]:
        """The sources as a browser opens them."""
        return tuple(
            f"https://drive.google.com/file/d/{s.removeprefix(DRIVE)}/view" if s.startswith(DRIVE) else s
            for s in self.sources
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A data set as it is published."""

    name: str
    terms: str
    """The licence, in one or two sentences that a person accepts."""
    page: str
    archives: tuple[Archive, ...] = field(default=())

    def choose(self, parts: Iterable[str]) -> "Published":
        """With the archives of these parts only; all of them where none is named.

        Raises:
            UsageError: no such part.
        """
        wanted = set(parts)
        known = list(dict.fromkeys(archive.part for archive in self.archives))
        if unknown := wanted.difference(known):
            raise UsageError(f"{self.name} has no part {min(unknown)!r}; its parts are {', '.join(known)}")
        kept = tuple(a for a in self.archives if not wanted or a.part in wanted)
        return replace(self, archives=kept)


_WIDER = "https://huggingface.co/datasets/CUHK-CSE/wider_face/resolve/main/data/"
_WIDER_PAGE = "http://shuoyang1213.me/WIDERFACE/"

WIDERFACE = Published(
    name="widerface",
    terms="WIDER FACE is for non-commercial research (its authors' copy: CC BY-NC-ND 4.0); the pictures belong to "
    "their owners. RetinaFace's landmarks are published by insightface for non-commercial research.",
    page=_WIDER_PAGE,
    archives=(
        Archive(
            part="annotations",
            file="wider_face_split.zip",
            sources=(
                f"{_WIDER}wider_face_split.zip",
                f"{_WIDER_PAGE}support/bbx_annotation/wider_face_split.zip",
            ),
            size=3_591_642,
            sha256="c7561e4f5e7a118c249e0a5c5c902b0de90bbf120d7da9fa28d99041f68a8a5c",
            holds=("wider_face_split",),
        ),
        Archive(
            part="landmarks",
            file="retinaface_gt_v1.1.zip",
            sources=(
                f"{DRIVE}1tU_IjyOwGQfGNUvZGwWWM4SwxKp2PUQ8",
                "https://www.dropbox.com/s/7j70r3eeepe4r2g/retinaface_gt_v1.1.zip?dl=1",
            ),
            about=8_000_000,
            holds=("train", "val", "test"),
            into="retinaface",
        ),
        Archive(
            part="truth",
            file="eval_tools.zip",
            sources=(f"{_WIDER_PAGE}support/eval_script/eval_tools.zip",),
            size=8_447_003,
            sha256="1cf49c8243fa8a1632efe7f6aa09fd7a3994ac838c9008bdbc9dd1d547bb234a",
            holds=("ground_truth",),
        ),
        Archive(
            part="val",
            file="WIDER_val.zip",
            sources=(f"{_WIDER}WIDER_val.zip", f"{DRIVE}1GUCogbp16PMGa39thoMMeWxp7Rp5oM8Q"),
            size=362_752_168,
            sha256="f9efbd09f28c5d2d884be8c0eaef3967158c866a593fc36ab0413e4b2a58a17a",
            holds=("WIDER_val",),
        ),
        Archive(
            part="train",
            file="WIDER_train.zip",
            sources=(f"{_WIDER}WIDER_train.zip", f"{DRIVE}15hGDLhsx8bLgLcIRD5DhYt5iBxnjNF1M"),
            size=1_465_602_149,
            sha256="e23b76129c825cafae8be944f65310b2e1ba1c76885afe732f179c41e5ed6d59",
            holds=("WIDER_train",),
        ),
        Archive(
            part="test",
            file="WIDER_test.zip",
            sources=(f"{_WIDER}WIDER_test.zip", f"{DRIVE}1HIfDbVEWKmsYKJZm4lchTBDLW5N7dY5T"),
            size=1_844_140_520,
            sha256="3b0313e11ea292ec58894b47ac4c0503b230e12540330845d70a7798241f88d3",
            holds=("WIDER_test",),
        ),
    ),
)

_FAIRFACE_CSV = r"file,age,gender,race"

FAIRFACE = Published(
    name="fairface",
    terms="FairFace is published under CC BY 4.0 (Karkkainen and Joo, WACV 2021): name its authors where you use it.",
    page="https://github.com/joojs/fairface",
    archives=(
        Archive(
            part="labels",
            file="fairface_label_train.csv",
            sources=(f"{DRIVE}1i1L3Yqwaio7YSOCj7ftgk8ZZchPG7dmH",),
            about=4_000_000,
            begins=_FAIRFACE_CSV,
        ),
        Archive(
            part="labels",
            file="fairface_label_val.csv",
            sources=(f"{DRIVE}1wOdja-ezstMEp81tX1a-EYkFebev4h7D",),
            about=500_000,
            begins=_FAIRFACE_CSV,
        ),
        Archive(
            part="padding025",
            file="fairface-img-margin025-trainval.zip",
            sources=(f"{DRIVE}1Z1RqRo0_JiavaZw2yzZG6WETdZQ8qX86",),
            about=580_000_000,
            holds=("train", "val"),
        ),
        Archive(
            part="padding125",
            file="fairface-img-margin125-trainval.zip",
            sources=(f"{DRIVE}1g7qNOZz9wC7OfOhcPqH1EZ5bk1UFGmlL",),
            about=2_700_000_000,
            holds=("train", "val"),
            into="padding125",
        ),
    ),
)

CELEBAMASK = Published(
    name="celebamask",
    terms="CelebAMask-HQ is for non-commercial research and education; its authors do not own the pictures.",
    page="https://github.com/switchablenorms/CelebAMask-HQ",
    archives=(
        Archive(
            part="partition",
            file="list_eval_partition.txt",
            sources=(f"{DRIVE}0B7EVK8r0v71pY0NSMzRuSXJEVkk",),
            about=3_000_000,
            md5="d32c9cbf5e040fd4025c592c306e6668",
            begins=r"\d{6}\.jpg [012]",
        ),
        Archive(
            part="faces",
            file="CelebAMask-HQ.zip",
            sources=(
                f"{DRIVE}1badu11NqxGf6qM3PTTooQDJvQbejgbTv",
                "https://huggingface.co/datasets/liusq/CelebAMask-HQ/resolve/main/CelebAMask-HQ.zip",
            ),
            about=3_200_000_000,
            md5="b08032b342a8e0cf84c273db2b52eef3",
            holds=(
                "CelebA-HQ-img",
                "CelebAMask-HQ-mask-anno",
                "CelebA-HQ-to-CelebA-mapping.txt",
                "CelebAMask-HQ-attribute-anno.txt",
                "CelebAMask-HQ-pose-anno.txt",
            ),
        ),
    ),
)

DATASETS = {data.name: data for data in (WIDERFACE, FAIRFACE, CELEBAMASK)}

_KEYS = {"file": str, "sources": list, "size": int, "sha256": str, "md5": str}


def with_sources(data: Published, path: str | Path) -> Published:
    """The data set with sources of one's own, from a TOML file: for mirrors, and for archives packed anew.

    A table for each published file; what it does not say stays as published, so a mirror has to give the same bytes::

        ["WIDER_train.zip"]
        sources = ["http://mirror.example/WIDER_train.zip", "drive:15hGDLhsx8bLgLcIRD5DhYt5iBxnjNF1M"]
        # for an archive of one's own, zip or tar:
        file = "WIDER_train.tar"
        size = 1470000000          # 0: not known
        sha256 = "..."             # "": not known; it also stands in for a published md5

    Raises:
        DataError: the file cannot be read, or names what there is not.
    """
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"the sources {path} cannot be read: {error}") from error
    known = {archive.file for other in DATASETS.values() for archive in other.archives}
    for name, table in tables.items():
        if name not in known or not isinstance(table, dict):
            raise DataError(f"{path}: {name!r} is no published archive; there are {', '.join(sorted(known))}")
        for key, value in table.items():
            if not isinstance(value, _KEYS.get(key, ())):
                raise DataError(f"{path}: [{name!r}] takes {', '.join(_KEYS)} with their types, not {key} = {value!r}")
    return replace(data, archives=tuple(_changed(a, tables.get(a.file, {}), path) for a in data.archives))


def _changed(archive: Archive, table: dict[str, Any], path: str | Path) -> Archive:
    if not table:
        return archive
    sources: Sequence[Any] = table.get("sources", archive.sources)
    if not sources or not all(isinstance(s, str) and re.match(r"https?://|drive:[\w-]+$", s) for s in sources):
        raise DataError(f"{path}: the sources of {archive.file} must be http(s) URLs or drive:ID")
    file = table.get("file", archive.file)
    if not re.fullmatch(r"\w[\w.-]*", file):
        raise DataError(f"{path}: {file!r} is no plain file name")
    for key, digits in (("sha256", 64), ("md5", 32)):
        if not re.fullmatch(rf"([0-9a-fA-F]{{{digits}}})?", table.get(key, "")):
            raise DataError(f"{path}: the {key} of {archive.file} must be {digits} hex digits, or empty")
    resummed = "sha256" in table or "md5" in table
    return replace(
        archive,
        file=file,
        sources=tuple(sources),
        size=(table["size"] or None) if "size" in table else archive.size,
        about=0 if "size" in table else archive.about,
        sha256=(table.get("sha256", "").lower() or None) if resummed else archive.sha256,
        md5=(table.get("md5", "").lower() or None) if resummed else archive.md5,
    )
