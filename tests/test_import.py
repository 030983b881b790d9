"""Published checkpoints become model files that detect as the projects recorded, and foreign files are refused."""

import json
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
from safetensors import safe_open

from conftest import shared
from nnface.errors import ModelFileError, NnfaceError, UsageError
from nnface.export.onnx import export
from nnface.export.published import FORMATS, import_backbone, import_checkpoint, torchvision
from nnface.export.published.checkpoint import KNOWN
from nnface.files import sha256
from nnface.geometry import anchors, boxes
from nnface.header import read_spec
from nnface.models import file, resnet
from nnface.models.checkpoint import read_backbone
from nnface.models.create import create
from nnface.models.mobilenet import MobileNetV2
from nnface.predict.detector import Detector
from nnface.runtime import open_model
from nnface.runtime.torch import TorchRunner
from nnface.spec import CELEBAMASK_LABELS
from test_parity_networks import YAKHYO, assert_close, formula_input, published_keys, with_formula_weights
from tiny_models import bright_detector

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


def detect(runner, spec, image, min_score, offset):
    """Boxes, points and scores as the old projects compute them: the picture as it is, or squashed to a fixed input."""
    plan, coding = spec.input, spec.detection
    height, width = image.shape[:2]
    if plan.color == "rgb":
        image = image[..., ::-1]
    if plan.width:
        image = cv2.resize(np.ascontiguousarray(image), (plan.width, plan.height))
    batch = ((image.astype(np.float32) - plan.mean) / plan.std).transpose(2, 0, 1)[None].astype(np.float32)
    outputs = runner.run(batch)
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
        found, points, scores = detect(TorchRunner(module, spec), spec, photo(key), 0.02, offset=1)
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
        found, _, scores = detect(TorchRunner(module, spec), spec, photo(key), 0.01, offset=0)
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


# Formats without a file here: checkpoints with the published names and formula weights, against the recorded outputs.


def yakhyo_checkpoint(architecture, path):
    """A checkpoint of yakhyo's for a network of ours; returns the network."""
    module = with_formula_weights(architecture, YAKHYO)
    names = published_keys(module, YAKHYO)
    assert any(name.startswith("class_head.class_head.0") for name in names.values())
    torch.save({names[key]: tensor for key, tensor in module.state_dict().items()}, path)
    return module


@pytest.mark.parametrize(
    ("theirs", "architecture"),
    [
        ("mobilenetv1_0.25", "retinaface-mobilenet025"),
        ("mobilenetv1_0.50", "retinaface-mobilenet050"),
        pytest.param("mobilenetv1", "retinaface-mobilenet100", marks=pytest.mark.slow),
        ("mobilenetv2", "retinaface-mobilenetv2"),
        ("resnet18", "retinaface-resnet18"),
        pytest.param("resnet34", "retinaface-resnet34", marks=pytest.mark.slow),
    ],
)
def test_yakhyo_comes_in_with_all_its_backbones(tmp_path, theirs, architecture):
    yakhyo_checkpoint(architecture, tmp_path / "a.pth")
    spec, known = import_checkpoint("yakhyo", tmp_path / "a.pth", tmp_path / "a.safetensors")
    assert not known and spec.architecture == architecture == read_spec(tmp_path / "a.safetensors").architecture
    assert (spec.input.color, spec.input.mean) == ("bgr", (104, 117, 123)) and "non-commercial" in spec.licence
    assert spec.detection.anchor_sizes == ((16, 32), (64, 128), (256, 512))
    found = open_model(tmp_path / "a.safetensors").run(formula_input((1, 3, 128, 160), 7).numpy())
    recorded = np.load(shared("reference/recorded/formula_retinaface_yakhyo_variants.npz"))
    assert_close(found["boxes"][0, ::5], recorded[f"{theirs}/loc_every5"], "boxes")
    assert_close(found["landmarks"][0, ::5], recorded[f"{theirs}/landms_every5"], "landmarks")
    np.testing.assert_allclose(found["scores"][0, ::5], recorded[f"{theirs}/conf_every5"][:, 1], rtol=0, atol=1e-5)


