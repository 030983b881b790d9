"""A classifier learns from generated chips, goes on exactly where it was stopped, and travels to ONNX and back."""

import json
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.nn import functional as F

from faces import fairface
from nnface.datasets import fairface as data
from nnface.datasets.samples import split
from nnface.errors import RecipeError
from nnface.header import read_spec
from nnface.predict.classifier import Classifier
from nnface.training import recipe
from nnface.training.attributes import AttributesTask
from nnface.training.augment.attributes import jitter, vary
from nnface.training.inputs import normalised
from nnface.training.losses.attributes import disagreement, soft_cross_entropy, soft_labels
from nnface.training.recipe import ChipAugment
from processes import nnface

SMALL = """
name = "small"
task = "classify"
seed = 3
licence = "none: generated data"
[model]
architecture = "classifier-compact"
settings = { stem = 8, widths = [8, 16], depths = [1, 1], dropout = 0.1 }
[optimizer]
lr = 1e-2
lr_batch = 16
[loop]
steps = 24
batch = 16
ema = 0.9
log_every = 4
save_every = 4
evaluate_every = 12
[augment]
size = 48
size_start = 32
grey = 0
color = 0.05
[loss]
balance = { race = 0.5 }
"""
STILL = ChipAugment(size=48, shift=0, scale=0, rotate=0, flip=False, color=0, grey=0, blur=0, reduce=0, erase=0)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return fairface(tmp_path_factory.mktemp("data") / "fairface", train=300, val=60)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "small.toml"
    path.write_text(SMALL)
    return path


def train(small, root, out, *more):
    command = [
        sys.executable,
        "-m",
        "nnface",
        "train",
        small,
        "--data",
        f"fairface:{root}",
        "--out",
        out,
        "--threads",
        "1",
    ]
    return subprocess.run([*map(str, command), *more], capture_output=True, text=True)


def same(one, other):
    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_from_data_to_the_command_line(small, root, tmp_path):
    whole = tmp_path / "whole"
    ended = train(small, root, whole)
    assert ended.returncode == 0, ended.stderr
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    figures = [row for row in rows if "worst_race" in row]
    assert [row["step"] for row in figures] == [12, 24]
    mean = np.mean([figures[-1][head] for head in ("race", "gender", "age")])
    assert figures[-1]["best"] == pytest.approx(0.75 * mean + 0.25 * figures[-1]["worst_race"])
    spec = read_spec(whole / "best.safetensors")
    assert (spec.task, spec.input.width, spec.input.size) == ("classify", 48, 48)
    assert nnface("export", whole / "best.safetensors", "--to", "onnx", cwd=tmp_path).code == 0
    told = [Classifier(whole / name, threads=1)(root / "val/1.jpg")[0] for name in ("best.safetensors", "best.onnx")]
    for head, attribute in told[0].attributes.items():
        assert told[1].attributes[head].probabilities == pytest.approx(attribute.probabilities, abs=1e-4)
    still = ["--set", "loop.steps=1", "--set", "optimizer.lr=1e-12", "--set", "loop.ema=0"]
    still += ["--set", "loop.freeze_batch_norm=true", "--init", whole / "best.onnx"]
    ended = train(small, root, tmp_path / "again", *still)
    assert ended.returncode == 0, ended.stderr
    again = Classifier(tmp_path / "again/last.safetensors", threads=1)(root / "val/1.jpg")[0]
    for head, attribute in again.attributes.items():
        assert attribute.probabilities == pytest.approx(told[1].attributes[head].probabilities, abs=1e-3)


