"""Published checkpoints in: other projects' weights become model files of ours. One file for each origin."""

from dataclasses import replace
from pathlib import Path

from nnface.errors import UsageError
from nnface.export.published import face_detector_1mb, face_parsing, fairface, pytorch_retinaface, ultra_light
from nnface.export.published.checkpoint import read
from nnface.models import file
from nnface.spec import Spec

FORMATS = ("pytorch-retinaface", "ultra-light", "face-detector-1mb", "face-parsing", "fairface")


def import_checkpoint(
    format: str, path: str | Path, out: str | Path, size: int | None = None, races: int | None = None
) -> tuple[Spec, bool]:
    """Turn a published checkpoint into a model file (``nnface import``).

    Args:
        format: one of ``FORMATS``.
        path: the checkpoint. Nothing in it is executed.
        out: the model file, replaced atomically.
        size: for ``ultra-light``, the width that an unknown file was trained at.
        races: for ``fairface``, 7 (the default) or 4: its two files look alike.

    Returns:
        the Spec that was written, and whether the file is one that nnface knows by its SHA-256. For one that it does
        not know, the normalisation and what the outputs mean (anchors, labels) are those of the format, on trust.

    Raises:
        UsageError: a format that is not there yet, or a size or races where none belong.
        ModelFileError: the file cannot be read, is another project's, or does not fit.
    """
    if format not in FORMATS:
        raise UsageError(f"nnface cannot import {format} yet; there are {', '.join(FORMATS)}")
    if size is not None and format != "ultra-light":
        raise UsageError(f"--size is for ultra-light alone; {format} runs at any size")
    if races is not None and format != "fairface":
        raise UsageError(f"--races is for fairface alone; {format} knows nothing of them")
    if Path(out).exists() and Path(path).exists() and Path(out).samefile(path):
        raise UsageError(f"{out} is the checkpoint itself; name another file for --out")
    checkpoint = read(path, format)
    if format == "ultra-light":
        module, spec = ultra_light.network(checkpoint, size)
    elif format == "face-detector-1mb":
        module, spec = face_detector_1mb.network(checkpoint)
    elif format == "face-parsing":
        module, spec = face_parsing.network(checkpoint)
    elif format == "fairface":
        module, spec = fairface.network(checkpoint, 7 if races is None else races)
    else:
        module, spec = pytorch_retinaface.network(checkpoint)
    spec = replace(spec, provenance={**checkpoint.provenance, **spec.provenance})
    file.save(out, module, spec)
    return spec, checkpoint.known is not None
