"""The loop on generated data, as real processes: killed, interrupted, two at once."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from conftest import shared
from generated import coco as make_coco
from generated import widerface as make_widerface
from nnface import Detector
from nnface.datasets import widerface
from nnface.errors import DataError, DeviceError, ModelFileError, NnfaceError, RecipeError, TrainingError, UsageError
from nnface.export.onnx import export
from nnface.files import locked
from nnface.metrics import wider
from nnface.models import file as model_file
from nnface.models.create import create
from nnface.runtime.torch import TorchRunner
from nnface.training import loop, recipe
from nnface.training.detection import DetectionTask
from nnface.training.start import start
from nnface.training.state import State

SMALL = """
name = "small"
seed = 3
size = 128
licence = "none: generated data"
[model]
architecture = "anchorfree"
settings = { stem = 8, widths = [8, 8, 16, 16], neck = 16, head_depth = 1 }
[optimizer]
lr = 2e-3
lr_batch = 4
[loop]
steps = 24
batch = 4
ema = 0.9
log_every = 1
save_every = 4
evaluate_every = 12
[crops]
size = 64
mosaic = 0.3
occlude = 0.2
[evaluation]
sizes = [128]
best = 128
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_widerface(tmp_path_factory.mktemp("widerface"))


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


def command(small, data, out, *more):
    source = ["--data", f"widerface:{data}", "--out", str(out)]
    return [sys.executable, "-m", "nnface", "train", str(small), *source, "--threads", "1", *more]


def run(small, data, out, *more):
    return subprocess.run(command(small, data, out, *more), capture_output=True, text=True)


def begin(small, data, out, *more):
    return subprocess.Popen(command(small, data, out, *more), stderr=subprocess.PIPE, text=True)


def wait_for(process, words):
    """Read the process's progress until a line has the words."""
    for line in process.stderr:
        if words in line:
            return
    pytest.fail(f"the training ended before it said {words!r}")


def same(a, b):
    first, second = load_file(a), load_file(b)
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_short_training_learns_and_its_model_detects(small, data, tmp_path):
    out = tmp_path / "run"
    plain = ["crops.mosaic=0", "crops.occlude=0", "crops.photometric=false", "optimizer.lr=0.01"]
    longer = ["loop.steps=100", "loop.evaluate_every=100", "loop.save_every=100"]
    best = start(str(small), [f"widerface:{data}"], out, overrides=[*plain, *longer])
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    boxes = [row["box"] for row in rows if "box" in row]
    assert len(boxes) == 100
    assert sum(boxes[-25:]) < 0.9 * sum(boxes[:25])
    assert "hard@128" in rows[-1]
    module, spec = model_file.load(best)
    assert spec.provenance["recipe"] == "small"
    assert spec.input.size == 128
    detector = Detector(TorchRunner(module, spec), min_score=0.0)
    picture = next((data / "WIDER_train").rglob("*.jpg"))
    assert len(detector(picture)) > 0
    assert (out / "recipe.toml").exists()
    assert json.loads((out / "about.json").read_text())["torch"] == torch.__version__


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    (folder / "small.toml").write_text(SMALL)
    done = run(folder / "small.toml", data, folder / "run")
    assert done.returncode == 0, done.stderr
    assert str(folder / "run" / "best.safetensors") in done.stdout
    return folder / "run"


@pytest.mark.parametrize("step", [3, 13, pytest.param(23, marks=pytest.mark.slow)])
def test_killed_and_resumed_equals_unbroken(small, data, tmp_path, unbroken, step):
    out = tmp_path / "run"
    process = begin(small, data, out)
    wait_for(process, f"step {step}/")
    process.kill()
    process.wait()
    done = run(small, data, out, "--resume")
    assert done.returncode == 0, done.stderr
    assert same(out / "last.safetensors", unbroken / "last.safetensors")
    assert same(out / "best.safetensors", unbroken / "best.safetensors")
    rows = [[json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()] for f in (out, unbroken)]
    for a, b in zip(*rows, strict=True):
        del_speed = [{k: v for k, v in row.items() if k != "pictures_per_second"} for row in (a, b)]
        assert del_speed[0] == del_speed[1]


