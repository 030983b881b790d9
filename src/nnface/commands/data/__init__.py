"""``nnface data``: what one does with a data set before training on it, a file per kind of work."""

import click

from nnface.commands.data import get, look


@click.group()
def data() -> None:
    """Get, verify and show data sets."""


for _command in (get.download, get.prepare, look.verify, look.show):
    data.add_command(_command)
