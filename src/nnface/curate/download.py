"""The archives of a data set from their sources into a folder: nothing under a final name that is not verified."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from nnface.curate import fetching
from nnface.curate.archives import Archive, Published
from nnface.curate.checking import FOLDER, Memory, check, remember
from nnface.errors import DataError, DependencyError, UsageError
from nnface.files import locked, write_atomic

LOCK = "download.lock"
"""In the folder of archives: held by one process, and let go of by the system where that is killed."""

Say = Callable[[str], None]
Advance = Callable[[str, int, int | None], None]
"""Called with a file's name, what is done of it, and how much it is in all, where that is known."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an archive."""

    archive: Archive
    path: Path | None
    """Where it lies, verified; None where it could not be had."""
    problem: str = ""
    """One sentence that says what to fetch by hand, from where and into which folder."""


def download(
    data: Published,
    root: str | Path,
    *,
    agree: Callable[[str], bool],
    say: Say = lambda sentence: None,
    advance: Advance = lambda name, done, total: None,
    attempts: int = fetching.ATTEMPTS,
) -> list[Outcome]:
    """Fetch the archives of a data set into ``root/archives``, each verified; those that are there are kept.

    A partial file ends with ``.part`` and is gone on with, by the next call too. An archive put into that folder (or
    into ``root``) by hand is verified and used; one that is not what it should be is set aside under another name.

    Args:
        data: what to fetch; :meth:`Published.choose` picks parts.
        root: the data set's folder, which is made.
        agree: asked once whether the terms are accepted, with their text; the answer yes is kept in ``root``.
        say: told in sentences what happens.
        advance: told the bytes.
        attempts: how many transfers in a row may bring nothing before the next source is tried.

    Returns:
        what became of each archive, in order.

    Raises:
        UsageError: the terms are not accepted.
        DataError: the folder cannot be written, another download is at work in it, or the disk has no room.
        NnfaceError: the data set is being prepared, which writes the same notes.
    """
    root = Path(root)
    folder = root / FOLDER
    _accept(data, root, agree)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {folder}: {error.strerror or error}; name another --root") from error
    with _alone(folder), locked(root):
        return _all(data, root, folder, say, advance, attempts)


def _all(data: Published, root: Path, folder: Path, say: Say, advance: Advance, attempts: int) -> list[Outcome]:
    memory = Memory(root)
    there = {archive.file: path for archive in data.archives if (path := _there(archive, root, memory, say))}
    _check_room(folder, [archive for archive in data.archives if archive.file not in there])
    outcomes = []
    for archive in data.archives:
        if archive.file in there:
            outcomes.append(Outcome(archive, there[archive.file]))
            continue
        try:
            outcomes.append(Outcome(archive, _fetched(archive, folder, memory, say, advance, attempts)))
        except fetching.RefusedError as refused:
            outcomes.append(Outcome(archive, None, _by_hand(archive, folder, str(refused))))
    return outcomes


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No second download in a folder; in one that cannot be written there is nothing to keep out of."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise DataError(
            f"another nnface data download is at work in {folder}; wait until it has ended, or name another --root"
        ) from error
    except (OSError, NotImplementedError):  # read-only, or a file system without locks
        yield
        return
    try:
        yield
    finally:
        lock.release()


def find(archive: Archive, root: Path) -> Path | None:
    """An archive that is there: in ``root/archives``, or put into ``root`` by hand."""
    # A label file in the root itself is a part of the data set already, perhaps a shortened one.
    places = (root / FOLDER / archive.file, *(() if archive.text else (root / archive.file,)))
    return next((path for path in places if path.is_file()), None)


def _accept(data: Published, root: Path, agree: Callable[[str], bool]) -> None:
    note = root / FOLDER / "terms-accepted.txt"
    text = f"{data.terms} See {data.page}"
    try:
        if text in note.read_text(encoding="utf-8").splitlines():
            return
    except (OSError, UnicodeDecodeError):
        pass
    if not agree(text):
        raise UsageError(f"{data.name} is not downloaded: its terms were not accepted ({text})")
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot make the folder {note.parent}: {error.strerror or error}; name another --root"
        ) from error
    write_atomic(note, f"{text}\n")


def _there(archive: Archive, root: Path, memory: Memory, say: Say) -> Path | None:
    """An archive that is there and what it should be; one that is not is set aside."""
    path = find(archive, root)
    if path is None:
        return None
    try:
        checked = check(archive, path, memory)
    except DataError as error:
        aside = path.with_name(f"{path.name}.rejected")
        try:
            path.replace(aside)
        except OSError as stuck:
            raise DataError(f"{error}; remove it") from stuck
        say(f"{error}; it was set aside as {aside.name}")
        return None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    say(f"{path} is there" + (_recorded(checked.sha256) if checked.first else ""))
    remember(archive, path, checked, memory)
    return path


def _check_room(folder: Path, missing: Iterable[Archive]) -> None:
    needed = sum(max(0, archive.weight - fetching.length(_part(archive, folder))) for archive in missing)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{folder} has {_size(free)} left and the download needs {_size(needed)}; make room, name another --root, "
            "or fetch parts with --only"
        )


def _fetched(archive: Archive, folder: Path, memory: Memory, say: Say, advance: Advance, attempts: int) -> Path:
    """The verified archive.

    Raises:
        RefusedError: no source gives it; the reasons of all.
        DataError: the disk.
    """
    if os.environ.get("NNFACE_OFFLINE", "") not in ("", "0"):
        raise fetching.RefusedError("NNFACE_OFFLINE forbids to download it")
    path, part = folder / archive.file, _part(archive, folder)
    reasons = []
    for source in archive.sources:
        say(f"{archive.file}: {_size(archive.weight)} from {source}" if archive.weight else f"{archive.file}: {source}")
        try:
            fetching.fetch(
                source,
                part,
                size=archive.size,
                same=archive.published,
                advance=lambda done, total: advance(archive.file, done, total),
                attempts=attempts,
            )
        except (fetching.RefusedError, DependencyError) as refused:
            reasons.append(str(refused))
            continue
        try:
            checked = check(archive, part, memory, final=False)
        except DataError as error:
            reasons.append(f"{source}: {str(error).removeprefix(f'{part} ')}")
            fetching.discard(part)
            continue
        _publish(part, path)
        fetching.discard(part)
        remember(archive, path, checked, memory)
        say(f"{path} is verified" if not checked.first else f"{path} is whole{_recorded(checked.sha256)}")
        return path
    raise fetching.RefusedError("; ".join(reasons))


def _publish(part: Path, path: Path) -> None:
    try:
        descriptor = os.open(part, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        part.replace(path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error


def _part(archive: Archive, folder: Path) -> Path:
    return folder / f"{archive.file}.part"


def _recorded(sha256: str) -> str:
    return f"; no checksum of it is published, so its SHA-256 {sha256} was recorded and counts from now on"


def _by_hand(archive: Archive, folder: Path, reason: str) -> str:
    return (
        f"{archive.file} could not be downloaded ({reason}); fetch it by hand from {' or '.join(archive.pages)}, "
        f"put it into {folder} as {archive.file}, and run the same command again, which goes on from there"
    )


def _size(count: int) -> str:
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"
