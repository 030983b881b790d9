"""Published checkpoints become model files that detect as the projects recorded, and foreign files are refused."""

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from conftest import shared
from nnface.errors import ModelFileError, NnfaceError, UsageError
from nnface.export.onnx import export
from nnface.export.published import import_checkpoint
from nnface.export.published.checkpoint import KNOWN
from nnface.geometry import anchors, boxes
from nnface.header import read_spec
from nnface.models import file
from nnface.models.create import create
from nnface.predict.detector import Detector
from nnface.runtime import open_model
from nnface.runtime.torch import TorchRunner
from nnface.spec import CELEBAMASK_LABELS
from test_parity_networks import with_formula_weights

PUBLISHED = {
    "biubug6_mobilenet0.25_Final": ("pytorch-retinaface", "retinaface-mobilenet025"),
    "fd1mb_mobilenet0.25_Final": ("face-detector-1mb", "retinaface-mobilenet025-relu"),
    "fd1mb_RBF_Final": ("face-detector-1mb", "ultralight-rfb-landmarks"),
    "fd1mb_slim_Final": ("face-detector-1mb", "ultralight-slim-landmarks"),
    "version-slim-320": ("ultra-light", "ultralight-slim"),
    "version-slim-640": ("ultra-light", "ultralight-slim"),
    "version-RFB-320": ("ultra-light", "ultralight-rfb"),
    "version-RFB-640": ("ultra-light", "ultralight-rfb"),
}
PHOTOS = {
    "crop": "astronaut_crop_123x165",
    "astronaut": "astronaut",
    "grace_hopper": "grace_hopper",
    "solvay_1927": "solvay_1927",
    "coffee": "coffee",
}


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A function: the name of a published file to its network and Spec, brought in once."""
    folder, done = tmp_path_factory.mktemp("imported"), {}

    def bring(name):
        if name not in done:
            out = folder / f"{name}.safetensors"
            spec, known = import_checkpoint(PUBLISHED[name][0], shared(f"reference/checkpoints/{name}.pth"), out)
            assert known and spec == read_spec(out)
            done[name] = file.load(out)
        return done[name]

    return bring


def photo(name):
    return cv2.imread(str(shared(f"reference/photos/{PHOTOS[name]}.png")))


def detect(module, spec, image, min_score, offset):
    """Boxes, points and scores as the old projects compute them: the picture as it is, or squashed to a fixed input."""
    plan, coding = spec.input, spec.detection
    height, width = image.shape[:2]
    if plan.color == "rgb":
        image = image[..., ::-1]
    if plan.width:
        image = cv2.resize(np.ascontiguousarray(image), (plan.width, plan.height))
    batch = ((image.astype(np.float32) - plan.mean) / plan.std).transpose(2, 0, 1)[None].astype(np.float32)
    outputs = TorchRunner(module, spec).run(batch)
    grid = anchors.grid(*batch.shape[2:], coding.strides, coding.anchor_sizes, coding.clip_anchors)
    keep = outputs["scores"][0] > min_score
    scores = outputs["scores"][0][keep]
    found = boxes.decode(outputs["boxes"][0][keep], grid[keep], coding.variances)
    points = np.zeros((len(found), 5, 2), np.float32)
    if coding.landmarks:
        points = boxes.decode_points(outputs["landmarks"][0][keep], grid[keep], coding.variances)
    kept = boxes.nms(found, scores, coding.nms_iou, offset, limit=750)
    scale = np.float32([width / batch.shape[3], height / batch.shape[2]])
    return found[kept] * np.tile(scale, 2), points[kept] * scale, scores[kept]


def assert_equal_detections(found, points, scores, theirs, above):
    """Every detection of either side with a score of at least ``above`` has its like on the other, one to one."""
    theirs = theirs[theirs[:, 4] >= above]
    sure = scores >= above + 1e-3
    assert sure.sum() <= len(theirs) <= (scores >= above - 1e-3).sum()
    free = set(range(len(found)))
    for row in theirs:
        near = min(free, key=lambda i: np.abs(found[i] - row[:4]).max())
        free.remove(near)
        assert np.abs(found[near] - row[:4]).max() < 0.5
        assert abs(scores[near] - row[4]) < 1e-3
        if points is not None:
            assert np.abs(points[near].ravel() - row[5:15]).max() < 0.5


@pytest.mark.parametrize("name", [name for name in PUBLISHED if not name.startswith("version")])
def test_detections_equal_the_recorded_ones_at_original_size(imported, name):
    module, spec = imported(name)
    assert spec.architecture == PUBLISHED[name][1]
    recorded = np.load(shared(f"reference/recorded/detector_{name}.npz"))
    pictures = [key for key in PHOTOS if f"{key}/dets" in recorded]
    assert len(pictures) >= 4
    for key in pictures:
        found, points, scores = detect(module, spec, photo(key), 0.02, offset=1)
        theirs = recorded[f"{key}/dets"]
        assert_equal_detections(found, points, scores, theirs, above=0.1)
        assert len(found) == pytest.approx(len(theirs), rel=0.01, abs=1)


@pytest.mark.parametrize("width", [320, 640])
@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("version")])
def test_detections_of_ultra_light_equal_the_recorded_ones(imported, name, width):
    module, spec = imported(name)
    assert spec.architecture == PUBLISHED[name][1]
    trained = int(name[-3:])
    assert (spec.input.size, spec.input.width, spec.input.height) == (trained, trained, trained * 3 // 4)
    spec = replace(spec, input=replace(spec.input, width=width, height=width * 3 // 4))
    recorded = np.load(shared(f"reference/recorded/detector_ulfg_{name.removeprefix('version-')}_at{width}.npz"))
    for key in ("astronaut", "grace_hopper", "solvay_1927", "coffee"):
        found, _, scores = detect(module, spec, photo(key), 0.01, offset=0)
        # Of slim's anchors without a face thousands have a score just above 0.1, of which either side keeps 750.
        assert_equal_detections(found, None, scores, recorded[f"{key}/dets_0.01"], above=0.15)
        assert (scores > 0.6).sum() == len(recorded[f"{key}/dets_0.6"])


def test_the_detector_itself_gives_the_recorded_detections(imported):
    retinaface = Detector(TorchRunner(*imported("biubug6_mobilenet0.25_Final")), size="original")
    recorded = np.load(shared("reference/recorded/detector_biubug6_mobilenet0.25_Final.npz"))
    for key, count in [("astronaut", 1), ("grace_hopper", 1)]:
        faces = retinaface(photo(key))
        assert len(faces) == count
        assert_equal_detections(faces.boxes, faces.landmarks, faces.scores, recorded[f"{key}/dets"], above=0.5)


# Data made here: what must hold without ../shared


def state(architecture):
    torch.manual_seed(0)
    return create(architecture).state_dict()


def published_name(name):
    """Of our name for a tensor of Ultra-Light, Face-Detector-1MB's."""
    parts = name.split(".")
    if parts[0] == "base_net":
        return ".".join([f"conv{int(parts[1]) + 1}", *parts[2:]])
    if parts[0] == "extras":
        return ".".join(["conv14", *parts[2:]])
    heads = {"classification_headers": "conf", "regression_headers": "loc", "landmark_headers": "landm"}
    return ".".join([heads[parts[0]], *parts[1:]])


