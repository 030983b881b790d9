"""``nnface bench``: how fast model files run on this machine."""

import json
import tempfile
from pathlib import Path

import click

from nnface.commands.options import MOST_THREADS, SIZE
from nnface.commands.output import progress, require_place
from nnface.errors import NnfaceError, UsageError
from nnface.evaluation import bench as benchmark
from nnface.files import write_atomic
from nnface.predict.detector import Size
from nnface.predict.source import expand

_NUMBERS = "1,2,4"


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--pictures", multiple=True, metavar="PATH", help="A picture or a folder.  [default: one without faces]")
@click.option("--device", "devices", default="cpu", show_default=True, metavar="LIST", help="cpu,cuda,openvino,...")
@click.option("--batch", "batches", default="1", show_default=True, metavar="LIST", help=f"Such as {_NUMBERS}.")
@click.option("--threads", metavar="LIST", help=f"Such as {_NUMBERS}.  [default: the physical cores]")
@click.option("--size", type=SIZE, help="The long side that detectors see.  [default: each its own]")
@click.option("--rounds", type=click.IntRange(3, 100_000), default=30, show_default=True, help="After a warm-up.")
@click.option("--memory/--no-memory", default=True, help="Measure that too, each in a process of its own.")
@click.option("--json", "json_file", metavar="FILE", help="Write all figures as JSON; - for stdout.")
def bench(
    models: tuple[str, ...],
    pictures: tuple[str, ...],
    devices: str,
    batches: str,
    threads: str | None,
    size: Size,
    rounds: int,
    memory: bool,
    json_file: str | None,
) -> None:
    """Time MODELS, files or names of the zoo, from picture file to result.

    Every model runs on every device with every number of threads and every batch, in turn. Several precisions of a
    network are several files, which nnface export --precision writes.
    """
    if json_file is not None and json_file != "-":
        require_place(json_file)
    with tempfile.TemporaryDirectory() as folder:
        paths = _pictures(pictures) if pictures else [str(benchmark.sample_picture(Path(folder)))]
        with progress("rounds", rounds + benchmark.WARM_UP) as done:
            rows = benchmark.bench(
                models,
                paths,
                devices=devices.split(","),
                batches=_numbers("--batch", batches, 4096),
                threads=[None] if threads is None else _numbers("--threads", threads, MOST_THREADS),
                size=size,
                rounds=rounds,
                memory=memory,
                done=done,
            )
    text = json.dumps(benchmark.to_dict(rows), indent=2) + "\n"
    if json_file == "-":
        click.echo(text, nl=False)
        return
    if json_file is not None:
        write_atomic(json_file, text)
    for table in benchmark.tables(rows):
        table.show()


def _pictures(paths: tuple[str, ...]) -> list[str]:
    sources, problems = expand(paths)
    if problems:
        raise NnfaceError(problems[0])
    return [source.path for source in sources if source.kind == "picture"]


def _numbers(option: str, text: str, most: int) -> list[int]:
    parts = text.split(",")
    if not all(part.isdecimal() and 1 <= int(part) <= most for part in parts):
        raise UsageError(f"{option} is {text!r}; it must be numbers from 1 to {most}, such as {_NUMBERS}")
    return [int(part) for part in parts]
