"""TensorRT engines without TensorRT: header, profile, what is refused, and what is said where TensorRT is absent."""

import importlib.util
import json
import struct
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from nnface import engine, zoo
from nnface.engine import Built
from nnface.errors import DependencyError, DeviceError, ModelFileError, NnfaceError, UsageError
from nnface.header import read_spec
from nnface.runtime import open_model
from nnface.runtime import tensorrt as runtime
from nnface.spec import InputSpec
from tiny_models import detection_spec

BUILT = Built(
    tensorrt="10.16.1.11",
    gpu="NVIDIA A10",
    capability="8.6",
    precision="fp16",
    layers={"fp16": 40, "fp32": 2},
    smallest=(1, 3, 32, 32),
    usual=(8, 3, 480, 640),
    largest=(8, 3, 640, 640),
)
PLAN = bytes(range(256)) * 4
ABSENT = importlib.util.find_spec("tensorrt") is None


@pytest.fixture
def content() -> bytes:
    return engine.pack(BUILT, detection_spec().to_json(), PLAN)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NNFACE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NNFACE_TRUST_ENGINES", raising=False)
    return tmp_path / "home"


def test_what_is_packed_comes_out(content: bytes, tmp_path: Path) -> None:
    built, spec, plan = engine.unpack(memoryview(content), "a.engine")
    assert (built, spec, bytes(plan)) == (BUILT, detection_spec().to_json(), PLAN)
    path = tmp_path / "a.engine"
    path.write_bytes(content)
    assert read_spec(path) == detection_spec()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_anywhere_is_one_sentence(content: bytes, data: st.DataObject) -> None:
    hurt = bytearray(content)
    kind = data.draw(st.sampled_from(["cut", "flip", "noise"]))
    if kind == "cut":
        del hurt[data.draw(st.integers(len(engine.MAGIC), len(hurt) - 1)) :]
    elif kind == "flip":
        hurt[data.draw(st.integers(len(engine.MAGIC), len(hurt) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        hurt[len(engine.MAGIC) :] = data.draw(st.binary(max_size=64))
    try:
        built, _, plan = engine.unpack(memoryview(bytes(hurt)), "a.engine")
    except ModelFileError as error:
        assert str(error).startswith("a.engine") and "\n" not in str(error)
    else:  # a flip within a text of the header, or in the space of its JSON; the plan is as it was
        assert kind == "flip" and bytes(plan) == PLAN and isinstance(built, Built)


def _header(**changes: object) -> bytes:
    header = json.loads(engine.pack(BUILT, "{}", PLAN)[12 : -len(PLAN)])
    header.update(changes)
    text = json.dumps({name: value for name, value in header.items() if value is not ...}).encode()
    return engine.MAGIC + struct.pack("<I", len(text)) + text + PLAN


@pytest.mark.parametrize(
    ("hostile", "words"),
    [
        (engine.MAGIC, "cannot be read"),
        (engine.MAGIC + struct.pack("<I", 0xFFFFFFFF) + b"{}", "cannot be read"),
        (engine.MAGIC + struct.pack("<I", 200_000) + b"[" * 200_000, "cannot be read"),
        (engine.MAGIC + struct.pack("<I", 2) + b"[]", "cannot be read"),
        (_header(format=2), "newer nnface"),
        (_header(format="1"), "cannot be read"),
        (_header(spec=None), "cannot be read"),
        (_header(spec=...), "cannot be read"),
        (_header(gpu="a\nb"), "cannot be read"),
        (_header(gpu="x" * 1000), "cannot be read"),
        (_header(layers=[1]), "cannot be read"),
        (_header(layers={"fp16": -1}), "cannot be read"),
        (_header(largest=[1, 3, 640]), "cannot be read"),
        (_header(largest=[1, 3, 1 << 40, 640]), "cannot be read"),
        (_header(plan_bytes=1e9), "cannot be read"),
        (_header(plan_bytes=len(PLAN) - 1), "its plan is not"),
        (_header(plan_sha256="0" * 64), "its plan is not"),
        (_header() + b"more", "its plan is not"),
    ],
)
def test_hostile_headers(hostile: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "a.engine"
    path.write_bytes(hostile)
    with pytest.raises(ModelFileError, match=words) as caught:
        open_model(path, "tensorrt")
    assert "\n" not in str(caught.value)


def test_a_strange_engine_is_refused_unless_it_is_asked_for(
    content: bytes, tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.engine"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="an engine is code"):
        open_model(path, "tensorrt")
    runtime.trust(content)  # as building it does
    runtime.require_trust(content, "a.engine")
    with pytest.raises(ModelFileError, match="not built here"):
        runtime.require_trust(content + b" ", "b.engine")
    (own_home / "engines.txt").unlink()
    monkeypatch.setenv("NNFACE_TRUST_ENGINES", "1")
    runtime.require_trust(content, "a.engine")


def test_a_list_of_engines_that_cannot_be_written_is_named(content: bytes, own_home: Path) -> None:
    own_home.write_text("no folder")
    with pytest.raises(NnfaceError, match=r"cannot write .*home/engines\.txt, the list .*; set NNFACE_HOME to"):
        runtime.trust(content)


def test_an_engine_runs_on_tensorrt_only(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.engine"
    path.write_bytes(content)
    for device in ("cpu", "cuda", "openvino", "tensorrt:x"):
        with pytest.raises(DeviceError, match="use --device tensorrt"):
            open_model(path, device)


@pytest.mark.skipif(not ABSENT, reason="TensorRT is installed here")
def test_without_tensorrt_the_words_say_what_to_install(content: bytes, tmp_path: Path) -> None:
    from nnface.export.tensorrt import export

    path = tmp_path / "a.engine"
    path.write_bytes(content)
    runtime.trust(content)
    for call in (
        lambda: open_model(path, "tensorrt"),
        lambda: export(zoo.resolve("fast"), tmp_path / "b.engine"),
    ):
        with pytest.raises(DependencyError, match=r"pip install 'nnface\[tensorrt\]'"):
            call()
    assert not (tmp_path / "b.engine").exists()


def test_without_a_gpu_the_words_say_so() -> None:
    """The two answers that CUDA's runtime gives where there is no driver, and where there are fewer GPUs."""
    for answer in [(35, 0), (0, 1)]:
        cuda = SimpleNamespace(cudaGetDeviceCount=lambda answer=answer: answer)
        with pytest.raises(DeviceError, match=f"CUDA finds {answer[1]} here"):
            runtime.gpu(cuda, 1)
    with pytest.raises(MemoryError):
        runtime.call((2, None))
    with pytest.raises(DeviceError, match="CUDA failed with 700"):
        runtime.call((700,))
    assert runtime.call((0, 7)) == 7 and runtime.call((0,)) is None


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (("11.4.0.106", "NVIDIA A10", "8.6"), "built by TensorRT 10.16.1.11, and TensorRT 11.4.0.106 is here"),
        (("10.16.1.11", "NVIDIA H100", "9.0"), r"built for NVIDIA A10 \(8.6\), and the GPU is NVIDIA H100 \(9.0\)"),
        (("10.16.1.11", "NVIDIA A10", "8.6"), None),
    ],
)
def test_an_engine_of_another_tensorrt_or_gpu(found: tuple[str, str, str], words: str | None) -> None:
    if words is None:
        runtime.require_fit(BUILT, *found, "a.engine")
        return
    with pytest.raises(DeviceError, match=words):
        runtime.require_fit(BUILT, *found, "a.engine")


@pytest.mark.parametrize(
    ("shape", "fits"),
    [
        ((1, 3, 32, 32), True),
        ((8, 3, 640, 640), True),
        ((9, 3, 640, 640), False),
        ((1, 3, 640, 672), False),
        ((1, 3, 16, 64), False),
        ((1, 4, 64, 64), False),
        ((3, 64, 64), False),
    ],
)
def test_inputs_outside_the_profile(shape: tuple[int, ...], fits: bool) -> None:
    if fits:
        runtime.check_profile(BUILT, shape, "a.engine")
        return
    with pytest.raises(ModelFileError, match="from 32x32 to 640x640 pixels, not for"):
        runtime.check_profile(BUILT, shape, "a.engine")


def test_profiles() -> None:
    from nnface.export.tensorrt import profile

    free = InputSpec(size=640, multiple=32)
    assert profile(free, 8, None) == ((1, 3, 32, 32), (8, 3, 480, 640), (8, 3, 640, 640))
    assert profile(free, 1, (1000, 700)) == ((1, 3, 32, 32), (1, 3, 704, 1024), (1, 3, 704, 1024))
    assert profile(free, 8, None, fixed=4)[0][0] == profile(free, 8, None, fixed=4)[2][0] == 4
    chip = InputSpec(size=96, width=96, height=64, fit="stretch")
    assert profile(chip, 16, None) == ((1, 3, 64, 96), (16, 3, 64, 96), (16, 3, 64, 96))
    for plan, batch, size, words in [
        (chip, 1, (320, 320), "takes no other size"),
        (free, 1, (640, 8), "16 to 16384"),
        (free, 0, None, "batch is 0"),
    ]:
        with pytest.raises(UsageError, match=words):
            profile(plan, batch, size)


@given(size=st.integers(16, 16384), multiple=st.integers(1, 128), batch=st.integers(1, 64))
def test_every_letterboxed_picture_fits_its_profile(size: int, multiple: int, batch: int) -> None:
    from nnface.export.tensorrt import profile
    from nnface.geometry import letterbox

    smallest, usual, largest = profile(InputSpec(size=size, multiple=multiple), batch, None)
    built = replace(BUILT, smallest=smallest, usual=usual, largest=largest)
    for width, height in [(4000, 3000), (1, 5000), (5000, 1), (7, 7)]:
        place = letterbox.fit(width, height, size, multiple)
        runtime.check_profile(built, (batch, 3, place.height, place.width), "a.engine")
    assert all(a <= b <= c for a, b, c in zip(smallest, usual, largest, strict=True))


def _graph(kind: str) -> onnx.ModelProto:
    weights = np.ones((4, 3, 3, 3), np.float16 if kind == "fp16" else np.float32)
    nodes = [helper.make_node("Conv", ["input", "w"], ["y"])]
    if kind == "int8":
        nodes = [helper.make_node("QuantizeLinear", ["input", "s", "z"], ["q"]), *nodes]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("has", "wanted", "result"),
    [
        ("fp32", None, "fp32"),
        ("fp32", "fp16", "fp16"),
        ("fp16", None, "fp16"),
        ("int8", None, "int8"),
        ("int8", "int8", "int8"),
        ("fp32", "int8", UsageError),
        ("fp16", "fp32", UsageError),
        ("int8", "fp16", UsageError),
    ],
)
def test_precisions_that_a_graph_can_be_built_in(has: str, wanted: str | None, result: object) -> None:
    from nnface.export.tensorrt import chosen_precision

    if isinstance(result, str):
        assert chosen_precision(_graph(has), wanted, "a.onnx") == result  # type: ignore[arg-type]
        return
    with pytest.raises(UsageError, match=f"computes in {has} and cannot be built in {wanted}"):
        chosen_precision(_graph(has), wanted, "a.onnx")  # type: ignore[arg-type]


def test_from_tensorrt_11_on_the_graph_has_the_types() -> None:
    import onnxruntime

    from nnface.export.tensorrt import typed
    from nnface.models.narrow import widened

    path = zoo.resolve("fast")
    proto = widened(onnx.load(path))  # as it comes there: the bundled file stores 16 bits
    assert typed(proto, "fp16", 10) == typed(proto, "fp32", 11) == proto.SerializeToString()
    half = onnx.load_from_string(typed(proto, "fp16", 11))
    onnx.checker.check_model(half)
    weights = [t for t in half.graph.initializer if len(t.dims) == 4]
    assert weights and all(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in weights)
    assert [value.type.tensor_type.elem_type for value in (*half.graph.input, *half.graph.output)] == [1, 1, 1, 1]
    images = np.random.default_rng(0).normal(size=(1, 3, 64, 96)).astype(np.float32)
    one, other = (
        onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(["scores"], {"input": images})[0]
        for data in (path.read_bytes(), half.SerializeToString())
    )
    assert 0 < np.abs(one - other).max() < 0.02


def test_precisions_are_read_back() -> None:
    """The inspector's JSON as TensorRT 10 and 11 write it: formats with the type in words."""
    from nnface.export.tensorrt import check_precision

    def layer(kind: str, form: str) -> dict[str, object]:
        return {"Name": "n", "LayerType": kind, "Outputs": [{"Name": "o", "Format/Datatype": form}]}

    found = runtime.layers(
        json.dumps(
            {
                "Layers": [
                    layer("CaskConvolution", "Channel major FP16 format where channel % 8 == 0"),
                    layer("CaskConvolution", "Half"),
                    layer("CaskConvolution", "Row major linear FP32"),
                    layer("CaskConvolution", "Thirty-two wide channel vectorized row major Int8 format"),
                    layer("Reformat", "Row major linear FP32"),
                    layer("Shuffle", "Row major Int64"),
                    "a layer of an engine without details",
                ],
                "Bindings": ["input"],
            }
        )
    )
    assert found == {"fp16": 2, "fp32": 1, "int8": 1}
    check_precision(found, "fp16", "a.engine")
    check_precision({"fp32": 3}, "fp32", "a.engine")
    for counts, wanted in [
        ({"fp32": 9}, "fp16"),
        ({"fp16": 9}, "int8"),
        ({"fp32": 8, "fp16": 1}, "fp32"),
        ({}, "fp16"),
    ]:
        with pytest.raises(NnfaceError, match=f"{wanted} was asked for, and TensorRT chose"):
            check_precision(counts, wanted, "a.engine")  # type: ignore[arg-type]