@pytest.mark.parametrize("architecture", ["ultralight-slim-landmarks", "ultralight-rfb-landmarks"])
def test_every_tensor_of_face_detector_1mb_finds_its_place(tmp_path, architecture):
    ours = state(architecture)
    torch.save({published_name(name): tensor for name, tensor in ours.items()}, tmp_path / "a.pth")
    spec, known = import_checkpoint("face-detector-1mb", tmp_path / "a.pth", tmp_path / "a.safetensors")
    module, _ = file.load(tmp_path / "a.safetensors")
    assert not known and spec.architecture == architecture
    assert all(torch.equal(tensor, ours[name]) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("wrap", [False, True], ids=["bare", "in state_dict with module."])
@pytest.mark.parametrize("zip_format", [False, True], ids=["legacy", "zip"])
def test_one_shape_two_projects_two_networks(tmp_path, wrap, zip_format):
    ours = state("retinaface-mobilenet025")
    content = {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in ours.items()}} if wrap else ours
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zip_format)
    sizes = {}
    for name in ("pytorch-retinaface", "face-detector-1mb"):
        spec, known = import_checkpoint(name, tmp_path / "a.pth", tmp_path / "a.safetensors")
        sizes[name] = spec.architecture, spec.detection.anchor_sizes
        assert not known
        assert "non-commercial" in spec.licence and len(spec.provenance["sha256"]) == 64
    assert sizes["pytorch-retinaface"] == ("retinaface-mobilenet025", ((16, 32), (64, 128), (256, 512)))
    assert sizes["face-detector-1mb"] == ("retinaface-mobilenet025-relu", ((10, 20), (32, 64), (128, 256)))


