"""Other people's PyTorch checkpoints, read as tensors and nothing else, and fitted into a network of ours."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from nnface.errors import ModelFileError
from nnface.files import sha256
from nnface.models.checkpoint import check_file, read_tensors
from nnface.models.create import create

WIDER_FACE = "weights trained on WIDER FACE: non-commercial research"
"""What binds the weights, whatever the licence of the code says."""

SHOWN = 20
"""The most names of each kind that a sentence about a checkpoint that does not fit tells."""


@dataclass(frozen=True, slots=True)
class Known:
    """A published file that is recognised by its SHA-256, or by the beginning of it that is on record."""

    format: str | None
    """The FORMAT that reads it; None: none does."""
    source: str
    """Where it comes from: owner/name and the file's name there."""
    size: int | None = None
    """The input width that it was trained at, where the files of a format differ in it."""
    remedy: str = "import a detector's checkpoint"
    """What to do with a file that no FORMAT reads."""


KNOWN: Mapping[str, Known] = {
    "2979b33ffafda5d74b6948cd7a5b9a7a62f62b949cef24e95fd15d2883a65220": Known(
        "pytorch-retinaface", "biubug6/Pytorch_Retinaface mobilenet0.25_Final.pth"
    ),
    "6d1de9c2944f2ccddca5f5e010ea5ae64a39845a86311af6fdf30841b0a5a16d": Known(
        "pytorch-retinaface", "biubug6/Pytorch_Retinaface Resnet50_Final.pth"
    ),
    "ed6fa7d45a5179f03cb5ce82c73b0c6711372968e53782e88395acee88d319e1": Known(
        "face-detector-1mb", "biubug6/Face-Detector-1MB-with-landmark mobilenet0.25_Final.pth"
    ),
    "b22c45855bff5c4eb84e9973e2ee8a980639aa194ec66f33a87ce712f9d44c28": Known(
        "face-detector-1mb", "biubug6/Face-Detector-1MB-with-landmark RBF_Final.pth"
    ),
    "76cdb587b2cf5f91b3836b66a652a0f7a91891758cd4fb0b07e4b7527af1c651": Known(
        "face-detector-1mb", "biubug6/Face-Detector-1MB-with-landmark slim_Final.pth"
    ),
    "cd24abce45da5dbc7cfd8167cd3d5f955382dfc9d9ae9459f0026abd3c2e38a4": Known(
        "ultra-light", "Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB version-slim-320.pth", 320
    ),
    "02ca778098127c46d2b2680f1c398c7b993c12a424e94c34e6d608beb73481e4": Known(
        "ultra-light", "Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB version-slim-640.pth", 640
    ),
    "c722b4427cc71642768baef6e15c659931b56f07425e5d2b0ec033ad41b145b3": Known(
        "ultra-light", "Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB version-RFB-320.pth", 320
    ),
    "bf34512b1a93dc234178e8a701ecf25c6afddf335a3226accf62982536e160b5": Known(
        "ultra-light", "Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB version-RFB-640.pth", 640
    ),
    "75c37f8d438b7c6aed2e6b310fd0540c40dabf0dd820770bd7082668dfd7c1c1": Known(
        None,
        "the ImageNet backbone mobilenetV1X0.25_pretrain.tar, which finds no faces",
        remedy="train with it as it is: --set model.backbone=FILE",
    ),
    "468e13ca13a9b43cc0881a9f99083a430e9c0a38abd935431d1c28ee94b26567": Known(
        "face-parsing", "zllrunning/face-parsing.PyTorch 79999_iter.pth"
    ),
    "104ee26c71d5c270ce79a6b3dced91c91013260d29a6bf18f9296c5b8c4c2b12": Known(
        "yunet", "ShiqiYu/libfacedetection.train yunet_n_dynamic.onnx"
    ),
    "daede24002cc8590f457998cc5e6c9e8b82f45f6bd969506a8913cd4ed10a2d3": Known(
        "yunet", "ShiqiYu/libfacedetection.train yunet_s_dynamic.onnx"
    ),
    "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4": Known(
        "yunet", "opencv/opencv_zoo face_detection_yunet_2023mar.onnx (libfacedetection.train yunet_s_640_640.onnx)"
    ),
    "b467f878e26ff1e7ee05cd9936fdff63fa2a5af5d732ed17ee231f2dd5cc07ae": Known(
        "scrfd", "deepinsight/insightface scrfd_500m_bnkps.onnx"
    ),
    "041f73f47371333d1d17a6fee6c8ab4e6aecabefe398ff32cca4e2d5eaee0af9": Known(
        "scrfd", "deepinsight/insightface scrfd_2.5g.onnx"
    ),
    "5e4447f50245bbd7966bd6c0fa52938c61474a04ec7def48753668a9d8b4ea3a": Known(
        "scrfd", "deepinsight/insightface buffalo_s det_500m.onnx"
    ),
    "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91": Known(
        "scrfd", "deepinsight/insightface buffalo_l det_10g.onnx (scrfd_10g_bnkps.onnx)"
    ),
    # torchvision puts the beginning of the hash into its files' names.
    **{
        start: Known("torchvision", f"pytorch/vision {name}-{start}.pth")
        for name, starts in {
            "resnet18": ("f37072fd", "5c106cde"),
            "resnet34": ("b627a593", "333f7ec4"),
            "resnet50": ("0676ba61", "11ad3fa6", "19c8e357"),
            "resnet101": ("63fe2227", "cd907fc2", "5d3b4d8f"),
            "resnet152": ("394f9c45", "f82ba261", "b121ed2d"),
            "mobilenet_v2": ("b0353104", "7ebf99e0"),
        }.items()
        for start in starts
    },
    # Of this one only the beginning of the hash is on record. It has today's keys and shapes, and finds nothing.
    "78b0533c": Known(None, "biubug6/Pytorch_Retinaface Final_Retinaface.pth of its first commit, made for other code"),
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state dictionary of a file, without the prefix ``module.``."""

    path: Path
    sha256: str
    tensors: Mapping[str, Tensor]
    known: Known | None

    @property
    def provenance(self) -> dict[str, str]:
        """Where the weights come from, as the Spec keeps it."""
        source = self.known.source if self.known else f"an unknown file named {self.path.name}"
        return {"source": source, "sha256": self.sha256, "data": "WIDER FACE", "terms": WIDER_FACE}


def recognise(path: str | Path, format: str) -> tuple[str, Known | None]:
    """The SHA-256 of a file that is to be imported, and what is known of it.

    Raises:
        ModelFileError: absent, too large, or known to be of another FORMAT than ``format``.
    """
    check_file(path)
    digest = sha256(path)
    known = next((known for start, known in KNOWN.items() if digest.startswith(start)), None)
    if known and known.format is None:
        raise ModelFileError(f"{path} is {known.source}; {known.remedy}")
    if known and known.format != format:
        raise ModelFileError(
            f"{path} is {known.source}, whose format is not {format}: nnface import {known.format} {path}"
        )
    return digest, known


def read(path: str | Path, format: str) -> Checkpoint:
    """Read a checkpoint of PyTorch; nothing in it is executed.

    Raises:
        ModelFileError: absent, too large, damaged, asking for more than tensors, without a state dictionary, or known
            to be of another FORMAT than ``format``.
    """
    path = Path(path)
    digest, known = recognise(path, format)
    with path.open("rb") as file:
        start = file.read(2)
    if start[:1] == b"\x08" and start[1] < 32:  # the first field of ONNX's protobuf, its version
        raise ModelFileError(
            f"{path} looks like an ONNX file; {format} reads checkpoints of PyTorch, and as ONNX come yunet and scrfd"
        )
    return Checkpoint(path, digest, read_tensors(path), known)


def fit(
    checkpoint: Checkpoint,
    architectures: Iterable[str],
    rename: Callable[[str, str], str] = lambda architecture, name: name,
    build: Callable[[str], nn.Module] = create,
) -> tuple[str, nn.Module]:
    """Put the tensors into the network that they are of, every one accounted for.

    Args:
        checkpoint: the tensors.
        architectures: the networks that it may be, by their names.
        rename: architecture and a name of the checkpoint to the name in our network; without it they are the same.
        build: makes a network by its name.

    Returns:
        the architecture and the network, in evaluation mode, with the weights.

    Raises:
        ModelFileError: it is none of them; the sentence names what does not fit the nearest one.
    """
    best: tuple[int, str, dict[str, Tensor], str] | None = None
    for architecture in architectures:
        tensors = {rename(architecture, name): tensor for name, tensor in checkpoint.tensors.items()}
        with torch.device("meta"):
            expected = build(architecture).state_dict()
        missing = [name for name in expected if name not in tensors]
        extra = [name for name in tensors if name not in expected]
        wrong = [
            f"{name} ({_shape(tensors[name])} instead of {_shape(expected[name])})"
            for name in expected
            if name in tensors and tensors[name].shape != expected[name].shape
        ]
        count = len(missing) + len(extra) + len(wrong)
        words = "; ".join(
            filter(None, [_some("missing", missing), _some("not of it", extra), _some("of other shape", wrong)])
        )
        if best is None or count < best[0]:
            best = count, architecture, tensors, words
    assert best is not None, "no architecture to choose from"
    count, architecture, tensors, words = best
    if count:
        raise ModelFileError(
            f"{checkpoint.path} does not fit {architecture}, the nearest network of its format: {words}"
        )
    network = build(architecture)
    network.load_state_dict(tensors)
    return architecture, network.eval()


def _some(what: str, names: list[str]) -> str:
    shown = ", ".join(repr(name[:120])[1:-1] for name in names[:SHOWN])  # repr: untrusted names reach a terminal
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{what}: {shown}{more}" if names else ""


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
