"""OpenVINO and ncnn: the same numbers and faces as ONNX Runtime's, and no foreign or damaged file gets through."""

import importlib.util
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnface import Classifier, Detector, zoo
from nnface.errors import DeviceError, ModelFileError, NnfaceError, UsageError
from nnface.header import read_spec
from nnface.intermediate import metadata
from nnface.runtime import open_model
from processes import nnface
from tiny_models import bright_detector, detection_spec, save_safetensors, squares

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs OpenVINO")
needs_ncnn = pytest.mark.skipif(
    importlib.util.find_spec("ncnn") is None or importlib.util.find_spec("pnnx") is None, reason="needs ncnn and pnnx"
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled fast detector for OpenVINO."""
    pytest.importorskip("openvino")
    from nnface.export.openvino import export

    path = tmp_path_factory.mktemp("openvino") / "fast.xml"
    export(zoo.resolve("fast"), path)
    return path


def same_faces(one: Detector, other: Detector) -> None:
    image = cv2.imread(str(EXAMPLES / "astronaut.jpg"))
    left, right = one(image), other(image)
    assert len(left) == len(right) == 1
    np.testing.assert_allclose(left.boxes, right.boxes, atol=0.05)
    np.testing.assert_allclose(left.landmarks, right.landmarks, atol=0.05)
    np.testing.assert_allclose(left.scores, right.scores, atol=1e-4)


@needs_openvino
def test_openvino_finds_the_same_faces(exported: Path) -> None:
    expected = Detector("fast", threads=1)
    for found in (Detector("fast", device="openvino", threads=1), Detector(exported, threads=1)):
        assert type(found.runner).__name__ == "OpenvinoRunner" and found.runner.device == "openvino"
        assert found.spec == expected.spec
        same_faces(found, expected)
    assert read_spec(exported) == expected.spec
    assert sorted(path.name for path in exported.parent.iterdir()) == ["fast.bin", "fast.xml"]


@needs_openvino
def test_a_command_says_what_it_runs_on(tmp_path: Path) -> None:
    photograph = EXAMPLES / "astronaut.jpg"
    ended = nnface("detect", photograph, "--device", "openvino", "--json", "-", cwd=tmp_path)
    assert (ended.code, ended.err, len(ended.rows[0]["faces"])) == (0, "nnface: running on openvino\n", 1)
    ended = nnface("detect", photograph, "--json", "-", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")


@needs_openvino
def test_openvino_tells_the_same_attributes() -> None:
    chips = [np.random.default_rng(number).integers(0, 256, (96, 96, 3), np.uint8) for number in range(3)]
    one, other = (Classifier(device=device, threads=1).batch(chips) for device in ("cpu", "openvino"))
    for left, right in zip(one, other, strict=True):
        for head, answer in left[0].attributes.items():
            assert answer.probabilities == pytest.approx(right[0].attributes[head].probabilities, abs=1e-4)


@needs_openvino
def test_openvino_runs_in_several_threads_and_batches(tmp_path: Path) -> None:
    path = bright_detector(tmp_path / "tiny.onnx")
    runner, expected = open_model(path, "openvino", 1), open_model(path)
    batches = [np.random.default_rng(n).random((1 + n % 3, 3, 32 + 16 * (n % 4), 48), np.float32) for n in range(24)]
    found: dict[int, dict[str, np.ndarray]] = {}

    def work(numbers: range) -> None:
        for number in numbers:
            found[number] = runner.run(batches[number])

    threads = [threading.Thread(target=work, args=(range(start, 24, 3),)) for start in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, batch in enumerate(batches):
        for name, values in expected.run(batch).items():
            np.testing.assert_allclose(found[number][name], values, atol=1e-5)


@needs_openvino
@pytest.mark.parametrize(
    "changes, words",
    [({"anchors": 2}, "scores for"), ({"rank": True}, "scores has shape"), ({"text": ""}, "without nnface metadata")],
)
def test_openvino_refuses_files_that_lie(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    path = bright_detector(tmp_path / "a.onnx", **changes)  # type: ignore[arg-type]
    with pytest.raises(ModelFileError, match=words) as caught:
        Detector(path, device="openvino")(squares(64, 64, (16, 16)))
    assert "\n" not in str(caught.value)


@needs_openvino
@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("openvino:XPU", "is not known"),
        ("openvino:", "is not known"),
        ("openvino:AUTO", "is not known"),
        ("openvino:GPU.7", "OpenVINO finds no GPU.7 here, only CPU"),
        ("openvino:NPU.7", "OpenVINO finds no NPU.7 here, only CPU"),
    ],
)
def test_openvino_devices_that_are_not_there(tmp_path: Path, device: str, words: str) -> None:
    with pytest.raises(DeviceError, match=words):
        open_model(bright_detector(tmp_path / "a.onnx"), device)


def test_files_and_devices_that_do_not_go_together(tmp_path: Path) -> None:
    weights = save_safetensors(tmp_path / "a.safetensors")
    for device in ("openvino", "openvino:GPU", "tensorrt"):
        with pytest.raises(DeviceError, match="nnface export it to ONNX"):
            open_model(weights, device)
    graph = tmp_path / "a.xml"
    graph.write_text("<?xml version='1.0'?><net/>")
    with pytest.raises(DeviceError, match="use --device openvino"):
        open_model(graph, "cuda")


def test_without_openvino_the_words_say_what_to_install(tmp_path: Path) -> None:
    path = bright_detector(tmp_path / "a.onnx")
    code = (
        "import sys; sys.modules['openvino'] = None; sys.argv[0] = 'nnface'; from nnface.commands import main; main()"
    )
    ended = nnface(
        "detect", path, "--model", path, "--device", "openvino", cwd=tmp_path, python=[sys.executable, "-c", code]
    )
    assert ended.code == 2 and "pip install 'nnface[openvino]'" in ended.err and len(ended.err.splitlines()) == 1


@needs_openvino
def test_other_weights_and_damage_are_refused(exported: Path, tmp_path: Path) -> None:
    graph, weights = (tmp_path / f"fast{ending}" for ending in (".xml", ".bin"))
    shutil.copy(exported, graph)
    with pytest.raises(ModelFileError, match=r"fast\.bin is not there"):
        open_model(graph)
    content = bytearray(exported.with_suffix(".bin").read_bytes())
    content[1000] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelFileError, match="holds other weights"):
        open_model(graph)
    shutil.copy(exported.with_suffix(".bin"), weights)
    graph.write_bytes(exported.read_bytes()[:-2000])
    with pytest.raises(ModelFileError, match="not an OpenVINO model, or is damaged"):
        open_model(graph)
    graph.write_bytes(exported.read_bytes().replace(b'type="Convolution"', b'type="Konvolution"'))
    with pytest.raises(ModelFileError, match="cannot be run") as caught:
        open_model(graph)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"<?xml version='1.0'?><net/>", "without nnface metadata"),
        (b"<?xml version='1.0'?><net><nnface value='{}'/></net>", "without nnface metadata"),
        (b"<?xml version='1.0'?><!DOCTYPE net [<!ENTITY a 'aaaa'>]><net>&a;</net>", "is damaged"),
        (b"<?xml version='1.0'?>" + b"<a>" * 200, "is damaged"),
        (b"<?xml \xff\xfe", "is damaged"),
        (b"<?xml version='1.0' encoding='nonsense'?><net/>", "without nnface metadata"),
    ],
)
def test_foreign_and_hostile_xml(tmp_path: Path, text: bytes, words: str) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(text)
    with pytest.raises(ModelFileError, match=words):
        read_spec(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 200), byte=st.integers(0, 255))
def test_xml_with_any_byte_changed(place: int, byte: int) -> None:
    spec = detection_spec().to_json().replace("&", "&amp;").replace('"', "&quot;")
    inside = f'<rt_info><nnface value="{spec}"/><nnface_weights value="0"/></rt_info>'
    text = bytearray(f'<?xml version="1.0"?><net>{inside}</net>'.encode())
    text[place % len(text)] = byte
    try:
        metadata(bytes(text), "a.xml", "nnface")
    except ModelFileError as error:
        assert "\n" not in str(error)


@needs_ncnn
@pytest.mark.parametrize("name", ["fast", "attributes"])
def test_ncnn_computes_the_same(name: str, tmp_path: Path) -> None:
    import ncnn

    from nnface.export.ncnn import export

    spec = export(zoo.resolve(name), tmp_path / f"{name}.ncnn.param")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{name}.ncnn.{end}" for end in ("bin", "json", "param")
    ]
    about = json.loads((tmp_path / f"{name}.ncnn.json").read_text("utf-8"))
    assert about["nnface"] == json.loads(spec.to_json())
    # As its user runs it: the Spec's outputs in order, at a size that the export was not compared at.
    network = ncnn.Net()
    assert network.load_param(str(tmp_path / f"{name}.ncnn.param")) == 0
    assert network.load_model(str(tmp_path / f"{name}.ncnn.bin")) == 0
    shape = (3, spec.input.height or 224, spec.input.width or 352)
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = open_model(zoo.resolve(name), threads=1).run(images[None])
    assert about["outputs"] == list(expected)
    extractor = network.create_extractor()
    extractor.input("in0", ncnn.Mat(images).clone())
    for number, values in enumerate(expected.values()):
        code, found = extractor.extract(f"out{number}")
        assert code == 0
        np.testing.assert_allclose(np.array(found), values[0], atol=0.05)  # ncnn's default is half precision


@needs_ncnn
def test_what_ncnn_cannot_have_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    from nnface.export.ncnn import export

    path = bright_detector(tmp_path / "a.onnx")
    network = onnx.load(path)
    (last,) = [node for node in network.graph.node if node.output[0] == "scores"]
    last.op_type = "Hardmax"
    onnx.save(network, path)
    with pytest.raises(NnfaceError, match="ncnn") as caught:
        export(path, tmp_path / "b.ncnn.param")
    assert "\n" not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.onnx"]
    with pytest.raises(UsageError, match=r"has to end in \.param"):
        export(path, tmp_path / "b.ncnn")
    with pytest.raises(NnfaceError, match="does not exist"):
        export(path, tmp_path / "no" / "b.param")


@pytest.mark.parametrize(
    ("target", "ending", "module"), [("openvino", ".xml", "openvino"), ("ncnn", ".ncnn.param", "ncnn")]
)
def test_export_as_a_command(target: str, ending: str, module: str, tmp_path: Path) -> None:
    pytest.importorskip(module)
    bright_detector(tmp_path / "tiny.onnx")
    written = tmp_path / f"tiny{ending}"
    ended = nnface("export", "tiny.onnx", "--to", target, cwd=tmp_path)
    assert ended.code == 0 and ended.out == f"tiny{ending}: tiny, equal to ONNX Runtime\n", ended.err
    before = written.read_bytes()
    ended = nnface("export", "tiny.onnx", "--to", target, cwd=tmp_path)
    assert ended.code == 2 and "--force" in ended.err and written.read_bytes() == before
    ended = nnface("export", "tiny.onnx", "--to", target, "--with-nms", "--force", cwd=tmp_path)
    assert ended.code == 2 and "--with-nms is for --to onnx" in ended.err


@pytest.mark.parametrize("module", ["openvino", "ncnn", "tensorrt"])
def test_an_export_without_its_runtime_says_which_extra(module: str, tmp_path: Path) -> None:
    bright_detector(tmp_path / "tiny.onnx")
    code = f"import sys; sys.modules[{module!r}] = None; from nnface.commands import main; main()"
    ended = nnface("export", "tiny.onnx", "--to", module, cwd=tmp_path, python=[sys.executable, "-c", code])
    assert ended.code == 2 and f"pip install 'nnface[{module}]'" in ended.err, ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.onnx"]


def test_the_check_for_gpus_says_that_there_is_none(tmp_path: Path) -> None:
    script = EXAMPLES.parent / "tools" / "check_tensorrt.py"
    code = (
        "import runpy, sys; sys.modules['tensorrt'] = None; sys.argv = sys.argv[1:];"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code, script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and "NOT RUN" in done.stdout and "nnface[tensorrt]" in done.stdout, done.stderr
