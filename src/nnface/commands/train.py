"""``nnface train`` and ``nnface recipes``."""

import tomllib
from collections.abc import Sequence
from pathlib import Path

import click

from nnface.commands.options import THREADS
from nnface.errors import DependencyError, UsageError


@click.command()
@click.argument("recipe")
@click.option(
    "--data",
    "data",
    multiple=True,
    required=True,
    metavar="NAME:PATH",
    help="widerface:DIR, coco:FILE, yolo:DIR or voc:DIR (detectors), fairface:DIR (classifiers), celebamask:DIR "
    "(parsers); repeat for more.",
)
@click.option("--out", type=click.Path(path_type=Path), help="The run folder; default: runs/RECIPE.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out, exactly where it stopped.")
@click.option("--init", metavar="MODEL", help="Start from the weights of this model file, or model of the zoo.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override the recipe, e.g. optimizer.lr=0.01."
)
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--threads", type=THREADS, help="Threads of the network; default: torch's own.")
@click.option("--tensorboard", is_flag=True, help="Write TensorBoard events into the run folder.")
def train(
    recipe: str,
    data: Sequence[str],
    out: Path | None,
    resume: bool,
    init: str | None,
    overrides: Sequence[str],
    device: str,
    threads: int | None,
    tensorboard: bool,
) -> None:
    """Train RECIPE (a name that `nnface recipes` lists, or a TOML file) on your data."""
    try:
        from nnface.training.start import start
    except ImportError as error:
        raise DependencyError(f"training needs {error.name}: pip install 'nnface[train]'") from error
    best = start(
        recipe,
        data,
        out,
        resume=resume,
        init=init,
        overrides=overrides,
        device=device,
        threads=threads,
        tensorboard=tensorboard,
    )
    click.echo(f"best weights: {best}")


@click.command()
@click.argument("name", required=False)
def recipes(name: str | None) -> None:
    """List the recipes that ship, or print one."""
    from nnface.training.recipes import shipped

    known = shipped()
    if name is None:
        for title, text in known.items():
            click.echo(f"{title:32} {tomllib.loads(text).get('about', '')}")
    elif name in known:
        click.echo(known[name], nl=False)
    else:
        raise UsageError(f"there is no recipe {name!r}; there are {', '.join(known)}")
