"""Chips are cut where the faces are, and what shows too little is never given a label."""

import json
import os
import shutil
import stat
import subprocess
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import shared
from nnface.errors import ModelFileError, UsageError
from nnface.export.onnx import export
from nnface.export.published import import_checkpoint
from nnface.geometry.align import LIMITS, chip_of_box, chip_of_landmarks, corrected, readings, similarity
from nnface.models import file
from nnface.models.create import create, default_spec
from nnface.predict.analyzer import Analyzer
from nnface.predict.chips import resized, warp
from nnface.predict.classifier import Classifier, softmax, viewed
from nnface.predict.detector import Detector
from nnface.results import Faces, words
from nnface.runtime.torch import TorchRunner
from nnface.spec import parse
from processes import nnface
from test_parity_networks import formula_input, formula_tensor
from tiny_models import bright_detector, squares

SMALL = {"stem": 8, "widths": [8, 16], "depths": [1, 1]}


@pytest.fixture(scope="module")
def small():
    """A small classifier with random weights and its Spec."""
    torch.manual_seed(0)
    spec = default_spec("classifier-compact", licence="of a test", **SMALL)
    return create("classifier-compact", SMALL).eval(), spec


@pytest.fixture(scope="module")
def exported(small, tmp_path_factory):
    """The same as an ONNX file."""
    folder = tmp_path_factory.mktemp("classifier")
    module, spec = small
    meaning = replace(spec.classification, temperatures={"race": 2.0}, min_confidence={"gender": 0.99})
    file.save(folder / "a.safetensors", module, replace(spec, classification=meaning))
    export(folder / "a.safetensors", folder / "a.onnx")
    return folder / "a.onnx"


def faces_of(*boxes, landmarks=None, size=(200, 100)):
    return Faces(
        width=size[0],
        height=size[1],
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.ones(len(boxes), np.float32),
        landmarks=landmarks,
    )


def noise(height, width, seed=0):
    return cv2.resize(np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8), (width, height))


turns = st.tuples(*[st.floats(-3, 3)] * 2, st.floats(0.2, 5), st.floats(-100, 100), st.floats(-100, 100))


@given(turns)
def test_a_similarity_is_found_again(values):
    cos, sin, scale, x, y = np.cos(values[0]), np.sin(values[0]), *values[2:]
    matrix = scale * np.array([[cos, -sin], [sin, cos]])
    points = np.array([[0, 0], [9, 1], [4, 5], [1, 8], [7, 9]], float)
    found = similarity(points, points @ matrix.T + (x, y))
    np.testing.assert_allclose(found, np.column_stack([matrix, (x, y)]), atol=1e-6 * max(1, abs(x), abs(y), scale))


@pytest.mark.parametrize("points", [np.zeros((5, 2)), np.full((5, 2), np.nan), np.full((5, 2), np.inf)])
def test_points_that_are_no_face(points):
    assert similarity(points, np.arange(10).reshape(5, 2)) is None
    assert chip_of_landmarks(points, [(0, 0)] * 5, 96) is None


def test_the_landmarks_come_to_lie_on_the_template(small):
    template = small[1].alignment.points
    matrix = 37.0 * np.array([[0.8, -0.6], [0.6, 0.8]])
    landmarks = np.array(template) @ matrix.T + (50, 20)
    transform = chip_of_landmarks(landmarks, template, 96)
    np.testing.assert_allclose(landmarks @ transform[:, :2].T + transform[:, 2], 96 * np.array(template), atol=1e-6)


def place(side: float, turn: float, middle: complex, size: int = 96) -> np.ndarray:
    """The chip of a square in the picture: its side, the turn of its content, its middle."""
    factor = size / side * np.exp(1j * turn)
    shift = size / 2 * (1 + 1j) - factor * middle
    return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])


