"""What all writers of detection data share: names of pictures, links to them, numbers as text."""

import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath

from nnface.datasets.samples import DetectionSample
from nnface.errors import DataError, NnfaceError


def names(samples: Sequence[DetectionSample], renamed: Mapping[str, str], allowed: Collection[str]) -> list[str]:
    """The name of each picture in the written data set: its key with the suffix of its file.

    A key that leads out of the folder is cut to what stays inside.

    Args:
        samples: the pictures.
        renamed: suffixes, in lower case, that become another.
        allowed: suffixes that the format has, in lower case.

    Raises:
        DataError: two pictures of one key, or a suffix that the format does not have.
    """
    result: list[str] = []
    taken: dict[str, Path] = {}
    for sample in samples:
        parts = [part for part in sample.key.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        key = parts[-1] if PurePosixPath(sample.key).is_absolute() else "/".join(parts)
        suffix = sample.path.suffix.lower()
        suffix = renamed.get(suffix, suffix)
        if suffix not in allowed:
            raise DataError(f"{sample.path} is none of {', '.join(sorted(allowed))}, which this format has; convert it")
        if key.casefold() in taken:  # some file systems do not tell A.jpg from a.jpg
            raise DataError(
                f"{sample.path} and {taken[key.casefold()]} would both be named {key}; rename one of the pictures"
            )
        taken[key.casefold()] = sample.path
        result.append(f"{key}{suffix}")
    return result


def place(samples: Sequence[DetectionSample], targets: Sequence[Path], *, copy: bool) -> None:
    """Put each picture under its target: a link to its file, or a copy; what is there already stays.

    Raises:
        NnfaceError: another file has the name, or it cannot be written.
    """
    for sample, target in zip(samples, targets, strict=True):
        try:
            if os.path.lexists(target):
                if not target.exists() or not (target.samefile(sample.path) or _equal(target, sample.path)):
                    raise NnfaceError(f"{target} is there already and is not {sample.path}; name an empty folder")
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            if copy:
                temporary = target.with_name(f".{target.name[:32]}.{os.urandom(4).hex()}.part")
                try:
                    shutil.copyfile(sample.path, temporary)
                    temporary.replace(target)
                finally:
                    temporary.unlink(missing_ok=True)
            else:
                target.symlink_to(sample.path.resolve())
        except OSError as error:
            what = "copy" if copy else "link"
            hint = "" if copy else "; --copy writes copies"
            raise NnfaceError(f"cannot {what} {sample.path} to {target}: {error.strerror or error}{hint}") from error


def _equal(one: Path, other: Path) -> bool:
    return one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()


def write_quickly(path: Path, text: str) -> None:
    """A small text, one of very many: whole or not at all, but not synced to the disk one by one.

    Raises:
        NnfaceError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name[:32]}.{os.urandom(4).hex()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise NnfaceError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def refuse(path: Path, force: bool) -> None:
    """Refuse to go over labels that are there.

    Raises:
        NnfaceError: ``path`` is there, and ``force`` is not given.
    """
    if not force and os.path.lexists(path):
        raise NnfaceError(f"{path} is there already and was left as it is; --force replaces it")


def number(value: float) -> str:
    """Pixels as text: whole ones without a dot, others with up to two decimals."""
    text = f"{float(value):.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