def test_interrupted_saves_its_state_and_says_130(small, data, tmp_path, unbroken):
    out = tmp_path / "run"
    process = begin(small, data, out)
    wait_for(process, "step 6/")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert (out / "state.pt").exists()
    assert not list(out.glob(".*part*"))
    assert run(small, data, out, "--resume").returncode == 0
    assert same(out / "last.safetensors", unbroken / "last.safetensors")


def test_two_processes_do_not_train_in_one_folder(small, data, unbroken):
    before = (unbroken / "metrics.jsonl").read_bytes()
    with locked(unbroken):
        done = run(small, data, unbroken, "--resume")
    assert done.returncode == 2
    waiting, refused = done.stderr.splitlines()
    assert waiting == f"another nnface is at work in {unbroken}; waiting up to 10 s for its end"
    assert f"another nnface is at work in {unbroken}; wait until" in refused
    assert (unbroken / "metrics.jsonl").read_bytes() == before


def test_loader_processes_change_nothing(small, data, tmp_path, unbroken):
    done = run(small, data, tmp_path / "run", "--set", "loop.workers=2")
    assert done.returncode == 0, done.stderr
    assert same(tmp_path / "run" / "last.safetensors", unbroken / "last.safetensors")


SGD = ["optimizer.name=sgd", "optimizer.lr=0.01", "loop.ema=0", "loop.steps=3", "loop.batch=8"]
"""Plain steps, so that gradients show in the weights."""


def two_processes(small, data, out, *overrides):
    sets = [word for override in overrides for word in ("--set", override)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    arguments = [*launcher, *command(small, data, out, *sets)[2:]]
    return subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=600)


def test_two_processes_equal_one_with_frozen_batch_norm(small, data, tmp_path):
    plan = [*SGD, "loop.freeze_batch_norm=true"]
    done = two_processes(small, data, tmp_path / "two", *plan)
    assert done.returncode == 0, done.stderr
    start(str(small), [f"widerface:{data}"], tmp_path / "one", overrides=plan, threads=1)
    first, second = (load_file(tmp_path / name / "last.safetensors") for name in ("one", "two"))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-5, atol=1e-6 * float(value.abs().max() + 1))


def test_two_processes_equal_two_accumulated_halves(small, data, tmp_path):
    plan = [*SGD, "loop.steps=1"]
    done = two_processes(small, data, tmp_path / "two", *plan)
    assert done.returncode == 0, done.stderr
    start(str(small), [f"widerface:{data}"], tmp_path / "one", overrides=[*plan, "loop.accumulate=2"], threads=1)
    first, second = (load_file(tmp_path / name / "last.safetensors") for name in ("one", "two"))
    for name, value in first.items():
        if "running" not in name and "tracked" not in name:  # each process keeps its own statistics
            torch.testing.assert_close(second[name], value, rtol=1e-5, atol=1e-6 * float(value.abs().max() + 1))


def test_a_loss_that_is_not_finite_names_the_pictures(small, data, tmp_path):
    done = run(small, data, tmp_path / "run", "--set", "optimizer.lr=1e30")
    assert done.returncode == 2
    assert re.search(r"not finite at step \d+ .*0--Parade/picture_\d", done.stderr.splitlines()[-1])
    assert "Traceback" not in done.stderr


def test_bfloat16_and_tensorboard_words(small, data, tmp_path):
    best = start(
        str(small),
        [f"widerface:{data}"],
        tmp_path / "run",
        overrides=["loop.precision=bfloat16", "loop.steps=2", "loop.evaluate_every=2"],
    )
    weights = load_file(best)
    assert all(torch.isfinite(value).all() for value in weights.values() if value.is_floating_point())


