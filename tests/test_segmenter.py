"""Labels lie on the right pixels of the photograph: turned, cut, overlapping faces, and portraits of any shape."""

import io
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nnface import draw
from nnface.errors import ModelFileError, UsageError
from nnface.models.create import create, default_spec
from nnface.predict import segmenter as module
from nnface.predict.analyzer import Analyzer
from nnface.predict.detector import Detector
from nnface.predict.segmenter import HEAD, PARTS, Canvas, Segmenter
from nnface.results import Faces, part_words
from nnface.runtime.torch import TorchRunner
from nnface.spec import CELEBAMASK_LABELS, mirrored_labels, parse
from tiny_models import PARSER_POINTS, bright_detector, palette_parser, segmentation_spec, squares

NUMBER = {name: number for number, name in enumerate(CELEBAMASK_LABELS)}
ZLLRUNNING = (
    "background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "l_ear", "r_ear", "ear_r", "nose", "mouth",
    "u_lip", "l_lip", "neck", "neck_l", "cloth", "hair", "hat",
)  # fmt: skip


@pytest.fixture(scope="module")
def parser(tmp_path_factory):
    return palette_parser(tmp_path_factory.mktemp("parser") / "parser.onnx")


@pytest.fixture(scope="module")
def segmenter(parser):
    return Segmenter(parser, threads=1)


def pattern(x, y):
    """The labels of a made-up face at places in units of its chip's side; no two halves are alike."""
    labels = np.zeros(x.shape, np.uint8)
    labels[np.hypot((x - 0.5) / 0.33, (y - 0.55) / 0.38) < 1] = NUMBER["skin"]
    labels[(np.abs(x - 0.5) < 0.35) & (y > 0.08) & (y < 0.25)] = NUMBER["hair"]
    labels[np.hypot(x - 0.64, y - 0.45) < 0.07] = NUMBER["l_eye"]
    labels[np.hypot(x - 0.36, y - 0.45) < 0.07] = NUMBER["r_eye"]
    labels[(np.abs(x - 0.5) < 0.12) & (np.abs(y - 0.75) < 0.06)] = NUMBER["u_lip"]
    return labels


def place(width, centre, side, degrees):
    """From a picture to the unit square of a chip with this middle, side and turn."""
    turn = np.deg2rad(degrees)
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) / side
    return np.column_stack([matrix, (0.5, 0.5) - matrix @ np.array(centre)])


def painted(size, *transforms, background=0):
    """The picture, in the palette's colours, and its labels; later faces lie on earlier ones."""
    width, height = size
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    labels = np.full((height, width), background, np.uint8)
    for t in transforms:
        u, v = (t[i, 0] * x + t[i, 1] * y + t[i, 2] for i in (0, 1))
        inside = (u >= 0) & (u < 1) & (v >= 0) & (v < 1)
        labels[inside] = pattern(u, v)[inside]
    return np.ascontiguousarray(draw.PALETTE[labels][..., ::-1]), labels


def faces_at(size, *transforms, landmarks=True):
    """What a perfect detector finds: landmarks on the template, the box about them."""
    points, boxes = [], []
    for t in transforms:
        back = cv2.invertAffineTransform(t)
        points.append(np.array(PARSER_POINTS) @ back[:, :2].T + back[:, 2])
        middle = back @ (0.5, 0.55, 1)
        side = 1 / np.hypot(*t[0, :2])
        boxes.append([*(middle - 0.33 * side), *(middle + 0.33 * side)])
    return Faces(
        width=size[0],
        height=size[1],
        boxes=np.array(boxes, np.float32),
        scores=np.full(len(boxes), 0.9, np.float32),
        landmarks=np.array(points, np.float32) if landmarks else None,
    )


def inner(labels, margin, cut=False):
    """Where all labels within so many pixels are the same; with ``cut`` the picture's border is an edge too."""
    kernel = np.ones((2 * margin + 1,) * 2, np.uint8)
    padded = np.pad(labels, margin, constant_values=255) if cut else np.pad(labels, margin, mode="edge")
    same = cv2.dilate(padded, kernel) == cv2.erode(padded, kernel)
    return same[margin:-margin, margin:-margin]


