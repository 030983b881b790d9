"""``nnface import`` and ``nnface export``: weights in from other projects, model files out to where they run."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import click

from nnface.commands.output import say
from nnface.errors import DependencyError, UsageError
from nnface.header import is_safetensors, require_file
from nnface.zoo import resolve

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
METHODS = ("minmax", "percentile", "entropy")
ENDINGS = {"onnx": ".onnx", "tensorrt": ".engine", "openvino": ".xml", "ncnn": ".ncnn.param"}
"""What can be exported to, and how the files end."""
_COMPANIONS = {"openvino": (".bin",), "ncnn": (".bin", ".json")}
"""The suffixes of what is written beside them."""


@click.command("import")
@click.argument("format", type=click.Choice(FORMATS))
@click.argument("file", type=click.Path())
@click.option(
    "--out", required=True, type=click.Path(), help="The model file to write (.safetensors; of yunet and scrfd .onnx)."
)
@click.option("--size", type=int, help="ultra-light: the width that an unknown file was trained at, 320 or 640.")
@click.option("--races", type=int, help="fairface: 7 (the default) or 4, for its two files look alike.")
def import_(format: str, file: str, out: str, size: int | None, races: int | None) -> None:
    """Turn a published checkpoint FILE into a model file of ours.

    FORMAT says whose it is, which the file itself does not: normalisation, anchors and labels depend on it. What
    torchvision has is no model but a backbone to train from: nnface train ... --set model.backbone=OUT.
    """
    require_file(file)
    with _train_extra("importing a checkpoint"):
        from nnface.export.published import import_backbone, import_checkpoint
    if format == "torchvision":
        if size is not None or races is not None:
            raise UsageError("--size is for ultra-light and --races for fairface; torchvision has neither")
        name, licence, known = import_backbone(file, out)
    else:
        spec, known = import_checkpoint(format, file, out, size, races)
        name, licence = spec.architecture, spec.licence
    if not known:
        say(
            f"{file} is not a file that nnface knows by its SHA-256; normalisation and what its outputs mean were "
            f"assumed to be those of {format}"
        )
    click.echo(f"{out}: {name}, {licence}")


def _shape(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    width, _, height = value.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise click.BadParameter(f"{value!r} is not a width and a height such as 640x480", ctx, param)
    return int(width), int(height)


def _fixed(ctx: click.Context, param: click.Parameter, value: str) -> int | None:
    if value == "dynamic":
        return None
    if not (value.isdecimal() and 1 <= int(value) <= 4096):
        raise click.BadParameter(f"{value!r} is neither 'dynamic' nor a number of pictures from 1 to 4096", ctx, param)
    return int(value)


@click.command()
@click.argument("model", type=click.Path())
@click.option("--to", "target", required=True, type=click.Choice(list(ENDINGS)), help="What to write.")
@click.option("--out", type=click.Path(), help="The file to write; by default MODEL's stem, beside it.")
@click.option("--force", is_flag=True, help="Overwrite a file of the default name, and what stands beside --out.")
@click.option("--size", metavar="WxH", callback=_shape, help="onnx: fix the input to this; tensorrt: the largest.")
@click.option(
    "--batch",
    metavar="N|dynamic",
    callback=_fixed,
    default="dynamic",
    show_default=True,
    help="onnx: pictures that it is fixed to; tensorrt: the most at once.  [tensorrt: 8]",
)
@click.option("--opset", type=click.IntRange(13, 20), help="onnx: of its operators.  [default: 17]")
@click.option("--with-nms", is_flag=True, help="onnx: detections come out, selected, for use without nnface.")
@click.option("--min-score", type=click.FloatRange(0, 1), help="The cut of --with-nms.  [default: the model's own]")
@click.option("--precision", type=click.Choice(["fp16", "int8"]), help="Smaller numbers; onnx: and what they cost.")
@click.option(
    "--calibrate", metavar="PHOTOS|NAME:PATH", help="Pictures for int8: a folder, or a data set's for training."
)
@click.option("--evaluate", metavar="NAME:PATH", help="Labelled pictures: what --precision costs is measured on them.")
@click.option("--pictures", type=click.IntRange(3), help="The most to calibrate and compare on.  [default: 150]")
@click.option("--method", type=click.Choice(METHODS), help="Of the calibration.  [default: what loses least]")
@click.option("--most-lost", type=click.FloatRange(0), metavar="POINTS", help="Refuse a file that loses more of 100.")
def export(
    model: str,
    target: str,
    out: str | None,
    force: bool,
    with_nms: bool,
    precision: Literal["fp16", "int8"] | None,
    **options: Any,
) -> None:
    """Turn MODEL, a file or a name of the zoo, into what runs elsewhere, checked before it gets its name.

    A .safetensors file becomes ONNX; an ONNX file of ours takes --precision, --with-nms, --size and --batch. The report
    of --precision is printed, and written as JSON beside the file. From either, TensorRT, OpenVINO and ncnn get files
    of their own; for INT8 in TensorRT, give it the ONNX file that --precision int8 made.
    """
    source = resolve(model)
    companions = (".json",) if target == "onnx" and precision else _COMPANIONS.get(target, ())
    if out is None:
        # What comes from the zoo goes into the working folder.
        beside = Path(model) if source == Path(model) else Path(source.name)
        middle = "".join(part for part in (f".{precision}" if precision else "", ".nms" if with_nms else ""))
        out = str(beside.with_suffix(middle + ENDINGS[target]))
        if Path(out).exists() and Path(out).samefile(source):
            raise UsageError(f"{out} would replace {model} itself; name another file for --out")
        _require_absent(Path(out), force)
    for ending in companions:
        companion = Path(out).with_suffix(ending)
        _require_absent(companion, force or _made_before(companion, Path(out)))
    if target != "onnx":
        _for_runtime(target, source, out, precision=precision, with_nms=with_nms, **options)
        return
    with _export_extra(source):
        from nnface.export.pipeline import build

        spec, report = build(source, out, precision=precision, with_nms=with_nms, say=say, **options)
    against = "torch" if is_safetensors(source) else str(source)
    click.echo(f"{out}: {spec.architecture}, {'checked' if report or with_nms else f'equal to {against}'}")
    if report is not None:
        from nnface.export import cost

        for table in cost.tables(report):
            table.show()
        for warning in cost.warnings(report):
            say(f"warning: {warning}")


def _require_absent(place: Path, force: bool) -> None:
    if place.exists() and not force:
        raise UsageError(f"{place} is there already and was left as it is; --force overwrites it")


def _for_runtime(target: str, source: Path, out: str, **options: Any) -> None:
    """Export for a runtime that has files of its own."""
    taken = ("precision", "size", "batch") if target == "tensorrt" else ()
    for name, value in options.items():
        if name not in taken and value not in (None, False):
            option = f"--{name.replace('_', '-')}"
            raise UsageError(
                f"{option} is for --to onnx; export with it to ONNX first, and then that file --to {target}"
            )
    said = "equal to ONNX Runtime"
    try:
        if target == "openvino":
            from nnface.export import openvino

            spec = openvino.export(source, out)
        elif target == "ncnn":
            from nnface.export import ncnn

            spec = ncnn.export(source, out)
        else:
            from nnface.export import tensorrt

            chosen = {name: options[name] for name in taken if options[name] is not None}
            spec, built = tensorrt.export(source, out, **chosen)
            layers = ", ".join(f"{count} in {name}" for name, count in built.layers.items())
            said = f"{built.gpu}, TensorRT {built.tensorrt}, layers {layers}, {said}"
    except ImportError as error:
        extra = "train" if error.name in ("torch", "safetensors") else target
        raise DependencyError(f"exporting to {target} needs {error.name}: pip install 'nnface[{extra}]'") from error
    click.echo(f"{out}: {spec.architecture}, {said}")


def _made_before(companion: Path, out: Path) -> bool:
    """Whether an earlier export of ``out`` wrote what stands beside it: of JSON, a report or a Spec."""
    if not out.exists() or companion.suffix != ".json":
        return out.exists()
    try:
        content = json.loads(companion.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and any(
        keys <= content.keys() for keys in ({"precision", "comparison"}, {"task", "architecture"})
    )


@contextmanager
def _export_extra(source: Path) -> Iterator[None]:
    """ONNX files are rewritten without torch."""
    try:
        yield
    except ImportError as error:
        extra = "train" if is_safetensors(source) or error.name not in ("onnx", "ml_dtypes") else "export"
        raise DependencyError(f"exporting {source} needs {error.name}: pip install 'nnface[{extra}]'") from error


@contextmanager
def _train_extra(what: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise DependencyError(f"{what} needs {error.name}: pip install 'nnface[train]'") from error
