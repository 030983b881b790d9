"""``nnface import`` and ``nnface export``: weights in from other projects, model files out to where they run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from nnface.commands.output import say
from nnface.errors import DependencyError, UsageError

FORMATS = (
    "pytorch-retinaface",
    "retinaface-pytorch",
    "yakhyo",
    "ultra-light",
    "face-detector-1mb",
    "face-parsing",
    "fairface",
    "torchvision",
    "yunet",
    "scrfd",
)
TARGETS = ("onnx", "tensorrt", "openvino", "ncnn")


@click.command("import")
@click.argument("format", type=click.Choice(FORMATS))
@click.argument("file", type=click.Path())
@click.option("--out", required=True, type=click.Path(), help="The model file to write (.safetensors).")
@click.option("--size", type=int, help="ultra-light: the width that an unknown file was trained at, 320 or 640.")
@click.option("--races", type=int, help="fairface: 7 (the default) or 4, for its two files look alike.")
def import_(format: str, file: str, out: str, size: int | None, races: int | None) -> None:
    """Turn a published checkpoint FILE into a model file of ours.

    FORMAT says whose it is, which the file itself does not: normalisation, anchors and labels depend on it.
    """
    with _train_extra("importing a checkpoint"):
        from nnface.export.published import import_checkpoint
    spec, known = import_checkpoint(format, file, out, size, races)
    if not known:
        say(
            f"{file} is not a file that nnface knows by its SHA-256; normalisation and what its outputs mean were "
            f"assumed to be those of {format}"
        )
    click.echo(f"{out}: {spec.architecture}, {spec.licence}")


@click.command()
@click.argument("model", type=click.Path())
@click.option("--to", "target", required=True, type=click.Choice(TARGETS), help="What to write.")
@click.option("--out", type=click.Path(), help="The file to write; by default MODEL's stem, beside it.")
@click.option("--force", is_flag=True, help="Overwrite the file of the default name.")
def export(model: str, target: str, out: str | None, force: bool) -> None:
    """Turn a model file MODEL (.safetensors) into ONNX, checked against torch before it gets its name."""
    if target != "onnx":
        raise UsageError(f"nnface cannot export to {target} yet; --to onnx is there")
    with _train_extra("exporting"):
        from nnface.export.onnx import export as export_onnx
    if out is None:
        out = str(Path(model).with_suffix(".onnx"))
        if Path(out).exists() and not force:
            raise UsageError(f"{out} is there already and was left as it is; --force overwrites it")
    spec = export_onnx(model, out)
    click.echo(f"{out}: {spec.architecture}, equal to torch")


@contextmanager
def _train_extra(what: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise DependencyError(f"{what} needs {error.name}: pip install 'nnface[train]'") from error