def inside(size, transform, margin=0.0):
    x, y = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    u, v = (transform[i, 0] * x + transform[i, 1] * y + transform[i, 2] for i in (0, 1))
    return (np.minimum(u, v) > margin) & (np.maximum(u, v) < 1 - margin)


@pytest.mark.parametrize(
    ("centre", "side", "degrees"),
    [
        ((150, 130), 200, 0),
        ((150, 130), 200, 30),
        ((150, 130), 170, 90),
        ((150, 130), 170, 180),
        ((160.3, 121.7), 143.6, -61),
        ((30, 60), 190, 30),  # cut by the border
        ((290, 230), 220, -20),
        ((150, 130), 40, 30),  # smaller than the network's input
        ((150, 130), 900, 10),  # much larger than the picture
    ],
)
def test_labels_lie_on_the_right_pixels_of_a_turned_or_cut_face(segmenter, centre, side, degrees):
    size = (320, 260)
    transform = place(size[0], centre, side, degrees)
    image, truth = painted(size, transform)
    found = segmenter(image, faces_at(size, transform))
    cell = int(np.ceil(2 * side / 64))  # a square of the network's grid, in the picture's pixels
    sure = inner(truth, cell + 1, cut=True)
    assert sure.mean() > 0.2
    assert (found.labels[sure] == truth[sure]).all()
    edges = ~sure & inside(size, transform, 0.02)
    if 100 < side < 400:  # the mean of two parts' colours may be another part's
        assert (found.labels[edges] == truth[edges]).mean() > 0.75
    counts = np.bincount(found.labels.ravel(), minlength=19)
    assert found[0].parts == {name: counts[NUMBER[name]] for name in PARTS if counts[NUMBER[name]]}
    assert found[0].to_dict()["parts"] == found[0].parts and "labels" not in found.to_dict()


@pytest.mark.parametrize("degrees", [0, 30, 90, -137])
@pytest.mark.parametrize("slope", [0, 17, 60])
def test_an_edge_lies_where_it_is_to_a_fraction_of_the_grid(segmenter, degrees, slope):
    """A straight border is found to one pixel, on a grid of squares of 8 x 8 pixels."""
    size = (300, 300)
    x, y = np.meshgrid(np.arange(300) + 0.5, np.arange(300) + 0.5)
    beyond = (x - 151.3) * np.cos(np.deg2rad(slope)) + (y - 140.9) * np.sin(np.deg2rad(slope))
    truth = np.where(beyond > 0, NUMBER["hair"], 0).astype(np.uint8)
    image = np.ascontiguousarray(draw.PALETTE[truth][..., ::-1])
    transform = place(0, (150, 150), 256, degrees)
    labels = segmenter.labels(image, faces_at(size, transform))
    sure = inside(size, transform, 1 / 16) & (np.abs(beyond) > 1.0)
    assert (labels == truth)[sure & (y > 10) & (y < 290) & (x > 10) & (x < 290)].all()


def test_nothing_is_labelled_beyond_the_chip(segmenter):
    size = (300, 260)
    transform = place(300, (150, 130), 120, 30)
    image, _ = painted(size, background=NUMBER["hair"])
    labels = segmenter.labels(image, faces_at(size, transform))
    assert (labels[inside(size, transform, 0.01)] == NUMBER["hair"]).all()
    assert (labels[~inside(size, transform, -0.01)] == 0).all()


