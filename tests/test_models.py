"""One test walks every network that can be created; others what they have in common."""

import dataclasses
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nnface.errors import DeviceError, UsageError
from nnface.geometry.anchors import grid
from nnface.models import file
from nnface.models.create import ARCHITECTURES, create, default_spec
from nnface.runtime.torch import TorchRunner
from nnface.spec import CELEBAMASK_LABELS, LABEL_ORDERS, parse

CLASSIFIERS = [name for name in ARCHITECTURES if name.startswith("classifier-")]
PARSERS = [name for name in ARCHITECTURES if name.startswith(("parser", "bisenet-"))]
DETECTORS = [name for name in ARCHITECTURES if name not in CLASSIFIERS and name not in PARSERS]


def anchor_count(network, height, width):
    detection = network.default_detection
    return len(grid(height, width, detection.strides, detection.anchor_sizes, detection.clip_anchors))


@pytest.mark.parametrize("architecture", DETECTORS)
def test_every_detector(architecture):
    torch.manual_seed(0)
    network = create(architecture)
    assert network.training
    network.eval()
    for height, width in [(64, 96), (33, 47)]:
        with torch.no_grad():
            outputs = network(torch.randn(2, 3, height, width))
            scores = network.scores(outputs["logits"])
        anchors = anchor_count(network, height, width)
        classes = outputs["logits"].shape[2]
        assert outputs["logits"].shape == (2, anchors, classes)
        assert outputs["boxes"].shape == (2, anchors, 4)
        assert scores.shape == (2, anchors)
        assert scores.min() >= 0
        assert scores.max() <= 1
        if "landmarks" in outputs:
            assert outputs["landmarks"].shape == (2, anchors, 10)
        assert all(values.isfinite().all() and values.dtype == torch.float32 for values in outputs.values())
        assert network.default_detection.landmarks == ("landmarks" in outputs)


@pytest.mark.parametrize("architecture", CLASSIFIERS)
def test_every_classifier(architecture):
    torch.manual_seed(0)
    for races in (7, 4):
        network = create(architecture, {"races": races}).eval()
        for height, width in [(64, 96), (33, 47)]:
            with torch.no_grad():
                outputs = network(torch.randn(2, 3, height, width))
            assert {k: tuple(v.shape) for k, v in outputs.items()} == {
                "race": (2, races),
                "gender": (2, 2),
                "age": (2, 9),
            }
            assert all(values.isfinite().all() and values.dtype == torch.float32 for values in outputs.values())
    with pytest.raises(UsageError, match="7 races, or 4"):
        create(architecture, {"races": 5})


def test_an_ensemble_answers_with_the_mean_of_its_members():
    network = create("classifier-ensemble", {"members": 3, "stem": 8, "widths": [8, 8], "depths": [1, 1]}).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        found, alone = network(images), [member(images) for member in network.members]
    assert len(alone) == 3
    for head, values in found.items():
        torch.testing.assert_close(values, sum(answer[head] for answer in alone) / 3)
    with pytest.raises(UsageError, match="0 members answer nothing"):
        create("classifier-ensemble", {"members": 0})
    with pytest.raises(UsageError, match="impossible: dropout probability"):
        create("classifier-compact", {"dropout": 7})


