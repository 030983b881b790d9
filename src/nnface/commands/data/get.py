"""``nnface data download`` and ``nnface data prepare``: a data set from its sources onto the disk."""

from pathlib import Path

import click

from nnface.commands.data.options import dataset as _dataset
from nnface.commands.data.options import root as _root
from nnface.errors import UsageError


@click.command()
@_dataset
@_root
def download(dataset: str, root: Path) -> None:
    """Fetch the archives of DATASET."""
    raise UsageError(f"nnface cannot fetch {dataset} into {root} yet")


@click.command()
@_dataset
@_root
def prepare(dataset: str, root: Path) -> None:
    """Unpack the archives of DATASET into the layout that nnface reads."""
    raise UsageError(f"nnface cannot prepare {dataset} in {root} yet")