def test_what_lies_outside_the_picture_is_not_counted(segmenter):
    size = (100, 100)
    transform = place(100, (0, 50), 60, 0)
    image, _ = painted(size, background=NUMBER["skin"])
    found = segmenter(image, faces_at(size, transform))
    assert sum(found[0].parts.values()) == pytest.approx(30 * 60, rel=0.02)
    assert found[0].parts["skin"] > 28 * 60


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 9),
    st.integers(1, 9),
    st.floats(-180, 180),
    st.floats(5, 90),
    st.tuples(st.floats(-20, 60), st.floats(-20, 60)),
)
def test_each_pixel_has_the_likeliest_label_of_the_enlarged_logits(seed, rows, columns, degrees, side, centre):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(19, rows, columns)).astype(np.float32)
    transform = place(0, centre, side, degrees) * 32
    faces = Faces(width=45, height=37, boxes=np.array([[0, 0, 45, 37]], np.float32), scores=np.ones(1, np.float32))
    canvas = Canvas(faces, np.arange(19, dtype=np.uint8), 32, {})
    canvas.paint(0, transform, logits)
    for y, x in rng.integers(0, (37, 45), (60, 2)):
        u, v = transform @ (x + 0.5, y + 0.5, 1) / 32
        if min(u, v, 1 - u, 1 - v) < -0.01:
            assert canvas.labels[y, x] == 0
        elif min(u, v, 1 - u, 1 - v) > 0.01:
            gx, gy = np.clip(u * columns - 0.5, 0, columns - 1), np.clip(v * rows - 0.5, 0, rows - 1)
            x0, y0 = int(gx), int(gy)
            x1, y1 = min(x0 + 1, columns - 1), min(y0 + 1, rows - 1)
            wx, wy = gx - x0, gy - y0
            values = (logits[:, y0, x0] * (1 - wx) + logits[:, y0, x1] * wx) * (1 - wy)
            values += (logits[:, y1, x0] * (1 - wx) + logits[:, y1, x1] * wx) * wy
            assert values[canvas.labels[y, x]] > values.max() - 0.05


def test_tiles_have_no_seams(segmenter, monkeypatch):
    size = (500, 400)
    transform = place(500, (250, 190), 420, 25)
    image, _ = painted(size, transform)
    faces = faces_at(size, transform)
    whole, soft = segmenter(image, faces), segmenter.soft(image, faces)["head"]
    monkeypatch.setattr(module, "_TILE", 100)
    tiled = segmenter(image, faces)
    assert (tiled.labels != whole.labels).mean() < 1e-3
    np.testing.assert_allclose(segmenter.soft(image, faces)["head"], soft, atol=0.08)


def test_where_faces_meet_each_keeps_its_own(segmenter):
    size = (420, 260)
    transforms = [place(0, (130, 130), 200, 0), place(0, (270, 120), 180, 20), place(0, (380, 200), 60, -30)]
    image, truth = painted(size, *transforms)
    faces = faces_at(size, *transforms)
    found = segmenter(image, faces)
    for number, transform in enumerate(transforms):
        core = inside(size, transform, 0.2) & inner(truth, 4 if number == 2 else 8, cut=True)
        assert core.sum() > 50 and (found.labels[core] == truth[core]).all()
        assert found[number].parts.keys() >= {"skin", "hair", "l_eye", "r_eye", "u_lip"}
    counts = np.bincount(found.labels.ravel(), minlength=19)
    for name in PARTS:
        assert sum(face.parts.get(name, 0) for face in found) == counts[NUMBER[name]]
    swapped = segmenter(image, faces[[2, 0, 1]])
    assert np.array_equal(swapped.labels, found.labels)
    assert [face.parts for face in swapped] == [found[i].parts for i in (2, 0, 1)]


