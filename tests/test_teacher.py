"""A student learns from networks what they answer, in its own terms, and says who taught it."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.distributions import Categorical, kl_divergence

from conftest import shared
from faces import fairface
from generated import widerface
from nnface import Detector
from nnface.datasets import celebamask
from nnface.datasets import fairface as chips
from nnface.datasets import widerface as pictures
from nnface.errors import ModelFileError, RecipeError
from nnface.export.published import import_checkpoint
from nnface.files import sha256
from nnface.geometry.anchors import grid
from nnface.geometry.boxes import iou
from nnface.header import read_spec
from nnface.models import file
from nnface.models.create import create, default_spec
from nnface.spec import DetectionSpec
from nnface.training import recipe
from nnface.training.attributes import AttributesTask
from nnface.training.detection import DetectionTask
from nnface.training.losses import anchorfree
from nnface.training.segmentation import SegmentationTask
from nnface.training.start import start
from nnface.training.teacher import Teachers, _per_cell, learned
from portraits import portraits

SOLVAY = Path(__file__).resolve().parents[1] / "examples/solvay_1927.jpg"
NETWORKS = {
    "detect": ("anchorfree", {"stem": 8, "widths": [8, 8, 8, 8], "neck": 8, "head_depth": 1}),
    "classify": ("classifier-compact", {"stem": 8, "widths": [8, 16], "depths": [1, 1]}),
    "segment": ("parser", {"stem": 8, "widths": [8, 16], "depths": [1, 1], "neck": 8}),
}


def network(path, task, *, seed=0, **settings):
    """A network with random weights as a model file, and itself."""
    architecture, usual = NETWORKS[task]
    torch.manual_seed(seed)
    module = create(architecture, {**usual, **settings}).eval()
    file.save(path, module, default_spec(architecture, **{**usual, **settings}))
    return path, module


def plan(task, *overrides):
    architecture, usual = NETWORKS[task]
    lines = [f'name = "student"\ntask = "{task}"\n[model]\narchitecture = "{architecture}"', "[model.settings]"]
    lines += [f"{key} = {value}" for key, value in usual.items()]
    size = "crops.size=96" if task == "detect" else "augment.size=48"
    return recipe.parse("\n".join(lines), "test", ["loop.steps=4", "loop.batch=4", size, *overrides])


def images(count=3, side=96):
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (count, 6, 6, 3)).astype(np.uint8)
    return torch.from_numpy(np.stack([cv2.resize(each, (side, side)) for each in small]))


@given(st.integers(0, 2**32), st.floats(0.5, 8))
@settings(max_examples=20, deadline=None)
def test_the_difference_is_a_divergence(seed, temperature):
    generator = torch.Generator().manual_seed(seed)
    logits, other = torch.randn(2, 5, 7, 3, generator=generator)
    taught = (other / temperature).softmax(1)
    apart = learned(logits, taught, temperature)
    student = Categorical(logits=(logits / temperature).transpose(1, 2))
    wanted = kl_divergence(Categorical(probs=taught.transpose(1, 2)), student) * temperature**2
    torch.testing.assert_close(apart, wanted, rtol=1e-3, atol=1e-4)
    assert (apart >= -1e-4).all()
    torch.testing.assert_close(learned(other, taught, temperature), torch.zeros(5, 3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("task", ["classify", "segment"])
def test_the_mean_of_what_the_teachers_answer(task, tmp_path):
    files, modules = zip(*(network(tmp_path / f"{k}.safetensors", task, seed=k) for k in range(2)), strict=True)
    spec = read_spec(files[0])
    part = recipe.Teacher(models=[str(path) for path in files], temperature=2.0)
    seen = images(side=spec.input.size)
    taught = Teachers(part, spec, spec.input.size).probabilities(seen)
    inputs = ((seen.float() - torch.tensor(spec.input.mean)) / torch.tensor(spec.input.std)).permute(0, 3, 1, 2)
    with torch.no_grad():
        answers = [module(inputs if spec.input.color == "bgr" else inputs.flip(1)) for module in modules]
    assert taught.keys() == ({"race", "gender", "age"} if task == "classify" else {"logits"})
    for name, rows in taught.items():
        torch.testing.assert_close(rows, torch.stack([(a[name] / 2).softmax(1) for a in answers]).mean(0))
        torch.testing.assert_close(rows.sum(1), torch.ones_like(rows[:, 0]))


def test_a_teacher_of_fixed_input_sees_pictures_of_its_own_size(tmp_path):
    path, _ = network(tmp_path / "t.safetensors", "classify")
    spec = read_spec(path)
    colours = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 1, 1, 3)).astype(np.uint8))
    teachers = Teachers(recipe.Teacher(models=[str(path)]), spec, 48)
    own, other = (teachers.probabilities(colours.expand(3, side, side, 3)) for side in (spec.input.size, 48))
    for name in own:
        torch.testing.assert_close(own[name], other[name])
        assert not torch.allclose(own[name][0], own[name][1])


def test_who_answers_as_the_teacher_does_has_nothing_to_learn(tmp_path):
    path, module = network(tmp_path / "t.safetensors", "segment")
    spec = read_spec(path)
    file.save(path, module, replace(spec, input=replace(spec.input, size=48, width=48, height=48)))
    samples = celebamask.read(portraits(tmp_path / "data"))
    for size in (32, 40, 64):  # of the label image, on whose grid the difference is counted
        lesson = SegmentationTask(
            plan("segment", f"teacher.models=['{path}']", f"augment.label_size={size}"), {"a": samples}
        )
        batch = next(iter(lesson.batches(0, 0, 1)))
        losses = lesson.loss(module, batch, lesson.counts(batch))
        assert float(losses["taught"]) < 1e-5
        other = lesson.loss(network(tmp_path / "o.safetensors", "segment", seed=5)[1], batch, lesson.counts(batch))
        assert float(other["taught"]) > 1e-3


def test_a_detector_teaches_in_the_students_cells(tmp_path):
    paths = [network(tmp_path / f"{k}.safetensors", "detect", seed=k)[0] for k in range(2)]
    for path in paths:  # surer in some cells than in others, and one of them surer than the other
        module, spec = file.load(path)
        torch.nn.init.normal_(module.heads[0].predict.weight, std=2.0)
        file.save(path, module, spec)
    spec, seen = read_spec(paths[0]), images()
    scores, boxes = Teachers(recipe.Teacher(models=[str(path) for path in paths]), spec, 96).faces(seen)
    task = DetectionTask(plan("detect"), {"a": pictures.read(widerface(tmp_path / "data"))})
    inputs = ((seen.float() - 114) / 64).permute(0, 3, 1, 2)
    cells = task._objective(96, 96, torch.device("cpu")).cells
    with torch.no_grad():
        outputs = [file.load(path)[0].eval()(inputs) for path in paths]
    each = torch.stack([output["logits"][..., 0].sigmoid() for output in outputs])
    found = torch.stack([anchorfree.decode(output["boxes"], cells) for output in outputs])
    assert 0 < each.argmax(0).float().mean() < 1
    torch.testing.assert_close(scores, each.mean(0))
    wanted = found.gather(0, each.argmax(0)[None, ..., None].expand(1, -1, -1, 4))[0]
    torch.testing.assert_close(boxes, wanted, rtol=1e-4, atol=1e-3)
    same = {name: outputs[0][name] for name in outputs[0]}
    alone = Teachers(recipe.Teacher(models=[str(paths[0])]), spec, 96).faces(seen)
    nothing = anchorfree.taught(same, cells, *alone, 3.0)
    assert float(nothing["score"]) < 1e-4 and abs(float(nothing["box"])) < 1e-3  # it already answers so
    assert sum(anchorfree.taught(outputs[1], cells, *alone, 3.0).values()) > 0.01


def test_of_two_anchors_in_a_cell_the_surer_is_taken():
    spec = DetectionSpec(coding="distance", strides=(16, 32), anchor_sizes=((16.0, 16.0), (32.0, 32.0)))
    outputs = {"scores": np.zeros((1, 10), np.float32), "boxes": np.ones((1, 10, 4), np.float32)}
    outputs["scores"][0, [3, 6, 9]] = 0.6, 0.7, 0.8  # the second anchor of cell 1, the first of 3, the second of 4
    outputs["boxes"][0, [3, 6, 9]] = 0.5
    scores, found = _per_cell(outputs, spec, 32, 32)
    np.testing.assert_allclose(scores, [[0, 0.6, 0, 0.7, 0.8]])
    wanted = [[-8, -8, 24, 24], [16, 0, 32, 16], [-8, 8, 24, 40], [16, 16, 32, 32], [0, 0, 32, 32]]
    np.testing.assert_allclose(found[0], wanted)


def test_large_faces_do_not_outweigh_small_ones():
    cells = torch.from_numpy(grid(96, 96, (8,)).copy())[:, :3]
    scores, boxes = torch.zeros(1, 144), torch.zeros(1, 144, 4)
    outputs = {"logits": torch.zeros(1, 144, 1), "boxes": torch.ones(1, 144, 4)}
    costs = []
    for box, answering in (((0.0, 0.0, 40.0, 40.0), range(4)), ((0.0, 0.0, 40.0, 40.0), range(1))):
        scores.zero_()
        scores[0, list(answering)] = 0.9
        boxes[0, list(answering)] = torch.tensor(box)
        each = [
            anchorfree.eiou_loss(anchorfree.decode(outputs["boxes"], cells)[0, [k]], boxes[0, [k]])[0]
            for k in answering
        ]
        found = anchorfree.taught(outputs, cells, scores, boxes, 1.0)["box"]
        torch.testing.assert_close(found, torch.stack(each).sum() * 0.9 / len(each) ** 0.5)
        costs.append(float(found))
    assert costs[0] < 3 * costs[1]


def test_of_a_published_detectors_two_anchors_the_surer_teaches(tmp_path):
    published = shared("peers/scrfd/scrfd_500m_bnkps.onnx")
    teacher = tmp_path / "scrfd.onnx"
    import_checkpoint("scrfd", published, teacher)
    photograph = cv2.imread(str(SOLVAY))
    seen = cv2.resize(photograph[:, : photograph.shape[0]], (640, 640))
    student = default_spec(NETWORKS["detect"][0], **NETWORKS["detect"][1])
    scores, boxes = Teachers(recipe.Teacher(models=[str(teacher)]), student, 640).faces(torch.from_numpy(seen[None]))
    assert scores.shape == (1, 80 * 80 + 40 * 40 + 20 * 20)
    faces = Detector(teacher, threads=1, size=640, min_score=0.3)(seen)
    assert len(faces) > 5
    sure = scores[0] >= 0.3
    overlap = iou(faces.boxes, boxes[0][sure].numpy())
    assert (overlap.max(1) > 0.99).all()  # what it finds is some cell's box
    best = overlap.argmax(1)
    np.testing.assert_allclose(scores[0][sure].numpy()[best], faces.scores, atol=1e-3)
    assert (overlap.max(0) > 0.3).all()  # and no cell is sure of what it does not find


@pytest.mark.parametrize(
    ("student", "teacher", "more", "words"),
    [
        ("classify", "segment", {}, "is for the task segment, the student for classify"),
        ("classify", "classify", {"races": 4}, "has other labels than the student"),
    ],
)
def test_a_teacher_must_speak_the_students_language(tmp_path, student, teacher, more, words):
    path, _ = network(tmp_path / "t.safetensors", teacher, **more)
    architecture, settings = NETWORKS[student]
    with pytest.raises(RecipeError, match=words):
        Teachers(recipe.Teacher(models=[str(path)]), default_spec(architecture, **settings), 48)


@pytest.mark.parametrize(
    ("student", "size", "words"),
    [
        ("anchorfree", 100, "takes no pictures of 100 x 100 pixels"),
        ("retinaface-mobilenet025", 96, "only anchor-free detectors learn from a teacher"),
    ],
)
def test_students_that_a_detector_cannot_teach(tmp_path, student, size, words):
    path, _ = network(tmp_path / "t.safetensors", "detect")
    with pytest.raises(RecipeError, match=words):
        Teachers(recipe.Teacher(models=[str(path)]), default_spec(student), size)


def test_a_detector_with_other_cells_cannot_teach(tmp_path):
    torch.manual_seed(0)
    file.save(tmp_path / "t.safetensors", create("ultralight-slim", {}), default_spec("ultralight-slim"))
    architecture, usual = NETWORKS["detect"]
    with pytest.raises(RecipeError, match="must say distances in the student's cells, of strides 8, 16, 32"):
        Teachers(recipe.Teacher(models=[str(tmp_path / "t.safetensors")]), default_spec(architecture, **usual), 96)
    with pytest.raises(ModelFileError, match=r"no-such-model|there is no"):
        Teachers(recipe.Teacher(models=["no-such-model"]), default_spec(architecture, **usual), 96)


@pytest.mark.parametrize("task", ["detect", "classify", "segment"])
def test_a_lesson_brings_the_student_nearer(task, tmp_path):
    """Without labels that say the same: the teacher's weights are random."""
    path, module = network(tmp_path / "t.safetensors", task, seed=7)
    if task == "detect":
        torch.nn.init.zeros_(module.heads[0].predict.bias)
        file.save(path, module, read_spec(path))
    kinds = {"detect": DetectionTask, "classify": AttributesTask, "segment": SegmentationTask}
    if task == "detect":
        samples = pictures.read(widerface(tmp_path / "data"))
    elif task == "classify":
        samples = chips.read(fairface(tmp_path / "data"))
    else:
        samples = celebamask.read(portraits(tmp_path / "data"))
    lesson = kinds[task](plan(task, f"teacher.models=['{path}']", "loop.batch=8"), {"a": samples})
    torch.manual_seed(1)
    model = lesson.model()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    batch = next(iter(lesson.batches(0, 0, 1)))
    costs = []
    for _ in range(25):
        losses = lesson.loss(model, batch, lesson.counts(batch))
        taught = torch.stack([value for name, value in losses.items() if name.startswith("taught")]).sum()
        costs.append(float(taught.detach()))
        taught.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert costs[-1] < 0.7 * costs[0]