def test_a_run_folder_is_not_reused_by_accident(small, data, tmp_path):
    out = tmp_path / "run"
    source = [f"widerface:{data}"]
    with pytest.raises(TrainingError, match="no run to resume"):
        start(str(small), source, out, resume=True)
    start(str(small), source, out, overrides=["loop.steps=1"])
    with pytest.raises(TrainingError, match="holds a run already"):
        start(str(small), source, out)
    with pytest.raises(TrainingError, match="begun with another recipe"):
        start(str(small), source, out, resume=True, overrides=["loop.steps=2"])
    other = make_widerface(tmp_path / "other", seed=9)
    with pytest.raises(TrainingError, match="begun with other data"):
        start(str(small), [f"widerface:{other}"], out, resume=True, overrides=["loop.steps=1"])
    (out / "state.pt").write_bytes(b"not a state")
    with pytest.raises(TrainingError, match=r"state\.pt is damaged"):
        start(str(small), source, out, resume=True, overrides=["loop.steps=1"])


def test_init_starts_from_a_model_file(small, data, tmp_path):
    source = [f"widerface:{data}"]
    first = start(str(small), source, tmp_path / "a", overrides=["loop.steps=2"])
    still = ["loop.steps=1", "optimizer.lr=1e-12", "loop.ema=0", "loop.freeze_batch_norm=true"]
    start(str(small), source, tmp_path / "b", init=first, overrides=still)
    begun, ended = load_file(first), load_file(tmp_path / "b" / "last.safetensors")
    for name, value in begun.items():
        torch.testing.assert_close(ended[name], value)


def test_a_run_that_stopped_before_its_first_state_begins_from_init_again(small, data, tmp_path):
    source = [f"widerface:{data}"]
    first = start(str(small), source, tmp_path / "a", overrides=["loop.steps=2"])
    still = ["loop.steps=1", "optimizer.lr=1e-12", "loop.ema=0", "loop.freeze_batch_norm=true"]
    start(str(small), source, tmp_path / "b", init=first, overrides=still)
    for name in ("state.pt", "best.safetensors", "last.safetensors"):
        (tmp_path / "b" / name).unlink()
    for other in (None, "default"):
        with pytest.raises(TrainingError, match=r"before its first state was saved, .* --init with small \(sha256"):
            start(str(small), source, tmp_path / "b", init=other, resume=True, overrides=still)
    start(str(small), source, tmp_path / "b", init=first, resume=True, overrides=still)
    begun, ended = load_file(first), load_file(tmp_path / "b" / "last.safetensors")
    for name, value in begun.items():
        torch.testing.assert_close(ended[name], value)


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


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimiser.lr=1", "optimiser is not a key of the recipe; did you mean 'optimizer'"),
        ("optimizer.learning=1", "optimizer.learning is not a key"),
        ("optimizer.lr=-1", "greater than 0"),
        ("optimizer.lr", "--set takes KEY=VALUE"),
        ("loop.batch=many", "valid integer"),
        ("name.x=1", "name is a value"),
        ("crops.size=16", "greater than or equal to 32"),
        ("evaluation.best=640", "none of the sizes"),
        ("crops.paste=0.1", "need portraits"),
    ],
)
def test_recipes_are_strict(override, words):
    with pytest.raises(RecipeError, match=words):
        recipe.parse(SMALL, "small.toml", [override])


def test_every_shipped_recipe_loads_and_survives_being_written():
    for name in recipe.shipped():
        plan = recipe.load(name)
        assert plan.name == name
        assert plan.about
        assert recipe.parse(recipe.dump(plan), name) == plan


def test_portraits_change_only_the_samples_that_bear_them(data):
    source = {"widerface": widerface.read(data)}
    plain, named, pasted = (
        DetectionTask(recipe.parse(SMALL, "small.toml", overrides), source)
        for overrides in (
            [],
            ["data.portraits=['widerface']", "crops.sheets=1e-9"],
            ["data.portraits=['widerface']", "crops.paste=1"],
        )
    )
    more = 0
    for number in range(4):
        one, other, third = (task.sample(number) for task in (plain, named, pasted))
        np.testing.assert_array_equal(one.image, other.image)
        more += len(third.names) - len(one.names)
    assert more > 0


