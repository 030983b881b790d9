"""The output folder: a manifest, and a Parquet file for each shard, which appears whole or not at all.

    OUT.parquet/_manifest.json        what was done to which pictures; written first
    OUT.parquet/part-00000.parquet    the rows of the first pictures, in their order
    OUT.parquet/part-00001.parquet    ...

Readers of Parquet take such a folder for one table: what begins with _ or . is no part of it. A run that was killed
goes on with the shards that are missing. Each shard carries the hash of its manifest, so that one of another run is
found out.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from nnface.errors import DataError, NnfaceError, UsageError
from nnface.files import locked, sha256, unfinished, write_atomic
from nnface.scale.job import Job
from nnface.scale.pictures import Pictures
from nnface.scale.shard import Row, Shard, decode, facts
from nnface.version import __version__
from nnface.zoo import resolve

MANIFEST = "_manifest.json"
FORMAT = 1

_PART = re.compile(r"part-(\d{5,})\.parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a run is: the same models, options and pictures give the same manifest."""

    format: int = FORMAT
    nnface: str
    """The version that began the run."""
    task: str
    models: dict[str, str]
    """The SHA-256 of each model file, by what it is for."""
    options: dict[str, Any]
    pictures: int
    list_sha256: str
    """Over the names of the pictures, in their order."""
    shard_size: int
    """Pictures in each shard; the last one has what is left."""

    @property
    def shards(self) -> int:
        """How many there will be."""
        return -(-self.pictures // self.shard_size)

    @property
    def run(self) -> str:
        """The SHA-256 over the manifest, which each shard carries."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def span(self, number: int) -> tuple[int, int]:
        """The first picture of a shard, and the one after its last."""
        return number * self.shard_size, min((number + 1) * self.shard_size, self.pictures)


def describe(job: Job, pictures: Pictures, shard_size: int) -> Manifest:
    """The manifest of a run.

    Raises:
        UsageError: a shard size below 1.
        ModelFileError: a model is not there.
    """
    if shard_size < 1:
        raise UsageError(f"shard_size is {shard_size}; it must be at least 1")
    return Manifest(
        nnface=__version__,
        task=job.task,
        models={role: sha256(resolve(model)) for role, model in job.models.items()},
        options=job.options,
        pictures=len(pictures),
        list_sha256=pictures.sha256(),
        shard_size=shard_size,
    )


@dataclass(slots=True)
class Output:
    """An output folder that is open for writing."""

    path: Path
    manifest: Manifest
    done: dict[int, int] = field(default_factory=dict)
    """For each shard that is there the pictures in it that could not be read."""

    @property
    def pending(self) -> list[int]:
        """The numbers of the shards that are missing, in order."""
        return [number for number in range(self.manifest.shards) if number not in self.done]

    def keep(self, shard: Shard) -> None:
        """Write a shard: synced under a temporary name, then renamed.

        Raises:
            NnfaceError: the disk is full, say.
        """
        write_atomic(self.path / _name(shard.number), shard.data)
        self.done[shard.number] = shard.failed


@contextmanager
def opened(path: str | Path, manifest: Manifest) -> Iterator[Output]:
    """Begin an output folder, or go on with one that the same run began.

    Raises:
        NnfaceError: the folder cannot be made or written, or another process is at it.
        UsageError: it is a file, holds other things, or is that of another run; the sentence says what differs.
        DataError: a shard, or the manifest, is damaged or of another run.
    """
    folder = Path(path)
    try:
        folder.mkdir(exist_ok=True)
    except FileExistsError as error:
        raise UsageError(f"{path} is a file; --to makes a folder of Parquet files, so name another one") from error
    except OSError as error:
        raise NnfaceError(f"cannot make the folder {path}: {error.strerror or error}") from error
    with locked(folder):
        yield _begin(folder, manifest)


def read(path: str | Path) -> Iterator[Row]:
    """The rows of a complete output folder, one a picture, in the order of the pictures; a few are in memory.

    Raises:
        DataError: no output of nnface, or not complete, damaged, or with a shard of another run.
        DependencyError: pyarrow is not installed.
    """
    folder = Path(path)
    if not (folder / MANIFEST).is_file():
        raise DataError(f"{path} is no output of nnface: it has no {MANIFEST}")
    manifest = _manifest(folder)
    done = _shards(folder, manifest)
    if len(done) < manifest.shards:
        raise DataError(
            f"{path} is not complete: {len(done)} of {manifest.shards} shards are there; run its command once more, "
            "and it goes on"
        )
    for number in range(manifest.shards):
        yield from decode(folder / _name(number))


def _begin(folder: Path, manifest: Manifest) -> Output:
    there = [entry.name for entry in folder.iterdir()]
    if (folder / MANIFEST).exists():
        _refuse_another(folder, _manifest(folder), manifest)
    elif any(not name.startswith(".") for name in there):
        raise UsageError(
            f"{folder} holds files that no manifest of nnface is with; name a folder that is not there yet"
        )
    else:
        write_atomic(folder / MANIFEST, json.dumps(asdict(manifest), indent=2) + "\n")
    for name in there:  # now that the folder is this run's: what was being written when it was killed
        final = unfinished(name) or ""
        if final == MANIFEST or _PART.fullmatch(final):
            (folder / name).unlink()
    return Output(folder, manifest, _shards(folder, manifest))


def _refuse_another(folder: Path, begun: Manifest, now: Manifest) -> None:
    words = {
        "nnface": f"by nnface {begun.nnface} (this is {now.nnface})",
        "task": f"to {begun.task}",
        "models": "with another model",
        "options": "with other options ("
        + ", ".join(
            f"{name} {begun.options.get(name)}, now {now.options.get(name)}"
            for name in sorted({*begun.options, *now.options})
            if begun.options.get(name) != now.options.get(name)
        )
        + ")",
        "pictures": f"with {begun.pictures} pictures (now {now.pictures})",
        "list_sha256": "with pictures of other names",
        "shard_size": f"with --shard-size {begun.shard_size}",
    }
    differing = [text for name, text in words.items() if getattr(begun, name) != getattr(now, name)]
    if differing:
        raise UsageError(f"{folder} was begun {' and '.join(differing)}; name another folder, or do as it was begun")


def _manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        values = json.loads(path.read_text("utf-8"))
        newer = values["format"] > FORMAT
        manifest = None if newer else Manifest(**values)
        if manifest is not None and not (
            {type(getattr(manifest, f.name)).__name__ for f in fields(manifest)} <= {"int", "str", "dict"}
            and manifest.shard_size >= 1
            and manifest.pictures >= 0
        ):
            raise ValueError
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} is damaged; remove the folder, or name another one") from error
    if manifest is None:
        raise DataError(f"{path} was written by a newer nnface; update this one")
    return manifest


def _shards(folder: Path, manifest: Manifest) -> dict[int, int]:
    """The shards that are there, with the pictures in each that could not be read; each is of this run."""
    done = {}
    for path in sorted(folder.iterdir()):
        if not (match := _PART.fullmatch(path.name)):
            continue
        number = int(match[1])
        rows, said = facts(path)
        start, stop = manifest.span(number)
        if (said.get("nnface.run"), said.get("nnface.shard")) != (manifest.run, str(number)) or rows != stop - start:
            raise DataError(
                f"{path} is a shard of another run (another model, other options or pictures); move it away, and its "
                "pictures are done again"
            )
        done[number] = int(said["nnface.failed"])
    return done


def _name(number: int) -> str:
    return f"part-{number:05}.parquet"