@pytest.mark.parametrize("architecture", PARSERS)
def test_every_parser(architecture):
    torch.manual_seed(0)
    network = create(architecture).eval()
    for height, width in [(64, 96), (33, 47)]:
        with torch.no_grad():
            outputs = network(torch.randn(2, 3, height, width))
        assert list(outputs) == ["logits"]
        batch, labels, rows, columns = outputs["logits"].shape
        assert (batch, labels) == (2, len(network.labels))
        # A grid that covers the input: whole cells, as many to the pixel either way.
        assert any((rows, columns) == (-(-height // cell), -(-width // cell)) for cell in (1, 2, 4, 8))
        assert outputs["logits"].isfinite().all() and outputs["logits"].dtype == torch.float32
    assert sorted(network.labels) == sorted(CELEBAMASK_LABELS) and network.labels[0] == "background"


@pytest.mark.parametrize("settings", [{}, {"separable": False, "width": 0.25, "neck": 32}])
def test_bisenet_has_two_more_outputs_in_training(settings):
    torch.manual_seed(0)
    network = create("bisenet-mobile", settings)
    outputs = network(torch.randn(2, 3, 45, 70))
    assert {name: tuple(values.shape) for name, values in outputs.items()} == dict.fromkeys(
        ("logits", "auxiliary_16", "auxiliary_32"), (2, 19, 45, 70)
    )
    groups = {module.groups for module in network.modules() if isinstance(module, nn.Conv2d)}
    assert (groups == {1}) == (settings != {})


def test_bisenet_names_its_labels_in_the_order_that_is_asked_for():
    assert default_spec("bisenet-resnet18", labels="celebamask").segmentation.labels == CELEBAMASK_LABELS
    assert default_spec("bisenet-mobile").segmentation.labels == LABEL_ORDERS["zllrunning"] != CELEBAMASK_LABELS
    with pytest.raises(UsageError, match="there are celebamask, zllrunning"):
        create("bisenet-mobile", {"labels": "alphabetical"})


SLOW = {"retinaface-resnet101", "retinaface-resnet152"}


@pytest.mark.parametrize(
    "architecture", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in ARCHITECTURES]
)
def test_every_parameter_learns(architecture):
    torch.manual_seed(0)
    network = create(architecture)
    for module in network.modules():  # a block that begins as the identity hides what lies behind its zero
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    outputs = network(torch.randn(2, 3, 40, 72))
    sum(values.square().sum() for values in outputs.values()).backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_every_default_spec_survives_json(architecture):
    spec = default_spec(architecture, licence="Apache-2.0")
    assert parse(spec.to_json(), "test") == spec
    task = "classify" if architecture in CLASSIFIERS else "segment" if architecture in PARSERS else "detect"
    assert (spec.task, spec.architecture, spec.licence) == (task, architecture, "Apache-2.0")


@pytest.mark.parametrize("architecture", ["ultralight-rfb-landmarks", "retinaface-mobilenet025"])
def test_pictures_of_a_batch_do_not_know_each_other(architecture):
    torch.manual_seed(0)
    network = create(architecture).eval()
    images = torch.randn(3, 3, 50, 70)
    with torch.no_grad():
        together = network(images)
        alone = network(images[1:2])
    for name, values in alone.items():
        torch.testing.assert_close(together[name][1:2], values, rtol=0, atol=1e-5)


def test_the_face_is_class_1_but_class_0_for_supernotman():
    logits = torch.tensor([[[2.0, -1.0], [-3.0, 4.0]]])
    with torch.device("meta"):
        background_first, face_first = create("retinaface-resnet18"), create("retinaface-dense-resnet50")
    torch.testing.assert_close(background_first.scores(logits), logits.softmax(-1)[..., 1])
    torch.testing.assert_close(face_first.scores(logits), logits.softmax(-1)[..., 0])


@pytest.mark.parametrize(
    ("architecture", "settings", "words"),
    [
        ("retinaface-mobilnet025", {}, "did you mean retinaface-mobilenet025"),
        ("zzzzz", {}, "there are anchorfree, ultralight-slim"),
        ("ultralight-slim", {"depth": 3}, "no setting named 'depth'; it has none"),
        ("anchorfree", {"dept": 3}, "no setting named 'dept'; it has stem, widths"),
    ],
)
def test_unknown_networks_and_settings(architecture, settings, words):
    with pytest.raises(UsageError, match=words):
        create(architecture, settings)
    with pytest.raises(UsageError, match=words):
        default_spec(architecture, **settings)


def test_a_module_in_training_runs_as_a_detector_and_goes_on_training():
    torch.manual_seed(0)
    network = create("retinaface-mobilenet025")
    network.body.stage1.eval()  # frozen batch norms
    modes = [module.training for module in network.modules()]
    before = {name: values.clone() for name, values in network.state_dict().items()}
    runner = TorchRunner(network, default_spec("retinaface-mobilenet025"))
    batch = np.random.default_rng(0).standard_normal((2, 3, 50, 70)).astype(np.float32)
    outputs = runner.run(batch)

    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(values, before[name]) for name, values in network.state_dict().items())
    assert sorted(outputs) == ["boxes", "landmarks", "scores"]
    assert all(values.dtype == np.float32 for values in outputs.values())
    network.eval()
    with torch.no_grad():
        raw = network(torch.from_numpy(batch))
    np.testing.assert_array_equal(outputs["boxes"], raw["boxes"].numpy())
    np.testing.assert_array_equal(outputs["landmarks"], raw["landmarks"].numpy())
    np.testing.assert_allclose(outputs["scores"], raw["logits"].softmax(-1)[..., 1].numpy(), atol=1e-6)
    assert (runner.device, runner.spec.architecture) == ("cpu", "retinaface-mobilenet025")


def test_a_runner_that_fails_leaves_the_module_in_training():
    network = create("ultralight-slim")
    runner = TorchRunner(network, default_spec("ultralight-slim"))
    with pytest.raises(RuntimeError):
        runner.run(np.zeros((1, 5, 64, 64), np.float32))
    assert all(module.training for module in network.modules())


def test_a_module_in_training_runs_in_two_threads_and_goes_on_training():
    network = create("ultralight-slim")
    runner = TorchRunner(network, default_spec("ultralight-slim"))
    modes = []
    network.register_forward_hook(lambda module, *_: modes.append(any(part.training for part in module.modules())))
    batch = np.zeros((1, 3, 32, 32), np.float32)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # threads take turns within a run
    try:
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(runner.run, [batch] * 100))
    finally:
        sys.setswitchinterval(interval)
    assert modes == [False] * 100
    assert all(module.training for module in network.modules())


