"""Files written whole or not at all, hashes, and safe names."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nnface.errors import NnfaceError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is synced to disk and takes the final name.

    Whatever happens inside the block (an exception, Ctrl-C, a kill), ``path`` holds either what it held before or
    the complete new content. The temporary file keeps the suffix of ``path``, for writers that go by it.

    Raises:
        NnfaceError: the folder does not exist or cannot be written.
    """
    path = Path(path)
    if not os.path.isdir(path.parent):  # noqa: PTH112 - Path.is_dir raises where a folder above is not to be entered
        raise NnfaceError(f"cannot write {path}: the folder {path.parent} does not exist; make it first")
    # Of a long name only the beginning, so that the temporary one is no longer than file systems take.
    temporary = path.parent / f".{path.stem[:32]}.{os.urandom(4).hex()}.part{path.suffix}"
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    except OSError as error:
        raise NnfaceError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # what could not be written cannot be removed either, and the first error is told
            temporary.unlink()


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Write ``data`` (text as UTF-8) to ``path``, whole or not at all; see :func:`atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def make_folder(folder: Path) -> None:
    """Make a folder that is named for output, and those above it.

    Raises:
        NnfaceError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NnfaceError(f"cannot make the folder {folder}: {error.strerror}; name another") from error


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, as 64 lower-case hex digits."""
    import hashlib  # here: most runs hash nothing, and it costs milliseconds

    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
