"""What a PATH on the command line stands for: pictures, folders of them, videos, cameras."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal, NamedTuple

from nnface.image import IMAGE_SUFFIXES

VIDEOS = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".mts"})
"""The extensions of files that are read as videos where they are named; a folder's videos are not taken."""
UNREAD = frozenset(
    {".heic", ".heif", ".jxl", ".jp2", ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"}
)
"""The extensions of photographs that are not read: a folder's are told, for who blurs faces must know of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One picture or video to look at."""

    path: str
    """As typed, joined with the walk."""
    inside: str
    """The path below the folder that was named, such as ``2024/may/a.jpg``; for a file that was named, its name."""
    kind: Literal["picture", "video", "camera"]
    named: bool
    """Named itself, not found in a folder."""


def expand(paths: Iterable[str], notes: list[str] | None = None) -> tuple[list[Source], list[str]]:
    """All pictures and videos that the paths stand for, in the order given, folders walked and sorted.

    A path that is not there is taken as a picture, so that its reader says what is wrong with it. In a folder, hidden
    files and folders, whose names begin with a dot, are left out; one that is named itself is taken.

    Args:
        paths: as typed.
        notes: gets a sentence for each folder whose videos, or photographs of kinds that are not read, are left out.

    Returns:
        the sources, and a sentence for each folder that holds no picture or cannot be read.
    """
    problems: list[str] = []
    return list(each(paths, problems, notes)), problems


def is_camera(path: str) -> bool:
    """Whether a path stands for a camera, as ``camera:0``."""
    return re.fullmatch(r"camera:[0-9]{1,4}", path) is not None


def each(paths: Iterable[str], problems: list[str], notes: list[str] | None = None) -> Iterator[Source]:
    """As :func:`expand`, one at a time, for lists that are long; ``problems`` gets its sentences."""
    for path in paths:
        if os.path.isdir(path):  # noqa: PTH112 - "a//b" and "./a" stay as typed
            before, count = len(problems), 0
            left_out = _LeftOut([], [])
            for inside in _walk(path, "", problems, left_out):
                count += 1
                place = os.path.join(path, inside)  # noqa: PTH118
                yield Source(path=place, inside=inside, kind="picture", named=False)
            if not count and len(problems) == before:
                problems.append(f"{path} holds no picture (they are taken by their extension: .jpg, .png, .webp, ...)")
            if notes is not None:
                notes += left_out.notes(path)
        elif is_camera(path):
            yield Source(path=path, inside=f"camera-{path[7:]}", kind="camera", named=True)
        else:
            file = PurePath(path)
            kind: Literal["picture", "video"] = "video" if file.suffix.lower() in VIDEOS else "picture"
            yield Source(path=path, inside=file.name, kind=kind, named=True)


class _LeftOut(NamedTuple):
    """What a walk through a folder does not take, by the path below it."""

    videos: list[str]
    unread: list[str]

    def notes(self, folder: str) -> Iterator[str]:
        """A sentence for each kind."""
        if self.videos:
            what = "1 video" if len(self.videos) == 1 else f"{len(self.videos)} videos"
            yield f"{folder}: {what} left out, the first {self.videos[0]}; name a video to have it looked at"
        if self.unread:
            what = "1 picture" if len(self.unread) == 1 else f"{len(self.unread)} pictures"
            yield (
                f"{folder}: {what} left out, the first {self.unread[0]}, for HEIC and raw files are not read; "
                "convert them to JPEG or PNG first"
            )


def _walk(folder: str, below: str, problems: list[str], left_out: _LeftOut) -> Iterator[str]:
    """The pictures below a folder, sorted by name at each level, without what is hidden; links to files are followed,
    links to folders not."""
    here = os.path.join(folder, below) if below else folder  # noqa: PTH118
    try:
        with os.scandir(here) as entries:
            ordered = sorted((e for e in entries if not e.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        problems.append(f"cannot look into the folder {here}: {error.strerror or error}")
        return
    for entry in ordered:
        inside = os.path.join(below, entry.name)  # noqa: PTH118
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(folder, inside, problems, left_out)
            continue
        suffix = PurePath(entry.name).suffix.lower()
        if suffix in VIDEOS:
            left_out.videos.append(inside)
        elif suffix in UNREAD:
            left_out.unread.append(inside)
        elif suffix in IMAGE_SUFFIXES and not os.path.isdir(entry.path):  # noqa: PTH112
            yield inside  # os.path.isdir, as entry.is_dir raises at a link to itself or into a locked folder
