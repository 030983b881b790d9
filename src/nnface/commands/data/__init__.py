"""``nnface data``: what one does with a data set before training on it, a file per kind of work."""

import click

from nnface.commands.data import get, look, write


@click.group()
def data() -> None:
    """Get, verify, show, convert and label data sets."""


for _command in (get.download, get.prepare, look.verify, look.show, write.convert, write.label):
    data.add_command(_command)
