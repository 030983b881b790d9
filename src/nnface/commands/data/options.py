"""What every command of ``nnface data`` takes."""

from pathlib import Path

import click

dataset = click.argument("dataset", type=click.Choice(("widerface", "fairface", "celebamask")))
root = click.option("--root", type=click.Path(path_type=Path), required=True, help="The data set's folder.")
