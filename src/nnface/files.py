"""Files written whole or not at all, hashes, and safe names."""

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
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
    if not path.parent.is_dir():
        raise NnfaceError(f"cannot write {path}: the folder {path.parent} does not exist; make it first")
    temporary = path.parent / f".{path.stem}.{secrets.token_hex(4)}.part{path.suffix}"
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    except OSError as error:
        raise NnfaceError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Write ``data`` (text as UTF-8) to ``path``, whole or not at all; see :func:`atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, as 64 lower-case hex digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
