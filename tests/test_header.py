"""The Spec out of a model file's header: foreign, newer, damaged and hostile files get one sentence."""

import json
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from nnface import header
from nnface.errors import ModelFileError, NnfaceError
from nnface.header import read_spec
from nnface.spec import Spec
from tiny_models import bright_detector, detection_spec, save_safetensors


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bright_detector(tmp_path_factory.mktemp("onnx") / "tiny.onnx")


def test_reads_both_kinds_by_content(tmp_path: Path) -> None:
    spec = detection_spec(min_score=0.25)
    # Each with the other's name.
    assert read_spec(bright_detector(tmp_path / "a.safetensors", spec)) == spec
    assert read_spec(save_safetensors(tmp_path / "a.onnx", spec)) == spec
    assert header.open_header(tmp_path / "a.safetensors")[0] == "onnx"
    assert header.open_header(tmp_path / "a.onnx")[0] == "safetensors"


def newer(spec: Spec) -> str:
    return json.dumps(json.loads(spec.to_json()) | {"format": 99})


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    plain = bright_detector(folder / "tiny.onnx")
    tensors = save_safetensors(folder / "tiny.safetensors").read_bytes()
    with zipfile.ZipFile(folder / "zip", "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    contents = {
        "empty": (b"", "is empty"),
        "text": (b"hello, this is no model\n" * 9, "not a model file"),
        "picture": (b"\x89PNG\r\n\x1a\n" + bytes(50), "not a model file"),
        "pickle": (b"\x80\x02}q\x00." + bytes(50), "nnface import"),
        "zip": ((folder / "zip").read_bytes(), "nnface import"),
        "tflite": (b"\x1c\0\0\0TFL3" + bytes(50), "TensorFlow Lite"),
        "cut onnx": (plain.read_bytes()[:-40], "damaged"),
        "half onnx": (plain.read_bytes()[: plain.stat().st_size // 2], "damaged"),
        "no metadata": (bright_detector(folder / "b.onnx", text="").read_bytes(), "without nnface metadata"),
        "newer": (bright_detector(folder / "c.onnx", text=newer(detection_spec())).read_bytes(), "update nnface"),
        "no JSON": (bright_detector(folder / "d.onnx", text="{").read_bytes(), "not JSON"),
        "nested JSON": (bright_detector(folder / "e.onnx", text="[" * 100_000).read_bytes(), "not JSON"),
        "cut safetensors": (tensors[:-1], "ends before its tensors do"),
        "half safetensors": (tensors[:90], "does not fit"),
        "long header": ((2**60).to_bytes(8, "little") + tensors[8:], "does not fit"),
        "no header": (len(tensors).to_bytes(8, "little")[:0] + (9).to_bytes(8, "little") + b"{" * 40, "cannot be read"),
        "foreign safetensors": ((2).to_bytes(8, "little") + b"{}" + bytes(8), "without nnface metadata"),
        "list in safetensors": ((20).to_bytes(8, "little") + b'{"__metadata__": [] }' + bytes(8), "cannot be read"),
    }
    for name, (content, _) in contents.items():
        (folder / f"{name}.bin").write_bytes(content)
    return {name: (folder / f"{name}.bin", words) for name, (_, words) in contents.items()}


def test_bad_files_get_one_sentence(tmp_path: Path) -> None:
    for name, (path, words) in bad_files(tmp_path).items():
        with pytest.raises(ModelFileError, match=words) as caught:
            read_spec(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value), name
    for path, words in [(tmp_path, "a folder"), (tmp_path / "nowhere.onnx", "not there")]:
        with pytest.raises(ModelFileError, match=words):
            read_spec(path)


def external(where: str) -> onnx.ModelProto:
    """A model with the one tensor that lies elsewhere hidden in the given place."""
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [1], np.zeros(1, np.float32))
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    spot = helper.make_node("Identity", ["x"], ["y"])
    initializers = []
    functions = []
    if where == "initializer":
        initializers = [tensor]
    elif where == "constant":
        spot = helper.make_node("Constant", [], ["y"], value=tensor)
    elif where == "tensors":
        spot = helper.make_node("Odd", [], ["y"], values=[tensor])
    elif where == "function":
        inner = helper.make_node("Constant", [], ["y"], value=tensor)
        functions = [helper.make_function("own", "F", [], ["y"], [inner], [helper.make_opsetid("", 17)])]
    elif where == "sparse":
        sparse = onnx.SparseTensorProto(values=tensor, dims=[1])
        spot = helper.make_node("Constant", [], ["y"], sparse_value=sparse)
    else:  # in an initializer of a branch of a branch
        inner = helper.make_graph([], "deepest", [], [], [tensor])
        middle = helper.make_graph([helper.make_node("If", ["x"], ["y"], then_branch=inner)], "deep", [], [])
        spot = helper.make_node("If", ["x"], ["y"], then_branch=middle)
    graph = helper.make_graph([spot], "g", [], [], initializers)
    model = helper.make_model(graph, functions=functions)
    helper.set_model_props(model, {"nnface": detection_spec().to_json()})
    return model


@pytest.mark.parametrize("where", ["initializer", "constant", "tensors", "function", "sparse", "branch"])
def test_external_data_is_refused_wherever_it_hides(tmp_path: Path, where: str) -> None:
    (tmp_path / "a.onnx").write_bytes(external(where).SerializeToString())
    with pytest.raises(ModelFileError, match="outside the file"):
        read_spec(tmp_path / "a.onnx")


def with_engine(where: str) -> onnx.ModelProto:
    """A model with a node of ONNX Runtime's for a compiled engine, in the given place."""
    domain = "own" if where == "domain" else "com.microsoft"
    settings = {"embed_mode": 0, "ep_cache_context": "/tmp/engine", "source": "TensorrtExecutionProvider"}
    engine = helper.make_node("EPContext", ["x"], ["y"], domain=domain, **settings)
    functions = []
    spot = engine
    if where == "function":
        functions = [helper.make_function("own", "F", ["x"], ["y"], [engine], [helper.make_opsetid("", 17)])]
        spot = helper.make_node("F", ["x"], ["y"], domain="own")
    elif where == "branch":
        spot = helper.make_node("If", ["x"], ["y"], then_branch=helper.make_graph([engine], "deep", [], []))
    model = helper.make_model(helper.make_graph([spot], "g", [], []), functions=functions)
    helper.set_model_props(model, {"nnface": detection_spec().to_json()})
    return model


@pytest.mark.parametrize("where", ["graph", "domain", "function", "branch"])
def test_a_compiled_engine_is_refused_wherever_it_hides(tmp_path: Path, where: str) -> None:
    (tmp_path / "a.onnx").write_bytes(with_engine(where).SerializeToString())
    with pytest.raises(ModelFileError, match="compiled engine"):
        read_spec(tmp_path / "a.onnx")


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    def field(number: int, content: bytes) -> bytes:
        length = len(content)
        return bytes([number << 3 | 2, length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14]) + content

    graph = b""
    for _ in range(80):  # a graph in an attribute of a node of a graph
        graph = field(1, field(5, field(6, graph)))
    (tmp_path / "deep.onnx").write_bytes(b"\x08\x08" + field(7, graph))
    with pytest.raises(ModelFileError, match="deep"):
        read_spec(tmp_path / "deep.onnx")
    (tmp_path / "a.onnx").write_bytes(tiny.read_bytes())
    monkeypatch.setattr(header, "MAX_FIELDS", 50)
    with pytest.raises(ModelFileError, match="more than 50 parts"):
        read_spec(tmp_path / "a.onnx")
    monkeypatch.setattr(header, "MAX_FILE", 100)
    with pytest.raises(ModelFileError, match="MB"):
        read_spec(tmp_path / "a.onnx")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.booleans(), place=st.floats(0, 1), bit=st.integers(0, 7), cut=st.floats(0.5, 1.5))
def test_flipped_bits_never_crash(tmp_path: Path, tiny: Path, kind: bool, place: float, bit: int, cut: float) -> None:
    data = bytearray(tiny.read_bytes() if kind else save_safetensors(tmp_path / "s").read_bytes())
    data[int(place * (len(data) - 1))] ^= 1 << bit
    (tmp_path / "a").write_bytes(data[: max(1, int(len(data) * cut))])
    try:
        assert isinstance(read_spec(tmp_path / "a"), Spec)
    except NnfaceError as error:
        assert "\n" not in str(error)
