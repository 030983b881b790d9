"""Read the Spec of a model file from its header: safetensors, ONNX, a TensorRT engine of ours or OpenVINO's XML.

They are told apart by content.

Model files are untrusted. Everything is read within bounds, neither onnx nor torch is needed, and an ONNX file that
would make its runtime open other files (external data) or run a compiled engine (EPContext) is refused. The protobuf
field numbers are those of onnx.proto3.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from nnface import engine, intermediate
from nnface.errors import ModelFileError
from nnface.spec import METADATA_KEY, Spec, parse

MAX_FILE = 1 << 30
"""The largest model file that is opened, in bytes."""
MAX_SAFETENSORS_HEADER = 16 << 20
MAX_FIELDS = 2_000_000
"""The most protobuf fields that are looked at in one file."""
MAX_DEPTH = 32
"""The deepest nesting of graphs in graphs."""

BACKBONE_KEY = "nnface-backbone"
"""The key under which a file of ``nnface import torchvision`` says what it holds; it has no Spec."""

Kind = Literal["onnx", "safetensors", "tensorrt", "openvino"]

# For each message, by field number, the message that the field holds; all others are passed over.
_CHILDREN = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
_IR_VERSION, _GRAPH, _METADATA = 1, 7, 14
_NODE_OP_TYPE = 4
_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 13, 14


class _DamagedError(Exception):
    """Not protobuf, or cut."""


def read_spec(path: str | Path) -> Spec:
    """The Spec of a model file of ours (safetensors, or ONNX as ``nnface export`` writes it).

    Raises:
        ModelFileError: not there, foreign, damaged, of a newer format, too large, or naming external data.
    """
    return open_header(path)[1]


def open_header(path: str | Path) -> tuple[Kind, Spec]:
    """What kind of file it is, and its Spec; errors as :func:`read_spec`."""
    return read_header(memoryview(read_content(path)), str(path))


def is_safetensors(path: str | Path) -> bool:
    """Whether a file begins as safetensors; False also where it cannot be read, which whoever opens it will say."""
    try:
        with Path(path).open("rb") as file:
            return _begins_as_safetensors(file.read(16))
    except OSError:
        return False


def kind_of(path: str | Path) -> Kind:
    """What a file begins as; ``onnx`` also where it cannot be read, which whoever opens it will say."""
    try:
        with Path(path).open("rb") as file:
            start = file.read(16)
    except OSError:
        return "onnx"
    if start.startswith(engine.MAGIC):
        return "tensorrt"
    if intermediate.begins_as_xml(start):
        return "openvino"
    return "safetensors" if _begins_as_safetensors(start) else "onnx"


def require_file(path: str | Path) -> None:
    """Refuse what is no regular file.

    Raises:
        ModelFileError: not there, a folder, a device, or in a folder that may not be entered.
    """
    path = Path(path)
    try:
        if path.is_file():
            return
        what = "is a folder" if path.is_dir() else "is not a regular file" if path.exists() else "is not there"
    except (OSError, ValueError) as error:
        what = f"cannot be read: {error.strerror if isinstance(error, OSError) else error}"
    raise ModelFileError(f"{path} {what}; a model file was expected")


def read_content(path: str | Path) -> bytes:
    """The bytes of a model file, so that what is checked is what is run.

    Raises:
        ModelFileError: no file, empty, larger than ``MAX_FILE``, or not to be read.
    """
    path = Path(path)
    require_file(path)
    try:
        size = path.stat().st_size
        if size == 0:
            raise ModelFileError(f"{path} is empty; a model file was expected")
        if size > MAX_FILE:
            raise ModelFileError(f"{path} has {size >> 20} MB; model files up to {MAX_FILE >> 20} MB are opened")
        return path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}") from error


def read_header(content: memoryview, origin: str) -> tuple[Kind, Spec]:
    """The kind and the Spec of a model file whose bytes are given; ``origin`` names it in errors.

    Raises:
        ModelFileError: as :func:`read_spec`.
    """
    start = bytes(content[:16])
    if start.startswith(engine.MAGIC):
        return "tensorrt", parse(engine.unpack(content, origin)[1], origin)
    if intermediate.begins_as_xml(start):
        return "openvino", parse(intermediate.metadata(bytes(content), origin, METADATA_KEY)[0], origin)
    if _begins_as_safetensors(start):
        return "safetensors", parse(_safetensors_metadata(content, origin), origin)
    if start.startswith(b"PK\x03\x04") or start.startswith(b"\x80\x02"):
        raise ModelFileError(f"{origin} is a PyTorch checkpoint, not a model file; bring it in with nnface import")
    if start[4:8] == b"TFL3":
        raise ModelFileError(f"{origin} is a TensorFlow Lite file, which nnface does not run")
    return "onnx", parse(_onnx_metadata(content, origin), origin)


def _begins_as_safetensors(start: bytes) -> bool:
    return start[8:9] == b"{"  # after the length of the header, which is JSON


def _safetensors_metadata(content: memoryview, origin: str) -> str:
    (length,) = struct.unpack_from("<Q", content)
    if length > MAX_SAFETENSORS_HEADER or 8 + length > len(content):
        raise ModelFileError(f"{origin} is damaged or truncated: its safetensors header does not fit into the file")
    try:
        header = json.loads(bytes(content[8 : 8 + length]))
        metadata = header.get("__metadata__", {})
        text, backbone = metadata.get(METADATA_KEY), BACKBONE_KEY in metadata
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        short = 8 + length + max(ends, default=0) > len(content)
    except (ValueError, RecursionError, AttributeError, KeyError, IndexError, TypeError) as error:
        raise ModelFileError(f"{origin} is damaged: its safetensors header cannot be read") from error
    if short:
        raise ModelFileError(f"{origin} is truncated: it ends before its tensors do")
    if backbone and text is None:
        raise ModelFileError(
            f"{origin} holds an ImageNet backbone, which finds no faces; train with it: --set model.backbone={origin}"
        )
    if not isinstance(text, str):
        raise ModelFileError(f"{origin} is a safetensors file without nnface metadata; bring it in with nnface import")
    return text


def check_onnx(content: memoryview, origin: str) -> None:
    """Refuse what is no ONNX file, whoever made it, or would make its runtime open other files or run an engine.

    Raises:
        ModelFileError: the sentence names ``origin``.
    """
    _onnx_text(content, origin)


def _onnx_metadata(content: memoryview, origin: str) -> str:
    text = _onnx_text(content, origin)
    if text is None:
        raise ModelFileError(
            f"{origin} is an ONNX file without nnface metadata, so what its outputs mean is not known; "
            "use one that nnface export wrote, or bring YuNet and SCRFD in with nnface import"
        )
    return text


def _onnx_text(content: memoryview, origin: str) -> str | None:
    """The Spec of an ONNX file as JSON; None where it has none."""
    walker = _Walker(origin)
    numbers, text = set(), None
    try:
        for number, value in walker.fields(content):
            numbers.add(number)
            if number == _METADATA and isinstance(value, memoryview):
                entry = {n: v for n, v in walker.fields(value) if isinstance(v, memoryview)}
                if bytes(entry.get(1, b"")) == METADATA_KEY.encode():
                    text = bytes(entry.get(2, b"")).decode()
        if not {_IR_VERSION, _GRAPH} <= numbers:
            raise _DamagedError
        walker.refuse_foreign(content, "Model", 0)
    except (_DamagedError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{origin} is not a model file (safetensors or ONNX), or is damaged") from error
    return text


class _Walker:
    """Walks protobuf messages in place, and counts what it looks at."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.left = MAX_FIELDS

    def fields(self, message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
        """Field numbers with their values: an int (varint, fixed) or the bytes of a length-delimited field."""
        position, end = 0, len(message)
        value: int | memoryview
        while position < end:
            self.left -= 1
            if self.left < 0:
                raise ModelFileError(f"{self.origin} has more than {MAX_FIELDS} parts; it is refused")
            key, position = _varint(message, position)
            number, kind = key >> 3, key & 7
            if kind == 0:
                value, position = _varint(message, position)
            elif kind in (1, 2, 5):
                length, position = _varint(message, position) if kind == 2 else (8 if kind == 1 else 4, position)
                if length > end - position:
                    raise _DamagedError
                value = message[position : position + length]
                position += length
            else:
                raise _DamagedError
            if number == 0:
                raise _DamagedError
            yield number, value

    def refuse_foreign(self, message: memoryview, kind: str, depth: int) -> None:
        """Refuse data outside the file and compiled engines, in graphs of graphs and in functions too."""
        if depth > 4 * MAX_DEPTH:
            raise ModelFileError(f"{self.origin} nests its graphs more than {MAX_DEPTH} deep; it is refused")
        children = _CHILDREN[kind]
        for number, value in self.fields(message):
            if kind == "Tensor" and (
                number == _TENSOR_EXTERNAL_DATA or (number == _TENSOR_DATA_LOCATION and value != 0)
            ):
                raise ModelFileError(
                    f"{self.origin} names data outside the file, which nnface does not open; export it in one piece"
                )
            # In any domain: ONNX Runtime's TensorRT provider asks for the name alone.
            if kind == "Node" and number == _NODE_OP_TYPE and _is_text(value, b"EPContext"):
                raise ModelFileError(
                    f"{self.origin} holds or names a compiled engine (EPContext), which nnface runs only where it was "
                    "built here; use the ONNX file that the engine was built from"
                )
            child = children.get(number)
            if child is not None and isinstance(value, memoryview):
                self.refuse_foreign(value, child, depth + 1)


def _is_text(value: int | memoryview, text: bytes) -> bool:
    return isinstance(value, memoryview) and len(value) == len(text) and bytes(value) == text


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(message) or shift > 63:
            raise _DamagedError
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
