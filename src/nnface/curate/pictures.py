"""Pictures looked at on all cores: do they decode, how large are they, which are the same.

What was seen of a file is kept in the folder for downloads (``NNFACE_HOME``, or the platform's for caches), by its
path, size and time of change, so that a second look costs no more than asking the file system.
"""

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from nnface.curate import duplicates
from nnface.errors import ImageError
from nnface.image import decode_grey, load, read_sized
from nnface.processors import cores
from nnface.zoo.registry import home

LONG_SIDE = 48
"""JPEGs are decoded at the smallest scale that has as many pixels: all of the file is read, and little computed."""
_FORMAT = 2
"""Of the cache; another one is thrown away."""
_GROUP = 32
_KEPT_AT_ONCE = 2048
"""Pictures that are written to the cache in one go; so many are looked at again after a kill."""
_TABLES = """
CREATE TABLE IF NOT EXISTS seen (path TEXT PRIMARY KEY, bytes, changed, problem, width, height, digest) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS copies (path TEXT PRIMARY KEY, grey);
CREATE TABLE IF NOT EXISTS pairs (key PRIMARY KEY, found);
"""


Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Seen(NamedTuple):
    """What was seen of a picture file."""

    path: Path
    problem: str
    """Why it cannot be read, in one sentence that names it; empty: it is sound."""
    width: int
    """Of the upright picture."""
    height: int
    digest: bytes
    """BLAKE2b of the file, 16 bytes."""


class Cache:
    """What was seen before below a folder; use it in a ``with`` block, from one thread."""

    def __init__(self, root: Path, again: bool = False) -> None:
        """Open the cache of the data set in ``root``; ``again``: forget what was seen.

        Where there can be none (a read-only folder, a damaged file, one that another process keeps locked) all is seen
        anew, and nothing is kept, from when that shows.
        """
        self._new: dict[str, bytes] = {}  # grey copies that were made just now: reading them back takes longer
        place = os.path.realpath(root)
        name = f"{Path(place).name}-{hashlib.blake2b(os.fsencode(place), digest_size=6).hexdigest()}.sqlite"
        folder = home() / "verified"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if again:
                (folder / name).unlink(missing_ok=True)
            self._data = self._open(str(folder / name))
        except (OSError, sqlite3.Error):
            self._data = self._open(":memory:")

    def _open(self, name: str) -> sqlite3.Connection:
        data = sqlite3.connect(name)
        (version,) = data.execute("PRAGMA user_version").fetchone()
        if version not in (0, _FORMAT):
            data.executescript("DROP TABLE seen; DROP TABLE copies; DROP TABLE pairs")
        data.executescript(f"PRAGMA synchronous = OFF; {_TABLES} PRAGMA user_version = {_FORMAT}")
        return data

    def __enter__(self) -> "Cache":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._data.close()

    def known(self) -> dict[str, tuple[int, int, str, int, int, bytes]]:
        """For each path: bytes, time of change, problem (after the path), width, height, digest."""
        known = {}
        with self._or_without():
            rows = self._data.execute("SELECT path, bytes, changed, problem, width, height, digest FROM seen")
            known = {row[0]: row[1:] for row in rows}
        return known

    def add(self, rows: Sequence[tuple[str, int, int, str, int, int, bytes, bytes]]) -> None:
        """The same with the path in front and the grey copy behind."""
        self._new |= {row[0]: row[7] for row in rows}
        with self._or_without(), self._data:
            self._insert("seen", [row[:7] for row in rows])
            self._insert("copies", [(row[0], row[7]) for row in rows])

    @contextmanager
    def _or_without(self) -> Iterator[None]:
        """Where the file turns out to be damaged, locked for long or on a full disk, go on in memory."""
        try:
            yield
        except sqlite3.Error:
            self._data.close()
            self._data = self._open(":memory:")

    def _insert(self, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """As few statements as can be: SQLite gives up the interpreter's lock at each, and decoding threads keep it."""
        width = len(rows[0]) if rows else 1
        most = self._data.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) // width
        for start in range(0, len(rows), most):
            some = rows[start : start + most]
            values = ", ".join([f"({', '.join('?' * width)})"] * len(some))
            self._data.execute(f"INSERT OR REPLACE INTO {table} VALUES {values}", list(chain.from_iterable(some)))

    def pairs(self, first: Sequence[Seen], second: Sequence[Seen]) -> list[tuple[int, int, float]]:
        """Numbers of the pictures in both that are nearly the same, and their correlation; all of them are sound."""
        key = hashlib.blake2b(digest_size=16)
        for some in (first, second):
            key.update(b"%d" % len(some) + b"".join(seen.digest for seen in some))
        with self._or_without():
            row = self._data.execute("SELECT found FROM pairs WHERE key = ?", (key.digest(),)).fetchone()
            if row is not None:
                return [(i, j, correlation) for i, j, correlation in json.loads(row[0])]
        prints = [duplicates.prints(self._copies(some)) for some in (first, second)]
        found = list(duplicates.pairs(*prints))
        with self._or_without(), self._data:
            self._data.execute("INSERT OR REPLACE INTO pairs VALUES (?, ?)", (key.digest(), json.dumps(found)))
        return found

    def _copies(self, some: Sequence[Seen]) -> NDArray[np.uint8]:
        side = duplicates.SMALL
        copies = np.empty((len(some), side, side), np.uint8)
        names = [_name(seen.path) for seen in some]
        wanted = {name: seen.path for name, seen in zip(names, some, strict=True) if name not in self._new}
        old: dict[str, bytes] = {}
        if wanted:
            with self._or_without():
                rows = self._data.execute("SELECT path, grey FROM copies")
                old |= {path: grey for path, grey in rows if path in wanted}
        lost = [name for name in wanted if name not in old]  # what is damaged may begin behind what was known
        with ThreadPoolExecutor(cores(), "nnface") as pool:
            self._new |= zip(lost, pool.map(lambda name: _look(wanted[name])[1], lost), strict=True)
        for copy, name in zip(copies, names, strict=True):
            grey = self._new.get(name) or old.get(name) or bytes(side * side)  # gone meanwhile: like no other
            copy[:] = np.frombuffer(grey, np.uint8).reshape(side, side)
        return copies