def test_unknown_recipe_names_the_nearest():
    with pytest.raises(RecipeError, match="did you mean 'retinaface-mobilenet025'"):
        recipe.load("retinaface-mobilenet25")


def test_the_rate_moves_with_the_batch():
    part = recipe.Optimizer(lr=0.01, lr_batch=32)
    assert loop.scaled_rate(part, 64) == pytest.approx(0.02)
    assert loop.scaled_rate(part.model_copy(update={"lr_rule": "sqrt"}), 128) == pytest.approx(0.02)
    assert loop.scaled_rate(part.model_copy(update={"lr_rule": "none"}), 128) == pytest.approx(0.01)


def test_schedules():
    cosine = recipe.Schedule(warmup=10, final=0.1)
    assert loop.schedule(cosine, 0, 110) == pytest.approx(0.1)
    assert loop.schedule(cosine, 10, 110) == pytest.approx(1)
    assert loop.schedule(cosine, 60, 110) == pytest.approx(0.55)
    assert loop.schedule(cosine, 110, 110) == pytest.approx(0.1)
    steps = recipe.Schedule(shape="steps", milestones=[0.5, 0.8], gamma=0.1)
    assert [loop.schedule(steps, s, 100) for s in (49, 50, 80)] == pytest.approx([1, 0.1, 0.01])


@pytest.mark.parametrize("architecture", ["ultralight-rfb", "retinaface-mobilenet025", "ultralight-slim-landmarks"])
def test_the_published_recipes_train(data, tmp_path, architecture):
    short = ["loop.steps=2", "loop.batch=2", "loop.workers=0", "loop.evaluate_every=2", "crops.size=96", "size=96"]
    evaluation = ["evaluation.sizes=[96]", "evaluation.best=96"]
    best = start(architecture, [f"widerface:{data}"], tmp_path / "run", overrides=[*short, *evaluation])
    assert model_file.load(best)[1].architecture == architecture


def test_data_words(small, data, tmp_path):
    done = run(small, data, tmp_path / "run", "--data", "pascal:somewhere")
    assert done.returncode == 2
    assert "this recipe trains a detector, whose --data is widerface:PATH or coco:PATH" in done.stderr
    assert not Path(tmp_path / "run").exists()


def test_init_starts_from_an_exported_file(small, data, tmp_path):
    source = [f"widerface:{data}"]
    first = start(str(small), source, tmp_path / "a", overrides=["loop.steps=12", "optimizer.lr=0.01"])
    exported = tmp_path / "first.onnx"
    export(first, exported)
    still = ["loop.steps=1", "optimizer.lr=1e-12", "loop.ema=0", "loop.freeze_batch_norm=true"]
    start(str(small), source, tmp_path / "b", init=exported, overrides=still)
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


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["gone", "no picture"])
def test_a_picture_that_fails_is_named_in_one_sentence(small, tmp_path, workers, damage):
    data = make_widerface(tmp_path / "data")
    sets = ["--set", f"loop.workers={workers}", "--set", "crops.mosaic=0"]
    pictures = sorted((data / "WIDER_train").rglob("*.jpg"))
    lost = next(path for path in pictures if path.stem == "picture_3")
    lost.write_bytes(b"text")
    if damage == "gone":
        program = (
            "import sys; from pathlib import Path; from nnface.commands import main; from nnface.training import start;"
            "read = start.read_sources; lost = Path(sys.argv.pop());"
            "start.read_sources = lambda data: (read(data), lost.unlink())[0];"  # after the labels were read
            "main()"
        )
        words = [sys.executable, "-c", program, *command(small, data, tmp_path / "run", *sets)[3:], str(lost)]
        done = subprocess.run(words, capture_output=True, text=True)
    else:
        done = run(small, data, tmp_path / "run", *sets)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("nnface: ")
    assert lost.name in last
    assert "Traceback" not in done.stderr


