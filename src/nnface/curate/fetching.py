"""One source to one partial file: HTTP with resume, and Google's shared drive through gdown.

requests (which pooch brings) does the HTTP: pooch itself cannot go on with a partial file, and a data set is gigabytes.
"""

import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from nnface.curate.archives import DRIVE
from nnface.errors import DataError, DependencyError
from nnface.version import __version__

if TYPE_CHECKING:
    from requests import Response

Advance = Callable[[int, int | None], None]
"""Called with the bytes that are there and, where known, those in all."""

ATTEMPTS = 4
"""So often in a row may a transfer break off without a byte more than before."""
WEB_PAGE = "a web page (quota, sign-in or consent) in place of the file"
_CHUNK = 1 << 16  # of an answer that breaks off, what does not fill one is lost
_TIMEOUT = (15, 60)
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)


class RefusedError(Exception):
    """A source that does not give the file; another may."""


class _BrokenError(Exception):
    """A transfer that broke off; it may go on."""


def fetch(source: str, part: Path, *, size: int | None, same: bool, advance: Advance, attempts: int = ATTEMPTS) -> None:
    """Bring a source into a partial file, going on from what is there.

    Args:
        source: a URL, or ``drive:ID``.
        part: the partial file; it may be there, and it stays where a transfer breaks off.
        size: the published size in bytes.
        same: the file's checksum is published, so that any source may go on with what another began. Otherwise only
            a server that says that its file is still the same one is asked to go on.
        advance: told the bytes.
        attempts: how many transfers in a row may bring nothing.

    Raises:
        RefusedError: the source does not give the file.
        DataError: the disk is full or cannot be written: no other source would help.
    """
    if source.startswith(DRIVE):
        _fetch_drive(source.removeprefix(DRIVE), part, advance, attempts)
        return
    from requests import RequestException

    idle = 0
    while True:
        before = length(part)
        try:
            _transfer(source, part, size, same, advance)
            return
        except (RequestException, _BrokenError) as error:
            idle = 0 if length(part) > before else idle + 1
            if idle >= attempts:
                raise RefusedError(f"{source} broke off at {length(part):,} bytes: {_short(error)}") from error
            time.sleep(min(2.0**idle - 1, 10))