def test_the_width_of_an_unknown_ultra_light_must_be_said(tmp_path):
    torch.save(state("ultralight-slim"), tmp_path / "a.pth")
    out = tmp_path / "a.safetensors"
    with pytest.raises(UsageError, match="--size 320 or 640"):
        import_checkpoint("ultra-light", tmp_path / "a.pth", out)
    with pytest.raises(UsageError, match="no input of width 321"):
        import_checkpoint("ultra-light", tmp_path / "a.pth", out, 321)
    spec, _ = import_checkpoint("ultra-light", tmp_path / "a.pth", out, 640)
    assert (spec.input.width, spec.input.height, spec.input.fit, spec.input.color) == (640, 480, "stretch", "rgb")


def test_what_does_not_fit_is_named_in_one_sentence(tmp_path):
    tensors = state("ultralight-rfb")
    del tensors["base_net.0.0.weight"]
    tensors["of.nobody"] = torch.zeros(2)
    tensors["base_net.0.1.bias"] = torch.zeros(3)
    torch.save(tensors, tmp_path / "a.pth")
    with pytest.raises(ModelFileError) as caught:
        import_checkpoint("ultra-light", tmp_path / "a.pth", tmp_path / "out", 320)
    for words in ("ultralight-rfb", "missing: base_net.0.0.weight", "of.nobody", "base_net.0.1.bias (3 instead of 16)"):
        assert words in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def face_parsing(tmp_path_factory):
    """A checkpoint with face-parsing.PyTorch's names and formula weights."""
    path = tmp_path_factory.mktemp("face_parsing") / "79999_iter.pth"
    torch.save(dict(with_formula_weights("bisenet-resnet18").state_dict()), path)
    return path