@given(
    st.floats(5, 500), st.floats(-3, 3), st.floats(-500, 500), st.tuples(*[st.floats(-2 * b, 2 * b) for b in LIMITS])
)
def test_a_correction_moves_enlarges_and_turns_a_chip_within_its_limits(side, turn, x, wanted):
    rows = np.zeros((4, 15))
    rows[:, 14] = wanted
    middle = complex(x, 20)
    first = place(side, turn, middle)
    values = readings(first, np.full((5, 2), 30.0), np.array([10.0, 10.0, 60.0, 90.0]), 96)
    right, down, growth, twist = np.clip(wanted, -LIMITS, LIMITS)
    moved = middle + side * complex(right, down) * np.exp(-1j * turn)  # along the chip's own x and y
    expected = place(side * np.exp(growth), turn + twist, moved)
    np.testing.assert_allclose(corrected(first, values, rows, 96), expected, rtol=1e-6, atol=1e-6 * abs(moved) / side)


@given(st.floats(0.1, 9), st.floats(-500, 500), st.floats(-500, 500))
def test_what_a_correction_goes_by_does_not_depend_on_where_and_how_large_a_face_is(scale, x, y):
    face, box = np.array([[30, 40], [70, 40], [55, 60], [38, 80], [64, 80]]), np.array([20.0, 15.0, 78.0, 99.0])
    template = np.array([(0.3, 0.3), (0.7, 0.3), (0.5, 0.5), (0.35, 0.7), (0.65, 0.7)])
    there = face * scale + (x, y), box * scale + (x, y, x, y)
    one, other = (readings(chip_of_landmarks(p, template, 96), p, b, 96) for p, b in ((face, box), there))
    np.testing.assert_allclose(one, other, atol=1e-6)
    assert one[10] == pytest.approx((49 - 50) / 100, abs=0.05) and one[14] == 1


def test_chips_are_cut_with_the_correction_of_the_spec(small):
    network, spec = small
    template = np.array(spec.alignment.points, np.float32)
    picture = noise(100, 200)
    points = (template * 60 + (20, 30))[None]  # a chip from (20, 30) to (80, 90)
    box = [25, 35, 55, 95]  # its middle lies 10 to the left, 5 below
    follow = np.zeros((4, 15))
    follow[0, 10] = follow[1, 11] = 0.6  # of the way to the box's middle
    for rows, left, top in (((), 20, 30), (tuple(map(tuple, follow)), 14, 33)):
        alignment = replace(spec.alignment, correction=rows)
        classifier = Classifier(TorchRunner(network, replace(spec, alignment=alignment)))
        chip = classifier.chips(picture, faces_of(box, landmarks=points))[0]
        expected = warp(picture, chip_of_box(np.array([left, top, left + 60, top + 60]), 0.0, 96), 96)
        assert np.abs(chip.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("correction", "words"),
    [([[0.0] * 15] * 3, "must be four rows"), ([[0.0] * 14] * 4, "is not 15 numbers"), ([["x"] * 15] * 4, "number")],
)
def test_a_file_with_another_correction_is_refused(small, correction, words):
    spec = json.loads(small[1].to_json())
    spec["alignment"]["correction"] = correction
    with pytest.raises(ModelFileError, match=f"alignment.correction .*{words}"):
        parse(json.dumps(spec), "a file")


def test_a_box_of_the_whole_picture_is_the_resized_picture():
    image = noise(96, 96)
    transform = chip_of_box(np.array([0, 0, 96, 96]), 0.0, 48)
    assert np.abs(warp(image, transform, 48).astype(int) - resized(image, 48)).max() <= 1
    assert np.abs(warp(image, chip_of_box(np.array([0, 0, 96, 96]), 0, 96), 96).astype(int) - image).max() == 0


def test_a_large_face_is_averaged_not_sampled():
    stripes = np.zeros((800, 800, 3), np.uint8)
    stripes[:, ::2] = 200
    chip = warp(stripes, chip_of_box(np.array([100, 100, 700, 700]), 0.0, 96), 96)
    assert np.abs(chip.astype(int) - 100).max() < 12