def length(path: Path) -> int:
    """The bytes of a file; 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def looks_like_web_page(beginning: bytes) -> bool:
    """Whether a file begins as HTML does."""
    return re.match(rb"\s*(<!doctype\s+html|<html|<head|<\?xml[^>]*>\s*<!doctype\s+html)", beginning, re.I) is not None


def discard(part: Path) -> None:
    """Remove every partial file of an archive, whichever source it is from."""
    _restart(part)
    for path in (_drive_whole(part), *_drive_parts(part)):
        with suppress(OSError):
            path.unlink()


def _restart(part: Path) -> None:
    for path in (part, _validator(part)):
        with suppress(OSError):
            path.unlink()


def _transfer(url: str, part: Path, size: int | None, same: bool, advance: Advance) -> None:
    """One answer of the server, appended or from the beginning."""
    import requests

    offset = length(part)
    if size is not None and offset >= size:
        if offset == size:
            return
        _restart(part)
        offset = 0
    headers = {"Accept-Encoding": "identity", "User-Agent": f"nnface/{__version__}"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if not same:
            headers["If-Range"] = _read(_validator(part)) or '"none"'
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
        start, total = _agree(answer, url, part, offset)
        if size is not None and total is not None and total != size:
            raise RefusedError(f"{url} offers {total:,} bytes, and the published file has {size:,}")
        if total is not None and total - start > shutil.disk_usage(part.parent).free:
            raise _full(part, f"{total - start:,} more bytes are needed")
        _receive(answer, url, part, start, total if total is not None else size, advance)
    if size is not None and length(part) < size:
        raise _BrokenError(f"{length(part):,} of {size:,} bytes came")


def _agree(answer: "Response", url: str, part: Path, offset: int) -> tuple[int, int | None]:
    """From which byte on the answer goes, and the bytes of the whole file."""
    status = answer.status_code
    span = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", answer.headers.get("Content-Range", ""))
    total = int(span[2]) if span and span[2] != "*" else None
    if status == 416:  # nothing beyond what is there
        if total != offset:
            _restart(part)
            raise _BrokenError("the partial file does not fit the server's")
        return offset, total
    if status in _TRY_AGAIN:
        raise _BrokenError(f"the server answered {status}")
    if status not in (200, 206):
        raise RefusedError(f"{url} answered {status} {answer.reason}".rstrip())
    if answer.headers.get("Content-Type", "").startswith("text/html"):
        raise RefusedError(f"{url} gave {WEB_PAGE}")
    if status == 206:
        if not span or span[1] is None or int(span[1]) != offset:
            _restart(part)
            raise _BrokenError("the server went on from another byte than asked for")
        return offset, total
    if answer.headers.get("Content-Encoding", "identity") != "identity":  # then the length is not that of the file
        return 0, None
    announced = answer.headers.get("Content-Length", "")
    return 0, int(announced) if announced.isdecimal() else None  # a server without ranges starts over


def _receive(answer: "Response", url: str, part: Path, start: int, limit: int | None, advance: Advance) -> None:
    if answer.status_code == 416:
        return
    try:
        if start == 0:
            _restart(part)
            validator = answer.headers.get("ETag", "")
            if not validator or validator.startswith("W/"):
                validator = answer.headers.get("Last-Modified", "")
            if validator:
                _validator(part).write_text(validator, encoding="utf-8")
        file = part.open("ab")
    except OSError as error:
        raise DataError(f"cannot write {part}: {error.strerror or error}") from error
    done = start
    with file:
        for chunk in answer.iter_content(_CHUNK):
            if done == 0 and looks_like_web_page(chunk):
                file.close()
                _restart(part)
                raise RefusedError(f"{url} gave {WEB_PAGE}")
            done += len(chunk)
            if limit is not None and done > limit:
                file.close()
                _restart(part)
                raise RefusedError(f"{url} gave more than the {limit:,} bytes that it should")
            try:
                file.write(chunk)
                file.flush()
            except OSError as error:
                with suppress(OSError):
                    file.close()
                raise _full(part, error.strerror or str(error)) from error
            advance(done, limit)
    if limit is not None and done < limit:
        raise _BrokenError(f"{done:,} of {limit:,} bytes came")


def _fetch_drive(identifier: str, part: Path, advance: Advance, attempts: int) -> None:
    try:
        import gdown
        from gdown.exceptions import DownloadError
    except ImportError as error:
        raise DependencyError("Google's shared drive needs gdown: pip install 'nnface[data]'") from error
    from requests import RequestException

    whole = _drive_whole(part)
    partial = sorted(_drive_parts(part), key=length)
    for path in partial[:-1]:  # gdown goes on with one partial file only
        path.unlink(missing_ok=True)
    page = f"https://drive.google.com/file/d/{identifier}/view"
    try:
        gdown.download(
            id=identifier,
            output=str(whole),
            quiet=True,
            resume=True,
            retries=attempts,
            timeout=_TIMEOUT,
            progress=advance,
        )
    except (DownloadError, RequestException) as error:
        if "byte range" in str(error) and partial:  # the server does not go on: from the beginning
            discard(part)
            _fetch_drive(identifier, part, advance, attempts)
            return
        raise RefusedError(f"{page} gave no file: {_short(error)}") from error
    except OSError as error:
        raise _full(part, error.strerror or str(error)) from error
    _restart(part)
    whole.replace(part)


def _drive_whole(part: Path) -> Path:
    """Where gdown puts a file that is whole and not verified yet; its partial ones are named after it."""
    return part.with_name(f"{part.stem}.drive.part")


def _drive_parts(part: Path) -> list[Path]:
    whole = _drive_whole(part)
    return list(part.parent.glob(f"{whole.name}????????.part"))


def _validator(part: Path) -> Path:
    """Beside a partial file: what the server said by which it knows that its file is still the same."""
    return part.with_name(f"{part.name}.etag")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _full(part: Path, reason: str) -> DataError:
    return DataError(
        f"cannot write {part}: {reason}; make room and run the same command again, which goes on from here"
    )


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 240 else f"{text[:240]}..."
