"""The package as it is installed: what it imports, what it says where something is absent, what the wheel holds."""

import ast
import os
import pkgutil
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import nnface
from nnface import zoo
from nnface.results import Attribute, Faces
from nnface.training.recipes import shipped
from processes import ENVIRONMENT, Ended
from processes import nnface as run_nnface
from tiny_models import bright_detector, save_safetensors

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "nnface"
MODULES = sorted(module.name for module in pkgutil.walk_packages(nnface.__path__, "nnface."))

TORCH_SIDE = ("nnface.models", "nnface.training", "nnface.export", "nnface.runtime.torch", "nnface.runtime.openvino")
"""What may import torch or a runtime of an extra, but for the two that list the recipes."""
SMALL = [
    name
    for name in MODULES
    if not name.startswith(TORCH_SIDE) or name in ("nnface.training", "nnface.training.recipes", "nnface.export")
]

ABSENT = [
    "gdown",
    "jinja2",
    "matplotlib",
    "ncnn",
    "onnx",
    "onnxscript",
    "openvino",
    "PIL",
    "pnnx",
    "pyarrow",
    "pydantic",
    "ray",
    "safetensors",
    "scipy",
    "supervision",
    "tensorboard",
    "tensorrt",
    "tomli_w",
    "torch",
    "torchvision",
    "hypothesis",
    "pytest",
]

# Python as it is in the small wheel: the finders find nothing of these.
SMALL_WHEEL = f"""
import sys
ABSENT = {ABSENT!r}
class Finder:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in ABSENT else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = [Finder(finder) for finder in sys.meta_path]
"""


def small(code: str, cwd: Path) -> Ended:
    """Run code in a process with the small wheel only."""
    return run_nnface(cwd=cwd, python=[sys.executable, "-c", SMALL_WHEEL + code])


def small_nnface(*arguments: str | Path, cwd: Path) -> Ended:
    """Run the command line in a process with the small wheel only."""
    code = SMALL_WHEEL + "from nnface.commands import main\nmain()"
    return run_nnface(*arguments, cwd=cwd, python=[sys.executable, "-c", code])


def test_the_absence_of_the_extras_is_real(tmp_path: Path) -> None:
    tried = small(
        "import importlib.util\nassert importlib.util.find_spec('torch') is None\ntry:\n    import scipy.io\n"
        "except ModuleNotFoundError as error:\n    print('absent', error.name)",
        tmp_path,
    )
    assert (tried.code, tried.out) == (0, "absent scipy\n"), tried.err


def test_the_small_wheel_imports_no_torch_and_no_extra(tmp_path: Path) -> None:
    assert {"nnface.predict.detector", "nnface.evaluation.widerface", "nnface.commands.train"} <= set(SMALL)
    ended = small(
        f"import importlib\nfor name in {SMALL!r}:\n    importlib.import_module(name)\n"
        "assert not set(ABSENT) & set(sys.modules)",
        tmp_path,
    )
    assert ended.code == 0, ended.err


