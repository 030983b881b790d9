"""From a model file to the ONNX that was asked for: shapes, then precision, then the selection inside."""

import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from nnface.errors import NnfaceError, UsageError
from nnface.header import open_header
from nnface.spec import Spec

if TYPE_CHECKING:
    from nnface.export.cost import Precision, Report

_Step: TypeAlias = 'Callable[[Path, Path], "Spec | Report"]'
"""Makes the second file of the first."""


def build(
    model: str | Path,
    out: str | Path,
    *,
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    opset: int | None = None,
    precision: "Precision | None" = None,
    calibrate: str | None = None,
    evaluate: str | None = None,
    pictures: int | None = None,
    method: str | None = None,
    most_lost: float | None = None,
    with_nms: bool = False,
    min_score: float | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> tuple[Spec, "Report | None"]:
    """Write a model file as ONNX; only what checks out gets the name ``out``.

    Args:
        model: a model file of ours, safetensors or ONNX; torch is needed for the first, and where shapes change.
        out: replaced atomically.
        size, batch, opset: see :func:`nnface.export.onnx.export`.
        precision, calibrate, evaluate, pictures, method, most_lost: see :func:`nnface.export.quantize.convert`.
        with_nms, min_score: see :func:`nnface.export.selection.add_selection`.
        say: told what goes on.

    Returns:
        the file's Spec, and what the precision costs and brings, where one was asked for.

    Raises:
        UsageError: options that do not fit together, or an ONNX file that is what was asked for already.
        NnfaceError: as the steps raise it.
    """
    kind, _ = open_header(model)
    shaped = size is not None or batch is not None or opset is not None
    if min_score is not None and not with_nms:
        raise UsageError("--min-score is the cut of --with-nms; without it, whoever runs the file chooses")
    _require_precision(precision, bool(calibrate or evaluate), method, pictures, most_lost)
    if Path(out).exists() and Path(out).samefile(model):
        raise UsageError(f"{out} is the model file itself; name another file for --out")
    _require_writable(Path(out))
    steps: list[_Step] = []
    if kind == "safetensors" or shaped:
        from nnface.export.onnx import export

        steps.append(partial(export, size=size, batch=batch, opset=opset))
    if precision is not None:
        from nnface.export import quantize

        convert = partial(
            quantize.convert,
            precision=precision,
            calibrate=calibrate,
            evaluate=evaluate,
            pictures=pictures or quantize.PICTURES,
            method=method,
            most_lost=most_lost,
            report_to=Path(out).with_suffix(".json"),
            say=say,
        )
        steps.append(convert)
    if with_nms:
        from nnface.export.selection import add_selection

        steps.append(partial(add_selection, min_score=min_score))
    if not steps:  # ONNX, of which nothing else is wanted
        from nnface.export.graph import widen

        steps.append(widen)
    results = _run(steps, Path(model), Path(out))
    return open_header(out)[1], next((r for r in results if not isinstance(r, Spec)), None)


def _run(steps: Sequence[_Step], model: Path, out: Path) -> list["Spec | Report"]:
    """Each step makes a file of the one before it, the last one ``out``; what each gave."""
    with tempfile.TemporaryDirectory() as folder:
        made = [Path(folder) / f"{number}.onnx" for number in range(len(steps) - 1)]
        return [step(here, target) for step, here, target in zip(steps, [model, *made], [*made, out], strict=True)]


def _require_precision(
    precision: "Precision | None", measured: bool, method: str | None, pictures: int | None, most_lost: float | None
) -> None:
    """The options of ``--precision`` come with it, and ``--method`` with int8."""
    if precision != "int8" and (method is not None or (precision is None and measured)):
        raise UsageError("--method, --calibrate and --evaluate belong to --precision")
    if precision is None and not (pictures is None and most_lost is None):
        raise UsageError("--pictures and --most-lost belong to --precision")


def _require_writable(out: Path) -> None:
    """Said before minutes of work, not after."""
    if out.parent.is_dir() and not out.is_dir() and os.access(out.parent, os.W_OK):
        return
    what = "does not exist; make it first" if not out.parent.is_dir() else "cannot be written to; name another file"
    if out.is_dir():
        raise NnfaceError(f"cannot write {out}: it is a folder; name a file")
    raise NnfaceError(f"cannot write {out}: the folder {out.parent} {what}")
