"""Unpack an archive that is not trusted: nothing outside its folder, no links, no devices, no bombs, whole files only.

Every file is written beside its place and renamed, so that a kill leaves no half file under a final name. Files that
are there already are compared with the archive's, byte for byte: the same ones are kept, which makes a second run and a
run after a kill go on where they should.
"""

import gzip
import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from nnface.errors import DataError

MAX_FILES = 2_000_000
MAX_BYTES = 256 << 30
"""What an archive may hold, unpacked; CelebAMask-HQ has 403,000 files, WIDER_test two gigabytes."""
MAX_RATIO = 60
"""How much larger than the archive its content may be, beyond :data:`SLACK`; photographs hardly shrink, label texts to
an eighth."""
SLACK = 64 << 20
DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    gzip.BadGzipFile,
    EOFError,
    NotImplementedError,
    ValueError,
    RuntimeError,
)
"""What the standard library raises over damaged, encrypted or unknown archives."""
_BLOCK = 1 << 20
_JUNK = {"__MACOSX", ".DS_Store", "Thumbs.db"}


@dataclass(frozen=True, slots=True)
class Member:
    """A file of an archive."""

    name: str
    size: int
    handle: zipfile.ZipInfo | tarfile.TarInfo


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What came out of an archive."""

    files: int
    written: int
    """Those that were not there yet."""
    samples: tuple[str, ...]
    """A few of them, by which a later run sees that they are still there."""


def look(archive: Path) -> list[Member]:
    """The files of a zip or tar archive, after looking at every name, type and size.

    Raises:
        DataError: a member that leads out of the folder, is a link or a device, or is encrypted; more files or bytes
            than an archive may hold; or a damaged archive.
    """
    with _opened(archive) as opened:
        return list(_members(archive, opened))


def unpack(
    archive: Path,
    root: Path,
    *,
    holds: Sequence[str],
    into: str = "",
    ours: bool = False,
    force: bool = False,
    advance: Callable[[int, int | None], None] = lambda done, total: None,
    begin: Callable[[], None] = lambda: None,
) -> Unpacked:
    """Unpack what ``holds`` names into ``root / into``.

    Args:
        archive: a zip or tar file.
        root: the data set's folder.
        holds: folders and files to take, wherever they lie in the archive; what else it holds is left out.
        into: a folder below ``root``.
        ours: an earlier run was interrupted, so that files which differ are its own and are written anew.
        force: write over files that differ, whoever they are from.
        advance: told the files done, and those in all.
        begin: called once all is checked, before the first file is written.

    Raises:
        DataError: as :func:`look`; or nothing of ``holds`` is in it; or files are there that differ; or the disk is
            full or cannot be written.
    """
    with _opened(archive) as opened:
        places = _places(archive, _members(archive, opened), root / into, holds)
        there = {place for place in places if place.is_file()}
        if there and not ours and not force:
            differing = list(_differing(archive, opened, places, there))
            if differing:
                raise DataError(
                    f"{len(differing)} files are there already and are not what {archive} holds, the first "
                    f"{differing[0]}; move them away, or write over them with --force"
                )
        needed = sum(member.size for place, member in places.items() if place not in there)
        if needed > (free := shutil.disk_usage(root).free):
            raise DataError(
                f"unpacking {archive} needs {needed:,} bytes and {root} has {free:,} left; make room and run it again"
            )
        begin()
        written = 0
        by_name = {member.name: place for place, member in places.items()}
        for done, (member, content) in enumerate(_contents(archive, opened, by_name), 1):
            place = by_name[member.name]
            if place not in there:
                _write(archive, content, place, member)
                written += 1
            elif (ours or force) and not _same(content, place, member):
                with _reopened(opened, member) as again:
                    _write(archive, again, place, member)
                written += 1
            advance(done, len(places))
    chosen = list(places)
    samples = {str(chosen[i].relative_to(root)) for i in (0, len(chosen) // 2, -1)}
    return Unpacked(len(places), written, tuple(sorted(samples)))


@contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile | tarfile.TarFile]:
    try:
        if not zipfile.is_zipfile(archive) and not tarfile.is_tarfile(archive):
            raise DataError(f"{archive} is no whole zip or tar archive; it may be truncated")
        opened: zipfile.ZipFile | tarfile.TarFile
        opened = zipfile.ZipFile(archive) if zipfile.is_zipfile(archive) else tarfile.open(archive)  # noqa: SIM115
        with opened:
            yield opened
    except DAMAGE as error:
        raise DataError(f"{archive} is a damaged archive: {error}") from error
    except OSError as error:
        raise DataError(f"{archive} cannot be read: {error.strerror or error}") from error


def _members(archive: Path, opened: zipfile.ZipFile | tarfile.TarFile) -> Iterator[Member]:
    """Each file, checked before the archive is read any further."""
    limit = min(MAX_BYTES, SLACK + MAX_RATIO * archive.stat().st_size)
    total = 0
    handles: Iterator[zipfile.ZipInfo | tarfile.TarInfo]
    handles = iter(opened.infolist()) if isinstance(opened, zipfile.ZipFile) else iter(opened)
    for files, handle in enumerate(handles, 1):
        name, size, kind = _described(handle)
        if reason := _unsafe(name) or kind:
            raise DataError(f"{archive} is not unpacked: its member {name[:120]!r} {reason}")
        total += size
        if files > MAX_FILES or total > limit:
            raise DataError(
                f"{archive} is not unpacked: it would become more than {limit:,} bytes or {MAX_FILES:,} files, far "
                "more than such an archive holds"
            )
        if not (handle.is_dir() if isinstance(handle, zipfile.ZipInfo) else handle.isdir()):
            yield Member(name, size, handle)


def _described(handle: zipfile.ZipInfo | tarfile.TarInfo) -> tuple[str, int, str]:
    """Name, size, and what is wrong with its type (empty: nothing)."""
    if isinstance(handle, tarfile.TarInfo):
        wrong = "" if handle.isreg() or handle.isdir() else "is a link, a device or something else that is no file"
        return handle.name, handle.size, wrong
    mode = handle.external_attr >> 16
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return handle.orig_filename, handle.file_size, "is a link, a device or something else that is no file"
    wrong = "is encrypted" if handle.flag_bits & 1 else ""
    return handle.orig_filename, handle.file_size, wrong


def _unsafe(name: str) -> str:
    """Why a name may not be unpacked; empty where it may."""
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
        return "has an absolute name"
    if ".." in re.split(r"[/\\]", name):
        return "leads out of the folder"
    if "\\" in name or any(ord(character) < 32 for character in name):
        return "has a backslash or a control character in its name"
    return ""


def _places(archive: Path, members: Iterator[Member], folder: Path, holds: Sequence[str]) -> dict[Path, Member]:
    """Where each file goes that is wanted."""
    places: dict[Path, Member] = {}
    for member in members:
        steps = [step for step in PurePosixPath(member.name).parts if step != "."]
        first = next((i for i, step in enumerate(steps) if step in holds), None)
        if first is None or _JUNK.intersection(steps) or steps[-1].startswith("._"):
            continue
        place = folder.joinpath(*steps[first:])
        if place in places:
            raise DataError(f"{archive} is not unpacked: it holds {'/'.join(steps[first:])} twice")
        places[place] = member
    if not places:
        raise DataError(f"{archive} holds nothing of {', '.join(holds)}; it is another archive than its name says")
    for place in places:
        if not places.keys().isdisjoint(place.parents):
            raise DataError(f"{archive} is not unpacked: {place.relative_to(folder)} lies in what is a file itself")
    return places


def _contents(
    archive: Path, opened: zipfile.ZipFile | tarfile.TarFile, wanted: dict[str, Path]
) -> Iterator[tuple[Member, IO[bytes]]]:
    """The wanted members in the order of the archive, open for reading."""
    for member in _members(archive, opened):
        if member.name in wanted:
            with _reopened(opened, member) as content:
                yield member, content


def _reopened(opened: zipfile.ZipFile | tarfile.TarFile, member: Member) -> IO[bytes]:
    if isinstance(opened, zipfile.ZipFile):
        assert isinstance(member.handle, zipfile.ZipInfo)
        return opened.open(member.handle)
    assert isinstance(member.handle, tarfile.TarInfo)
    content = opened.extractfile(member.handle)
    assert content is not None  # a regular file, as _members saw to
    return content


def _differing(
    archive: Path, opened: zipfile.ZipFile | tarfile.TarFile, places: dict[Path, Member], there: set[Path]
) -> Iterator[Path]:
    by_name = {places[place].name: place for place in there}
    for member, content in _contents(archive, opened, by_name):
        place = by_name[member.name]
        if not _same(content, place, member):
            yield place


def _same(content: IO[bytes], place: Path, member: Member) -> bool:
    if place.stat().st_size != member.size:
        return False
    with place.open("rb") as file:
        while block := content.read(_BLOCK):
            if file.read(len(block)) != block:
                return False
    return True


def _write(archive: Path, content: IO[bytes], place: Path, member: Member) -> None:
    temporary = place.with_name(".nnface-unpacking.part")  # one name a folder: a killed run's is written over
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        file = temporary.open("wb")
    except OSError as error:
        raise _cannot(place, error) from error
    try:
        left = member.size
        with file:
            while left and (block := content.read(min(_BLOCK, left))):
                left -= len(block)
                try:
                    file.write(block)
                    file.flush()
                except OSError as error:
                    raise _cannot(place, error) from error
            content.read(1)  # the end of the member, where a zip's checksum is compared
        if left:
            raise DataError(f"{archive} is a damaged archive: {member.name} ends too early")
        temporary.replace(place)
    except OSError as error:
        raise _cannot(place, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _cannot(place: Path, error: OSError) -> DataError:
    return DataError(
        f"cannot write {place}: {error.strerror or error}; mend that and run the same command again, which goes on "
        "from here"
    )
