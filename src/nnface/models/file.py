"""Model files: the weights of a network and its Spec, in one safetensors file.

The file is an ordinary safetensors file whose metadata holds the Spec as JSON under the key ``nnface``. Model files
are untrusted: nothing in one is executed, and before shapes are checked no more is allocated than the file holds.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from nnface.errors import ModelFileError, UsageError
from nnface.files import write_atomic
from nnface.header import read_content, read_header
from nnface.models.create import create
from nnface.models.layers import ClassificationNetwork, DetectionNetwork, SegmentationNetwork
from nnface.spec import METADATA_KEY, DetectionSpec, Spec, parse

Layout = dict[str, tuple[str, tuple[int, ...]]]
"""Name to type and shape of each tensor."""

_OTHERS = {"onnx": "an ONNX file", "tensorrt": "a TensorRT engine", "openvino": "an OpenVINO file"}


def save(path: str | Path, module: nn.Module, spec: Spec) -> None:
    """Write a model file, whole or not at all. Weights are stored as float32, whatever their type and memory layout.

    Raises:
        ModelFileError: weights that are not finite, that do not fit the Spec's architecture and settings, or a Spec
            that could not be read back.
        NnfaceError: the folder does not exist or cannot be written.
    """
    path = Path(path)
    state = {name: _storable(tensor) for name, tensor in module.state_dict().items()}
    spec = parse(spec.to_json(), str(path))
    _check_layout(path, _build(path, spec, "meta"), {name: _kind(tensor) for name, tensor in state.items()}, spec)
    _check_finite(path, state)
    write_atomic(path, to_bytes(state, metadata={METADATA_KEY: spec.to_json()}))


def load(path: str | Path) -> tuple[nn.Module, Spec]:
    """Read a model file of ours: the network, on the CPU and in evaluation mode, and its Spec.

    Every tensor is accounted for: none may be missing, left over, or of another shape or type.

    Raises:
        ModelFileError: absent, damaged, no safetensors file, not one of ours, of a newer format, larger than
            reasonable, or with weights that do not fit its architecture or are not finite.
    """
    path = Path(path)
    content = read_content(path)  # once, so that what is checked is what is loaded
    kind, spec = read_header(memoryview(content), str(path))
    if kind != "safetensors":
        raise ModelFileError(
            f"{path} is {_OTHERS[kind]}, which cannot be trained or exported; use the .safetensors file"
        )
    network = _build(path, spec, "meta")
    try:
        state = from_bytes(content)
    except KeyError as error:
        raise ModelFileError(f"{path} holds numbers of a type that is not known here: {error}") from error
    except (SafetensorError, ValueError) as error:
        raise ModelFileError(f"{path} is damaged: {error}; fetch or export it again") from error
    _check_layout(path, network, {name: _kind(tensor) for name, tensor in state.items()}, spec)
    _check_finite(path, state)
    module = _build(path, spec, "cpu")
    module.load_state_dict(state)
    return module.eval(), spec


def _build(path: Path, spec: Spec, device: str) -> nn.Module:
    """The network that the Spec names; on ``meta`` without memory, so that settings cannot ask for too much of it."""
    try:
        with torch.device(device):
            return create(spec.architecture, spec.settings)
    except UsageError as error:
        raise ModelFileError(f"{path}: {error}") from error


def _check_layout(path: Path, network: nn.Module, found: Layout, spec: Spec) -> None:
    """Every tensor is there, none is left over, and what the Spec says of the outputs is what the network gives."""
    expected = {name: _kind(tensor) for name, tensor in network.state_dict().items()}
    different = [name for name in expected.keys() & found.keys() if expected[name] != found[name]]
    problems = [
        _some("missing", (name for name in expected if name not in found)),
        _some("not of this network", (name for name in found if name not in expected)),
        _some("of another shape or type", (_difference(name, found, expected) for name in sorted(different))),
    ]
    if any(problems):
        raise ModelFileError(
            f"{path}: its weights do not fit the network {spec.architecture}: {'; '.join(filter(None, problems))}"
        )
    kinds = {"detect": DetectionNetwork, "classify": ClassificationNetwork, "segment": SegmentationNetwork}
    if not isinstance(network, kinds[spec.task]):
        raise ModelFileError(f"{path}: its Spec says that the network {spec.architecture} can {spec.task}; it cannot")
    if isinstance(network, DetectionNetwork) and spec.detection is not None:
        said, given = _outputs(spec.detection), _outputs(network.default_detection)
        for name, value in given.items():
            if said[name] != value:
                raise ModelFileError(
                    f"{path}: its Spec says {name} {said[name]}, its network {spec.architecture} has {value}; "
                    "the file is damaged"
                )
    if isinstance(network, ClassificationNetwork) and spec.classification is not None:
        wanted = {name: len(labels) for name, labels in network.heads.items()}
        if wanted != {name: len(labels) for name, labels in spec.classification.heads.items()}:
            raise ModelFileError(f"{path}: its Spec names other heads than its network {spec.architecture} has")
    if isinstance(network, SegmentationNetwork) and spec.segmentation is not None:
        said_labels, given_labels = len(spec.segmentation.labels), len(network.labels)
        if said_labels != given_labels:
            raise ModelFileError(
                f"{path}: its Spec names {said_labels} labels, its network {spec.architecture} has {given_labels}; "
                "the file is damaged"
            )


def _outputs(detection: DetectionSpec) -> dict[str, Any]:
    return {
        "coding": detection.coding,
        "strides": detection.strides,
        "anchors a cell": tuple(len(level) for level in detection.anchor_sizes),
        "landmarks": detection.landmarks,
    }


def _check_finite(path: Path, state: Mapping[str, Tensor]) -> None:
    bad = _some("not finite", (name for name, tensor in state.items() if not torch.isfinite(tensor).all()))
    if bad:
        raise ModelFileError(f"{path}: its weights are of no use: {bad}; take an earlier file of that training")


def _some(problem: str, names: Iterable[str]) -> str:
    """``3 missing (a, b, ...)``; empty where there are none."""
    names = list(names)
    shown = ", ".join(repr(name[:80])[1:-1] for name in names[:3])  # repr: names of untrusted files reach a terminal
    return f"{len(names)} {problem} ({shown}{', ...' if len(names) > 3 else ''})" if names else ""


def _difference(name: str, found: Layout, expected: Layout) -> str:
    return f"{name}: {_words(*found[name])}, not {_words(*expected[name])}"


def _words(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype} {'x'.join(map(str, shape)) or 'scalar'}"


def _storable(tensor: Tensor) -> Tensor:
    """A copy on the CPU that shares no memory, in the usual layout, floating types as float32."""
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to("cpu", dtype, copy=True, memory_format=torch.contiguous_format)


def _kind(tensor: Tensor) -> tuple[str, tuple[int, ...]]:
    return _TYPES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape)


_TYPES = {
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Types in safetensors' words."""
