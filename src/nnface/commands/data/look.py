"""``nnface data verify`` and ``nnface data show``: whether a data set is whole, and what is in it."""

from pathlib import Path

import click

from nnface.commands.data.options import dataset as _dataset
from nnface.commands.data.options import root as _root
from nnface.commands.output import progress
from nnface.errors import UsageError
from nnface.report import require


@click.command()
@_dataset
@_root
@click.option("--labels-only", is_flag=True, help="Do not decode the pictures, and look for no near-duplicates.")
@click.option(
    "--duplicates", type=click.Path(path_type=Path), metavar="FILE", help="Write the near-duplicates, a pair a line."
)
def verify(dataset: str, root: Path, labels_only: bool, duplicates: Path | None) -> int:
    """Look whether labels and pictures of DATASET are whole; exit code 1 where something is wrong."""
    _known(dataset)
    from nnface.curate import fairface
    from nnface.files import write_atomic

    with progress("pictures", None) as advance:
        found = fairface.verify(root, pixels=not labels_only, advance=advance)
    for note in found.notes:
        click.echo(f"note: {note}")
    for problem in found.problems:
        click.echo(f"wrong: {problem}")
    if duplicates is not None:
        write_atomic(duplicates, "".join(f"{a} {b} {c:.4f}\n" for a, b, c in found.duplicates))
    if not found.problems:
        click.echo(f"{root}: nothing is wrong")
    return 1 if found.problems else 0


@click.command()
@_dataset
@_root
@click.option("--save", type=click.Path(path_type=Path), metavar="DIR", help="Write JSON, plots and an HTML page here.")
def show(dataset: str, root: Path, save: Path | None) -> None:
    """Show who and what is in DATASET."""
    _known(dataset)
    from nnface.curate import fairface
    from nnface.datasets.fairface import read

    if save is not None:
        require()
    for part in fairface.parts(root):
        click.echo(f"{part}:")
        for table in fairface.statistics(read(root, part, pictures=False)):
            table.show()
    if save is not None:
        fairface.save(root, save)


def _known(dataset: str) -> None:
    if dataset != "fairface":
        raise UsageError(f"nnface data knows fairface so far, and cannot look through {dataset} yet")
