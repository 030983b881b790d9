"""The weights that a training starts from: model files, exported files, published backbones."""

import hashlib
import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file

from conftest import shared
from nnface import Detector
from nnface.datasets import widerface
from nnface.errors import ModelFileError, TrainingError
from nnface.export.onnx import export
from nnface.models import file as model_file
from nnface.models.create import create
from nnface.training import recipe
from nnface.training.detection import DetectionTask
from nnface.training.start import start

STILL = ["loop.steps=1", "optimizer.lr=1e-12", "loop.ema=0", "loop.freeze_batch_norm=true"]
"""A step that leaves the weights where they were."""


def assert_close_weights(ended, begun):
    after = load_file(ended)
    for name, value in load_file(begun).items():
        torch.testing.assert_close(after[name], value)


def test_init_starts_from_a_model_file(small, data, tmp_path):
    source = [f"widerface:{data}"]
    first = start(str(small), source, tmp_path / "a", overrides=["loop.steps=2"])
    start(str(small), source, tmp_path / "b", init=first, overrides=STILL)
    assert_close_weights(tmp_path / "b" / "last.safetensors", first)


def test_weights_that_training_did_not_better_stay_the_best(small, data, tmp_path, capsys):
    source, plain = [f"widerface:{data}"], ["crops.mosaic=0", "crops.occlude=0", "crops.photometric=false"]
    good = ["optimizer.lr=0.01", "loop.steps=100", "loop.evaluate_every=100"]
    first = start(str(small), source, tmp_path / "a", overrides=[*plain, *good])
    capsys.readouterr()
    best = start(str(small), source, tmp_path / "b", init=first, overrides=["loop.steps=4", "optimizer.lr=1.0"])
    rows = [json.loads(line) for line in (tmp_path / "b" / "metrics.jsonl").open()]
    measured = [row for row in rows if "best" in row]
    assert [row["step"] for row in measured] == [0, 4]
    assert measured[0]["best"] > measured[1]["best"]
    assert_close_weights(best, first)
    told = capsys.readouterr().err
    assert re.search(r"^\d+ pictures to train on, 1 kept for choosing; too few to tell", told, re.M)
    assert "step 0  evaluated: easy@128" in told


def test_a_run_that_stopped_before_its_first_state_begins_from_init_again(small, data, tmp_path):
    source = [f"widerface:{data}"]
    first = start(str(small), source, tmp_path / "a", overrides=["loop.steps=2"])
    start(str(small), source, tmp_path / "b", init=first, overrides=STILL)
    for name in ("state.pt", "best.safetensors", "last.safetensors"):
        (tmp_path / "b" / name).unlink()
    for other in (None, "default"):
        with pytest.raises(TrainingError, match=r"before its first state was saved, .* --init with small \(sha256"):
            start(str(small), source, tmp_path / "b", init=other, resume=True, overrides=STILL)
    start(str(small), source, tmp_path / "b", init=first, resume=True, overrides=STILL)
    assert_close_weights(tmp_path / "b" / "last.safetensors", first)


def test_weights_say_what_they_started_from_after_a_resume_too(small, data, tmp_path):
    source = [f"widerface:{data}"]
    first = start(str(small), source, tmp_path / "a", overrides=["loop.steps=1"])
    assert "init" not in model_file.load(first)[1].provenance
    began = f"small (sha256 {hashlib.sha256(first.read_bytes()).hexdigest()})"
    second = start(str(small), source, tmp_path / "b", init=first, overrides=["loop.steps=2", "loop.save_every=1"])
    assert model_file.load(second)[1].provenance["init"] == began
    first.unlink()  # a resumed run does not need it
    for name in ("best", "last"):
        (tmp_path / "b" / f"{name}.safetensors").unlink()
    plan = ["loop.steps=2", "loop.save_every=1"]
    start(str(small), source, tmp_path / "b", resume=True, init=first, overrides=plan)
    assert model_file.load(tmp_path / "b" / "last.safetensors")[1].provenance["init"] == began
    # The recipe of that run as a recipe of its own: what starts afresh does not claim that origin.
    fresh = start(str(tmp_path / "b" / "recipe.toml"), source, tmp_path / "c", overrides=["loop.steps=1"])
    assert "init" not in model_file.load(fresh)[1].provenance


