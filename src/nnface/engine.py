"""The file of a TensorRT engine: the Spec and what the engine was built for, in front of TensorRT's plan.

    8 bytes    NNFACETR
    4 bytes    length of the header, little endian
    header     JSON: format, what it was built with and for, profile, precisions, bytes and SHA-256 of the plan, Spec
    plan       to the end of the file

The header is read without TensorRT and within bounds. The plan is code, which no check makes safe: who runs one decides
by where it comes from (:mod:`nnface.runtime.tensorrt`).
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nnface.errors import ModelFileError

MAGIC = b"NNFACETR"
FORMAT = 1
MAX_HEADER = 2 << 20
"""The longest header that is read, in bytes."""

Shape = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What an engine was built with and for: it runs nowhere else."""

    tensorrt: str
    """TensorRT's full version."""
    gpu: str
    """The GPU's name."""
    capability: str
    """Its compute capability, such as 8.9."""
    precision: str
    """fp32, fp16 or int8, as it was asked for."""
    layers: Mapping[str, int]
    """How many layers of the engine give their output in each precision, as its inspector says."""
    smallest: Shape
    """The profile: (N, 3, H, W) from this one, fastest at ``usual``, up to ``largest``."""
    usual: Shape
    largest: Shape


def pack(built: Built, spec: str, plan: bytes) -> bytes:
    """The bytes of an engine file; ``spec`` is the Spec's JSON."""
    digest = hashlib.sha256(plan).hexdigest()
    header = {"format": FORMAT, **asdict(built), "plan_bytes": len(plan), "plan_sha256": digest, "spec": spec}
    text = json.dumps(header).encode()
    return MAGIC + struct.pack("<I", len(text)) + text + plan


def unpack(content: memoryview, origin: str) -> tuple[Built, str, memoryview]:
    """What an engine was built for, the Spec's JSON, and the plan, in place.

    Raises:
        ModelFileError: damaged, cut, or of a newer format; ``origin`` names the file.
    """
    damaged = f"{origin} is damaged: its engine header cannot be read; build it anew with nnface export --to tensorrt"
    start = len(MAGIC) + 4
    if len(content) < start:
        raise ModelFileError(damaged)
    (length,) = struct.unpack_from("<I", content, len(MAGIC))
    if length > MAX_HEADER or length > len(content) - start:
        raise ModelFileError(damaged)
    try:
        header = json.loads(bytes(content[start : start + length]))
        version, spec = header["format"], header["spec"]
        if isinstance(version, int) and version > FORMAT:
            raise ModelFileError(f"{origin} was written by a newer nnface (engine format {version}); update nnface")
        built = Built(
            tensorrt=_text(header["tensorrt"]),
            gpu=_text(header["gpu"]),
            capability=_text(header["capability"]),
            precision=_text(header["precision"]),
            layers={_text(name): _count(number) for name, number in header["layers"].items()},
            smallest=_shape(header["smallest"]),
            usual=_shape(header["usual"]),
            largest=_shape(header["largest"]),
        )
        size, digest = _count(header["plan_bytes"]), _text(header["plan_sha256"])
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(damaged) from error
    plan = content[start + length :]
    if version != FORMAT or not isinstance(spec, str):
        raise ModelFileError(damaged)
    if len(plan) != size or hashlib.sha256(plan).hexdigest() != digest:
        raise ModelFileError(f"{origin} is damaged or truncated: its plan is not the one that was written")
    return built, spec, plan


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 200 or not value.isprintable():
        raise ValueError
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError
    return value


def _shape(value: Any) -> Shape:
    count, channels, height, width = (_count(side) for side in value)
    if not (1 <= count <= 1 << 16 and channels == 3 and 1 <= height <= 1 << 14 and 1 <= width <= 1 << 14):
        raise ValueError
    return count, channels, height, width