def test_importing_nnface_imports_none_of_its_parts(tmp_path: Path) -> None:
    code = (
        "import nnface\n"
        "heavy = {'numpy', 'cv2', 'onnxruntime', 'rich', 'click', 'pooch'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "print(nnface.Detector.__name__, nnface.read_image.__name__, nnface.Faces.__name__, nnface.__version__)"
    )
    ended = small(code, tmp_path)
    assert (ended.code, ended.out) == (0, f"Detector read Faces {nnface.__version__}\n"), ended.err
    assert set(dir(nnface)) == set(nnface.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Detektor'"):
        nnface.Detektor  # noqa: B018


def test_onnx_runtime_reports_nothing(tmp_path: Path) -> None:
    """ONNX Runtime 1.32 leaves a device's number and events to be sent in the home folder, unless it is told not to."""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "NNFACE_HOME": str(tmp_path / "nnface"),
    }
    code = "from nnface import Detector\nDetector('fast')"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_detect_models_and_recipes_work_in_the_small_wheel(tmp_path: Path) -> None:
    bright_detector(tmp_path / "bright.onnx")
    photograph = ROOT / "examples" / "astronaut.jpg"
    ended = small_nnface("detect", photograph, "--model", "bright.onnx", "--draw", "out", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert [row["width"] for row in ended.rows] == [512]
    assert (tmp_path / "out" / "astronaut.faces.jpg").is_file()
    assert small_nnface("models", "info", "bright.onnx", cwd=tmp_path).code == 0
    listed = small_nnface("recipes", cwd=tmp_path)
    assert listed.code == 0 and "retinaface-mobilenet025" in listed.out


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["train", "ultralight-slim", "--data", "coco:faces.json"], "train"),
        (["import", "ultra-light", "weights.pth", "--out", "out.safetensors"], "train"),
        (["export", "weights.safetensors", "--to", "onnx"], "train"),
        (["detect", "a.png", "--model", "weights.safetensors"], "train"),
        (["detect", "a.png", "--model", "bright.onnx", "--to", "out.parquet"], "scale"),
        (["score", "widerface", "found", "--truth", "truth"], "eval"),
        (["evaluate", "widerface", "--model", "bright.onnx", "--data", ".", "--save", "report"], "eval"),
    ],
    ids=["train", "import", "export", "detect", "parquet", "score", "report"],
)
def test_a_command_names_the_extra_that_it_lacks(tmp_path: Path, arguments: list[str], extra: str) -> None:
    bright_detector(tmp_path / "bright.onnx")
    save_safetensors(tmp_path / "weights.safetensors")
    for name in ("weights.pth", "a.png", "faces.json", "found/x", "truth/wider_face_val.mat"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    ended = small_nnface(*arguments, cwd=tmp_path)
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1, ended.err
    assert f"pip install 'nnface[{extra}]'" in ended.err


def test_supervision_takes_faces() -> None:
    pytest.importorskip("supervision")
    boxes = np.array([[1, 2, 30, 40], [5, 6, 7, 8]], np.float32)
    found = Faces(width=64, height=48, boxes=boxes, scores=np.array([0.9, 0.5], np.float32))
    detections = found.to_supervision()
    np.testing.assert_array_equal(detections.xyxy, boxes)
    assert detections.confidence.tolist() == pytest.approx([0.9, 0.5])
    assert detections.data["class_name"].tolist() == ["face", "face"]
    assert len(Faces.empty(64, 48).to_supervision()) == 0
    old = Attribute(label="60-69", confidence=0.7, certain=True, probabilities={})
    data = found.with_attributes([{"age": old}, {}])[::-1].to_supervision().data  # the second is too small to tell
    assert data["age"].tolist() == ["", "60-69"]
    assert data["age_confidence"].tolist() == pytest.approx([0, 0.7])


def test_layers() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_every_public_module_says_what_it_is_for() -> None:
    assert len(MODULES) > 60
    for name in MODULES:
        path = SOURCE.parent / name.replace(".", "/")
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        assert ast.get_docstring(ast.parse(path.read_text("utf-8"))), f"{name} has no docstring"


def test_the_version_is_one(tmp_path: Path) -> None:
    assert run_nnface("--version", cwd=tmp_path).out == f"nnface, version {nnface.__version__}\n"
    assert f"## {nnface.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel as pip builds it here, without the network."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder), str(ROOT)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_what_the_package_reads(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    versioned = {
        name
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
        for name in [path.relative_to(SOURCE.parent).as_posix()]
    }
    assert versioned <= names
    assert "nnface/py.typed" in names and "nnface/report/templates/page.html" in names
    assert {f"nnface/training/recipes/{name}.toml" for name in shipped()} <= names
    outside = {name for name in names if not name.startswith(("nnface/", f"nnface-{nnface.__version__}.dist-info/"))}
    assert not outside


def test_the_wheel_is_small_and_says_its_terms(wheel: zipfile.ZipFile) -> None:
    information = f"nnface-{nnface.__version__}.dist-info"
    metadata = wheel.read(f"{information}/METADATA").decode()
    assert "License-Expression: Apache-2.0 AND LicenseRef-nnface-weights" in metadata
    for name in ("LICENSE", "LICENSE-WEIGHTS.md"):
        assert wheel.read(f"{information}/licenses/{name}") == (ROOT / name).read_bytes()
    required = re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", metadata, re.MULTILINE)
    assert set(required) == {"click", "filelock", "numpy", "onnxruntime", "opencv-python-headless", "pooch", "rich"}
    sizes = {
        Path(entry.filename).stem: entry.file_size for entry in wheel.infolist() if entry.filename.endswith(".onnx")
    }
    assert sizes.pop("attributes", 0) < 6e6
    assert sizes.pop("parser", 0) < 8e6
    assert sum(sizes.values()) < 4e6


def test_every_bundled_model_has_its_card_and_its_terms() -> None:
    if not zoo.entries():
        pytest.skip("this tree has no bundled weights")
    for entry in zoo.entries():
        assert entry.licence and entry.data and entry.data_licence and entry.command, entry.name
        assert zoo.card(entry), entry.name