def test_beyond_the_border_is_black(small):
    classifier = Classifier(TorchRunner(*small))
    image = np.full((100, 200, 3), 255, np.uint8)
    chip = classifier.chips(image, faces_of([150, 20, 250, 120]))[0]
    assert chip[10, 10].tolist() == [255] * 3 and chip[-4, -4].tolist() == [0] * 3
    assert classifier.chips(image, faces_of([300, 20, 350, 120]))[0] is None


def test_what_shows_too_little_gets_no_label(small):
    classifier = Classifier(TorchRunner(*small))
    image = noise(100, 200)
    points = np.zeros((3, 5, 2), np.float32)
    found = classifier(image, faces_of([10, 10, 60, 70], [10, 10, 18, 19], [np.nan] * 4, landmarks=points))
    assert [bool(a) for a in found.attributes] == [True, False, False]
    assert found[1].to_dict()["attributes"] == {}
    assert words(found[1].attributes) == "too small to tell"
    assert len(classifier(image, faces_of())) == 0
    with pytest.raises(UsageError, match="the chip is 30 x 9; under 10 pixels"):
        classifier(noise(9, 30))


def test_alone_or_together_by_torch_or_onnx_it_is_the_same(small, exported):
    images = [noise(64, 64, seed) for seed in range(5)] + [noise(300, 200, 7)]
    torch_classifier = Classifier(TorchRunner(*small), batch=4)
    together = torch_classifier.batch(images)
    for image, found in zip(images, together, strict=True):
        assert (found.boxes.tolist(), found.scores) == ([[0, 0, image.shape[1], image.shape[0]]], None)
        alone = torch_classifier(image[..., ::-1], color="rgb")
        for head, attribute in found[0].attributes.items():
            assert alone[0].attributes[head].probabilities == pytest.approx(attribute.probabilities, abs=1e-5)
            assert sum(attribute.probabilities.values()) == pytest.approx(1, abs=1e-5)
            assert attribute.confidence == max(attribute.probabilities.values()) and attribute.certain
    fitted = Classifier(exported, threads=1).batch(images)
    chips = [torch_classifier.whole_chip(image) for image in images]
    expected = softmax(torch_classifier.logits(chips)["race"] / 2)
    for found, row in zip(fitted, expected, strict=True):
        assert list(found[0].attributes["race"].probabilities.values()) == pytest.approx(row, abs=1e-4)
        assert not found[0].attributes["gender"].certain and found[0].attributes["age"].certain


@pytest.mark.parametrize("count", [1, 2, 4])
def test_views_are_moved_and_mirrored_and_count_alike(small, count):
    module, spec = small
    meaning = replace(spec.classification, views=count)
    told = parse(replace(spec, classification=meaning).to_json(), "test")
    classifier = Classifier(TorchRunner(module, told))
    size, step = classifier.size, classifier.size // 32
    chip = noise(size, size)
    inputs = classifier.prepare([chip])
    seen = list(viewed(inputs, count))
    assert len(seen) == count and all(view.shape == inputs.shape for view in seen)
    if count == 2:
        np.testing.assert_array_equal(seen[1], inputs[..., ::-1])
    if count == 4:
        right, left, down, up = seen[0], seen[1][..., ::-1], seen[2][..., ::-1], seen[3]
        np.testing.assert_array_equal(right[..., step:], inputs[..., :-step])
        np.testing.assert_array_equal(left[..., :-step], inputs[..., step:])
        np.testing.assert_array_equal(down[..., step:, :], inputs[..., :-step, :])
        np.testing.assert_array_equal(up[..., :-step, :], inputs[..., step:, :])
    found = classifier.logits([chip])
    runs = [classifier.runner.run(view) for view in seen]
    for head, rows in found.items():
        np.testing.assert_allclose(rows, np.mean([run[head] for run in runs], 0), atol=1e-6)
    asked = Classifier(TorchRunner(module, spec), views=count)  # the Spec says one
    np.testing.assert_array_equal(asked.logits([chip])["race"], found["race"])
    with pytest.raises(UsageError, match="views is 3; a classifier takes 1, 2 or 4"):
        Classifier(TorchRunner(module, spec), views=3)
    for batch in (0, -1):
        with pytest.raises(UsageError, match=f"batch is {batch}; it must be at least 1"):
            Classifier(TorchRunner(module, spec), batch=batch)


