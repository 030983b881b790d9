"""Which pictures there are, on this machine or in an object store, and how each is read.

An object store is a URI that pyarrow's file systems know: ``s3://bucket/folder``, ``gs://bucket/folder``,
``file:///folder``. Whatever they need to log in comes from the environment, as for their own tools.
"""

import hashlib
import os
import platform
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from nnface import image
from nnface.errors import DataError, ImageError, UsageError
from nnface.predict.source import each
from nnface.scale.shard import arrow

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


@dataclass(frozen=True, slots=True)
class _Store:
    """A folder, or a picture, of an object store."""

    name: str
    """The URI as it stands in front of the names of its pictures: without password and parameters."""
    system: Any
    """The ``pyarrow.fs.FileSystem``."""
    path: str
    """The folder in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Reads the pictures of a list, also on another machine that sees the same folders."""

    folder: str
    """What names without a folder are relative to."""
    roots: tuple[str, ...]
    """The files and folders of this machine that were named."""
    stores: tuple[_Store, ...]

    def settle(self) -> None:
        """On another machine: work in the same folder.

        Raises:
            DataError: what was named is not there.
        """
        try:
            os.chdir(self.folder)
            missing = [root for root in self.roots if not os.path.lexists(root)]
        except OSError:
            missing = list(self.roots)
        if missing:
            raise DataError(
                f"{missing[0]} is not on the machine {platform.node()}, where a worker runs; put the pictures "
                "where all machines see them under one name, or name an object store such as s3://bucket/folder"
            )

    def load(self, name: str) -> bytes:
        """The bytes of a picture, for :func:`nnface.image.decode`.

        Raises:
            ImageError: as :func:`nnface.image.load`.
        """
        for store in self.stores:
            if name == store.name or name.startswith(store.name + "/"):
                return _fetch(store.system, store.path + name[len(store.name) :], name)
        return image.load(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """All pictures of a run, in order. Millions of names are one Arrow array, which Ray shares between workers."""

    names: Any
    """A ``pyarrow.LargeBinaryArray``: file names in the file system's encoding."""
    reader: Reader

    def __len__(self) -> int:
        return len(self.names)

    def part(self, start: int, stop: int) -> list[str]:
        """The names from ``start`` up to ``stop``, or the end."""
        return [os.fsdecode(name) for name in self.names.slice(start, max(stop - start, 0)).to_pylist()]

    def sha256(self) -> str:
        """A hash over the names in their order."""
        digest = hashlib.sha256()
        for name in self.names:
            digest.update(name.as_buffer())
            digest.update(b"\0")
        return digest.hexdigest()


def find(sources: Iterable[str]) -> tuple[Pictures, list[str]]:
    """All pictures that the sources stand for, in the order given, folders walked and sorted, without what is hidden.

    Args:
        sources: pictures, folders, and URIs of object stores.

    Returns:
        the pictures, and a sentence for each folder that holds none or cannot be read.

    Raises:
        UsageError: a video or a camera, or a URI that is not understood or leads nowhere.
        DependencyError: pyarrow is not installed.
    """
    pa = arrow()
    stores: list[_Store] = []
    roots: list[str] = []
    problems: list[str] = []

    def names() -> Iterator[bytes]:
        for source in sources:
            if _URI.match(source):
                store, inside = _opened(source)
                stores.append(store)
                if not inside:
                    problems.append(f"{store.name} holds no picture (they are taken by their extension)")
                yield from (os.fsencode(store.name + name) for name in inside)
                continue
            roots.append(source)
            for found in each([source], problems):
                if found.kind != "picture":
                    raise UsageError(f"{source} is no picture; --to takes pictures and folders of them")
                yield os.fsencode(found.path)

    listed = pa.array(names(), pa.large_binary())
    return Pictures(
        names=listed, reader=Reader(folder=str(Path.cwd()), roots=tuple(roots), stores=tuple(stores))
    ), problems


def _opened(uri: str) -> tuple[_Store, list[str]]:
    """A place in an object store and the pictures below it, each beginning with a slash; of a file only ""."""
    pa = arrow()
    import pyarrow.fs as fs

    shown = re.sub(r"(?<=://)[^/]*@", "", uri.partition("?")[0]).rstrip("/")
    try:
        system, path = fs.FileSystem.from_uri(uri)
        path = path.rstrip("/")
        what = system.get_file_info(path)
        if what.type == fs.FileType.NotFound:
            raise UsageError(f"{shown} is not there")
        if what.type == fs.FileType.File:
            return _Store(shown, system, path), [""]
        found = system.get_file_info(fs.FileSelector(path, recursive=True))
    except (pa.ArrowException, OSError, ValueError, ImportError) as error:
        reason = str(error).partition("\n")[0].replace(uri, shown)
        raise UsageError(f"{shown} cannot be read: {reason}") from error
    paths = (info.path[len(path) :] for info in found if info.type == fs.FileType.File)
    taken = [
        n for n in paths if PurePosixPath(n).suffix.lower() in image.IMAGE_SUFFIXES and "/." not in n
    ]  # not hidden
    return _Store(shown, system, path), sorted(taken, key=lambda name: name.split("/"))  # as a walk would go


def _fetch(system: Any, path: str, name: str) -> bytes:
    pa = arrow()
    try:
        with system.open_input_file(path) as file:
            size = file.size()
            if size > image.MAX_BYTES:
                raise ImageError(f"{name} has {size >> 20} MB; image files up to {image.MAX_BYTES >> 20} MB are read")
            data: bytes = file.read()
    except FileNotFoundError as error:
        raise ImageError(f"{name} is not there") from error
    except (pa.ArrowException, OSError) as error:
        raise ImageError(f"{name} cannot be read: {str(error).partition(chr(10))[0]}") from error
    if not data:
        raise ImageError(f"{name} is empty")
    return data
