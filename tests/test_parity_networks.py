"""The networks compute what the reference projects compute: recorded outputs, with real and with formula weights.

Formula weights are derived from the names and shapes of the published state dicts (``../shared/reference/README.md``),
so that a recording needs no checkpoint. ``fixtures/networks.npz`` (made by ``fixtures/make_networks.py``) holds a part
of the recordings for machines without ``../shared``.
"""

import json
import re
import zlib
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from conftest import shared
from nnface.models.create import create

FIXTURE = Path(__file__).parent / "fixtures/networks.npz"

# Published names to ours; those of biubug6, Ultra-Light and supernotman are ours.
FACE_DETECTOR_1MB = [
    (r"^conv14\.", "extras.0."),
    (r"^conv(\d+)\.", lambda m: f"base_net.{int(m[1]) - 1}."),
    (r"^loc\.", "regression_headers."),
    (r"^conf\.", "classification_headers."),
    (r"^landm\.", "landmark_headers."),
]
YAKHYO = [
    (r"^fx\.(stage\d\.\d+)\.([01])\.([01])\.", lambda m: f"body.{m[1]}.{int(m[2]) * 3 + int(m[3])}."),
    (r"^fx\.", "body."),
    (r"^class_head\.class_head\.(\d)\.", r"ClassHead.\1.conv1x1."),
    (r"^bbox_head\.bbox_head\.(\d)\.", r"BboxHead.\1.conv1x1."),
    (r"^landmark_head\.landmark_head\.(\d)\.", r"LandmarkHead.\1.conv1x1."),
]


def rename(key: str, rules: Iterable) -> str:
    for pattern, replacement in rules:
        renamed, count = re.subn(pattern, replacement, key)
        if count:
            return renamed
    return key


def published_keys(network: nn.Module, rules: Iterable) -> dict[str, str]:
    """Our keys to the published ones: the one candidate that the rules turn into our key."""
    return {key: next(name for name in _candidates(key) if rename(name, rules) == key) for key in network.state_dict()}


def _candidates(key: str) -> Iterable[str]:
    """What a key of ours may be called by yakhyo, then by the others."""
    if head := re.match(r"(Class|Bbox|Landmark)Head\.(\d)\.conv1x1\.(.*)", key):
        name = f"{head[1].lower()}_head"
        yield f"{name}.{name}.{head[2]}.{head[3]}"
    block = re.match(r"body\.(stage\d\.\d+)\.(\d)\.(.*)", key)
    if block and block[1] != "stage1.0":
        yield f"fx.{block[1]}.{int(block[2]) // 3}.{int(block[2]) % 3}.{block[3]}"
    yield re.sub(r"^body\.", "fx.", key)
    yield key


def formula_tensor(key: str, shape: tuple[int, ...]) -> Tensor:
    """The tensor that the formula gives a published key."""
    r = np.random.RandomState(zlib.crc32(key.encode()))
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if key.endswith("running_mean"):
        values = 0.1 * r.standard_normal(shape)
    elif key.endswith("running_var"):
        values = r.uniform(0.5, 1.5, shape)
    elif len(shape) >= 2:
        values = r.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[1:]))
    elif key.endswith("weight"):
        values = r.uniform(0.5, 1.0, shape)
    else:
        values = 0.1 * r.standard_normal(shape)
    return torch.from_numpy(np.asarray(values, np.float32))


def with_formula_weights(architecture: str, rules: Iterable = ()) -> nn.Module:
    network = create(architecture)
    shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    names = published_keys(network, rules)
    assert names.keys() == shapes.keys()
    network.load_state_dict({key: formula_tensor(names[key], shape) for key, shape in shapes.items()})
    return network.eval()


def formula_input(shape: Iterable[int], seed: int) -> Tensor:
    return torch.from_numpy(np.random.RandomState(int(seed)).standard_normal(tuple(shape)).astype(np.float32))


def with_checkpoint(architecture: str, file: str, rules: Iterable = ()) -> nn.Module:
    state = torch.load(shared(f"reference/checkpoints/{file}"), map_location="cpu", weights_only=True)
    network = create(architecture)
    network.load_state_dict({rename(key, rules): tensor for key, tensor in state.items()})
    return network.eval()


