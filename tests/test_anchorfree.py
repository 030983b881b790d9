import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnface.geometry.anchors import grid
from nnface.geometry.boxes import decode_distance
from nnface.models.anchorfree import STRIDES, AnchorFree
from nnface.training.losses import anchorfree
from nnface.training.matching import Target

TOOLS = Path(__file__).resolve().parents[1] / "tools"
CELLS = torch.from_numpy(grid(96, 128, STRIDES).copy())[:, :3]


def target(boxes, ignore=None, landmarks=None):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    points = torch.full((len(boxes), 5, 2), float("nan")) if landmarks is None else landmarks
    ignored = torch.zeros(len(boxes), dtype=torch.bool) if ignore is None else torch.tensor(ignore)
    return Target(boxes=boxes, landmarks=points, ignore=ignored)


def outputs(pictures=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (pictures, len(CELLS))
    return {
        "logits": torch.randn(*shape, 1, generator=generator) - 3,
        "boxes": torch.randn(*shape, 4, generator=generator).exp(),
        "landmarks": torch.randn(*shape, 10, generator=generator),
    }


def perfect(box, points):
    """Outputs that say exactly this face in every cell, and are sure inside of it only."""
    centre = CELLS[:, :2]
    distances = torch.cat([centre - box[:2], box[2:] - centre], 1) / CELLS[:, 2:3]
    inside = (distances > 0).all(1)
    offsets = ((points[None] - centre[:, None]) / CELLS[:, None, 2:]).flatten(1)
    logits = torch.where(inside, 12.0, -12.0)
    return {"logits": logits[None, :, None], "boxes": distances[None].clamp(min=1e-4), "landmarks": offsets[None]}


def test_decoding_is_the_predictors_own():
    distances = np.random.default_rng(0).uniform(0.1, 3, (len(CELLS), 4)).astype(np.float32)
    here = anchorfree.decode(torch.from_numpy(distances), CELLS).numpy()
    np.testing.assert_allclose(here, decode_distance(distances, grid(96, 128, STRIDES)), rtol=1e-5, atol=1e-4)


def test_a_perfect_answer_costs_little():
    box = torch.tensor([30.0, 20, 90, 84])
    points = torch.tensor([[45.0, 40], [75, 40], [60, 55], [48, 70], [72, 70]])
    said = perfect(box, points)
    parts = anchorfree.losses(said, CELLS, [target([box.tolist()], landmarks=points[None])], 1)
    assert float(parts["box"]) < 1e-3
    assert float(parts["landmark"]) < 1e-4
    wrong = anchorfree.losses(outputs(), CELLS, [target([box.tolist()], landmarks=points[None])], 1)
    assert float(wrong["box"]) > 0.5
    assert float(wrong["landmark"]) > 0.1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 100), st.floats(0, 70), st.floats(3, 60), st.floats(3, 60)), min_size=1, max_size=8
    ),
    st.integers(0, 5),
)
def test_assignment(faces, seed):
    boxes = torch.tensor([(x, y, x + w, y + h) for x, y, w, h in faces])
    said = outputs(seed=seed)
    decoded = anchorfree.decode(said["boxes"][0], CELLS)
    chosen = anchorfree.assign(said["logits"][0, :, 0], decoded, CELLS, boxes)
    assert chosen.shape == (len(CELLS),)
    assert int(chosen.max()) < len(boxes)
    for cell in (chosen >= 0).nonzero()[:, 0].tolist():
        box, (x, y, stride) = boxes[chosen[cell]], CELLS[cell].tolist()
        centre = (box[:2] + box[2:]) / 2
        near = max(abs(x - float(centre[0])), abs(y - float(centre[1]))) < 2.5 * stride
        assert near or (box[0] < x < box[2] and box[1] < y < box[3])
    if len(boxes) == 1:  # a lone face in the picture always has a cell
        x, y = ((boxes[0, :2] + boxes[0, 2:]) / 2).tolist()
        assert (chosen >= 0).any() or not (0 <= x <= 128 and 0 <= y <= 96)