def test_models_of_another_task_are_refused(tmp_path, exported):
    with pytest.raises(ModelFileError, match="is a model to detect, not to classify"):
        Classifier(bright_detector(tmp_path / "d.onnx"))
    with pytest.raises(ModelFileError, match="is a model to classify, not to detect"):
        Detector(exported)


def test_a_spec_that_names_other_heads_is_refused(tmp_path, small):
    module, spec = small
    lie = replace(spec, classification=replace(spec.classification, heads={"race": ("a", "b")}))
    with pytest.raises(ModelFileError, match="names other heads than its network"):
        file.save(tmp_path / "a.safetensors", module, lie)


def test_the_analyzer_tells_what_detector_and_classifier_tell(tmp_path, small):
    detector = Detector(bright_detector(tmp_path / "d.onnx"), threads=1, size=128)
    classifier = Classifier(TorchRunner(*small))
    images = [squares(128, 128, (16, 32), (96, 80)), squares(128, 128), squares(128, 96, (48, 48))]
    for image, found in zip(images, Analyzer(detector, classifier).batch(images), strict=True):
        plain = detector(image)
        assert found.boxes.tolist() == plain.boxes.tolist()
        expected = [a["race"].probabilities for a in classifier(image, plain).attributes]
        assert [a["race"].probabilities for a in found.attributes] == [pytest.approx(p, abs=1e-5) for p in expected]


def test_the_commands(tmp_path, exported):
    detector = bright_detector(tmp_path / "d.onnx")
    cv2.imwrite(str(tmp_path / "two.png"), squares(128, 128, (16, 32), (96, 80)))
    cv2.imwrite(str(tmp_path / "none.png"), squares(128, 128))
    cv2.imwrite(str(tmp_path / "tiny.png"), squares(8, 8))
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    models = ("--model", detector, "--classifier", exported, "--no-parts")
    ended = nnface("analyze", "two.png", "none.png", "bad.jpg", *models, cwd=tmp_path)
    assert ended.code == 1 and "bad.jpg is not a picture" in ended.err
    two, none, bad = ended.rows
    assert [sorted(face) for face in two["faces"]] == [["attributes", "box", "landmarks", "score"]] * 2
    assert list(two["faces"][0]["attributes"]) == ["race", "gender", "age"]
    assert none["faces"] == [] and "error" in bad
    same = nnface("classify", "two.png", "--detector", detector, "--model", exported, cwd=tmp_path)
    assert same.code == 0 and same.rows == [two]
    ended = nnface("classify", "--crop", "none", "two.png", "tiny.png", "--model", exported, cwd=tmp_path)
    chip, tiny = ended.rows
    assert ended.code == 1
    assert (chip["faces"][0]["box"], chip["faces"][0]["score"]) == ([0, 0, 128, 128], None)
    assert tiny["error"].startswith("tiny.png: the chip is 8 x 8; under 10 pixels")


def test_csv_and_json_do_not_share_a_place(tmp_path, exported):
    cv2.imwrite(str(tmp_path / "a.png"), noise(64, 64))
    (tmp_path / "link").symlink_to("out")
    for csv, lines in (("-", "-"), ("out", "./out"), ("out", "link")):
        ended = nnface("classify", "a.png", "--model", exported, "--csv", csv, "--json", lines, cwd=tmp_path)
        assert (ended.code, ended.out) == (2, "")
        assert ended.err == f"nnface: --csv and --json both name {csv}; give each a place of its own\n"