@torch.no_grad()
def outputs(network: nn.Module, images: Tensor) -> dict[str, NDArray[np.float32]]:
    return {name: values.numpy() for name, values in network(images).items()}


def assert_close(actual: NDArray, expected: NDArray, what: str) -> None:
    """The tolerance that the recordings state for formula weights."""
    assert actual.shape == expected.shape, what
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5 * np.abs(expected).max(), err_msg=what)


def softmax(logits: NDArray) -> NDArray:
    return torch.from_numpy(logits).softmax(-1).numpy()


def read_bgr(photo: str) -> NDArray[np.uint8]:
    return cv2.imread(str(shared(f"reference/photos/{photo}.png")), cv2.IMREAD_COLOR)


# Every architecture against the published names and sizes.


@pytest.mark.parametrize(
    ("architecture", "file", "rules"),
    [
        ("retinaface-mobilenet025", "biubug6_mobilenet0.25_Final", []),
        ("retinaface-mobilenet025-relu", "fd1mb_mobilenet0.25_Final", []),
        ("retinaface-resnet50", "retinaface_resnet50_biubug6", []),
        ("retinaface-dense-resnet50", "retinaface_resnet50_supernotman", []),
        ("retinaface-resnet18", "retinaface_yakhyo_resnet18", YAKHYO),
        ("retinaface-resnet34", "retinaface_yakhyo_resnet34", YAKHYO),
        ("retinaface-mobilenetv2", "retinaface_yakhyo_mobilenetv2", YAKHYO),
        ("ultralight-slim", "ulfg_version-slim-320", []),
        ("ultralight-rfb", "ulfg_version-RFB-640", []),
        ("ultralight-slim-landmarks", "fd1mb_slim_Final", FACE_DETECTOR_1MB),
        ("ultralight-rfb-landmarks", "fd1mb_RBF_Final", FACE_DETECTOR_1MB),
        ("bisenet-resnet18", "bisenet_resnet18_19", []),
    ],
)
def test_state_dict_is_the_published_one(architecture, file, rules):
    published = json.loads(shared(f"reference/keys/{file}.json").read_text())
    with torch.device("meta"):
        network = create(architecture)
    ours = {key: list(tensor.shape) for key, tensor in network.state_dict().items()}
    assert ours == {rename(key, rules): shape for key, (shape, _) in published["keys"].items()}
    assert sum(parameter.numel() for parameter in network.parameters()) == published["params"]


# Real checkpoints on photographs.

PHOTOS = ["astronaut", "grace_hopper", "solvay_1927", "coffee"]


@pytest.mark.parametrize(
    ("recording", "architecture", "rules"),
    [
        ("biubug6_mobilenet0.25_Final", "retinaface-mobilenet025", []),
        ("fd1mb_mobilenet0.25_Final", "retinaface-mobilenet025-relu", []),
        ("fd1mb_RBF_Final", "ultralight-rfb-landmarks", FACE_DETECTOR_1MB),
        ("fd1mb_slim_Final", "ultralight-slim-landmarks", FACE_DETECTOR_1MB),
    ],
)
def test_published_weights_with_landmarks(recording, architecture, rules):
    recorded = np.load(shared(f"reference/recorded/detector_{recording}.npz"))
    network = with_checkpoint(architecture, f"{recording}.pth", rules)

    def run(photo):
        pixels = read_bgr(photo).astype(np.float32) - np.float32([104, 117, 123])
        found = outputs(network, torch.from_numpy(pixels.transpose(2, 0, 1))[None])
        return found["boxes"][0], found["logits"][0], found["landmarks"][0]

    boxes, logits, landmarks = run("astronaut_crop_123x165")
    for name, values in {"loc": boxes, "logits": logits, "landms": landmarks, "conf": softmax(logits)}.items():
        np.testing.assert_allclose(values, recorded[f"crop/{name}"], rtol=0, atol=3e-5, err_msg=name)
    for photo in PHOTOS:
        if f"{photo}/raw_every37" not in recorded:
            continue
        boxes, logits, landmarks = run(photo)
        raw = np.concatenate([boxes, softmax(logits), landmarks], 1)
        assert len(raw) == recorded[f"{photo}/num_anchors"]
        np.testing.assert_allclose(raw[::37], recorded[f"{photo}/raw_every37"], rtol=0, atol=3e-5, err_msg=photo)
        mean, expected = raw.mean(0, dtype=np.float64), recorded[f"{photo}/raw_sum64"] / len(raw)
        np.testing.assert_allclose(mean, expected, rtol=0, atol=3e-5, err_msg=photo)