def test_a_run_that_was_interrupted_ends_with_the_same_weights(small, root, tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert train(small, root, whole).returncode == 0
    command = [sys.executable, "-m", "nnface", "train", small, "--data", f"fairface:{root}", "--out", halves]
    with subprocess.Popen([*map(str, command), "--threads", "1"], stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("step 4/"):
                process.send_signal(2)
                break
        process.stderr.read()
    assert process.returncode == 130
    assert not (halves / "last.safetensors").exists()
    assert train(small, root, halves, "--resume").returncode == 0
    assert same(whole / "last.safetensors", halves / "last.safetensors")


def test_it_learns(small, root):
    plan = recipe.load(small, ["loop.steps=150", "augment.growth=0", "augment.flip=false", "loop.ema=0"])
    task = AttributesTask(plan, {"a": data.read(root)})
    torch.manual_seed(0)
    model = task.model()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    before = task.evaluate(model).figures["gender"]
    model.train()
    for batch in task.batches(0, 0, 1):
        sum(task.loss(model, batch, task.counts(batch)).values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    after = task.evaluate(model).figures
    assert after["gender"] > max(0.9, before)
    assert after["age_within_1"] > 0.6


def test_what_a_number_shows_is_always_the_same(small, root):
    samples = data.read(root)
    tasks = [AttributesTask(recipe.load(small), {"a": samples}) for _ in range(2)]
    numbers = [5, 700, 5, 31]
    seen = [[task.sample(n).image for n in (numbers if k == 0 else numbers[::-1])] for k, task in enumerate(tasks)]
    for one, other in zip(seen[0], seen[1][::-1], strict=True):
        np.testing.assert_array_equal(one, other)
    kept, chosen = split(samples)
    epoch = [tasks[0].train[tasks[0]._order(3)[i]].key for i in range(len(kept))]
    assert sorted(epoch) == sorted(s.key for s in kept)
    assert not {s.key for s in tasks[0].train} & {s.key for s in chosen}
    sizes = [tasks[0].size_at(16 * step) for step in range(24)]
    assert sizes == sorted(sizes) and (sizes[0], sizes[-1]) == (32, 48) and {s % 8 for s in sizes} == {0}


@given(st.integers(0, 2**32), st.sampled_from([(40, 40), (33, 70), (224, 224)]))
@settings(max_examples=15, deadline=None)
def test_variations_are_chips_and_no_variation_is_the_resized_chip(seed, shape):
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(0, 256, (7, 7, 3), np.uint8), shape[::-1])
    varied = vary(image, 48, rng, ChipAugment(size=48, erase=1, blur=1, reduce=1, grey=1))
    assert varied.shape == (48, 48, 3) and varied.dtype == np.uint8
    plain = vary(image, 48, rng, STILL)
    expected = cv2.resize(image, (48, 48), interpolation=cv2.INTER_LINEAR)
    assert np.abs(plain[2:-2, 2:-2].astype(int) - expected[2:-2, 2:-2]).max() <= 3


def test_a_flip_mirrors():
    image = cv2.resize(np.random.default_rng(0).integers(0, 256, (7, 7, 3), np.uint8), (48, 48))
    plan = STILL.model_copy(update={"flip": True})
    seen = [jitter(image, 48, np.random.default_rng(seed), plan) for seed in range(20)]
    mirrored = [np.array_equal(chip, image[:, ::-1]) for chip in seen]
    assert 3 < sum(mirrored) < 17
    assert all(m or np.array_equal(chip, image) for m, chip in zip(mirrored, seen, strict=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_cross_entropy(smoothing):
    torch.manual_seed(0)
    logits, labels = torch.randn(9, 7), torch.randint(0, 7, (9,))
    soft = soft_labels(7, smoothing, 0)
    found = soft_cross_entropy(logits, labels, soft, torch.ones(9))
    torch.testing.assert_close(found, F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="sum"))
    none = torch.cat([labels, torch.full((3,), -1)])
    more = soft_cross_entropy(torch.cat([logits, torch.randn(3, 7)]), none, soft, torch.ones(12))
    torch.testing.assert_close(more, found)
    shares = torch.rand(9)
    parts = [soft_cross_entropy(logits, labels, soft, each) for each in (shares, 1 - shares)]
    torch.testing.assert_close(parts[0] + parts[1], found)


def test_one_bin_off_costs_less_than_five():
    soft = soft_labels(9, 0.05, 0.6)
    torch.testing.assert_close(soft.sum(1), torch.ones(9))
    near, far = torch.zeros(1, 9), torch.zeros(1, 9)
    near[0, 4], far[0, 8] = 4, 4
    labels, whole = torch.tensor([3]), torch.ones(1)
    assert soft_cross_entropy(near, labels, soft, whole) < soft_cross_entropy(far, labels, soft, whole)
    plain = soft_labels(9, 0.05, 0)
    both = [soft_cross_entropy(logits, labels, plain, whole) for logits in (near, far)]
    torch.testing.assert_close(*both)


def test_disagreement_is_the_divergence_of_pairs():
    torch.manual_seed(0)
    logits = torch.randn(6, 7)
    a, b = (logits[k::2].log_softmax(1) for k in (0, 1))
    wanted = (F.kl_div(a, b, reduction="sum", log_target=True) + F.kl_div(b, a, reduction="sum", log_target=True)) / 2
    torch.testing.assert_close(disagreement(logits), wanted)
    assert disagreement(logits[[0, 0, 3, 3]]) == 0
    with pytest.raises(RuntimeError):
        disagreement(logits[:3])


def test_chips_that_shall_agree_come_in_pairs(small, root):
    task = AttributesTask(recipe.load(small, ["loss.agreement=1"]), {"a": data.read(root)})
    batch = next(iter(task.batches(0, 0, 1)))
    assert batch.names[0::2] == batch.names[1::2] and len(set(batch.names)) == 8
    assert not torch.equal(batch.images[0], batch.images[1])
    counts = task.counts(batch)
    assert counts["chips"] == 16
    losses = task.loss(task.model(), batch, counts)
    assert losses["agreement"] > 0
    with pytest.raises(RecipeError, match="must be even"):
        AttributesTask(recipe.load(small, ["loss.agreement=1", "loop.batch=5"]), {"a": data.read(root)})


def test_chips_are_laid_over_each_other_with_their_labels(small, root):
    samples = {"a": data.read(root)}
    still = [f"augment.{name}=0" for name in ("shift", "scale", "rotate", "color", "blur", "reduce", "erase")]
    plain, mixed = (
        AttributesTask(recipe.load(small, ["augment.flip=false", *still, *more]), samples)
        for more in ([], ["augment.mixup=0.4"])
    )
    shares = []
    for number in range(40):
        chip = mixed.sample(number)
        assert chip.own.key == plain.sample(number).own.key
        images = [cv2.resize(cv2.imread(str(s.path)), (32, 32)).astype(float) for s in (chip.own, chip.other)]
        wanted = chip.share * images[0] + (1 - chip.share) * images[1]
        inner = np.s_[2:-2, 2:-2]  # edges depend on the border
        assert np.abs(chip.image[inner] - wanted[inner]).max() <= 4
        shares.append(chip.share)
    assert min(shares) < 0.2 and max(shares) > 0.8
    batch = next(iter(mixed.batches(0, 0, 1)))
    counts, model = mixed.counts(batch), mixed.model().eval()
    assert counts["gender"] == pytest.approx(16)
    whole = mixed.loss(model, batch, counts)
    logits = model(normalised(batch.images, mixed.spec().input))["gender"].log_softmax(1)
    own, other = (-(mixed.soft["gender"][labels["gender"]] * logits).sum(1) for labels in (batch.labels, batch.others))
    wanted = (batch.shares * own + (1 - batch.shares) * other).sum() / 16
    torch.testing.assert_close(whole["gender"], wanted)
    unknown = {**batch.others, "gender": torch.full((16,), -1)}
    assert mixed.counts(replace(batch, others=unknown))["gender"] == pytest.approx(float(batch.shares.sum()))
    assert set(mixed.names(batch)) == {*batch.names, *batch.others_names} > set(batch.names)


def test_frequent_labels_are_favoured_in_training_and_not_afterwards(small, root):
    """Menon et al. 2021: the loss is that of the logits plus the logarithm of the labels' frequency."""
    plain, balanced = (
        AttributesTask(recipe.load(small, [f"loss.balance.race={power}"]), {"a": data.read(root)}) for power in (0, 0.5)
    )
    batch, model = next(iter(plain.batches(0, 0, 1))), plain.model().eval()
    counts = plain.counts(batch)
    races = np.array([s.labels["race"] for s in plain.train])
    shares = torch.from_numpy(np.bincount(races, minlength=7) / len(races)).float()
    logits = model(normalised(batch.images, plain.spec().input))["race"]
    soft = plain.soft["race"][batch.labels["race"]]
    for task, power in ((plain, 0.0), (balanced, 0.5)):
        wanted = -(soft * (logits + power * shares.log()).log_softmax(1)).sum() / 16
        torch.testing.assert_close(task.loss(model, batch, counts)["race"], wanted)


def test_a_pair_bears_the_same_other_chip(small, root):
    task = AttributesTask(recipe.load(small, ["augment.mixup=0.4", "loss.agreement=1"]), {"a": data.read(root)})
    for number in range(0, 20, 2):
        one, other = task.sample(number), task.sample(number + 1)
        assert (one.own.key, one.other.key, one.share) == (other.own.key, other.other.key, other.share)
        assert not np.array_equal(one.image, other.image)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("augment.shft=0.1", "augment.shft is not a key of the recipe; did you mean 'shift'"),
        ('task="segments"', "task is 'segments', not one of detect, classify"),
        ("data.races=5", "data.races: input should be 4 or 7"),
    ],
)
def test_recipes_are_strict(small, override, words):
    with pytest.raises(RecipeError, match=words):
        recipe.load(small, [override])


def test_four_races_have_to_be_said_twice(small, root):
    samples = {"a": data.read(root)}
    with pytest.raises(RecipeError, match=r"the network has 7 races; set model.settings.races to 4 too"):
        AttributesTask(recipe.load(small, ["data.races=4"]), samples)
    task = AttributesTask(recipe.load(small, ["data.races=4", "model.settings.races=4"]), samples)
    assert len(task.spec().classification.heads["race"]) == 4
    assert {s.labels["race"] for s in task.train} == {-1, 0, 1, 2, 3}
    with pytest.raises(RecipeError, match="the loss names a head 'hair'"):
        AttributesTask(recipe.load(small, ["loss.neighbours.hair=1"]), samples)


def test_the_wrong_kind_of_data(small, root, tmp_path):
    arguments = ("train", small, "--data", f"widerface:{root}", "--out", tmp_path / "run")
    ended = nnface(*arguments, cwd=tmp_path)
    assert ended.code == 2 and "this recipe trains a classifier, whose --data is fairface:PATH" in ended.err
