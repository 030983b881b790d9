"""Whether a file is the archive that was published, and the memory of what was found so."""

import hashlib
import json
import re
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnface.curate import unpack
from nnface.curate.archives import Archive
from nnface.curate.fetching import WEB_PAGE, looks_like_web_page
from nnface.errors import DataError
from nnface.files import write_atomic

FOLDER = "archives"
"""The folder below a data set's that archives are downloaded to, and put into by hand."""


class Memory:
    """``archives/nnface.json``: the checksum of every archive that was verified, and what was unpacked.

    A file that cannot be read counts as empty: then everything is looked at again.
    """

    def __init__(self, root: Path) -> None:
        self.path = root / FOLDER / "nnface.json"
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            content = {}
        content = content if isinstance(content, dict) else {}
        self._tables: dict[str, dict[str, Any]] = {
            name: table if isinstance(table := content.get(name), dict) else {}
            for name in ("verified", "unpacking", "unpacked", "derived")
        }

    def get(self, table: str, name: str) -> dict[str, Any]:
        """What is known of an archive, in one of the tables ``verified``, ``unpacking``, ``unpacked``, ``derived``."""
        found = self._tables[table].get(name)
        return found if isinstance(found, dict) else {}

    def put(self, table: str, name: str, **facts: Any) -> None:
        """Remember, and write it down at once.

        Raises:
            NnfaceError: the file cannot be written.
        """
        self._tables[table][name] = facts
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"cannot make the folder {self.path.parent}: {error.strerror or error}") from error
        write_atomic(self.path, json.dumps(self._tables, indent=1, sort_keys=True) + "\n")


@dataclass(frozen=True, slots=True)
class Checked:
    """An archive that is what it should be."""

    sha256: str
    first: bool
    """No checksum is published, and this one was recorded just now."""


def check(archive: Archive, path: Path, memory: Memory, *, final: bool = True) -> Checked:
    """Verify a file: size, checksum, and that it is an archive at all.

    A file that was verified before and has the same size and time is not read again. Where no checksum is published,
    the archive's own checks are made once (every member's CRC), and its SHA-256 is recorded, which counts from then on.

    Args:
        archive: what it should be.
        path: the file.
        memory: what was verified before, written where this is new.
        final: the file bears its final name, so that it may be remembered by size and time.

    Raises:
        DataError: it is not what it should be; the sentence begins with the path.
    """
    stat = path.stat()
    known = memory.get("verified", archive.file)
    wanted = (known.get("bytes"), known.get("mtime_ns"), known.get("expected"))
    if final and wanted == (stat.st_size, stat.st_mtime_ns, _expected(archive)):
        return Checked(str(known["sha256"]), False)
    with path.open("rb") as file:
        beginning = file.read(1024)
    if looks_like_web_page(beginning):
        raise DataError(f"{path} is {WEB_PAGE}")
    if archive.size is not None and stat.st_size != archive.size:
        kind = "truncated" if stat.st_size < archive.size else "not the published file"
        raise DataError(f"{path} is {kind}: it has {stat.st_size:,} bytes, the published file {archive.size:,}")
    sha256, md5 = _sums(path)
    recorded = None if archive.published else known.get("sha256")
    for kind, have, want in (("SHA-256", sha256, archive.sha256), ("MD5", md5, archive.md5)):
        if want and have != want:
            raise DataError(f"{path} is not the published file: its {kind} is {have}, not {want}")
    if recorded and recorded != sha256:
        raise DataError(
            f"{path} is not the file that was downloaded first: its SHA-256 is {sha256}, and {memory.path} records "
            f"{recorded}; remove that line where the new one is right"
        )
    _check_kind(archive, path, beginning, thorough=not archive.published)
    first = not archive.published and not recorded
    return Checked(sha256, first)


def remember(archive: Archive, path: Path, checked: Checked, memory: Memory) -> None:
    """Keep what :func:`check` found of a file under its final name."""
    stat = path.stat()
    facts = {
        "sha256": checked.sha256,
        "bytes": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "expected": _expected(archive),
    }
    if memory.get("verified", archive.file) != facts:
        memory.put("verified", archive.file, **facts)


def _expected(archive: Archive) -> str:
    """What the check went by, so that another expectation checks anew."""
    return archive.sha256 or archive.md5 or "recorded"


def _sums(path: Path) -> tuple[str, str]:
    sums = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            for one in sums:
                one.update(block)
    return sums[0].hexdigest(), sums[1].hexdigest()


def _check_kind(archive: Archive, path: Path, beginning: bytes, thorough: bool) -> None:
    if archive.text:
        if not re.match(archive.begins.encode(), beginning.removeprefix(b"\xef\xbb\xbf")):
            raise DataError(f"{path} is no {archive.file}: it begins with {beginning[:40]!r}")
        return
    if thorough:
        unpack.look(path)  # names and sizes first: testing a bomb would take for ever
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as opened:
                broken = opened.testzip() if thorough else None
            if broken is not None:
                raise DataError(f"{path} is a damaged archive: {broken} has another checksum")
        elif not tarfile.is_tarfile(path):
            raise DataError(f"{path} is no whole zip or tar archive; it may be truncated")
    except unpack.DAMAGE as error:
        raise DataError(f"{path} is a damaged archive: {error}") from error
