"""``nnface data download`` and ``nnface data prepare``: a data set from its sources onto the disk."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from nnface.commands.data.options import dataset as _dataset
from nnface.commands.data.options import root as _root
from nnface.commands.output import say

_sources = click.option(
    "--sources",
    type=click.Path(path_type=Path),
    envvar="NNFACE_SOURCES",
    metavar="FILE",
    help="A TOML file with sources of one's own, such as a mirror; see docs/data.md.",
)


@click.command()
@_dataset
@_root
@click.option("--only", "parts", multiple=True, metavar="PART", help="Fetch this part only; may be repeated.")
@click.option("--accept-licence", is_flag=True, help="Accept the terms, which are asked for once otherwise.")
@_sources
def download(dataset: str, root: Path, parts: tuple[str, ...], accept_licence: bool, sources: Path | None) -> int:
    """Fetch the archives of DATASET into ROOT/archives, verified; go on with what is there."""
    from nnface.curate import archives
    from nnface.curate.download import download as fetch

    data = archives.DATASETS[dataset].choose(parts)
    if sources is not None:
        data = archives.with_sources(data, sources)

    def agree(terms: str) -> bool:
        click.echo(terms)
        if accept_licence:
            return True
        if not sys.stdin.isatty():
            say(f"nobody is there to accept the terms of {dataset}; --accept-licence does")
            return False
        return click.confirm("Do you accept these terms?", err=True)

    with _bars("bytes") as advance:
        outcomes = fetch(data, root, agree=agree, say=click.echo, advance=advance)
    failed = [outcome for outcome in outcomes if outcome.path is None]
    for outcome in failed:
        say(outcome.problem)
    if not failed:
        click.echo(f"all is there; next: nnface data prepare {dataset} --root {root}")
    return 0 if not failed else 1 if len(failed) < len(outcomes) else 2


@click.command()
@_dataset
@_root
@click.option("--force", is_flag=True, help="Write over files that are there and differ from the archive's.")
@_sources
def prepare(dataset: str, root: Path, force: bool, sources: Path | None) -> int:
    """Verify and unpack the archives of DATASET into the layout that nnface reads, and make what is derived."""
    from nnface.curate import archives
    from nnface.curate.prepare import prepare as unpack

    data = archives.DATASETS[dataset]
    if sources is not None:
        data = archives.with_sources(data, sources)
    with _bars("files") as advance:
        done = unpack(data, root, force=force, say=click.echo, advance=advance)
    for problem in done.problems:
        say(problem)
    if not done.problems:
        click.echo(f"{root} is prepared; next: nnface data verify {dataset} --root {root}")
    return 0 if not done.problems else 1 if done.unpacked or done.kept else 2


@contextmanager
def _bars(what: str) -> Iterator[Callable[[str, int, int | None], None]]:
    """A bar for each name that is told, where stderr is a terminal."""
    if not sys.stderr.isatty():
        yield lambda name, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.progress import TransferSpeedColumn as Speed

    counts = (DownloadColumn(), Speed()) if what == "bytes" else (MofNCompleteColumn(),)
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), *counts, TimeRemainingColumn(), console=Console(stderr=True),
        transient=True, redirect_stdout=True,
    )  # fmt: skip
    with bar:
        tasks = {}

        def advance(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done, total=total)

        yield advance
