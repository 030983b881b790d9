"""Matching, mining and losses: parity with the reference projects, and what must hold for any picture."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import shared
from nnface.geometry import anchors as layout
from nnface.geometry import boxes
from nnface.training import matching
from nnface.training.losses import segmentation
from nnface.training.losses.multibox import MultiBoxLoss, mine, ultra_light_matching
from nnface.training.losses.supernotman import SupernotmanLoss
from nnface.training.matching import BACKGROUND, IGNORED, Matching, Target, match

NAN = float("nan")
BIUBUG6 = ((16.0, 32.0), (64.0, 128.0), (256.0, 512.0))


def target(faces, landmarks=None, ignore=None):
    faces = torch.as_tensor(np.asarray(faces, np.float32).reshape(-1, 4))
    return Target(
        boxes=faces,
        landmarks=torch.full((len(faces), 5, 2), NAN) if landmarks is None else torch.as_tensor(landmarks),
        ignore=torch.zeros(len(faces), dtype=torch.bool) if ignore is None else torch.as_tensor(ignore),
    )


def tensors(file, **names):
    return {name: torch.from_numpy(file[key]).requires_grad_() for name, key in names.items()}


def gradient(loss, output):
    return torch.autograd.grad(loss, output, retain_graph=True)[0].double()


def selected(grad):
    return (grad != 0).any(-1).numpy()


class TestBiubug6:
    @pytest.fixture
    def file(self):
        return np.load(shared("reference/recorded/loss_biubug6.npz"))

    def units(self, file, pixels):
        """The factor (4,) from the recorded 0..1 to the unit of the test: its own, or pixels as nnface trains in."""
        height, width = file["image_hw"] if pixels else (1, 1)
        return torch.tensor([width, height, width, height], dtype=torch.float32)

    def target(self, file, key, unit):
        rows = torch.from_numpy(file[f"target{key}"])
        landmarks = rows[:, 4:14].reshape(-1, 5, 2) * unit[:2]
        landmarks[rows[:, 14] < 0] = NAN
        return target(rows[:, :4] * unit, landmarks)

    @pytest.mark.parametrize("pixels", [False, True], ids=["recorded unit", "pixels"])
    @pytest.mark.parametrize("key", ["0", "1", "2", "_shared"])
    def test_matching(self, file, key, pixels):
        unit = self.units(file, pixels)
        priors = torch.from_numpy(file["priors"]) * unit
        faces = self.target(file, key, unit)
        matched = match(faces, priors, Matching())
        positive = matched >= 0
        labels = torch.from_numpy(file[f"target{key}"][:, 14])[matched.clamp(min=0)] * positive
        np.testing.assert_array_equal(labels.numpy(), file[f"match{key}_conf_t"])
        coded = matching.encode(faces.boxes[matched[positive]], priors[positive], (0.1, 0.2))
        theirs = file[f"match{key}_loc_t"][positive.numpy()]
        np.testing.assert_allclose(coded.numpy(), theirs, rtol=1e-4 if pixels else 1e-6, atol=1e-5 if pixels else 0)

    @pytest.mark.parametrize("pixels", [False, True], ids=["recorded unit", "pixels"])
    def test_losses(self, file, pixels):
        unit = self.units(file, pixels)
        outputs = tensors(file, logits="pred_conf", boxes="pred_loc", landmarks="pred_landm")
        faces = [self.target(file, str(i), unit) for i in range(3)]
        rule = MultiBoxLoss()
        losses = rule(outputs, torch.from_numpy(file["priors"]) * unit, faces)
        for name, output, key in [
            ("box", "boxes", "loc"),
            ("class", "logits", "conf"),
            ("landmark", "landmarks", "landm"),
        ]:
            assert losses[name].item() == pytest.approx(float(file[f"loss_{key}"]), rel=1e-5)
            grad = gradient(losses[name], outputs[output])
            assert grad.norm().item() == pytest.approx(float(file[f"gradnorm_{key}_wrt_{key}"]), rel=1e-5)
            np.testing.assert_array_equal(selected(grad), file[f"selected_{key}"])
        total = sum(rule.weights[name] * loss for name, loss in losses.items())
        assert total.item() == pytest.approx(float(file["total"]), rel=1e-5)


class TestUltraLight:
    @pytest.fixture
    def file(self):
        return np.load(shared("reference/recorded/loss_ulfg.npz"))

    @pytest.mark.parametrize("scale", [(1, 1), (160, 120)], ids=["recorded unit", "pixels"])
    def test_matching_mining_and_losses(self, file, scale):
        unit = torch.tensor([*scale, *scale], dtype=torch.float32)
        priors = torch.from_numpy(file["priors"]) * unit
        rule = ultra_light_matching(*scale)
        faces = [target(torch.from_numpy(file[f"gt{i}"]) * unit) for i in range(3)]
        for i, one in enumerate(faces):
            np.testing.assert_array_equal((match(one, priors, rule) >= 0).numpy(), file[f"match{i}_label"] > 0)
        outputs = tensors(file, logits="pred_conf", boxes="pred_loc")
        losses = MultiBoxLoss(matching=rule, negatives=3)(outputs, priors, faces)
        assert set(losses) == {"box", "class"}
        assert losses["box"].item() == pytest.approx(float(file["loss_reg"]), rel=1e-5)
        assert losses["class"].item() == pytest.approx(float(file["loss_cls"]), rel=1e-5)
        box, classes = gradient(losses["box"], outputs["boxes"]), gradient(losses["class"], outputs["logits"])
        np.testing.assert_array_equal(selected(classes), file["mining_mask"])
        assert classes.norm().item() == pytest.approx(float(file["gradnorm_conf"]), rel=1e-5)
        assert box.norm().item() == pytest.approx(float(file["gradnorm_loc"]), rel=1e-5)


def test_supernotman():
    file = np.load(shared("reference/recorded/loss_supernotman.npz"))
    corners = torch.from_numpy(file["anchors"][0])
    priors = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1)
    outputs = tensors(file, logits="logprob", boxes="bbox", landmarks="ldm")
    rule, faces = SupernotmanLoss(), []
    for rows in file["annotations"]:
        rows = rows[rows[:, 0] > 0]
        points = rows[:, 4:].reshape(-1, 5, 2).copy()
        points[rows[:, 4:].sum(1) <= 0] = NAN
        faces.append(target(rows[:, :4], points))
    for i, one in enumerate(faces):
        losses = rule.picture({name: output[i] for name, output in outputs.items()}, priors, one)
        for name, key in [("class", "cls_loss"), ("box", "bbox_loss"), ("landmark", "ldm_loss")]:
            assert losses[name].item() == pytest.approx(float(file[key][i]), rel=1e-5)
    losses = rule(outputs, priors, faces)
    for name, output, place in [("box", "boxes", 1), ("landmark", "landmarks", 2)]:
        norm = gradient(losses[name], outputs[output]).norm().item()
        assert norm == pytest.approx(file["grad_norm"][place], rel=1e-5)
    # Their gradient is with respect to the log-softmax, where each chosen anchor has one entry: 1 / count, halved.
    chosen = selected(gradient(losses["class"], outputs["logits"]))
    positive = np.stack([(match(one, priors, rule.matching) >= 0).numpy() for one in faces])
    counts = [positive.sum(1), (chosen & ~positive).sum(1)]
    assert 0.5 * np.sqrt(sum((1 / n).sum() for n in counts)) == pytest.approx(file["grad_norm"][0], rel=1e-5)


@pytest.mark.parametrize("logits", ["logits", "logits_easy"])  # where the threshold decides, and where the number
@pytest.mark.parametrize("least", [24, 200])
def test_hard_pixels_of_face_parsing(logits, least):
    file = np.load(shared("reference/recorded/loss_ohem_faceparsing.npz"))
    outputs, labels = tensors(file, logits=logits)["logits"], torch.from_numpy(file["labels"])
    ignored = labels == segmentation.IGNORED
    assert ignored.any()
    loss = segmentation.ohem_cross_entropy(outputs, labels, float(file["thresh"]), least)
    case = f"{logits}_nmin{least}"
    assert loss.item() == pytest.approx(float(file[f"loss_{case}"]), rel=1e-5)
    grad = gradient(loss, outputs)
    assert grad.norm().item() == pytest.approx(float(file[f"gradnorm_{case}"]), rel=1e-5)
    assert (grad != 0).any(1).sum() == file[f"hardpix_{case}"]
    assert (grad[ignored[:, None].expand_as(grad)] == 0).all()


def test_hard_pixels_where_there_are_fewer_than_wanted():
    logits = torch.randn(1, 4, 3, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.randint(0, 4, (1, 3, 5), generator=torch.Generator().manual_seed(1))
    expected = torch.nn.functional.cross_entropy(logits, labels)
    for least in (15, 16, 1000):  # where the reference's index lies beyond the last
        torch.testing.assert_close(segmentation.ohem_cross_entropy(logits, labels, 0.7, least), expected)
    nothing = segmentation.ohem_cross_entropy(logits, torch.full_like(labels, segmentation.IGNORED), 0.7, 4)
    nothing.backward()
    assert nothing.item() == 0 and (logits.grad == 0).all()


# What must hold for any picture

SIDE = 96
GRID = torch.from_numpy(layout.grid(SIDE, SIDE, (8, 16, 32), BIUBUG6).copy())


def random_faces(rng, count):
    size = np.exp(rng.uniform(np.log(4), np.log(80), (count, 2)))
    corner = rng.uniform(-8, SIDE, (count, 2))
    return np.concatenate([corner, corner + size], 1).astype(np.float32)


def random_target(rng, count):
    faces = random_faces(rng, count)
    points = rng.uniform(0, SIDE, (count, 5, 2)).astype(np.float32)
    points[rng.uniform(size=count) < 0.4] = NAN
    return target(faces, points, rng.uniform(size=count) < 0.3)


def random_outputs(rng, pictures):
    shapes = {"logits": 2, "boxes": 4, "landmarks": 10}
    return {
        name: torch.from_numpy(rng.standard_normal((pictures, len(GRID), n)).astype(np.float32)).requires_grad_()
        for name, n in shapes.items()
    }


@given(st.integers(0, 2**32 - 1), st.integers(0, 12))
def test_matching_follows_its_rules(seed, count):
    rng = np.random.default_rng(seed)
    faces = random_faces(rng, count)
    matched = match(target(faces), GRID, Matching()).numpy()
    corners = np.concatenate([GRID[:, :2] - GRID[:, 2:] / 2, GRID[:, :2] + GRID[:, 2:] / 2], 1)
    overlap = boxes.iou(faces, corners.astype(np.float32))
    forced = {overlap[i].argmax(): i for i in range(count)}  # the last face wins a shared anchor
    for anchor in range(len(GRID)):
        best = overlap[:, anchor].max(initial=0)
        sure = any(overlap[i].argmax() == anchor and overlap[i, anchor] >= 0.2 for i in range(count))
        if abs(best - 0.35) < 1e-5:
            continue
        assert (matched[anchor] >= 0) == (sure or best >= 0.35)
        if matched[anchor] >= 0:
            face = forced.get(anchor)
            assert face == matched[anchor] if face is not None else overlap[matched[anchor], anchor] >= best - 1e-6


def test_anchors_of_ignored_faces_are_neither_positive_nor_negative():
    face, ignored = [8.0, 8.0, 40.0, 40.0], [56.0, 56.0, 88.0, 88.0]
    both = match(target([face, ignored], ignore=[False, True]), GRID, Matching())
    alone = match(target([face]), GRID, Matching())
    inside = ((GRID[:, :2] > 60) & (GRID[:, :2] < 84)).all(1) & (GRID[:, 2] <= 32)
    assert inside.any() and (both[inside] == IGNORED).all()
    torch.testing.assert_close(torch.where(both == IGNORED, BACKGROUND, both), alone)
    # What is a positive of a real face stays one, though it lies in an ignored one.
    covered = match(target([[0.0, 0.0, 96.0, 96.0], face], ignore=[True, False]), GRID, Matching())
    assert (covered == 1).sum() == (alone == 0).sum() > 0
    assert (covered == BACKGROUND).sum() < len(GRID) / 10


def test_mining_never_takes_an_ignored_anchor_nor_more_than_there_are():
    losses = torch.tensor([[9.0, 8.0, 7.0, 6.0, 5.0, 4.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    positive = torch.tensor([[1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]).bool()
    ignored = torch.tensor([[0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]).bool()
    chosen = mine(losses, positive, ~positive & ~ignored, 2)
    assert chosen.int().tolist() == [[0, 0, 1, 1, 0, 0], [0] * 6]  # and a picture without faces gives none
    assert mine(losses, positive, ~positive & ~ignored, 100).int().tolist()[0] == [0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("rule", [MultiBoxLoss(), SupernotmanLoss()], ids=["multibox", "supernotman"])
@pytest.mark.parametrize(
    "faces",
    [
        target(np.zeros((0, 4))),
        target([[8, 8, 40, 40]], ignore=[True]),
        target([[0, 0, 1, 1]]),  # overlaps nothing enough
    ],
    ids=["none", "ignored", "too small"],
)
def test_a_batch_without_positives_gives_zero(rule, faces):
    outputs = random_outputs(np.random.default_rng(0), 2)
    losses = rule(outputs, GRID, [faces, faces])
    assert {name: loss.item() for name, loss in losses.items()} == {"box": 0, "class": 0, "landmark": 0}
    sum(losses.values()).backward()
    assert all(output.grad is None or (output.grad == 0).all() for output in outputs.values())


@given(st.integers(0, 2**32 - 1))
def test_losses_are_finite_and_landmarks_that_are_absent_teach_nothing(seed):
    rng = np.random.default_rng(seed)
    faces = [random_target(rng, rng.integers(0, 6)) for _ in range(2)]
    outputs = random_outputs(rng, 2)
    for rule in (MultiBoxLoss(), SupernotmanLoss()):
        losses = rule(outputs, GRID, faces)
        sum(losses.values()).backward()
        assert all(torch.isfinite(loss) and loss >= 0 for loss in losses.values())
        assert all(torch.isfinite(output.grad).all() for output in outputs.values())
        without = [target(one.boxes, ignore=one.ignore) for one in faces]
        assert rule(outputs, GRID, without)["landmark"].item() == 0


def test_two_processes_equal_one():
    rng = np.random.default_rng(5)
    faces = [random_target(rng, count) for count in (5, 1, 0, 3)]
    outputs = random_outputs(rng, 4)

    def gradients(losses):
        return torch.autograd.grad(sum(losses.values()), list(outputs.values()))

    whole = gradients(MultiBoxLoss()(outputs, GRID, faces))
    halves, counts = [slice(0, 2), slice(2, 4)], []
    for half in halves:  # each process counts its own; the normaliser is their mean over processes
        part = {name: output[half] for name, output in outputs.items()}
        MultiBoxLoss(normaliser=lambda n: counts.append(n) or n)(part, GRID, faces[half])
    rule = MultiBoxLoss(normaliser=lambda _: sum(counts) / 2)
    parts = [
        gradients(rule({name: output[half] for name, output in outputs.items()}, GRID, faces[half])) for half in halves
    ]
    for one, *two in zip(whole, *parts, strict=True):
        torch.testing.assert_close(sum(two) / 2, one, rtol=1e-5, atol=1e-8)


def test_outputs_in_bfloat16_are_judged_in_float32():
    rng = np.random.default_rng(1)
    faces = [random_target(rng, 4)]
    outputs = {name: output.detach().bfloat16() for name, output in random_outputs(rng, 1).items()}
    ours = MultiBoxLoss()(outputs, GRID, faces)
    exact = MultiBoxLoss()({name: output.float() for name, output in outputs.items()}, GRID, faces)
    assert all(loss.dtype == torch.float32 for loss in ours.values())
    assert {name: loss.item() for name, loss in ours.items()} == {name: loss.item() for name, loss in exact.items()}


@given(st.integers(0, 2**32 - 1))
def test_coding_is_that_of_geometry(seed):
    rng = np.random.default_rng(seed)
    faces, points = random_faces(rng, 8), rng.uniform(-20, 120, (8, 5, 2)).astype(np.float32)
    grid = GRID[torch.from_numpy(rng.integers(0, len(GRID), 8))]
    ours = matching.encode(torch.from_numpy(faces), grid, (0.1, 0.2)).numpy()
    np.testing.assert_allclose(ours, boxes.encode(faces, grid.numpy()), rtol=1e-5, atol=1e-4)
    ours = matching.encode_points(torch.from_numpy(points), grid, (0.1, 0.2)).numpy()
    np.testing.assert_allclose(ours, boxes.encode_points(points, grid.numpy()), rtol=1e-5, atol=1e-4)