def test_a_parser_of_portraits_comes_in_and_goes_out(tmp_path, face_parsing):
    spec, known = import_checkpoint("face-parsing", face_parsing, tmp_path / "a.safetensors")
    assert not known and spec == read_spec(tmp_path / "a.safetensors")
    assert (spec.task, spec.architecture) == ("segment", "bisenet-resnet18")
    assert (spec.input.width, spec.input.height, spec.input.fit, spec.input.color) == (512, 512, "stretch", "rgb")
    np.testing.assert_allclose(spec.input.mean, np.array([0.485, 0.456, 0.406]) * 255, atol=1e-3)
    np.testing.assert_allclose(spec.input.std, np.array([0.229, 0.224, 0.225]) * 255, atol=1e-3)
    labels = spec.segmentation.labels
    assert sorted(labels) == sorted(CELEBAMASK_LABELS)
    assert [labels.index(name) for name in ("skin", "l_brow", "eye_g", "nose", "cloth", "hair", "hat")] == [
        1, 2, 6, 10, 16, 17, 18,
    ]  # fmt: skip
    assert "non-commercial" in spec.licence and "CelebAMask-HQ" in spec.provenance["data"]
    module, _ = file.load(tmp_path / "a.safetensors")
    checkpoint = torch.load(face_parsing, weights_only=True)
    assert module.state_dict().keys() == checkpoint.keys()
    assert all(torch.equal(tensor, checkpoint[name]) for name, tensor in module.state_dict().items())

    small = replace(spec, input=replace(spec.input, size=160, width=160, height=96))  # 512 x 512 would take long
    file.save(tmp_path / "b.safetensors", module, small)
    assert export(tmp_path / "b.safetensors", tmp_path / "b.onnx") == small == read_spec(tmp_path / "b.onnx")
    images = np.random.default_rng(0).standard_normal((1, 3, 96, 160)).astype(np.float32)
    ours, theirs = (open_model(tmp_path / name, threads=1).run(images) for name in ("b.onnx", "b.safetensors"))
    assert list(ours) == list(theirs) == ["logits"] and ours["logits"].shape == (1, 19, 96, 160)
    scale = np.abs(theirs["logits"]).max()
    np.testing.assert_allclose(ours["logits"], theirs["logits"], rtol=0, atol=1e-5 * scale)


def test_every_tensor_of_a_parser_is_accounted_for(tmp_path, face_parsing):
    tensors = torch.load(face_parsing, weights_only=True)
    del tensors["cp.arm16.conv.conv.weight"], tensors["conv_out32.conv_out.weight"]
    tensors["of.nobody"] = torch.zeros(2)
    tensors["conv_out.conv_out.weight"] = torch.zeros(11, 256, 1, 1)  # of another number of labels
    torch.save(tensors, tmp_path / "a.pth")
    with pytest.raises(ModelFileError) as caught:
        import_checkpoint("face-parsing", tmp_path / "a.pth", tmp_path / "out")
    for words in (
        "missing: cp.arm16.conv.conv.weight, conv_out32.conv_out.weight",
        "not of it: of.nobody",
        "conv_out.conv_out.weight (11x256x1x1 instead of 19x256x1x1)",
    ):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
    torch.save(state("ultralight-slim"), tmp_path / "b.pth")
    with pytest.raises(ModelFileError, match="does not fit bisenet-resnet18"):
        import_checkpoint("face-parsing", tmp_path / "b.pth", tmp_path / "out")


def test_the_published_parser_is_known():
    known = KNOWN["468e13ca13a9b43cc0881a9f99083a430e9c0a38abd935431d1c28ee94b26567"]
    assert known.format == "face-parsing" and "79999_iter.pth" in known.source


class Hostile:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (self.trace,)


def hostile(path):
    torch.save({"weight": Hostile(f"{path}.ran")}, path)


def hostile_legacy(path):
    torch.save({"weight": Hostile(f"{path}.ran")}, path, _use_new_zipfile_serialization=False)


def hostile_plain(path):
    path.write_bytes(pickle.dumps({"weight": Hostile(f"{path}.ran")}, protocol=2))


def truncated(path):
    torch.save(state("ultralight-slim"), path)
    path.write_bytes(path.read_bytes()[:200_000])


