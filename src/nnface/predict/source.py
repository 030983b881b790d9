"""What a PATH on the command line stands for: pictures, folders of them, videos, cameras."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from nnface.image import IMAGE_SUFFIXES

VIDEOS = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".mts"})
"""The extensions of files that are read as videos where they are named; a folder's videos are not taken."""


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
        notes: gets a sentence for each folder whose videos are left out.

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
            videos: list[str] = []
            for inside in _walk(path, "", problems, videos):
                count += 1
                place = os.path.join(path, inside)  # noqa: PTH118
                yield Source(path=place, inside=inside, kind="picture", named=False)
            if not count and len(problems) == before:
                problems.append(f"{path} holds no picture (they are taken by their extension: .jpg, .png, .webp, ...)")
            if videos and notes is not None:
                what = "1 video" if len(videos) == 1 else f"{len(videos)} videos"
                notes.append(f"{path}: {what} left out, the first {videos[0]}; name a video to have it looked at")
        elif is_camera(path):
            yield Source(path=path, inside=f"camera-{path[7:]}", kind="camera", named=True)
        else:
            file = PurePath(path)
            kind: Literal["picture", "video"] = "video" if file.suffix.lower() in VIDEOS else "picture"
            yield Source(path=path, inside=file.name, kind=kind, named=True)


def _walk(folder: str, below: str, problems: list[str], videos: list[str]) -> Iterator[str]:
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
            yield from _walk(folder, inside, problems, videos)
            continue
        suffix = PurePath(entry.name).suffix.lower()
        if suffix in VIDEOS:
            videos.append(inside)
        elif suffix in IMAGE_SUFFIXES and not os.path.isdir(entry.path):  # noqa: PTH112
            yield inside  # os.path.isdir, as entry.is_dir raises at a link to itself or into a locked folder
