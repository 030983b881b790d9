"""``nnface models``: the weights there are, and what a model file says of itself."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from nnface import zoo
from nnface.commands.output import printable
from nnface.header import read_spec
from nnface.report.table import Table
from nnface.spec import Spec


@click.group()
def models() -> None:
    """The weights there are, and what a model file says of itself."""


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects instead of a table.")
def list_(as_json: bool) -> None:
    """List the models that --model takes by name, with their terms."""
    entries = zoo.entries()
    if as_json:
        objects = [asdict(entry) | {"here": entry.bundled is not None or entry.cached.is_file()} for entry in entries]
        print(json.dumps(objects, ensure_ascii=False, indent=2))
        return
    if not entries:
        print("this nnface was built without weights; nnface import and nnface export make model files")
        return
    rows = [[entry.name, entry.task, _megabytes(entry.bytes), _place(entry), entry.licence] for entry in entries]
    Table("", ["name", "task", "size", "where", "terms"], rows).show()
    print("nnface models info NAME prints a model's card and figures")


@models.command()
@click.argument("model", metavar="NAME|FILE")
@click.option("--json", "as_json", is_flag=True, help="Print the Spec as JSON instead.")
def info(model: str, as_json: bool) -> None:
    """Print the card of a model and the Spec that its file carries."""
    path = zoo.resolve(model)
    spec = read_spec(path)
    if as_json:
        print(json.dumps(json.loads(spec.to_json()), ensure_ascii=False, indent=2))
        return
    known = next((entry for entry in zoo.entries() if entry.bundled == path or entry.cached == path), None)
    if known is not None and (card := zoo.card(known)):
        _print_markdown(card)
    Table("", ["what the file says", printable(str(path))], _spec_rows(spec, path)).show()
    if spec.figures:
        Table("", ["figure", ""], [[printable(name), f"{value:g}"] for name, value in spec.figures.items()]).show()


def _spec_rows(spec: Spec, path: Path) -> list[list[str]]:
    """Field and value; the text of a file is untrusted, and made printable."""
    plan = spec.input
    shape = f"{plan.width} x {plan.height}" if plan.width else f"any multiple of {plan.multiple}, made for {plan.size}"
    rows: list[tuple[str, Any]] = [
        ("task", spec.task),
        ("network", spec.architecture),
        ("size", _megabytes(path.stat().st_size)),
        ("terms", spec.licence),
        ("input", f"{shape}; {plan.fit}, {plan.color}"),
        ("settings", ", ".join(f"{key} {value}" for key, value in spec.settings.items())),
    ]
    if spec.detection is not None:
        coding = spec.detection
        rows += [
            ("landmarks", "yes" if coding.landmarks else "no"),
            ("recommended threshold", f"{coding.min_score:g}"),
            ("overlap in non-maximum suppression", f"{coding.nms_iou:g}"),
            ("strides", ", ".join(map(str, coding.strides))),
        ]
    rows += list(spec.provenance.items())
    return [[printable(name), printable(str(value))] for name, value in rows if value != ""]


def _print_markdown(text: str) -> None:
    if not sys.stdout.isatty():
        print(text)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console(file=sys.stdout).print(Markdown(text))


def _place(entry: zoo.Entry) -> str:
    if entry.bundled is not None:
        return "bundled"
    return "downloaded" if entry.cached.is_file() else "to download"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
