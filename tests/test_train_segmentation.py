"""A parser learns from generated portraits, goes on exactly where it was stopped, and travels to ONNX and back."""

import hashlib
import json
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.nn import functional as F

from nnface.datasets import celebamask as data
from nnface.datasets.samples import split
from nnface.errors import RecipeError
from nnface.files import sha256
from nnface.header import read_spec
from nnface.models.create import create
from nnface.predict.segmenter import Segmenter
from nnface.spec import CELEBAMASK_LABELS, mirrored_labels
from nnface.training import recipe
from nnface.training.augment.segmentation import IGNORED, MIRRORED, vary
from nnface.training.initial import backbone
from nnface.training.losses.segmentation import cross_entropy, dice, outlines
from nnface.training.recipe import PortraitAugment
from nnface.training.segmentation import SegmentationTask
from portraits import HAIR, LEFT, RIGHT, SKIN, portrait, portraits
from processes import nnface

SMALL = """
name = "small"
task = "segment"
seed = 3
licence = "none: generated data"
[model]
architecture = "parser"
settings = { stem = 8, widths = [8, 16], depths = [1, 1], neck = 8 }
[optimizer]
lr = 1e-2
lr_batch = 8
[loop]
steps = 12
batch = 8
ema = 0.9
log_every = 2
save_every = 2
evaluate_every = 6
[augment]
size = 64
label_size = 32
grey = 0
color = 0.05
[data]
cache = "ram"
rare_weight = 2
[loss]
balance = 0.5
"""
STILL = PortraitAugment(
    size=64, label_size=64, shift=0, scale=0, rotate=0, flip=False, color=0, grey=0, blur=0, reduce=0
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return portraits(tmp_path_factory.mktemp("portraits"))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "small.toml"
    path.write_text(SMALL)
    return path


def command(small, root, out, *more):
    words = ["-m", "nnface", "train", small, "--data", f"celebamask:{root}", "--out", out, "--threads", "1", *more]
    return [sys.executable, *map(str, words)]


def test_from_data_to_the_command_line(small, root, tmp_path):
    run = tmp_path / "run"
    ended = subprocess.run(command(small, root, run), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    figures = [row for row in rows if "f1_18" in row]
    assert [row["step"] for row in figures] == [6, 12]
    assert figures[-1]["best"] == pytest.approx((figures[-1]["f1_18"] + figures[-1]["f1_14"]) / 2)
    spec = read_spec(run / "best.safetensors")
    assert (spec.task, spec.input.width, spec.segmentation.labels) == ("segment", 64, CELEBAMASK_LABELS)
    assert nnface("export", run / "best.safetensors", "--to", "onnx", cwd=tmp_path).code == 0
    found = [
        Segmenter(run / name, threads=1)(root / "images/001.png").labels for name in ("best.safetensors", "best.onnx")
    ]
    assert found[0].shape == (96, 96) and (found[0] == found[1]).mean() > 0.999


@pytest.mark.slow
def test_a_run_that_was_killed_ends_with_the_same_weights(small, root, tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert subprocess.run(command(small, root, whole), capture_output=True, check=False).returncode == 0
    with subprocess.Popen(command(small, root, halves), stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("step 6/"):
                process.kill()
                break
        process.stderr.read()
    assert not (halves / "last.safetensors").exists()
    ended = subprocess.run(command(small, root, halves, "--resume"), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    one, other = (load_file(folder / "last.safetensors") for folder in (whole, halves))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_it_learns_left_from_right_through_flips(small, root):
    plan = recipe.load(small, ["loop.steps=60", "loop.ema=0", "augment.rotate=0"])
    task = SegmentationTask(plan, {"a": data.read(root)})
    torch.manual_seed(0)
    model = task.model()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    model.train()
    for batch in task.batches(0, 0, 1):
        sum(task.loss(model, batch, task.counts(batch)).values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    image, labels = portrait(np.random.default_rng(99))
    path_free = torch.from_numpy(cv2.resize(image, (64, 64))[None]).float()
    spec = task.spec()
    inputs = ((path_free - torch.tensor(spec.input.mean)) / torch.tensor(spec.input.std)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        found = model.eval()(inputs)["logits"].argmax(1)[0].numpy()
    truth = cv2.resize(labels, found.shape[::-1], interpolation=cv2.INTER_NEAREST)
    for label in (SKIN, HAIR, LEFT, RIGHT):
        both = ((found == label) & (truth == label)).sum()
        assert 2 * both / ((found == label).sum() + (truth == label).sum()) > 0.6, CELEBAMASK_LABELS[label]


def test_what_a_number_shows_is_always_the_same(small, root):
    samples = data.read(root)
    tasks = [SegmentationTask(recipe.load(small), {"a": samples}) for _ in range(2)]
    numbers = [5, 700, 5, 31]
    seen = [[task.sample(n) for n in (numbers if k == 0 else numbers[::-1])] for k, task in enumerate(tasks)]
    for one, other in zip(seen[0], seen[1][::-1], strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
    kept, chosen = split(samples)
    assert {s.key for s in tasks[0].train} == {s.key for s in kept}
    assert not {s.key for s in tasks[0].train} & {s.key for s in chosen}


def test_portraits_of_one_name_in_two_sources(small, root, tmp_path):
    plan, samples = recipe.load(small), data.read(root)
    alone = SegmentationTask(plan, {"a": samples})
    again = SegmentationTask(plan, {"a": samples, "b": data.read(shutil.copytree(root, tmp_path / "same"))})
    for ours, whole in ((again.train, alone.train), (again.chosen, alone.chosen)):
        assert [s.key for s in ours] == [s.key for s in whole]
    assert again.fingerprint() == alone.fingerprint()

    encoded = shutil.copytree(root, tmp_path / "encoded")
    for sample in data.read(encoded):  # the same portraits, which take other bytes
        cv2.imwrite(str(sample.path), cv2.imread(str(sample.path)), [cv2.IMWRITE_PNG_COMPRESSION, 9])
        labels = cv2.imread(str(sample.mask), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(sample.mask), labels, [cv2.IMWRITE_PNG_COMPRESSION, 0])
    again = SegmentationTask(plan, {"a": samples, "b": data.read(encoded)})
    assert [s.key for s in again.train] == [s.key for s in alone.train]
    assert {s.path.parents[1] for s in again.train} == {encoded}

    rng = np.random.default_rng(7)
    other = shutil.copytree(root, tmp_path / "other")
    for key in (alone.train[0].key, alone.chosen[0].key):
        image, labels = portrait(rng)  # another person
        cv2.imwrite(str(other / f"images/{key}.png"), image)
        cv2.imwrite(str(other / f"masks/{key}.png"), labels)
    both = SegmentationTask(plan, {"a": samples, "b": data.read(other)})
    for ours, whole in ((both.train, alone.train), (both.chosen, alone.chosen)):
        both_of_them = [s.key for s in ours if s.key == whole[0].key]
        assert len(both_of_them) == 2 and len(ours) == len(whole) + 1
        assert list(dict.fromkeys(s.key for s in ours)) == [s.key for s in whole]
    assert both.fingerprint() != alone.fingerprint()


def test_the_fingerprint_of_one_source_stays_what_it_was(small, root):
    """A run goes on only where its data has the fingerprint that it began with."""
    lines = [f"{s.key} {sha256(s.mask)}\n" for s in sorted(data.read(root), key=lambda s: s.key)]
    task = SegmentationTask(recipe.load(small), {"a": data.read(root)})
    assert task.fingerprint() == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_rare_parts_are_drawn_more_often(small, root):
    task = SegmentationTask(recipe.load(small, ["data.rare_weight=4"]), {"a": data.read(root)})
    hats = {s.key for s in task.train if int(s.key) < 5}
    drawn = [task.train[task._pick(n, np.random.default_rng([3, 0, n]))].key for n in range(2000)]
    share = 4 * len(hats) / (4 * len(hats) + len(task.train) - len(hats))
    assert np.mean([key in hats for key in drawn]) == pytest.approx(share, abs=0.04)


@given(st.integers(0, 2**32), st.sampled_from([(40, 40), (33, 70), (96, 96)]))
@settings(max_examples=15, deadline=None)
def test_variations_carry_their_labels_along(seed, shape):
    rng = np.random.default_rng(seed)
    labels = cv2.resize(rng.integers(0, 19, (5, 5)).astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST)
    image = np.repeat((labels * 12)[..., None], 3, 2)
    plan = PortraitAugment(size=64, label_size=64, flip=False, color=0, grey=0, blur=0, reduce=0)
    varied, truth = vary(image, labels, rng, plan)
    assert varied.shape == (64, 64, 3) and truth.shape == (64, 64)
    inside = cv2.erode((truth != IGNORED).astype(np.uint8), np.ones((9, 9))) > 0
    same = cv2.morphologyEx(truth, cv2.MORPH_GRADIENT, np.ones((9, 9))) == 0
    sure = np.zeros((64, 64), bool)  # what lies beyond the border mixes into the pixels there
    sure[4:-4, 4:-4] = (inside & same)[4:-4, 4:-4]
    assert np.abs(varied[sure][:, 0].astype(int) - truth[sure] * 12).max(initial=0) <= 1
    plain, still = vary(image, labels, rng, STILL)
    np.testing.assert_array_equal(still, cv2.resize(labels, (64, 64), interpolation=cv2.INTER_NEAREST_EXACT))
    assert plain.shape == (64, 64, 3)


def test_a_mirror_swaps_left_and_right_and_twice_is_the_identity():
    table = MIRRORED
    assert mirrored_labels(("skin", "l_eye", "hair")) == (0, 1, 2)  # the other eye is no label
    np.testing.assert_array_equal(table[table], np.arange(256))
    moved = {CELEBAMASK_LABELS[a]: CELEBAMASK_LABELS[b] for a, b in enumerate(table[:19]) if a != b}
    assert moved == {f"{a}_{part}": f"{b}_{part}" for part in ("eye", "brow", "ear") for a, b in ("lr", "rl")}
    image, labels = portrait(np.random.default_rng(1))
    flipped = STILL.model_copy(update={"flip": True, "size": 96, "label_size": 96})
    for seed in range(10):
        varied, truth = vary(image, labels, np.random.default_rng(seed), flipped)
        if np.array_equal(varied, image[:, ::-1]):
            np.testing.assert_array_equal(truth, table[labels[:, ::-1]])
            again = table[truth[:, ::-1]]
            np.testing.assert_array_equal(again, labels)
            break
    else:
        pytest.fail("no picture was mirrored")


@given(st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_outlines_are_pixels_beside_another_part_and_count_more(seed):
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 0, 0, 3, IGNORED], (2, 6, 7))
    found = outlines(torch.from_numpy(labels))
    padded = np.pad(labels, ((0, 0), (1, 1), (1, 1)), constant_values=IGNORED)
    for n, y, x in np.ndindex(labels.shape):
        here = labels[n, y, x]
        beside = {int(padded[n, y + 1 + v, x + 1 + u]) for v, u in ((0, -1), (0, 1), (-1, 0), (1, 0))}
        assert bool(found[n, y, x]) == (here != IGNORED and bool(beside - {here, IGNORED}))
    logits, truth = torch.from_numpy(rng.normal(size=(2, 5, 6, 7))).float(), torch.from_numpy(labels)
    each = F.cross_entropy(logits, truth, ignore_index=IGNORED, reduction="none") * found
    more = (each.sum((1, 2)) / (truth != IGNORED).sum((1, 2)).clamp(min=1)).sum()
    plain = cross_entropy(logits, truth, torch.ones(5))
    torch.testing.assert_close(cross_entropy(logits, truth, torch.ones(5), 2.0), plain + 2 * more)


def test_losses_are_what_they_say():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 19, 8, 8), torch.randint(0, 19, (2, 8, 8))
    weights = torch.rand(19) + 0.5
    plain = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(cross_entropy(logits, labels, weights), (plain * weights[labels]).mean((1, 2)).sum())
    outside = labels.clone()
    outside[:, :4] = IGNORED
    torch.testing.assert_close(
        cross_entropy(logits, outside, weights), cross_entropy(logits[:, :, 4:], labels[:, 4:], weights)
    )
    torch.testing.assert_close(dice(logits, outside), dice(logits[:, :, 4:], labels[:, 4:]))
    sure = torch.nn.functional.one_hot(labels, 19).permute(0, 3, 1, 2) * 50.0
    assert float(dice(sure, labels)) == pytest.approx(0, abs=1e-4)
    assert float(dice(-sure, labels)) > 1.7
    together = dice(logits, labels)
    torch.testing.assert_close(together, dice(logits[:1], labels[:1]) + dice(logits[1:], labels[1:]))


@pytest.mark.parametrize("mined", [0.0, 0.7])
def test_auxiliary_outputs_count_in_training_only(root, mined):
    plan = recipe.parse(
        SMALL.replace('"parser"', '"bisenet-resnet18"').replace(
            "settings = { stem = 8, widths = [8, 16], depths = [1, 1], neck = 8 }",
            'settings = { labels = "celebamask" }',
        ),
        "test",
        [f"loss.hardest={mined}", "loop.batch=2", "loss.balance=0"],
    )
    task = SegmentationTask(plan, {"a": data.read(root)})
    batch = next(iter(task.batches(0, 0, 1)))
    losses = task.loss(task.model().train(), batch, task.counts(batch))
    assert losses.keys() == {"cross_entropy", "dice", "auxiliary"}


@pytest.mark.parametrize("architecture", ["bisenet-resnet18", "classifier-resnet18"])
def test_an_imagenet_backbone_is_where_a_training_starts(architecture, root, tmp_path):
    torch.manual_seed(5)
    published = {**create("classifier-resnet18").state_dict(), "fc.weight": torch.zeros(1000, 512)}
    torch.save(published, tmp_path / "resnet18.pth")
    tensors, origin = backbone(recipe.Model(architecture=architecture, backbone=tmp_path / "resnet18.pth"))
    assert "resnet18.pth" in origin["backbone"]
    network = create(architecture)
    unknown = network.load_state_dict(tensors, strict=False)
    assert not unknown.unexpected_keys
    place = "cp.resnet." if architecture.startswith("bisenet") else ""
    state = network.state_dict()
    for name, tensor in published.items():
        if not name.startswith("fc."):
            torch.testing.assert_close(state[place + name], tensor)


def test_impossible_recipes(root):
    samples = {"a": data.read(root)}
    with pytest.raises(RecipeError, match=r"loss: .*balance and outlines must be 0 with it"):
        recipe.parse(SMALL, "test", ["loss.hardest=0.7"])
    with pytest.raises(RecipeError, match=r"data\.rare names 'beard'"):
        SegmentationTask(recipe.parse(SMALL, "test", ['data.rare=["beard"]']), samples)
    other = SMALL.replace('"parser"', '"bisenet-resnet18"').replace(
        "settings = { stem = 8, widths = [8, 16], depths = [1, 1], neck = 8 }", "settings = {}"
    )
    with pytest.raises(RecipeError, match="labels in another order"):
        SegmentationTask(recipe.parse(other, "test"), samples)


def test_the_wrong_kind_of_data(small, root, tmp_path):
    ended = nnface("train", small, "--data", f"fairface:{root}", "--out", tmp_path / "run", cwd=tmp_path)
    assert ended.code == 2 and "this recipe trains a parser, whose --data is celebamask:PATH" in ended.err
