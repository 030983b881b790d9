"""Recipes: what they refuse, what they mean, and that those that ship train."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from generated import coco as make_coco
from nnface.datasets import widerface
from nnface.errors import DataError, DeviceError, RecipeError, TrainingError, UsageError
from nnface.models import file as model_file
from nnface.models.create import create
from nnface.training import loop, recipe
from nnface.training.detection import DetectionTask
from nnface.training.start import start
from trainings import SMALL, run


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


def test_unknown_recipe_names_the_nearest():
    with pytest.raises(RecipeError, match="did you mean 'retinaface-mobilenet025'"):
        recipe.load("retinaface-mobilenet25")


def test_what_a_recipe_gets_wrong_is_said_before_the_run_folder_is_made(small, data, tmp_path):
    out, source = tmp_path / "run", [f"widerface:{data}"]
    for overrides, error, words in (
        (["loss.kind=multibox"], RecipeError, "loss.kind multibox is not for"),
        (["loop.accumulate=3"], RecipeError, "does not divide by 3"),
        (["model.backbone=nowhere.pth"], UsageError, "for a network with a published backbone"),
        (["model.settings.widths=[8]"], UsageError, "settings of the network anchorfree are impossible"),
        (["model.settings.stem=-3"], UsageError, "settings of the network anchorfree are impossible"),
        (["model.settings.depths=[9000,1,1,1]"], UsageError, "anchorfree are impossible: .* more than 1024 blocks"),
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


def test_data_words(small, data, tmp_path):
    done = run(small, data, tmp_path / "run", "--data", "pascal:somewhere")
    assert done.returncode == 2
    assert "this recipe trains a detector, whose --data is widerface:PATH or coco:PATH" in done.stderr
    assert not Path(tmp_path / "run").exists()


def test_an_unknown_source_for_choosing_is_named(small, data, tmp_path):
    done = run(small, data, tmp_path / "run", "--set", 'evaluation.sources=["other"]')
    assert done.returncode == 2
    assert "wants data named 'other'" in done.stderr
    assert not (tmp_path / "run").exists()


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


def test_decay_of_everything(small):
    network = create("ultralight-slim")
    part = recipe.Optimizer(weight_decay=0.1)
    assert [group["weight_decay"] for group in loop.make_optimizer(part, network, 0.1).param_groups] == [0.1, 0.0]
    everything = part.model_copy(update={"decay_all": True})
    assert [group["weight_decay"] for group in loop.make_optimizer(everything, network, 0.1).param_groups] == [0.1, 0.1]


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


@pytest.mark.parametrize("architecture", ["ultralight-rfb", "retinaface-mobilenet025", "ultralight-slim-landmarks"])
def test_the_published_recipes_train(data, tmp_path, architecture):
    short = ["loop.steps=2", "loop.batch=2", "loop.workers=0", "loop.evaluate_every=2", "crops.size=96", "size=96"]
    evaluation = ["evaluation.sizes=[96]", "evaluation.best=96"]
    best = start(architecture, [f"widerface:{data}"], tmp_path / "run", overrides=[*short, *evaluation])
    assert model_file.load(best)[1].architecture == architecture