def truncated_legacy(path):
    torch.save(state("ultralight-slim"), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:200_000])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (hostile, "asks to run code"),
        (hostile_legacy, "asks to run code"),
        (hostile_plain, "is refused|is not a PyTorch checkpoint"),
        (truncated, "truncated or damaged"),
        (truncated_legacy, "truncated or damaged"),
        (lambda path: path.write_bytes(b""), "not a PyTorch checkpoint"),
        (lambda path: path.write_text("a text"), "not a PyTorch checkpoint"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: None, "No such file"),
        (lambda path: torch.save([torch.zeros(2)], path), "no state dictionary"),
        (lambda path: torch.save({}, path), "no state dictionary"),
        (lambda path: torch.save({"a": "text"}, path), "no plain tensor"),
        (lambda path: torch.save({"a": torch.eye(2).to_sparse()}, path), "no plain tensor"),
        (lambda path: torch.save(torch.nn.Linear(2, 2), path), "asks to run code"),
        # A terabyte of zeros in a few bytes: seen by its shape, never allocated.
        (lambda path: torch.save({"a": torch.zeros(1).expand(1 << 38)}, path), "does not fit"),
    ],
)
def test_foreign_damaged_and_hostile_files_are_refused_in_one_sentence(tmp_path, make, words):
    path = tmp_path / "a.pth"
    make(path)
    with pytest.raises(ModelFileError, match=words) as caught:
        import_checkpoint("pytorch-retinaface", path, tmp_path / "out.safetensors")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not Path(f"{path}.ran").exists() and not (tmp_path / "out.safetensors").exists()


def test_weights_that_are_not_finite_are_refused(tmp_path):
    tensors = state("ultralight-slim")
    tensors["base_net.0.0.weight"][0] = torch.nan
    torch.save(tensors, tmp_path / "a.pth")
    with pytest.raises(NnfaceError, match="not finite"):
        import_checkpoint("ultra-light", tmp_path / "a.pth", tmp_path / "out", 320)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "format", "size", "words"),
    [
        ("fd1mb_mobilenet0.25_Final.pth", "pytorch-retinaface", None, "nnface import face-detector-1mb"),
        ("biubug6_mobilenet0.25_Final.pth", "face-detector-1mb", None, "nnface import pytorch-retinaface"),
        ("version-RFB-320.pth", "face-detector-1mb", None, "nnface import ultra-light"),
        ("version-RFB-320.pth", "ultra-light", 640, "trained at 320"),
        ("fd1mb_RBF_Final.pth", "face-detector-1mb", 320, "--size is for ultra-light"),
        ("fd1mb_RBF_Final.pth", "yakhyo", None, "cannot import yakhyo yet"),
        ("mobilenetV1X0.25_pretrain.tar", "pytorch-retinaface", None, "ImageNet backbone"),
    ],
)
def test_a_known_file_under_a_wrong_name_is_refused(tmp_path, name, format, size, words):
    with pytest.raises(NnfaceError, match=words):
        import_checkpoint(format, shared(f"reference/checkpoints/{name}"), tmp_path / "out", size)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_is_not_overwritten_by_its_own_import(tmp_path):
    torch.save(state("ultralight-slim"), tmp_path / "a.pth")
    before = (tmp_path / "a.pth").read_bytes()
    with pytest.raises(UsageError, match="name another file"):
        import_checkpoint("ultra-light", tmp_path / "a.pth", tmp_path / "a.pth", 320)
    assert (tmp_path / "a.pth").read_bytes() == before


def nnface(*arguments, torch_there=True):
    """The command line in a process of its own, where importing torch may be an error."""
    block = "" if torch_there else "sys.modules['torch'] = None; "
    code = f"import sys; {block}from nnface.commands import main; main(sys.argv[1:])"
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)


def test_the_commands_without_torch_name_the_extra(tmp_path):
    for arguments in (["import", "ultra-light", "a.pth", "--out", tmp_path / "a"], ["export", "a", "--to", "onnx"]):
        done = nnface(*arguments, torch_there=False)
        assert done.returncode == 2
        assert "pip install 'nnface[train]'" in done.stderr and len(done.stderr.splitlines()) == 1


def test_the_command_warns_of_a_file_that_it_does_not_know(tmp_path):
    torch.save(state("ultralight-slim"), tmp_path / "a.pth")
    done = nnface("import", "ultra-light", tmp_path / "a.pth", "--out", tmp_path / "a.safetensors", "--size", "320")
    assert done.returncode == 0, done.stderr
    assert "not a file that nnface knows" in done.stderr and "ultralight-slim" in done.stdout
    assert read_spec(tmp_path / "a.safetensors").input.width == 320