def test_supernotman_comes_in_and_means_what_its_own_code_says(tmp_path):
    module = with_formula_weights("retinaface-dense-resnet50")
    # The published file was saved from DataParallel.
    torch.save({f"module.{key}": tensor for key, tensor in module.state_dict().items()}, tmp_path / "a.pth")
    spec, known = import_checkpoint("retinaface-pytorch", tmp_path / "a.pth", tmp_path / "a.safetensors")
    assert not known and spec.architecture == "retinaface-dense-resnet50"
    assert (spec.input.color, spec.input.mean, spec.input.std) == ("rgb", (0, 0, 0), (1, 1, 1))
    sides = [level[0] for level in spec.detection.anchor_sizes]
    assert sides == [16, 64, 256] and [level[2] for level in spec.detection.anchor_sizes] == [32, 128, 512]
    assert "no licence stated" in spec.licence and "non-commercial" in spec.licence
    recorded = np.load(shared("reference/recorded/formula_retinaface_resnet50_supernotman.npz"))
    runner = open_model(tmp_path / "a.safetensors")
    for case in "ab":
        images = formula_input(recorded[f"{case}/input_shape"], recorded[f"{case}/input_seed"]).numpy()
        found = {name: values[0] for name, values in runner.run(images).items()}
        np.testing.assert_allclose(found["scores"], np.exp(recorded[f"{case}/logprob"][:, 0]), rtol=0, atol=1e-5)
        coding, (height, width) = spec.detection, images.shape[2:]
        assert coding.clip_boxes and coding.nms_iou == 0.3
        grid = anchors.grid(height, width, coding.strides, coding.anchor_sizes)
        limit = np.array([width, height], np.float32)
        # As the Detector has it; on a picture of 160 pixels formula weights make boxes of thousands.
        corners = np.clip(boxes.decode(found["boxes"], grid, coding.variances), 0, np.tile(limit, 2))
        points = np.clip(boxes.decode_points(found["landmarks"], grid, coding.variances), 0, limit)
        assert_close(corners, recorded[f"{case}/boxes"].reshape(corners.shape), f"{case} boxes")
        assert_close(points.reshape(-1, 10), recorded[f"{case}/landmarks"].reshape(-1, 10), f"{case} landmarks")


# torchvision: a backbone to train from


def imagenet(build, counters=True):
    """What torchvision publishes for a body of ours: the same names, and a classifier of 1000 classes."""
    torch.manual_seed(1)
    body = build()
    last = body.channels[-1]
    tensors = {k: v for k, v in body.state_dict().items() if counters or not k.endswith("num_batches_tracked")}
    name = "classifier.1" if last == 1280 else "fc"
    return {**tensors, f"{name}.weight": torch.randn(1000, last), f"{name}.bias": torch.zeros(1000)}


@pytest.mark.parametrize("counters", [True, False], ids=["today's", "of before 2018"])
@pytest.mark.parametrize(
    ("name", "build", "network"),
    [("resnet18", resnet.resnet18, "retinaface-resnet18"), ("mobilenetv2", MobileNetV2, "retinaface-mobilenetv2")],
)
def test_a_backbone_of_torchvision_is_taken_by_a_training(tmp_path, name, build, network, counters):
    tensors = imagenet(build, counters)
    torch.save(tensors, tmp_path / "a.pth")
    out = tmp_path / "backbone.safetensors"
    assert import_backbone(tmp_path / "a.pth", out) == (name, torchvision.TERMS, False)
    module = create(network)
    direct, imported = read_backbone(tmp_path / "a.pth", module), read_backbone(out, module)
    assert {f"body.{key}" for key in module.body.state_dict()} == set(imported)
    assert direct.keys() <= imported.keys() and not any("fc" in key or "classifier" in key for key in imported)
    assert all(torch.equal(tensor, imported[key]) for key, tensor in direct.items())
    with safe_open(out, "pt") as content:
        about = json.loads(content.metadata()["nnface-backbone"])
    assert (about["network"], about["data"], about["sha256"]) == (name, "ImageNet", sha256(tmp_path / "a.pth"))
    # It is no model, and whoever takes it for one is told what it is for.
    with pytest.raises(ModelFileError, match=r"finds no faces; train with it: --set model\.backbone="):
        Detector(out)
    with pytest.raises(ModelFileError, match="not a backbone for this network"):
        read_backbone(out, create("retinaface-mobilenet025"))