def look(paths: Sequence[Path], cache: Cache, advance: Callable[[], None] = lambda: None) -> list[Seen]:
    """Look at picture files, in their order; ``advance`` is called after each."""
    known = cache.known()
    seen: list[Seen | None] = [None] * len(paths)
    new: list[tuple[int, str]] = []
    for number, path in enumerate(paths):
        name = _name(path)
        row = known.get(name)
        if row is not None and row[:2] == _state(path):
            seen[number] = Seen(path, row[2] and f"{path}{row[2]}", *row[3:])
            advance()
        else:
            new.append((number, name))
    groups = [new[start : start + _GROUP] for start in range(0, len(new), _GROUP)]
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # a thread a picture: no more of them inside
    pool = ThreadPoolExecutor(cores(), "nnface")
    try:
        looked = pool.map(lambda group: [(_state(paths[number]), *_look(paths[number])) for number, _ in group], groups)
        rows: list[tuple[str, int, int, str, int, int, bytes, bytes]] = []
        for group, found in zip(groups, looked, strict=True):
            for (number, name), (state, one, grey) in zip(group, found, strict=True):
                seen[number] = one
                if state is not None:
                    rows.append((name, *state, one.problem.removeprefix(str(one.path)), *one[2:], grey))
                advance()
            if len(rows) >= _KEPT_AT_ONCE or group is groups[-1]:
                cache.add(rows)
                rows = []
    finally:
        pool.shutdown(cancel_futures=True)
        cv2.setNumThreads(threads)
    return [one for one in seen if one is not None]


def _state(path: Path) -> tuple[int, int] | None:
    """Size and time of change of a file; None where it cannot be told (load says why)."""
    try:
        status = os.stat(path)  # noqa: PTH116 - a third of the time of Path.stat
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def _look(path: Path) -> tuple[Seen, bytes]:
    digest = b""
    try:
        data = load(path)
        digest = hashlib.blake2b(data, digest_size=16).digest()
        grey, (width, height) = decode_grey(data, path, LONG_SIDE)
    except ImageError as error:
        return Seen(path, str(error), 0, 0, digest), b""
    except MemoryError:
        return Seen(path, f"{path} needs more memory than there is", 0, 0, digest), b""
    return Seen(path, "", width, height, digest), duplicates.small(grey).tobytes()


def _name(path: Path) -> str:
    name = os.path.abspath(path)  # noqa: PTH100 - Path.absolute keeps the dots
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")


def walk(folder: Path, suffixes: Iterable[str]) -> Iterator[str]:
    """The files of a folder and the folders below it that end in one of the suffixes, as ``event/name.jpg``."""
    endings = tuple(suffixes)
    for here, folders, files in os.walk(folder):
        folders.sort()
        below = os.path.relpath(here, folder)
        for name in sorted(files):
            if name.lower().endswith(endings):
                yield name if below == "." else f"{below.replace(os.sep, '/')}/{name}"


def sizes(paths: Sequence[Path], cache: Cache) -> list[tuple[int, int] | None]:
    """Width and height of the upright pictures: as seen before, else from their headers; None: it cannot be read."""
    known = cache.known()

    def size(path: Path) -> tuple[int, int] | None:
        row = known.get(_name(path))
        try:
            status = path.stat()
            if row is not None and row[:2] == (status.st_size, status.st_mtime_ns):
                return None if row[2] else (row[3], row[4])
            return read_sized(path)
        except (OSError, ImageError):
            return None

    with ThreadPoolExecutor(cores(), "nnface") as pool:
        return list(pool.map(size, paths))