@pytest.mark.parametrize("device", ["cuda:99", "meta", "toaster"])
def test_a_device_that_is_not_there(device):
    with pytest.raises(DeviceError, match=device):
        TorchRunner(create("ultralight-slim"), default_spec("ultralight-slim"), device)


def test_defaults_of_the_published_families():
    specs = {name: default_spec(name) for name in ARCHITECTURES}
    ultralight = specs["ultralight-rfb"]
    assert ultralight.detection.clip_anchors
    assert (ultralight.input.fit, ultralight.input.color, ultralight.input.std) == ("stretch", "rgb", (128.0,) * 3)
    small, large = specs["retinaface-mobilenet025-relu"].detection, specs["retinaface-mobilenet025"].detection
    assert small == dataclasses.replace(large, anchor_sizes=((10, 20), (32, 64), (128, 256)))
    assert specs["retinaface-dense-resnet50"].input.mean == (0, 0, 0)


@pytest.mark.parametrize(
    ("architecture", "settings", "depths", "blocks"),
    [
        (
            "anchorfree",
            {"stem": 8, "widths": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "neck": 16, "head_depth": 1},
            [1, 2, 1, 3],
            3,
        ),
        ("classifier-compact", {"stem": 8, "widths": [8, 16], "depths": [1, 2]}, [3, 2], 2),
    ],
)
def test_a_deeper_network_answers_as_the_one_that_it_was_made_of(tmp_path, architecture, settings, depths, blocks):
    torch.manual_seed(0)
    given = create(architecture, settings).train()
    images = torch.rand(4, 3, 64, 64)
    given(images)  # statistics and weights of its own
    file.save(tmp_path / "a.safetensors", given, default_spec(architecture, **settings))
    tool = Path(__file__).parents[1] / "tools/deepen.py"
    words = ["--depths", ",".join(map(str, depths)), "--out", tmp_path / "b.safetensors"]
    subprocess.run([sys.executable, tool, tmp_path / "a.safetensors", *words], check=True)
    deeper, spec = file.load(tmp_path / "b.safetensors")
    assert spec.settings["depths"] == depths
    assert len(list(deeper.parameters())) == len(list(given.parameters())) + 6 * blocks
    with torch.no_grad():
        before, after = given.eval()(images), deeper.eval()(images)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value)
    fewer = ["--depths", ",".join("1" for _ in depths), "--out", tmp_path / "c.safetensors"]
    refused = subprocess.run([sys.executable, tool, tmp_path / "b.safetensors", *fewer], capture_output=True, text=True)
    assert refused.returncode == 1 and "none smaller" in refused.stderr