@pytest.mark.parametrize("size", [320, 640])
@pytest.mark.parametrize("weights", ["slim-320", "slim-640", "RFB-320", "RFB-640"])
def test_published_ultra_light_weights(weights, size):
    recorded = np.load(shared(f"reference/recorded/detector_ulfg_{weights}_at{size}.npz"))
    network = with_checkpoint(f"ultralight-{weights.split('-')[0].lower()}", f"version-{weights}.pth")
    for photo in PHOTOS:
        rgb = cv2.resize(cv2.cvtColor(read_bgr(photo), cv2.COLOR_BGR2RGB), (size, size * 3 // 4))
        if zlib.crc32(rgb.tobytes()) != recorded[f"{photo}/resized_crc32"]:
            pytest.skip("this OpenCV resizes otherwise than the one of the recording")
        pixels = (rgb.astype(np.float32) - 127) / 128
        found = outputs(network, torch.from_numpy(pixels.transpose(2, 0, 1))[None])
        raw = np.concatenate([found["logits"][0], found["boxes"][0], softmax(found["logits"][0])], 1)
        expected = recorded[f"{photo}/raw_every37"][:, :8]
        np.testing.assert_allclose(raw[::37], expected, rtol=0, atol=3e-5, err_msg=photo)
        mean = recorded[f"{photo}/raw_sum64"][:8] / len(raw)
        np.testing.assert_allclose(raw.mean(0, dtype=np.float64), mean, rtol=0, atol=3e-5, err_msg=photo)


# Formula weights.


def test_mobilenet025_with_formula_weights():
    recorded = np.load(shared("reference/recorded/formula_retinaface_mobilenet025_biubug6.npz"))
    found = outputs(
        with_formula_weights("retinaface-mobilenet025"), formula_input(recorded["input_shape"], recorded["input_seed"])
    )
    for ours, theirs in {"logits": "logits", "boxes": "loc", "landmarks": "landms"}.items():
        assert_close(found[ours], recorded[theirs], ours)


def test_resnet50_with_formula_weights():
    recorded = np.load(shared("reference/recorded/formula_retinaface_resnet50_biubug6.npz"))
    network = with_formula_weights("retinaface-resnet50")
    for case in "ab":
        images = formula_input(recorded[f"{case}/input_shape"], recorded[f"{case}/input_seed"])
        found = outputs(network, images)
        for ours, theirs in {"logits": "logits", "boxes": "loc", "landmarks": "landms"}.items():
            assert_close(found[ours][0], recorded[f"{case}/{theirs}"], f"{case} {ours}")
        if case == "a":
            with torch.no_grad():
                maps = network.body(images)
            for level, features in enumerate(maps, 1):
                sums = features.double().sum((0, 2, 3)).numpy()[:16]
                expected = recorded[f"a/body{level}_sum64"]
                np.testing.assert_allclose(sums, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_dense_resnet50_with_formula_weights():
    recorded = np.load(shared("reference/recorded/formula_retinaface_resnet50_supernotman.npz"))
    network = with_formula_weights("retinaface-dense-resnet50")
    for case in "ab":
        found = outputs(network, formula_input(recorded[f"{case}/input_shape"], recorded[f"{case}/input_seed"]))
        logprob = torch.from_numpy(found["logits"][0]).log_softmax(-1).numpy()
        assert_close(logprob, recorded[f"{case}/logprob"], f"{case} logits")
        assert_close(found["boxes"][0], recorded[f"{case}/bbox_deltas"], f"{case} boxes")
        assert_close(found["landmarks"][0], recorded[f"{case}/ldm_deltas"], f"{case} landmarks")
        scores = network.scores(torch.from_numpy(found["logits"])).numpy()[0]
        np.testing.assert_allclose(scores, np.exp(recorded[f"{case}/logprob"][:, 0]), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("theirs", "architecture"),
    [
        ("mobilenetv1_0.25", "retinaface-mobilenet025"),
        ("mobilenetv1_0.50", "retinaface-mobilenet050"),
        ("mobilenetv1", "retinaface-mobilenet100"),
        ("mobilenetv2", "retinaface-mobilenetv2"),
        ("resnet18", "retinaface-resnet18"),
        ("resnet34", "retinaface-resnet34"),
    ],
)
def test_yakhyo_backbones_with_formula_weights(theirs, architecture):
    recorded = np.load(shared("reference/recorded/formula_retinaface_yakhyo_variants.npz"))
    found = outputs(with_formula_weights(architecture, YAKHYO), formula_input((1, 3, 128, 160), 7))
    boxes, scores, landmarks = found["boxes"][0], softmax(found["logits"][0]), found["landmarks"][0]
    assert_close(boxes[::5], recorded[f"{theirs}/loc_every5"], "boxes")
    np.testing.assert_allclose(scores[::5], recorded[f"{theirs}/conf_every5"], rtol=0, atol=1e-5)
    assert_close(landmarks[::5], recorded[f"{theirs}/landms_every5"], "landmarks")
    sums = np.concatenate([boxes, scores, landmarks], 1).sum(0, dtype=np.float64)
    np.testing.assert_allclose(sums, recorded[f"{theirs}/sum64"], rtol=0, atol=2e-5 * 840 * np.abs(boxes).max())


@pytest.mark.parametrize("case", "abc")
def test_bisenet_with_formula_weights(case):
    recorded = np.load(shared("reference/recorded/formula_bisenet_resnet18_19.npz"))
    network = with_formula_weights("bisenet-resnet18")
    network.training = True  # of the network alone, not of its batch norms: the auxiliary outputs too
    found = outputs(network, formula_input(recorded[f"{case}/input_shape"], recorded[f"{case}/input_seed"]))
    if case == "c":
        assert_close(found["logits"][0, :, ::13, ::13], recorded["c/out_every13"], "logits")
        sums = found["logits"][0].sum((1, 2), dtype=np.float64)
        expected = recorded["c/out_sum64"]
        np.testing.assert_allclose(sums, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    else:
        step = {"a": 1, "b": 7}[case]
        for ours, theirs in {"logits": "out", "auxiliary_16": "out16", "auxiliary_32": "out32"}.items():
            assert_close(found[ours][0, :, ::step, ::step], recorded[f"{case}/{theirs}"], ours)
    different = found["logits"][0].argmax(0) != recorded[f"{case}/argmax"]
    best = np.sort(found["logits"][0], 0)[-2:, different]
    assert (best[1] - best[0] < 4e-5 * np.abs(found["logits"]).max()).all()  # none, or ties by rounding


# The part that travels with the repository.

FIXTURE_RULES = {"retinaface-mobilenetv2": YAKHYO, "retinaface-resnet18": YAKHYO}


def test_fixture_shows_the_networks_unchanged():
    with np.load(FIXTURE) as fixture:
        cases = sorted({tuple(key.split("/")[:2]) for key in fixture})
        assert len(cases) == 9
        for architecture, seed in cases:
            prefix = f"{architecture}/{seed}/"
            network = with_formula_weights(architecture, FIXTURE_RULES.get(architecture, []))
            network.training = architecture == "bisenet-resnet18"  # which has more outputs then
            found = outputs(network, formula_input(fixture[f"{prefix}shape"], int(seed)))
            for name in sorted(key.removeprefix(prefix) for key in fixture if key.startswith(prefix)):
                if name == "scores":
                    scores = network.scores(torch.from_numpy(found["logits"])).numpy()
                    np.testing.assert_allclose(scores[0, ::25], fixture[prefix + name], rtol=0, atol=1e-5)
                elif architecture == "bisenet-resnet18" and name != "shape":
                    assert_close(found[name][0, :, ::5, ::5], fixture[prefix + name], f"{architecture} {name}")
                elif name != "shape":
                    step = 5 if architecture.startswith("ultralight") else 25
                    assert_close(found[name][0, ::step], fixture[prefix + name], f"{architecture} {name}")
