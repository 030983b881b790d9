"""The options that several commands share, so that they mean the same everywhere."""

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import click
from click.core import ParameterSource

from nnface.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])

MOST_THREADS = 1024
THREADS = click.IntRange(1, MOST_THREADS)
"""More than any machine has use for; a million would take it down."""


class _Size(click.ParamType[Any]):
    name = "N|original"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> "int | Literal['original']":
        if value == "original":
            return "original"
        try:
            size = int(value)
        except ValueError:
            size = 0
        if not 16 <= size <= 16384:
            self.fail(f"{value!r} is neither 'original' nor a number of pixels from 16 to 16384", param, ctx)
        return size


SIZE = _Size()
"""``--size``: a number of pixels, or ``original``."""


def refuse_idle(parameter: str, because: str) -> None:
    """Refuse an option that was given where it changes nothing, rather than to be silent about it.

    Args:
        parameter: of the running command.
        because: the rest of the sentence.

    Raises:
        UsageError: it was given.
    """
    context = click.get_current_context()
    if context.get_parameter_source(parameter) is ParameterSource.COMMANDLINE:
        option = next(p.opts[-1] for p in context.command.params if p.name == parameter)
        raise UsageError(f"{option} {because}")


def running(command: F) -> F:
    """Options of every command that runs a model: ``--device``, ``--batch``, ``--threads``."""
    for option in (
        click.option("--threads", type=THREADS, help="CPU threads in all; by default one a core."),
        click.option("--batch", type=click.IntRange(1, 1024), help="Pictures that go through the network together."),
        click.option(
            "--device",
            default="cpu",
            show_default=True,
            help="cpu, cuda, cuda:N, tensorrt or openvino; see docs/deployment.md.",
        ),
    ):
        command = option(command)
    return command


def finding(command: F) -> F:
    """Options of every command that finds faces: ``--size``, ``--min-score``, ``--tile``."""
    for option in (
        click.option(
            "--tile",
            type=click.IntRange(64, 16384),
            metavar="N",
            help="Look at very large pictures in overlapping tiles of N x N pixels.",
        ),
        click.option(
            "--min-score", type=click.FloatRange(0, 1), metavar="S", help="Keep faces from this score on, 0 to 1."
        ),
        click.option("--size", type=SIZE, help="Long side that the detector sees; small pictures are enlarged."),
    ):
        command = option(command)
    return command


def detecting(command: F) -> F:
    """``--model`` and the options of :func:`finding`, where the model is the detector."""
    model = click.option(
        "--model", default="default", show_default=True, metavar="NAME|FILE", help="See `nnface models list`."
    )
    return model(finding(command))


def writing(command: F) -> F:
    """Where results go: ``--json``, ``--draw``, ``--force``."""
    for option in (
        click.option("--force", is_flag=True, help="Overwrite annotated pictures that are there."),
        click.option("--draw", "draw_folder", metavar="DIR", help="Write annotated pictures here; the folder is made."),
        click.option("--json", "json_file", metavar="FILE|-", help="Write JSON Lines, one a picture or frame."),
    ):
        command = option(command)
    return command