def test_the_nearer_middle_wins_in_units_of_the_chip(segmenter):
    """A picture that is hair throughout: each pixel is the face's in whose chip it is nearer to the middle."""
    size = (300, 200)
    transforms = [place(0, (100, 100), 160, 0), place(0, (180, 100), 80, 0)]
    image, _ = painted(size, background=NUMBER["hair"])
    faces = faces_at(size, *transforms)
    found = segmenter(image, faces)
    x, y = np.meshgrid(np.arange(300) + 0.5, np.arange(200) + 0.5)
    middles = (faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2
    ways = [
        np.where(inside(size, t), np.hypot(x - m[0], y - m[1]) / s, 9)
        for t, m, s in zip(transforms, middles, (160, 80), strict=True)
    ]
    for number in (0, 1):
        mine = ways[number] < np.minimum(9, ways[1 - number])
        assert found[number].parts["hair"] == pytest.approx(mine.sum(), rel=0.02)


def test_what_shows_too_little_has_no_parts(segmenter):
    image, _ = painted((200, 100), background=NUMBER["skin"])
    boxes = np.array([[10, 10, 60, 70], [10, 10, 18, 60], [300, 10, 340, 60], [np.nan] * 4], np.float32)
    points = np.full((4, 5, 2), np.nan, np.float32)
    faces = Faces(width=200, height=100, boxes=boxes, scores=np.ones(4, np.float32), landmarks=points)
    found = segmenter(image, faces)
    assert [bool(parts) for parts in found.parts] == [True, False, False, False]
    # By the box and its margin: 90 x 90 pixels from -10, -5 on, without what lies outside.
    assert sum(found[0].parts.values()) == pytest.approx(80 * 85, rel=0.03) and found[0].parts["skin"] > 6400
    assert found[1].to_dict()["parts"] == {} and part_words(found.parts[1]) == "none"
    none = segmenter(image, faces[:0])
    assert len(none) == 0 and none.parts == [] and not none.labels.any() and none.labels.shape == (100, 200)
    assert found[:2].labels is None and found[:2].parts == found.parts[:2]


@pytest.mark.parametrize("size", [(64, 64), (200, 300), (333, 97), (12, 10)])
@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_portraits_have_labels_of_their_own_size(tmp_path, size, fit):
    segmenter = Segmenter(palette_parser(tmp_path / "a.onnx", segmentation_spec(fit=fit)), threads=1)
    width, height = size
    truth = np.full((height, width), NUMBER["cloth"], np.uint8)
    truth[: height // 2, width // 2 :] = NUMBER["hair"]
    image = np.ascontiguousarray(draw.PALETTE[truth][..., ::-1])
    found = segmenter(image)
    sure = inner(truth, max(1, round(max(size) / 16)), cut=fit == "letterbox")
    assert sure.any() and (found.labels == truth)[sure].all()
    assert (found.boxes.tolist(), found.scores, found.labels.dtype) == ([[0, 0, width, height]], None, np.uint8)
    assert sum(found[0].parts.values()) == width * height - np.count_nonzero(found.labels == 0)


def test_labels_are_in_one_order_whatever_the_networks_is(tmp_path, segmenter):
    size = (200, 200)
    transform = place(0, (100, 100), 180, 15)
    image, _ = painted(size, transform)
    faces = faces_at(size, transform)
    expected = segmenter(image, faces)
    assert set(ZLLRUNNING) == set(CELEBAMASK_LABELS)
    for number, labels in enumerate((ZLLRUNNING, ("hair", "background", "u_lip", "l_eye", "r_eye", "skin"))):
        path = palette_parser(tmp_path / f"{number}.onnx", segmentation_spec(labels=labels, color="rgb"))
        found = Segmenter(path, threads=1)(image, faces)
        sure = inner(expected.labels, 7)
        assert (found.labels == expected.labels)[sure].all() and sure.mean() > 0.4
        assert found.parts[0].keys() <= set(labels)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"labels": ("background", "skin", "beard")}, "are not CelebAMask-HQ's: its nnface metadata names beard"),
        ({"labels": ("skin", "hair")}, "names one twice, or has no background"),
        ({"labels": ("background", "skin", "skin")}, "names one twice, or has no background"),
        ({"width": 96}, "takes 96 x 64 pixels; a parser's input is a square"),
    ],
)
def test_parsers_that_cannot_be_used(tmp_path, change, sentence):
    with pytest.raises(ModelFileError, match=sentence):
        Segmenter(palette_parser(tmp_path / "a.onnx", segmentation_spec(**change)))


def test_models_of_another_task_and_damaged_ones(tmp_path, parser):
    with pytest.raises(ModelFileError, match="is a model to detect, not to segment"):
        Segmenter(bright_detector(tmp_path / "d.onnx"))
    with pytest.raises(ModelFileError, match="is a model to segment, not to detect"):
        Detector(parser)
    broken = Segmenter(palette_parser(tmp_path / "nan.onnx", nan=True), threads=1)
    with pytest.raises(ModelFileError, match="not finite; the file is damaged"):
        broken(np.zeros((20, 20, 3), np.uint8))


def test_wrong_calls(segmenter):
    image = np.zeros((50, 60, 3), np.uint8)
    with pytest.raises(UsageError, match="the chip is 30 x 9; under 10 pixels"):
        segmenter(image[:9, :30])
    with pytest.raises(UsageError, match="of a picture of 50 x 60 pixels, and this one has 60 x 50"):
        segmenter(image, Faces.empty(50, 60))
    with pytest.raises(UsageError, match="2 pictures and the faces of 1"):
        segmenter.batch([image, image], [Faces.empty(60, 50)])
    with pytest.raises(UsageError, match="'beard' is not a part of a face"):
        segmenter.soft(image, None, {"x": ["beard"]})