def test_the_file_says_who_taught(tmp_path):
    path, _ = network(tmp_path / "t.safetensors", "classify")
    root = fairface(tmp_path / "data")
    (tmp_path / "recipe.toml").write_text(
        recipe.dump(plan("classify", f"teacher.models=['{path}']", "loop.log_every=2"))
    )
    best = start(str(tmp_path / "recipe.toml"), [f"fairface:{root}"], tmp_path / "run", threads=1)
    assert read_spec(best).provenance["distilled"] == f"t (sha256 {sha256(path)})"
    rows = (tmp_path / "run/metrics.jsonl").read_text()
    assert '"taught"' in rows


@pytest.mark.parametrize("stopped", [1, 3])
def test_a_lesson_that_was_interrupted_ends_with_the_same_weights(tmp_path, stopped):
    """With parts and dropout, whose random numbers a teacher must not take."""
    path, _ = network(tmp_path / "t.safetensors", "classify")
    root, file_of = fairface(tmp_path / "data"), tmp_path / "recipe.toml"
    more = ["model.settings.dropout=0.3", "loop.accumulate=2", "loop.save_every=1", "loop.log_every=1"]
    file_of.write_text(recipe.dump(plan("classify", f"teacher.models=['{path}']", *more)))

    def command(out, *extra):
        words = ["train", file_of, "--data", f"fairface:{root}", "--out", tmp_path / out, "--threads", "1", *extra]
        return [sys.executable, "-m", "nnface", *map(str, words)]

    assert subprocess.run(command("whole"), capture_output=True, check=False).returncode == 0
    with subprocess.Popen(command("halves"), stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith(f"step {stopped}/"):
                process.kill()
                break
        process.stderr.read()
    assert not (tmp_path / "halves/last.safetensors").exists()
    lesson = path.read_bytes()
    network(path, "classify", seed=9)
    ended = subprocess.run(command("halves", "--resume"), capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and "another recipe" in ended.stderr  # another teacher is another recipe
    path.write_bytes(lesson)
    ended = subprocess.run(command("halves", "--resume"), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    one, other = (load_file(tmp_path / out / "last.safetensors") for out in ("whole", "halves"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_damaged_teacher_is_told_before_the_run_folder_is_made(tmp_path):
    path, _ = network(tmp_path / "t.safetensors", "classify")
    path.write_bytes(path.read_bytes()[:-100])
    (tmp_path / "recipe.toml").write_text(recipe.dump(plan("classify", f"teacher.models=['{path}']")))
    with pytest.raises(ModelFileError, match=r"t\.safetensors"):
        start(str(tmp_path / "recipe.toml"), [f"fairface:{fairface(tmp_path / 'data')}"], tmp_path / "run", threads=1)
    assert not (tmp_path / "run").exists()
