"""The loop on generated data, as real processes: killed, interrupted, two at once."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from generated import widerface as make_widerface
from nnface import Detector, header, zoo
from nnface.datasets import widerface
from nnface.datasets.samples import DetectionSample
from nnface.errors import NnfaceError, TrainingError
from nnface.files import locked
from nnface.metrics import wider
from nnface.models import file as model_file
from nnface.runtime.torch import TorchRunner
from nnface.training import loop, recipe
from nnface.training.detection import DetectionTask
from nnface.training.initial import initial_weights
from nnface.training.inputs import normalised
from nnface.training.start import start
from nnface.training.state import State
from trainings import SMALL, begin, command, run, same, wait_for

SOLVAY = Path(__file__).resolve().parents[1] / "examples/solvay_1927.jpg"


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


@pytest.mark.parametrize("clip", [0, 5])
def test_gradients_that_are_not_finite_are_no_step(small, data, tmp_path, clip):
    # The loss is just below the largest float32, and the norm of its gradients is above.
    plan = ["loss.box=2e38", f"optimizer.clip_norm={clip}", "loop.save_every=1"]
    with pytest.raises(TrainingError, match=r"gradients are not finite at step 1, .*0--Parade/picture_\d"):
        start(str(small), [f"widerface:{data}"], tmp_path / "run", overrides=plan, threads=1)
    assert not (tmp_path / "run" / "state.pt").exists()


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
    evaluation = task.evaluate(network)
    assert sum(seen) > 0
    truth = wider.by_height({str(i): s.boxes for i, s in enumerate(task.chosen)})
    assert {f"{name}@128" for name in truth.counted} == evaluation.figures.keys()


def test_the_score_that_a_trained_detector_recommends_is_fitted_on_what_was_kept(small, data, tmp_path):
    """Of a network that is good already; only the surer half of what it finds are called faces."""
    least = float(np.median(Detector("default")(SOLVAY).scores))
    found = Detector("default", min_score=least)(SOLVAY)
    sample = DetectionSample(
        key="solvay",
        path=SOLVAY,
        boxes=found.boxes,
        landmarks=np.full((len(found.boxes), 5, 2), np.nan, np.float32),
        ignored=np.zeros(len(found.boxes), bool),
    )
    settings = header.read_spec(zoo.resolve("default")).settings
    layers = ", ".join(f"{name} = {json.dumps(value)}" for name, value in settings.items())
    still = ["loop.steps=1", "loop.freeze_batch_norm=true", "optimizer.lr=1e-9", f"model.settings={{{layers}}}"]
    plan = recipe.load(small, ["size=640", "evaluation.sizes=[640]", "evaluation.best=640", *still])
    task = DetectionTask(plan, {"all": widerface.read(data)})
    task.chosen = [sample] * 8
    pictures = normalised(next(iter(task.batches(0, 0, 1))).images, task.spec().input)
    task.init, _ = initial_weights(zoo.resolve("default"), pictures)
    loop.train(task, plan, tmp_path / "run")
    for name in ("best", "last"):
        spec = header.read_spec(tmp_path / "run" / f"{name}.safetensors")
        assert spec.detection.min_score == pytest.approx(least, abs=0.02)
    task.chosen = [sample]
    assert task.evaluate(task.model().eval()).spec.detection.min_score == 0.5, "29 faces are too few to tell"


def test_without_faces_to_choose_by_the_best_weights_are_the_last(small, tmp_path):
    samples = [s for s in widerface.read(make_widerface(tmp_path / "data")) if len(s.boxes)]
    task = DetectionTask(recipe.load(small, ["loop.steps=6", "loop.evaluate_every=2"]), {"all": samples})
    task.chosen = []
    loop.train(task, task.recipe, tmp_path / "run")
    assert same(tmp_path / "run" / "best.safetensors", tmp_path / "run" / "last.safetensors")
    rows = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert [row["best"] for row in rows if "best" in row] == [None] * 3


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