def test_sources_may_share_their_keys(small, tmp_path):
    first = widerface.read(make_widerface(tmp_path / "a", seed=1))
    second = widerface.read(make_widerface(tmp_path / "b", seed=2))
    task = DetectionTask(recipe.load(small), {"a": first, "b": second})
    assert len(task.chosen) == 2 * len(DetectionTask(recipe.load(small), {"a": first}).chosen)
    seen = []
    network = task.model()
    network.register_forward_hook(lambda *_: seen.append(1))
    figures = task.evaluate(network)
    assert sum(seen) > 0
    truth = wider.by_height({str(i): s.boxes for i, s in enumerate(task.chosen)})
    assert {f"{name}@128" for name in truth.counted} | {"best"} == figures.keys()


def test_an_unknown_source_for_choosing_is_named(small, data, tmp_path):
    done = run(small, data, tmp_path / "run", "--set", 'evaluation.sources=["other"]')
    assert done.returncode == 2
    assert "wants data named 'other'" in done.stderr
    assert not (tmp_path / "run").exists()


def test_without_faces_to_choose_by_the_best_weights_are_the_last(small, tmp_path):
    samples = [s for s in widerface.read(make_widerface(tmp_path / "data")) if len(s.boxes)]
    task = DetectionTask(recipe.load(small, ["loop.steps=6", "loop.evaluate_every=2"]), {"all": samples})
    task.chosen = []
    loop.train(task, task.recipe, tmp_path / "run")
    assert same(tmp_path / "run" / "best.safetensors", tmp_path / "run" / "last.safetensors")
    rows = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert [row["best"] for row in rows if "best" in row] == [None] * 3


def test_what_a_recipe_gets_wrong_is_said_before_the_run_folder_is_made(small, data, tmp_path):
    out, source = tmp_path / "run", [f"widerface:{data}"]
    for overrides, error, words in (
        (["loss.kind=multibox"], RecipeError, "loss.kind multibox is not for"),
        (["loop.accumulate=3"], RecipeError, "does not divide by 3"),
        (["model.backbone=nowhere.pth"], UsageError, "for a network with a published backbone"),
        (["model.settings.widths=[8]"], UsageError, "settings of the network anchorfree are impossible"),
        (["model.settings.stem=-3"], UsageError, "settings of the network anchorfree are impossible"),
        (["model.settings.neck=0"], UsageError, "laterals.*has no weights"),
        (["crops.face_min=900"], RecipeError, "face_min is 900, above face_max"),
        (["evaluation.sizes=[8]", "evaluation.best=8"], RecipeError, "greater than or equal to 32"),
        (["loss.box=-1"], RecipeError, "loss.box"),
        (["seed=9223372036854775807"], RecipeError, "seed"),
        (["task=[1]"], RecipeError, "task is"),
    ):
        with pytest.raises(error, match=words):
            start(str(small), source, out, overrides=overrides)
    with pytest.raises(DeviceError, match="not on 'tpu'"):
        start(str(small), source, out, device="tpu")
    assert not out.exists()
    faceless = [replace(s, ignored=np.ones(len(s.boxes), bool)) for s in widerface.read(data)]
    with pytest.raises(DataError, match="no labelled face"):
        start(str(small), [f"coco:{make_coco(tmp_path / 'faceless.json', faceless)}"], out)
    assert not out.exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cannot make the run folder"):
        start(str(small), source, tmp_path / "file" / "run")


def test_a_run_that_did_no_step_leaves_its_folder_to_the_next(small, tmp_path):
    data = make_widerface(tmp_path / "data")
    pictures = sorted((data / "WIDER_train").rglob("*.jpg"))
    whole = [path.read_bytes() for path in pictures]
    for path in pictures:
        path.write_bytes(b"text")
    with pytest.raises(NnfaceError, match="picture_"):
        start(str(small), [f"widerface:{data}"], tmp_path / "run")
    for path, content in zip(pictures, whole, strict=True):
        path.write_bytes(content)
    start(str(small), [f"widerface:{data}"], tmp_path / "run", overrides=["loop.steps=1"])


