"""The command line ``nnface``: a file per group of commands, imported only when one of its commands is called.

A command returns None or an exit code: 0; 1 some of many failed and the rest is done; 2 usage, bad input, or nothing
could be done; 130 interrupted. Whatever it raises becomes one sentence on stderr, here and nowhere else.
"""

import os
import sys
import traceback
from importlib import import_module
from typing import NoReturn

import click

from nnface.errors import NnfaceError
from nnface.version import __version__

COMMANDS = {
    "detect": ("nnface.commands.predict", "detect", "Find the faces in pictures, folders and videos."),
    "classify": ("nnface.commands.predict", "classify", "Tell perceived race, gender and age of faces."),
    "segment": ("nnface.commands.predict", "segment", "Label the parts of faces: skin, eyes, lips, hair, ..."),
    "analyze": ("nnface.commands.predict", "analyze", "Find faces, tell perceived attributes, label parts."),
    "recolor": ("nnface.commands.effects", "recolor", "Give hair, lips and other parts another colour."),
    "blur": ("nnface.commands.effects", "blur", "Blur or pixelate faces, or parts of them."),
    "models": ("nnface.commands.models", "models", "The weights there are, and what a model file says of itself."),
    "data": ("nnface.commands.data", "data", "Get, verify, show, convert and label data sets."),
    "train": ("nnface.commands.train", "train", "Train a network by a recipe."),
    "recipes": ("nnface.commands.train", "recipes", "List the recipes, or print one."),
    "evaluate": ("nnface.commands.evaluate", "evaluate", "Run a model over a benchmark and score it."),
    "score": ("nnface.commands.evaluate", "score", "Score prediction files that are there."),
    "bench": ("nnface.commands.bench", "bench", "Time model files on this machine."),
    "import": ("nnface.commands.deploy", "import_", "Turn a published checkpoint into a model file."),
    "export": ("nnface.commands.deploy", "export", "Turn a model file into ONNX, TensorRT, OpenVINO or ncnn."),
}
"""Name of the command: its module, its name there, what it does."""

_DEBUG = click.Option(["--debug"], is_flag=True, expose_value=False, help="Show the traceback of an error.")


class _Commands(click.Group):
    """Knows the commands by name and imports the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), attribute)
        _accept_debug(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="nnface")
def cli() -> None:
    """Faces in photographs: find them, and train, benchmark and export the networks that do."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line (by default on ``sys.argv``) and leave the process with its exit code."""
    _open_standard_streams()
    # numpy's threads for linear algebra, which nnface has no use for, would spin while the first pictures are decoded.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    arguments = sys.argv[1:] if arguments is None else arguments
    code = _run(arguments, debug="--debug" in arguments)
    try:
        sys.stdout.flush()
    except OSError:  # a full disk, or whoever read has gone: Python's last flush would complain and exit with 120
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _run(arguments: list[str], debug: bool) -> int:
    try:
        if "_NNFACE_COMPLETE" in os.environ:  # shell completion, which click answers itself
            cli.main(arguments, prog_name="nnface")
        with cli.make_context("nnface", list(arguments)) as context:
            code = cli.invoke(context)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as ended:  # --help and --version
        return ended.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except BrokenPipeError:  # whoever read our output has gone (``| head``): stop quietly
        return 1
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted", 130, debug)
    except click.UsageError as error:
        name = error.ctx.command_path if error.ctx else "nnface"
        message = error.format_message().rstrip(".")
        return _fail(f"{message[:1].lower()}{message[1:]} ({name} --help shows the usage)", 2, debug)
    except click.ClickException as error:
        return _fail(error.format_message(), 2, debug)
    except NnfaceError as error:
        return _fail(str(error), 2, debug)
    except MemoryError:
        return _fail("not enough memory; a smaller --size, --batch or --threads needs less", 2, debug)
    except OSError as error:  # stdout on a full disk, say; what nnface writes itself is an NnfaceError with its path
        where = f": {error.filename}" if error.filename else ""
        return _fail(f"cannot go on: {error.strerror or error}{where}", 2, debug)
    except Exception as error:
        what = " ".join(str(error).split())[:300]
        hint = "" if debug else " (--debug shows the traceback)"
        return _fail(f"unexpected {type(error).__name__}: {what}{hint}", 2, debug)


def _fail(sentence: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    click.echo(f"nnface: {sentence}", err=True)
    return code


def _accept_debug(command: click.Command) -> None:
    """``--debug`` is taken before and after the command's name; :func:`main` looks for it."""
    if all(parameter.name != "debug" for parameter in command.params):
        command.params.append(_DEBUG)
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            _accept_debug(inner)


def _open_standard_streams() -> None:
    """Where stdin, stdout or stderr was closed, open /dev/null, lest the next file opened takes its number."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


cli.params.append(_DEBUG)
