"""``nnface data verify`` and ``nnface data show``: whether a data set is whole, and what is in it."""

import json
from collections.abc import Sequence
from pathlib import Path

import click

from nnface.commands.data.options import dataset as _dataset
from nnface.commands.data.options import root as _root
from nnface.commands.output import progress, require_place
from nnface.report import require
from nnface.report.table import Table


@click.command()
@_dataset
@_root
@click.option("--labels-only", is_flag=True, help="Do not decode the pictures, and look for no near-duplicates.")
@click.option("--again", is_flag=True, help="Decode every picture anew, also those that were sound and did not change.")
@click.option(
    "--duplicates", type=click.Path(path_type=Path), metavar="FILE", help="Write the near-duplicates, a pair a line."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write all that was found.")
def verify(
    dataset: str, root: Path, labels_only: bool, again: bool, duplicates: Path | None, json_file: Path | None
) -> int:
    """Look whether labels and pictures of DATASET are whole; exit code 1 where something is wrong.

    A part of the data set whose pictures all have labels is partial, and not wrong.
    """
    from nnface.files import write_atomic

    for place in (duplicates, json_file):
        if place is not None:
            require_place(str(place))
    pixels = not labels_only
    with progress("pictures", None) as advance:
        if dataset == "fairface":
            from nnface.curate import fairface

            found = fairface.verify(root, pixels=pixels, again=again, advance=advance)
        elif dataset == "widerface":
            from nnface.curate import widerface

            found = widerface.verify(root, pixels=pixels, again=again, advance=advance)
        else:
            from nnface.curate import celebamask

            found = celebamask.verify(root, pixels=pixels, again=again, advance=advance)
    for severity, text in found.rows():
        click.echo(f"{severity}: {text}")
    if duplicates is not None:
        write_atomic(duplicates, "".join(f"{a} {b} {c:.4f}\n" for a, b, c in found.duplicates))
    if json_file is not None:
        write_atomic(json_file, json.dumps(found.to_dict(), ensure_ascii=False, indent=1) + "\n")
    if not found.problems:
        click.echo(f"{root}: nothing is wrong")
    return 1 if found.problems else 0


@click.command()
@_dataset
@_root
@click.option(
    "--save",
    "--out",
    "save",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write JSON, plots, sheets of samples and an HTML page here.",
)
def show(dataset: str, root: Path, save: Path | None) -> None:
    """Show what is in DATASET: tables, and with --save pictures to look at."""
    if save is not None:
        require()
    if dataset == "fairface":
        from nnface.curate import fairface
        from nnface.datasets.fairface import read as read_chips

        if save is not None:
            fairface.save(root, save)
        for part in fairface.parts(root):
            _print(part, fairface.statistics(read_chips(root, part, pictures=False)))
    elif dataset == "widerface":
        from nnface.curate import widerface

        if save is not None:
            widerface.save(root, save)
        for split in widerface.splits(root):
            _print(split, widerface.tables(root, split))
    else:
        from nnface.curate import celebamask
        from nnface.datasets.celebamask import read as read_portraits

        names = celebamask.splits(root)
        portraits = {name: read_portraits(root, name) for name in names or ["train"]}
        areas = {name: celebamask.areas(samples) for name, samples in portraits.items()}
        if save is not None:
            celebamask.save(areas, save, portraits)
        for name, pixels in areas.items():
            _print(name if names else "all", celebamask.statistics(pixels))


def _print(title: str, tables: Sequence[Table]) -> None:
    click.echo(f"{title}:")
    for table in tables:
        table.show()
