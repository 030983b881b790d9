"""``--to OUT.parquet`` of ``detect``, ``classify``, ``segment`` and ``analyze``: its options and what they do."""

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, redirect_stdout
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal

import click
import cv2

from nnface.commands import output
from nnface.errors import UsageError
from nnface.processors import physical_cores
from nnface.scale import Job, Shard, describe, find, opened

SHARD_SIZE = 1000


@dataclass(frozen=True, slots=True)
class Parquet:
    """What was asked for."""

    folder: str
    shard_size: int
    engine: Literal["here", "ray"]
    address: str | None


def to_parquet(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options ``--to``, ``--shard-size``, ``--engine`` and ``--ray-address``; the command gets them as ``parquet``."""

    @wraps(command)
    def checked(
        to: str | None, shard_size: int | None, engine: str | None, ray_address: str | None, **others: Any
    ) -> Any:
        if to is None:
            if shard_size or engine or ray_address:
                raise UsageError("--shard-size, --engine and --ray-address go with --to OUT.parquet")
            return command(parquet=None, **others)
        if not to.rstrip("/").endswith(".parquet"):
            raise UsageError(f"--to writes Parquet only, and {to} does not end in .parquet")
        if ray_address and engine != "ray":
            raise UsageError("--ray-address goes with --engine ray")
        for name in ("json_file", "csv_file", "draw_folder", "labels_folder", "soft_folder"):
            if others.get(name):
                raise UsageError(f"--to and --{name.partition('_')[0]} exclude each other; run the command twice")
        kind: Literal["here", "ray"] = "ray" if engine == "ray" else "here"
        return command(parquet=Parquet(to, shard_size or SHARD_SIZE, kind, ray_address), **others)

    for option in (
        click.option(
            "--ray-address", metavar="HOST:PORT", help="A Ray cluster, or auto; by default Ray is started here."
        ),
        click.option("--engine", type=click.Choice(["here", "ray"]), help="What makes the shards of --to. [here]"),
        click.option(
            "--shard-size", type=click.IntRange(1, 1_000_000), metavar="N", help=f"Pictures a shard. [{SHARD_SIZE}]"
        ),
        click.option("--to", metavar="OUT.parquet", help="Write a folder of Parquet shards; resumes after a kill."),
    ):
        checked = option(checked)
    return checked


def run(job: Job, sources: Sequence[str], parquet: Parquet, batch: int | None, threads: int | None) -> int:
    """Make the shards that are not there yet."""
    pictures, problems = find(sources)
    for problem in problems:
        output.say(problem)
    if not len(pictures):
        return 2
    manifest = describe(job, pictures, parquet.shard_size)
    if job.device != "cpu":
        output.say(f"running on {job.device}")
    with opened(parquet.folder, manifest) as out:
        if out.done:
            output.say(f"{len(out.done)} of {manifest.shards} shards are in {parquet.folder} already")
        left = sum(stop - start for start, stop in map(manifest.span, out.pending))
        shards: Generator[Shard, None, None]
        if parquet.engine == "ray":
            from nnface.scale import cluster

            shards = cluster.run(job, pictures, out, address=parquet.address, threads=threads, batch=batch)
        else:
            from nnface.scale import here

            cv2.setNumThreads(1)  # the workers take up the cores
            shards = here.run(job, pictures, out, threads=threads or physical_cores(), batch=batch)
        # What Ray says of workers that died goes to stdout, from a thread of its own.
        with redirect_stdout(sys.stderr), output.progress("faces", left) as advance, closing(shards):
            for shard in shards:
                for _ in range(shard.pictures):
                    advance()
        failed = sum(out.done.values())
    if failed:
        output.say(f"{failed} of {len(pictures)} pictures could not be read; the column error says why")
    return 2 if failed == len(pictures) else 1 if failed or problems else 0