def test_weights_that_lie_in_the_run_folder_are_not_replaced(small, data, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "best.safetensors").write_bytes(b"mine")
    with pytest.raises(TrainingError, match=r"best\.safetensors is there already"):
        start(str(small), [f"widerface:{data}"], out)
    assert [(p.name, p.read_bytes()) for p in out.glob("[!.]*")] == [("best.safetensors", b"mine")]


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


def test_a_full_disk_is_one_sentence(small, data, tmp_path):
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); from nnface.commands import main; main()"
    )
    words = [sys.executable, "-c", limited, *command(small, data, tmp_path / "run")[3:]]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    assert "cannot write" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "state.pt").exists()


def test_a_recipe_of_an_earlier_version_resumes(small, data, tmp_path):
    source, plan = [f"widerface:{data}"], ["loop.steps=1"]
    start(str(small), source, tmp_path / "run", overrides=plan)
    kept = tmp_path / "run" / "recipe.toml"
    whole = kept.read_text()
    earlier = "".join(line for line in whole.splitlines(keepends=True) if not line.startswith("cover ="))
    assert earlier != whole
    kept.write_text(earlier)
    best = start(str(small), source, tmp_path / "run", resume=True, overrides=plan)
    assert best == tmp_path / "run" / "best.safetensors"


def test_means_after_a_resume_are_over_the_steps_there_were(capsys):
    state = State(torch.nn.Linear(1, 1), torch.optim.SGD([torch.zeros(1)]), None, step=7)
    say = loop._Reporter(0, recipe.Loop(steps=100, log_every=10), 0.1, state)
    rows = [say.step(step, {"box": 2.0}) for step in range(8, 21)]
    assert [row["box"] for row in rows if row] == [2.0, 2.0]
    assert "left 0:00:0" in capsys.readouterr().err


def test_the_best_that_is_told_is_the_best(capsys):
    state = State(torch.nn.Linear(1, 1), torch.optim.SGD([torch.zeros(1)]), None)
    say = loop._Reporter(0, recipe.Loop(steps=100, log_every=1), 0.1, state)
    best = float("-inf")
    for step, value in enumerate([0.5, 0.7, 0.6, 0.7], 1):
        best = max(best, value)
        say.figures(step, {"best": value}, best)
        say.step(step, {"box": 1.0})
    told = [line.split("(best ")[1] for line in capsys.readouterr().err.splitlines() if "(best " in line]
    assert told == ["0.5000 at 1)", "0.7000 at 2)", "0.7000 at 2)", "0.7000 at 2)"]


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


def test_decay_of_everything(small):
    network = create("ultralight-slim")
    part = recipe.Optimizer(weight_decay=0.1)
    assert [group["weight_decay"] for group in loop.make_optimizer(part, network, 0.1).param_groups] == [0.1, 0.0]
    everything = part.model_copy(update={"decay_all": True})
    assert [group["weight_decay"] for group in loop.make_optimizer(everything, network, 0.1).param_groups] == [0.1, 0.1]


def test_two_processes_stop_after_the_same_step(small, data, tmp_path):
    out = tmp_path / "two"
    sets = ["--set", "loop.save_every=1000", "--set", "loop.steps=2000", "--set", "loop.evaluate_every=2000"]
    program = (
        "import os, signal, sys; from nnface.commands import main; from nnface.training import loop;"
        "old = loop._Reporter.step;"
        "loop._Reporter.step = lambda s, n, l: (n == 5 and os.kill(os.getpid(), signal.SIGINT), old(s, n, l))[1];"
        "main()"
    )
    script = tmp_path / "main.py"
    script.write_text(program)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(
        [*launcher, *command(small, data, out, *sets)[3:]], capture_output=True, text=True, timeout=600
    )
    assert done.stderr.count("nnface: interrupted") == 2, done.stderr
    assert torch.load(out / "state.pt", weights_only=True)["step"] == 6