def test_init_starts_from_an_exported_file(small, data, tmp_path):
    source = [f"widerface:{data}"]
    first = start(str(small), source, tmp_path / "a", overrides=["loop.steps=12", "optimizer.lr=0.01"])
    exported = tmp_path / "first.onnx"
    export(first, exported)
    start(str(small), source, tmp_path / "b", init=exported, overrides=STILL)
    detectors = [Detector(p, min_score=0.0) for p in (exported, tmp_path / "b" / "last.safetensors")]
    picture = next((data / "WIDER_train").rglob("*.jpg"))
    boxes = [detector(picture).boxes for detector in detectors]
    assert len(boxes[0]) > 0
    torch.testing.assert_close(torch.from_numpy(boxes[1]), torch.from_numpy(boxes[0]), rtol=1e-3, atol=1e-2)
    # What a batch norm holds is what it sees, so that normalising by the batch changes little.
    module = model_file.load(tmp_path / "b" / "last.safetensors")[0]
    norms = [m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(float(norm.running_var.min()) >= 0 and float(norm.running_var.max()) != 1 for norm in norms)


@pytest.mark.parametrize(
    ("override", "words"),
    [("model.settings.neck=32", "its settings is"), ("model.architecture=retinaface-mobilenet025", "its network is")],
)
def test_init_of_another_network_is_refused(small, data, tmp_path, override, words):
    first = start(str(small), [f"widerface:{data}"], tmp_path / "a", overrides=["loop.steps=1"])
    more = ["model.settings={}", "loss.kind=multibox"] if "architecture" in override else []
    with pytest.raises(ModelFileError, match=words):
        start(str(small), [f"widerface:{data}"], tmp_path / "b", init=first, overrides=[override, *more])
    assert not (tmp_path / "b").exists()


def test_weights_are_told_by_their_content(small, data, tmp_path):
    source, plan = [f"widerface:{data}"], ["loop.steps=1"]
    first = start(str(small), source, tmp_path / "a", overrides=plan)
    export(first, tmp_path / "b.onnx")
    for name, made in (("c.onnx", first), ("d.safetensors", tmp_path / "b.onnx")):
        shutil.copy(made, tmp_path / name)
        best = start(str(small), source, tmp_path / f"from-{name}", init=tmp_path / name, overrides=plan)
        begun = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        assert begun in model_file.load(best)[1].provenance["init"]


def test_init_of_other_settings_is_refused(small, data, tmp_path):
    source = [f"widerface:{data}"]
    first = start(str(small), source, tmp_path / "a", overrides=["loop.steps=1"])
    with pytest.raises(ModelFileError, match="its settings is"):
        start(str(small), source, tmp_path / "b", init=first, overrides=["model.settings.neck=24"])


def backbone_file(path, architecture, prefix="", wrap=lambda state: state):
    """An ImageNet checkpoint of the network's body with a classifier of ten classes."""
    body = create(architecture).body
    state = {f"{prefix}{name}": tensor for name, tensor in body.state_dict().items()}
    torch.save(wrap(state | {f"{prefix}fc.weight": torch.zeros(10, 4), f"{prefix}fc.bias": torch.zeros(10)}), path)
    return body.state_dict()


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_backbone_starts_the_body(data, tmp_path, wrapped):
    name = "retinaface-mobilenet025"
    path = tmp_path / "body.tar"
    wrap = (lambda state: {"epoch": 1, "state_dict": state}) if wrapped else (lambda state: state)
    given = backbone_file(path, name, "module." if wrapped else "", wrap)
    plan = recipe.load(name, [f"model.backbone={path}"])
    assert recipe.parse(recipe.dump(plan), name) == plan
    task = DetectionTask(plan, {"widerface": widerface.read(data)})
    state = task.model().state_dict()
    assert all(torch.equal(state[f"body.{key}"], value) for key, value in given.items())
    assert "body.tar (sha256 " in task.spec().provenance["backbone"]


def test_a_backbone_must_fit_and_be_whole(data, tmp_path):
    samples = {"widerface": widerface.read(data)}
    path = tmp_path / "body.pth"

    def read():
        DetectionTask(recipe.load("retinaface-mobilenet025", [f"model.backbone={path}"]), samples)

    with pytest.raises(ModelFileError, match=r"cannot read .*body\.pth"):
        read()
    backbone_file(path, "retinaface-mobilenet050")
    with pytest.raises(ModelFileError, match="of another shape"):
        read()
    backbone_file(path, "retinaface-mobilenet025", wrap=lambda state: dict(list(state.items())[1:]))
    with pytest.raises(ModelFileError, match="1 missing"):
        read()
    backbone_file(path, "retinaface-mobilenet025", wrap=lambda state: state | {"layer9.weight": torch.ones(1)})
    with pytest.raises(ModelFileError, match=r"1 not of it .*layer9"):
        read()
    path.write_bytes(b"no checkpoint")
    with pytest.raises(ModelFileError, match="not a PyTorch checkpoint"):
        read()


def test_the_published_imagenet_backbone(data):
    path = shared("reference/checkpoints/mobilenetV1X0.25_pretrain.tar")
    plan = recipe.load("retinaface-mobilenet025", [f"model.backbone={path}"])
    task = DetectionTask(plan, {"widerface": widerface.read(data)})
    original = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    state = task.model().state_dict()
    assert torch.equal(state["body.stage3.1.3.weight"], original["module.stage3.1.3.weight"])
    body = sum(name.startswith("body.") for name in state)
    assert body == sum(not name.startswith("module.fc.") for name in original)