def test_alone_or_together_it_is_the_same(parser, segmenter):
    size = (200, 160)
    images, faces = [], []
    for count in (0, 3, 1, 9):
        transforms = [place(0, (20 * n + 15, 70), 50 + 10 * n, 13 * n) for n in range(count)]
        images.append(painted(size, *transforms)[0])
        faces.append(faces_at(size, *transforms) if count else Faces.empty(*size, landmarks=True))
    small = Segmenter(parser, threads=1, batch=2)
    for image, given_faces, found in zip(images, faces, small.batch(images, faces), strict=True):
        alone = segmenter(image[..., ::-1], given_faces, color="rgb")
        assert np.array_equal(found.labels, alone.labels) and found.parts == alone.parts
        soft = [s.soft(image, given_faces)["head"] for s in (segmenter, small)]
        np.testing.assert_allclose(*soft, atol=1e-5)


def test_soft_edges_agree_with_the_labels(segmenter):
    size = (320, 260)
    transforms = [place(0, (140, 130), 200, 30), place(0, (260, 120), 120, 0)]
    image, _ = painted(size, *transforms)
    faces = faces_at(size, *transforms)
    labels = segmenter.labels(image, faces)
    groups = {"hair": ("hair",), "lips": ("u_lip", "l_lip"), "all": PARTS, "none": ()}
    soft = segmenter.soft(image, faces, groups)
    assert list(soft) == list(groups)
    for name, plane in soft.items():
        assert plane.shape == labels.shape and plane.dtype == np.float32 and plane.min() >= 0 and plane.max() <= 1
        there = np.isin(labels, [NUMBER[part] for part in groups[name]]).astype(np.uint8)
        assert ((plane > 0.5) == there).mean() > 0.97
        rim = inside(size, transforms[1], -0.02) & ~inside(size, transforms[1], 0.05)
        sure = inner(there, 12) & inside(size, transforms[0], 0.05) & ~rim
        assert (np.abs(plane - there)[sure] < 0.1).all()
    assert len(np.unique(np.round(soft["all"], 2))) > 20, "the edges are not soft"
    assert soft["none"].max() < 1e-6 and list(segmenter.soft(image, faces)) == ["head"]
    assert NUMBER["cloth"] not in [NUMBER[part] for part in HEAD]


def test_soft_edges_fade_out_at_a_chips_border_but_not_at_a_pictures(segmenter):
    image, _ = painted((300, 200), background=NUMBER["hair"])
    alpha = segmenter.soft(image, faces_at((300, 200), place(0, (150, 100), 128, 0)))["head"]
    row = alpha[100, 86:150]
    assert row[0] < 0.2 and (np.diff(row[:20]) >= -1e-6).all() and row[10] > 0.95
    assert (segmenter.soft(image)["head"] > 0.95).all()