def test_csv_in_and_out(tmp_path, exported):
    cv2.imwrite(str(tmp_path / "a.png"), noise(64, 64))
    (tmp_path / "list.csv").write_text("img_path\na.png\n")
    arguments = ("classify", "list.csv", "--crop", "none", "--model", exported)
    ended = nnface(*arguments, "--csv", "out.csv", "--json", "out.jsonl", cwd=tmp_path)
    assert (ended.code, ended.out) == (0, "")
    header, row = (line.split(",") for line in (tmp_path / "out.csv").read_text().splitlines())
    told = json.loads((tmp_path / "out.jsonl").read_text())["faces"][0]["attributes"]
    written = dict(zip(header, row, strict=True))
    assert [written[head] for head in ("race", "gender", "age")] == [told[h]["label"] for h in told]
    scores = [float(v) for v in written["race_scores_fair"].strip("[]").split()]
    assert scores == pytest.approx(list(told["race"]["probabilities"].values()), abs=1e-5)
    assert [written[f"{head}_certain"] for head in told] == [str(told[head]["certain"]) for head in told]
    assert (written["frame"], written["time"]) == ("", "")
    odd = os.fsdecode(b"\xff.png")  # a name that is not UTF-8 is escaped, and the other rows stay
    shutil.copy(tmp_path / "a.png", tmp_path / odd)
    chips = ("--crop", "none", "--model", exported)
    assert nnface("classify", odd, "a.png", *chips, "--csv", "odd.csv", cwd=tmp_path).code == 0
    names = [line.split(",")[0] for line in (tmp_path / "odd.csv").read_text().splitlines()]
    assert names == ["file", "\\udcff.png", "a.png"]
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE, text=True) as reader:
        assert nnface("classify", "a.png", *chips, "--csv", "pipe", cwd=tmp_path).code == 0
        assert reader.communicate()[0] == (tmp_path / "out.csv").read_text()
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode), "a pipe was replaced by a file"
    (tmp_path / "list.csv").write_text("picture\na.png\n")
    ended = nnface(*arguments, cwd=tmp_path)
    assert (ended.code, ended.err) == (2, "nnface: list.csv has no column img_path, which names the pictures\n")


@pytest.mark.parametrize("races", [7, 4])
def test_the_reference_network(tmp_path, races):
    recorded = np.load(shared("reference/recorded/formula_fairface_resnet34_18.npz"))
    keys = json.loads(shared("reference/keys/fairface_resnet34_18.json").read_text())["keys"]
    shapes = {k: tuple(v.shape) for k, v in create("classifier-resnet34").state_dict().items()}
    assert set(keys if isinstance(keys, dict) else (k if isinstance(k, str) else k[0] for k in keys)) == set(shapes)
    torch.save({key: formula_tensor(key, shape) for key, shape in shapes.items()}, tmp_path / "theirs.pt")
    spec, known = import_checkpoint("fairface", tmp_path / "theirs.pt", tmp_path / "ours.safetensors", races=races)
    assert not known and spec.task == "classify" and len(spec.classification.heads["race"]) == races
    module, _ = file.load(tmp_path / "ours.safetensors")
    with torch.no_grad():
        found = module(formula_input(recorded["input_shape"], recorded["input_seed"]))
    out, tolerance = recorded["out"], 2e-5 * np.abs(recorded["out"]).max()
    for name, expected in {"race": out[:, :races], "gender": out[:, 7:9], "age": out[:, 9:]}.items():
        np.testing.assert_allclose(found[name].numpy(), expected, atol=tolerance, rtol=0)
        theirs = recorded[f"race{races}" if name == "race" else name]
        np.testing.assert_allclose(softmax(found[name].numpy()), theirs, atol=1e-4)  # and no NaN at logits over 88


def test_races_belong_to_fairface_alone(tmp_path):
    with pytest.raises(UsageError, match="--races is for fairface alone"):
        import_checkpoint("ultra-light", tmp_path / "a", tmp_path / "b", races=4)
