"""ONNX Runtime as a runner: right numbers, honest threads and devices, and no lie or damage gets through."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nnface.errors import DependencyError, DeviceError, ModelFileError, NnfaceError
from nnface.predict.detector import Detector
from nnface.processors import cores, physical_cores
from nnface.runtime import open_model
from nnface.runtime.onnx import OnnxRunner
from nnface.spec import ClassificationSpec, SegmentationSpec
from tiny_models import bright_detector, detection_spec, save_safetensors, squares


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bright_detector(tmp_path_factory.mktemp("onnx") / "tiny.onnx")


def test_runs_batches_of_any_shape(tiny: Path) -> None:
    runner = open_model(tiny)
    assert isinstance(runner, OnnxRunner) and runner.device == "cpu" and runner.spec == detection_spec()
    batch = np.random.default_rng(0).random((3, 3, 48, 80), np.float32)
    outputs = runner.run(batch)
    assert {k: v.shape for k, v in outputs.items()} == {
        "scores": (3, 15),
        "boxes": (3, 15, 4),
        "landmarks": (3, 15, 10),
    }
    mean = batch[:, 1].reshape(3, 3, 16, 5, 16).mean((2, 4)).reshape(3, 15)
    assert np.allclose(outputs["scores"], mean**2, atol=1e-5)
    assert (outputs["boxes"] == 0.5).all()


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"fixed": [64, 64]}, "64 x 64"),
        ({"rank": True}, "scores has"),
        ({"anchors": 2}, "scores for"),
        ({"nan": True}, "not numbers"),
    ],
)
def test_a_file_that_lies_is_refused(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    path = bright_detector(tmp_path / "a.onnx", **changes)
    with pytest.raises(ModelFileError, match=words) as caught:
        Detector(path)(squares(64, 64, (16, 16)))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_spec_of_other_outputs_is_refused(tmp_path: Path) -> None:
    spec = detection_spec()
    classes = replace(
        spec, task="classify", detection=None, classification=ClassificationSpec(heads={"age": ("young", "old")})
    )
    parts = replace(spec, task="segment", detection=None, segmentation=SegmentationSpec(labels=("face", "hair")))
    for other, words in [(classes, "no output called age"), (parts, "no output called logits")]:
        with pytest.raises(ModelFileError, match=words):
            OnnxRunner(bright_detector(tmp_path / "a.onnx", text=other.to_json()))
    points = detection_spec(landmarks=True)
    without = bright_detector(tmp_path / "b.onnx", detection_spec(landmarks=False), text=points.to_json())
    with pytest.raises(ModelFileError, match="no output called landmarks"):
        OnnxRunner(without)
    fixed = detection_spec(width=64, height=48)
    assert OnnxRunner(bright_detector(tmp_path / "c.onnx", fixed)).spec == fixed


def test_inputs_that_the_network_does_not_take(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"\(1, 4, 32, 32\)"):
        OnnxRunner(tiny).run(np.zeros((1, 4, 32, 32), np.float32))


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cpu:1", "CUDA", ""])
def test_unknown_devices(tiny: Path, device: str) -> None:
    with pytest.raises(DeviceError, match="is not known"):
        OnnxRunner(tiny, device)


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this ONNX Runtime has CUDA"
)
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "tensorrt"])
def test_absent_devices_are_errors_with_a_remedy(tiny: Path, device: str) -> None:
    with pytest.raises(DeviceError, match="pip install onnxruntime-gpu"):
        open_model(tiny, device)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs an affinity")
@pytest.mark.parametrize("count", ["cores", "physical_cores"])
def test_threads_follow_the_affinity(count: str) -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        f"from nnface.processors import {count}; print({count}())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "1\n"


@pytest.mark.parametrize("quota, most", [("50000 100000", 1), ("100000 100000", 1), ("max 100000", None)])
def test_threads_follow_the_quota(quota: str, most: int | None) -> None:
    """In a mount namespace of its own, where the quota's file says what a container's would."""
    code = "from nnface.processors import cores, physical_cores as physical; print(cores(), physical())"
    place = "mount -t tmpfs none /sys/fs/cgroup && echo $0 > /sys/fs/cgroup/cpu.max"
    private = ["unshare", "-m", "sh", "-c"]
    if not shutil.which("unshare") or subprocess.run([*private, place, quota], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    inside = [*private, f'{place} && exec "$1" -c "$2"', quota, sys.executable, code]
    found = subprocess.run(inside, capture_output=True, text=True, check=True).stdout.split()
    assert found == [str(most or cores()), str(most or physical_cores())]
    assert 1 <= physical_cores() <= cores() <= (os.cpu_count() or 1)


def test_weights_for_torch_without_torch(tmp_path: Path) -> None:
    path = save_safetensors(tmp_path / "a.safetensors")
    with pytest.raises(ModelFileError, match="safetensors"):
        OnnxRunner(path)
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from nnface.errors import DependencyError\nfrom nnface.runtime import open_model\n"
        "try: open_model(sys.argv[1])\nexcept DependencyError as error: print(error)"
    )
    process = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert "nnface export" in process.stdout and "nnface[train]" in process.stdout, process.stderr
    assert DependencyError.__mro__[1] is NnfaceError


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1), bit=st.integers(0, 7))
@example(place=0.654296875, bit=7)  # a name that is no UTF-8
def test_flipped_bits_are_an_error_or_a_result(tmp_path: Path, tiny: Path, place: float, bit: int) -> None:
    data = bytearray(tiny.read_bytes())
    # The constants are most of the file and any value of them is right, so the graph gets most of the flips.
    spots = [i for i, byte in enumerate(data) if byte]
    data[spots[int(place * (len(spots) - 1))]] ^= 1 << bit
    path = tmp_path / "a.onnx"
    path.write_bytes(data)
    try:
        faces = Detector(path, threads=1)(squares(64, 64, (16, 16)))
    except NnfaceError as error:
        assert "\n" not in str(error)
    else:
        assert np.isfinite(faces.boxes).all()
        assert faces.landmarks is None or np.isfinite(faces.landmarks).all()


def test_weights_for_torch_give_the_same_faces_as_their_export(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from nnface.export.onnx import export
    from nnface.models import create, file

    spec = create.default_spec("ultralight-slim")
    file.save(tmp_path / "a.safetensors", create.create("ultralight-slim"), spec)
    export(tmp_path / "a.safetensors", tmp_path / "a.onnx")
    image = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    one, two = (Detector(tmp_path / name, min_score=0.1, threads=1) for name in ("a.safetensors", "a.onnx"))
    assert type(one.runner) is not type(two.runner) and one.spec == two.spec
    prepared = one.prepare(image)
    left, right = one.runner.run(prepared.input), two.runner.run(prepared.input)
    for name in ("scores", "boxes"):
        assert np.abs(left[name] - right[name]).max() < 1e-4
    assert len(one(image)) == len(two(image)) > 0