def test_tiny_faces_get_a_cell():
    chosen = anchorfree.assign(
        torch.zeros(len(CELLS)),
        anchorfree.decode(torch.ones(len(CELLS), 4), CELLS),
        CELLS,
        torch.tensor([[33.0, 33, 35, 36]]),
    )
    assert (chosen == 0).sum() >= 1


def test_ignored_regions_have_no_gradient():
    said = {name: value.clone().requires_grad_() for name, value in outputs().items()}
    everywhere = target([[0.0, 0, 128, 96]], ignore=[True])
    parts = anchorfree.losses(said, CELLS, [everywhere], 0)
    sum(parts.values()).backward()
    assert float(said["logits"].grad.abs().max()) == 0
    plain = {name: value.clone().requires_grad_() for name, value in outputs().items()}
    sum(anchorfree.losses(plain, CELLS, [target([])], 0).values()).backward()
    assert float(plain["logits"].grad.abs().max()) > 0


def test_faces_without_landmarks_teach_no_landmarks():
    said = {name: value.clone().requires_grad_() for name, value in outputs().items()}
    parts = anchorfree.losses(said, CELLS, [target([[10.0, 10, 60, 70]])], 1)
    sum(parts.values()).backward()
    assert float(parts["landmark"]) == 0
    assert torch.isfinite(said["landmarks"].grad).all()
    assert float(said["landmarks"].grad.abs().max()) == 0


@pytest.mark.parametrize("faces", [[], [[0.0, 0, 0, 0]]])
def test_nothing_to_find_is_no_nan(faces):
    parts = anchorfree.losses(outputs(2), CELLS, [target(faces), target([])], 0)
    assert all(torch.isfinite(part) for part in parts.values())


def test_two_halves_add_up_to_the_whole():
    faces = [target([[10.0, 10, 60, 70], [70, 20, 90, 50]]), target([[30.0, 30, 100, 90]])]
    said = outputs(2, seed=3)
    whole = anchorfree.losses(said, CELLS, faces, 3)
    halves = [anchorfree.losses({k: v[i : i + 1] for k, v in said.items()}, CELLS, faces[i : i + 1], 3) for i in (0, 1)]
    for name, value in whole.items():
        assert float(value) == pytest.approx(sum(float(half[name]) for half in halves), rel=1e-5)


def test_eiou_is_zero_for_equal_boxes_and_grows_with_distance():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]])
    others = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [80, 0, 90, 10]])
    loss, iou = anchorfree.eiou_loss(boxes, others)
    assert iou.tolist() == [1, 0, 0]
    assert float(loss[0]) == pytest.approx(0, abs=1e-5)
    assert float(loss[0]) < float(loss[1]) < float(loss[2])


def test_a_slope_over_the_size_is_folded_into_the_last_convolutions():
    plan = importlib.util.spec_from_file_location("fit_scores", TOOLS / "fit_scores.py")
    fit_scores = importlib.util.module_from_spec(plan)
    plan.loader.exec_module(fit_scores)
    torch.manual_seed(0)
    network = AnchorFree(stem=8, widths=[8, 8, 16, 16], neck=16, head_depth=1).eval()
    for head in network.heads:
        torch.nn.init.normal_(head.predict.weight, std=0.1)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        before = network(images)
        fit_scores.fold(network, (8, 16, 32), 0.3)
        after = network(images)
    strides = torch.tensor([8] * 96 + [16] * 24 + [32] * 6)[None, :, None]
    left, top, right, bottom = (before["boxes"] * strides).unbind(-1)
    size = ((left * top * right * bottom) ** 0.25 * 2)[..., None]
    torch.testing.assert_close(after["logits"], before["logits"] + 0.3 * torch.log2(size / 128), rtol=1e-3, atol=1e-4)
    for name in ("boxes", "landmarks"):
        torch.testing.assert_close(after[name], before[name])