def test_what_is_no_backbone_is_refused(tmp_path):
    tensors = imagenet(resnet.resnet18)
    del tensors["layer1.0.conv1.weight"]
    tensors["layer4.1.bn2.weight"], tensors["layer9.weight"] = torch.zeros(3), torch.zeros(1)
    torch.save(tensors, tmp_path / "a.pth")
    with pytest.raises(ModelFileError) as caught:
        import_backbone(tmp_path / "a.pth", tmp_path / "out.safetensors")
    for words in ("resnet18", "missing: layer1.0.conv1", "not of it: layer9.weight", "bn2.weight (3 instead of 512)"):
        assert words in str(caught.value)
    good = imagenet(resnet.resnet18)
    good["conv1.weight"][0] = torch.inf
    torch.save(good, tmp_path / "b.pth")
    with pytest.raises(ModelFileError, match="not finite"):
        import_backbone(tmp_path / "b.pth", tmp_path / "out.safetensors")
    hostile(tmp_path / "c.pth")
    with pytest.raises(ModelFileError, match="asks to run code"):
        import_backbone(tmp_path / "c.pth", tmp_path / "out.safetensors")
    torch.save(imagenet(resnet.resnet18), tmp_path / "d.pth")
    with pytest.raises(UsageError, match=r"\.safetensors file; name it so"):
        import_backbone(tmp_path / "d.pth", tmp_path / "out.onnx")
    assert not list(tmp_path.glob("out*"))
    (tmp_path / "e.safetensors").write_bytes((100).to_bytes(8, "little") + b"{")
    with pytest.raises(ModelFileError, match=r"e\.safetensors is damaged"):
        read_backbone(tmp_path / "e.safetensors", create("retinaface-resnet18"))


def test_known_files_name_formats_that_are_there():
    assert {known.format for known in KNOWN.values()} == {*FORMATS, "torchvision", None} - {
        "fairface",  # of these nobody has put a hash on record
        "yakhyo",
        "retinaface-pytorch",
    }
    assert all(len(start) in (8, 64) and set(start) <= set("0123456789abcdef") for start in KNOWN)


def test_an_onnx_file_is_no_checkpoint(tmp_path):
    bright_detector(tmp_path / "a.onnx")
    with pytest.raises(ModelFileError, match="looks like an ONNX file; ultra-light reads checkpoints of PyTorch"):
        import_checkpoint("ultra-light", tmp_path / "a.onnx", tmp_path / "out.safetensors", 320)
    with pytest.raises(ModelFileError, match="looks like an ONNX file"):
        path = shared("peers/ulfg/version-RFB-640.onnx")
        import_checkpoint("ultra-light", path, tmp_path / "out.safetensors", 640)


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
        ("fd1mb_RBF_Final.pth", "yakhyo", None, "nnface import face-detector-1mb"),
        ("fd1mb_RBF_Final.pth", "yunet", None, "nnface import face-detector-1mb"),
        ("mobilenetV1X0.25_pretrain.tar", "pytorch-retinaface", None, "--set model.backbone"),
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


def test_the_command_without_torch_names_the_extra(tmp_path):
    done = nnface("import", "ultra-light", tmp_path / "a.pth", "--out", tmp_path / "a", torch_there=False)
    assert done.returncode == 2 and "a.pth is not there" in done.stderr  # before anything is installed for it
    (tmp_path / "a.pth").write_bytes(b"weights")
    done = nnface("import", "ultra-light", tmp_path / "a.pth", "--out", tmp_path / "a", torch_there=False)
    assert done.returncode == 2
    assert "pip install 'nnface[train]'" in done.stderr and len(done.stderr.splitlines()) == 1


def test_the_command_warns_of_a_file_that_it_does_not_know(tmp_path):
    torch.save(state("ultralight-slim"), tmp_path / "a.pth")
    done = nnface("import", "ultra-light", tmp_path / "a.pth", "--out", tmp_path / "a.safetensors", "--size", "320")
    assert done.returncode == 0, done.stderr
    assert "not a file that nnface knows" in done.stderr and "ultralight-slim" in done.stdout
    assert read_spec(tmp_path / "a.safetensors").input.width == 320
