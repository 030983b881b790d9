"""Files written whole or not at all, hashes, and safe names."""

import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nnface.errors import NnfaceError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is synced to disk and takes the final name.

    Whatever happens inside the block (an exception, Ctrl-C, a kill), ``path`` holds either what it held before or
    the complete new content. The temporary file keeps the suffix of ``path``, for writers that go by it. A link stays
    one, and what it leads to is replaced. What is neither a file nor a folder (``/dev/null``, a named pipe) cannot be
    replaced: it is yielded itself.

    Raises:
        NnfaceError: the folder does not exist or cannot be written.
        BrokenPipeError: nobody reads from the pipe any more.
    """
    place = Path(os.path.realpath(path))
    if _is_device(place):
        try:
            yield place
        except BrokenPipeError:
            raise
        except OSError as error:
            raise NnfaceError(f"cannot write {path}: {error.strerror or error}") from error
        return
    if not os.path.isdir(place.parent):  # noqa: PTH112 - Path.is_dir raises where a folder above is not to be entered
        raise NnfaceError(f"cannot write {path}: the folder {Path(path).parent} does not exist; make it first")
    # Of a long name only the beginning, so that the temporary one is no longer than file systems take.
    temporary = place.parent / f".{place.stem[:32]}.{os.urandom(4).hex()}.part{Path(path).suffix}"
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(place)
    except OSError as error:
        raise NnfaceError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # what could not be written cannot be removed either, and the first error is told
            temporary.unlink()


def unfinished(name: str) -> str | None:
    """The final name of a file that :func:`atomic_path` was writing when it was killed (of a long one the beginning);
    None: ``name`` is not one of its temporary names."""
    match = re.fullmatch(r"\.(.+)\.[0-9a-f]{8}\.part(\.[^.]*)?", name)
    return match and match[1] + (match[2] or "")


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Write ``data`` (text as UTF-8) to ``path``, whole or not at all; see :func:`atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def make_folder(folder: str | Path) -> None:
    """Make a folder that is named for output, and those above it, where they are not there.

    Raises:
        NnfaceError: it cannot be made.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NnfaceError(f"cannot make the folder {folder}: there is a file of that name; name another") from error
    except OSError as error:
        raise NnfaceError(f"cannot make the folder {folder}: {error.strerror or error}; name another") from error


@contextmanager
def locked(folder: str | Path, patience: float = 0.0, say: Callable[[str], object] = lambda _: None) -> Iterator[None]:
    """Keep other processes of nnface out of a folder until the end, however it comes; nothing is left in it.

    Where the system or the file system has no such locks (Windows, some network drives), nothing is kept out.

    Args:
        folder: is there.
        patience: seconds to wait for another process to end. The lock is also its child processes', which after a kill
            live a little longer.
        say: told once that it waits.

    Raises:
        NnfaceError: another one is at work there, or the folder cannot be opened.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise NnfaceError(f"cannot open the folder {folder}: {error.strerror or error}") from error
    try:
        until, told = time.monotonic() + patience, False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() >= until:
                    raise NnfaceError(f"another nnface is at work in {folder}; wait until it has ended") from error
                if not told:
                    say(f"another nnface is at work in {folder}; waiting up to {patience:g} s for its end")
                told = True
                time.sleep(0.1)
                continue
            except OSError:
                pass
            break
        yield
    finally:
        os.close(descriptor)


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, as 64 lower-case hex digits."""
    import hashlib  # here: most runs hash nothing, and it costs milliseconds

    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_device(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # not there, or not to be looked at: opening it tells why
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