def test_the_analyzer_labels_what_the_detector_finds(tmp_path, segmenter):
    detector = Detector(bright_detector(tmp_path / "d.onnx"), threads=1, size=128)
    image = squares(128, 96, (16, 32), (96, 64))
    analyzer = Analyzer(detector, segmenter=segmenter)
    found = analyzer(image)
    assert found.attributes is None and len(found) == 2
    # White is the palette's mouth, and the squares of the detector are white.
    truth = image[..., 0] // 255 * NUMBER["mouth"]
    assert (found.labels != truth).sum() < 60
    assert [face.parts["mouth"] for face in found] == [pytest.approx(256, abs=30)] * 2
    portrait = Analyzer(segmenter=segmenter, chips=True)(image)
    assert portrait.scores is None and (portrait.labels != truth).sum() < 400


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1000))
def test_label_pngs_are_read_back_by_others(height, width, seed):
    labels = np.random.default_rng(seed).integers(0, 19, (height, width), np.uint8)
    image = Image.open(io.BytesIO(draw.label_png(labels)))
    assert (image.mode, image.size) == ("P", (width, height))
    assert np.array_equal(np.asarray(image), labels)
    assert np.array_equal(np.asarray(image.convert("RGB")), draw.PALETTE[labels])
    decoded = cv2.imdecode(np.frombuffer(draw.label_png(labels), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(decoded[..., ::-1], draw.PALETTE[labels])


def test_people_can_tell_the_colours_apart():
    lab = cv2.cvtColor(draw.PALETTE[None].astype(np.float32) / 255, cv2.COLOR_RGB2Lab)[0]
    ways = np.linalg.norm(lab[:, None] - lab[None], axis=2) + 999 * np.eye(len(lab))
    assert ways.min() > 18


def test_an_overlay_tints_the_parts_and_names_them(segmenter):
    size = (640, 480)
    transform = place(0, (320, 240), 300, 0)
    _, truth = painted(size, transform)
    faces = replace(faces_at(size, transform), labels=truth, parts=[{}])
    grey = np.full((480, 640, 3), 128, np.uint8)
    canvas = draw.faces(grey, faces)
    assert (grey == 128).all()
    x, y = 320, 250
    expected = 0.45 * 128 + 0.55 * draw.PALETTE[truth[y, x], ::-1].astype(float)
    assert truth[y, x] == NUMBER["skin"] and np.abs(canvas[y, x] - expected).max() <= 1
    changed = (canvas != 128).any(2)
    corners = [changed[-40:, :40], changed[-40:, -40:], changed[:40, :40], changed[:40, -40:]]
    assert sum(corner.mean() > 0.9 for corner in corners) == 1, "one legend in one corner"
    whole = replace(faces, boxes=np.array([[0, 0, 640, 480]], np.float32), scores=None)
    assert (draw.faces(grey, whole)[200:300, 638] == 128).all(), "a box around a portrait"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=10, max_size=10), st.floats(1e-4, 1e4), st.integers(0, 99))
def test_any_landmarks_are_survived(segmenter, values, scale, seed):
    noise = np.random.default_rng(seed).integers(0, 256, (60, 80, 3), np.uint8)
    points = np.array([values], np.float32).reshape(1, 5, 2) * np.float32(scale)
    box = np.array([[10, 10, 50, 50]], np.float32)
    faces = Faces(width=80, height=60, boxes=box, scores=np.ones(1, np.float32), landmarks=points)
    found = segmenter(noise, faces)
    assert sum(found[0].parts.values()) == np.count_nonzero(found.labels)
    assert np.isfinite(segmenter.soft(noise, faces)["head"]).all()


def test_two_views_of_a_mirrored_portrait_are_the_mirror_image_with_left_and_right_exchanged():
    rng = np.random.default_rng(5)
    small = {"stem": 8, "widths": [8, 16], "depths": [1, 1], "neck": 8}
    torch.manual_seed(3)
    spec = default_spec("parser", licence="none: random weights", **small)
    spec = parse(replace(spec, segmentation=replace(spec.segmentation, views=2)).to_json(), "test")
    runner = TorchRunner(create("parser", small), spec)
    portrait = cv2.resize(rng.integers(0, 256, (9, 9, 3), np.uint8), (256, 256))
    both, one = Segmenter(runner), Segmenter(runner, views=1)
    assert both.views == 2
    mirrored = np.array(mirrored_labels(CELEBAMASK_LABELS), np.uint8)
    expected = mirrored[both.labels(portrait)[:, ::-1]]
    # Sums of the same numbers in the same order: equal but for the rare pixel where two labels tie.
    assert np.mean(both.labels(np.ascontiguousarray(portrait[:, ::-1])) == expected) > 0.999
    assert np.mean(one.labels(np.ascontiguousarray(portrait[:, ::-1])) == mirrored[one.labels(portrait)[:, ::-1]]) < 0.9
    with pytest.raises(UsageError, match="views is 3; a parser takes 1 or 2"):
        Segmenter(runner, views=3)
    with pytest.raises(UsageError, match="batch is 0; it must be at least 1"):
        Segmenter(runner, batch=0)
    asked = json.loads(spec.to_json())
    asked["segmentation"]["views"] = 4
    with pytest.raises(ModelFileError, match="views"):
        parse(json.dumps(asked), "test")
