"""Published checkpoints in: other projects' weights become model files of ours. One file for each origin."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from torch import nn

from nnface.errors import UsageError
from nnface.export.published import (
    face_detector_1mb,
    face_parsing,
    fairface,
    pytorch_retinaface,
    retinaface_pytorch,
    torchvision,
    ultra_light,
    yakhyo,
)
from nnface.export.published.checkpoint import Checkpoint, read
from nnface.export.published.scrfd import import_scrfd
from nnface.export.published.yunet import import_yunet
from nnface.models import file
from nnface.spec import Spec

NETWORKS: Mapping[str, Callable[[Checkpoint], tuple[nn.Module, Spec]]] = {
    "pytorch-retinaface": pytorch_retinaface.network,
    "retinaface-pytorch": retinaface_pytorch.network,
    "yakhyo": yakhyo.network,
    "face-detector-1mb": face_detector_1mb.network,
    "face-parsing": face_parsing.network,
}
"""What makes a network of ours out of a checkpoint of each FORMAT that has nothing more to be said."""

ONNX = {"yunet": import_yunet, "scrfd": import_scrfd}
"""The FORMATs that come as ONNX and go out as ONNX."""

FORMATS = (*NETWORKS, "ultra-light", "fairface", *ONNX)


def import_checkpoint(
    format: str, path: str | Path, out: str | Path, size: int | None = None, races: int | None = None
) -> tuple[Spec, bool]:
    """Turn a published checkpoint into a model file (``nnface import``).

    Args:
        format: one of ``FORMATS``.
        path: the checkpoint. Nothing in it is executed but the network of an ONNX file.
        out: the model file, replaced atomically: safetensors or, of ``yunet`` and ``scrfd``, ONNX.
        size: for ``ultra-light``, the width that an unknown file was trained at.
        races: for ``fairface``, 7 (the default) or 4: its two files look alike.

    Returns:
        the Spec that was written, and whether the file is one that nnface knows by its SHA-256. For one that it does
        not know, the normalisation and what the outputs mean (anchors, labels) are those of the format, on trust.

    Raises:
        UsageError: no such format, a size or races where none belong, or an output that is the checkpoint itself or
            is named as another kind of file.
        ModelFileError: the file cannot be read, is another project's, or does not fit.
        NnfaceError: ``out`` cannot be written.
    """
    if format not in FORMATS:
        raise UsageError(f"{format} is no format of models; there are {', '.join(FORMATS)}")
    if size is not None and format != "ultra-light":
        raise UsageError(f"--size is for ultra-light alone; {format} runs at any size")
    if races is not None and format != "fairface":
        raise UsageError(f"--races is for fairface alone; {format} knows nothing of them")
    _check_out(path, out, ".onnx" if format in ONNX else ".safetensors", format)
    if format in ONNX:
        return ONNX[format](path, out)
    checkpoint = read(path, format)
    if format == "ultra-light":
        module, spec = ultra_light.network(checkpoint, size)
    elif format == "fairface":
        module, spec = fairface.network(checkpoint, 7 if races is None else races)
    else:
        module, spec = NETWORKS[format](checkpoint)
    spec = replace(spec, provenance={**checkpoint.provenance, **spec.provenance})
    file.save(out, module, spec)
    return spec, checkpoint.known is not None


def import_backbone(path: str | Path, out: str | Path) -> tuple[str, str, bool]:
    """Turn an ImageNet network of torchvision into a backbone to start a training from (``nnface import torchvision``).

    Args:
        path: the state dictionary. Nothing in it is executed.
        out: the backbone (safetensors), replaced atomically.

    Returns:
        the backbone's name, its terms, and whether the file is one that nnface knows by its SHA-256.

    Raises:
        UsageError: an output that is the checkpoint itself or is named as another kind of file.
        ModelFileError: the file cannot be read, is another project's, or does not fit.
        NnfaceError: ``out`` cannot be written.
    """
    _check_out(path, out, ".safetensors", "torchvision")
    return torchvision.write_backbone(path, out)


def _check_out(path: str | Path, out: str | Path, suffix: str, format: str) -> None:
    if Path(out).exists() and Path(path).exists() and Path(out).samefile(path):
        raise UsageError(f"{out} is the checkpoint itself; name another file for --out")
    if Path(out).suffix in {".onnx", ".safetensors"} - {suffix}:
        raise UsageError(f"{format} becomes a {suffix} file; name it so: --out {Path(out).with_suffix(suffix)}")
