"""Anchors, codings and non-maximum suppression: parity with the reference projects, and what must hold for any box."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from conftest import shared
from nnface.geometry import anchors, boxes

BIUBUG6 = ((16.0, 32.0), (64.0, 128.0), (256.0, 512.0))
ULFG = ((10.0, 16.0, 24.0), (32.0, 48.0), (64.0, 96.0), (128.0, 192.0, 256.0))
SUPERNOTMAN = tuple(tuple(16.0 * 4**level * factor for factor in (1, 2**0.5, 2)) for level in range(3))


def recorded(name):
    return np.load(shared(f"reference/recorded/{name}.npz"))


def ulps(ours, theirs):
    return np.abs(ours - theirs) / np.spacing(theirs)


# Anchors


@pytest.mark.parametrize(("height", "width"), [(640, 640), (240, 320), (333, 517)])
def test_anchors_equal_biubug6(height, width):
    file, key = recorded("priors_biubug6"), f"mnet_h{height}_w{width}"
    ours = anchors.grid(height, width, (8, 16, 32), BIUBUG6) / np.float32([width, height, width, height])
    assert len(ours) == file[f"count_{key}"]
    assert ulps(ours if len(file[key]) == len(ours) else ours[::37], file[key]).max() <= 1
    np.testing.assert_allclose(ours.astype(np.float64).sum(0), file[f"sum64_{key}"], rtol=1e-9)


@pytest.mark.parametrize(("width", "height"), [(128, 96), (160, 120), (320, 240), (480, 360), (640, 480), (1280, 960)])
def test_anchors_equal_ultra_light(width, height):
    file = recorded("priors_ulfg")
    ours = anchors.grid(height, width, (8, 16, 32, 64), ULFG, True) / np.float32([width, height, width, height])
    theirs = file[f"priors_{width}"] if f"priors_{width}" in file else file[f"priors_{width}_every37"]
    assert len(ours) == file[f"count_{width}"]
    assert ulps(ours if len(theirs) == len(ours) else ours[::37], theirs).max() <= 1
    assert ulps(ours[-4:], file[f"last4_{width}"]).max() <= 1


@pytest.mark.parametrize(("height", "width"), [(640, 640), (240, 320), (333, 517)])
def test_anchors_equal_supernotman(height, width):
    file = recorded("anchors_supernotman")
    ours = anchors.grid(height, width, (8, 16, 32), SUPERNOTMAN)
    corners = np.concatenate([ours[:, :2] - ours[:, 2:] / 2, ours[:, :2] + ours[:, 2:] / 2], 1)
    theirs = file[f"anchors_h{height}_w{width}"]
    assert len(ours) == file[f"count_h{height}_w{width}"]
    np.testing.assert_allclose(corners if len(theirs) == len(ours) else corners[::37], theirs, atol=1e-5)


def test_a_small_grid_by_hand():
    # 20 x 12 pixels: ceil(20 / 8) x ceil(12 / 8) cells; the last ones reach over the border.
    grid = anchors.grid(12, 20, (8,), ((5.0, 30.0),))
    expected = [[x, y, s, s] for y in (4, 12) for x in (4, 12, 20) for s in (5, 30)]
    np.testing.assert_array_equal(grid, np.float32(expected))
    clipped = anchors.grid(12, 20, (8,), ((5.0, 30.0),), True)
    expected = [[(x + 0.5) * 20 / 3, y, *s] for y in (3, 9) for x in range(3) for s in ((5, 5), (20, 12))]
    np.testing.assert_allclose(clipped, np.float32(expected), rtol=1e-6)


def test_without_sizes_there_is_one_anchor_a_cell_as_large_as_the_stride():
    grid = anchors.grid(64, 64, (32, 64))
    np.testing.assert_array_equal(grid[-1], [32, 32, 64, 64])
    np.testing.assert_array_equal(grid[:4, 2], 32)
    assert len(grid) == 5


def test_anchors_are_shared_and_cannot_be_spoilt():
    grid = anchors.grid(64, 96, (8, 16, 32), BIUBUG6)
    assert anchors.grid(64, 96, (8, 16, 32), BIUBUG6) is grid
    with pytest.raises(ValueError, match="read-only"):
        grid[0] = 0


# Coding


def test_coding_equals_biubug6():
    file = recorded("loss_biubug6")
    priors, points = file["ed_priors"], file["ed_landm"].reshape(-1, 5, 2)
    close = {"rtol": 1e-6, "atol": 1e-6}
    np.testing.assert_allclose(boxes.encode(file["ed_boxes"], priors), file["encode"], **close)
    np.testing.assert_allclose(boxes.encode_points(points, priors), file["encode_landm"], **close)
    np.testing.assert_allclose(boxes.decode(file["ed_loc"], priors), file["decode"], **close)
    decoded = boxes.decode_points(file["ed_landm_pred"], priors)
    np.testing.assert_allclose(decoded.reshape(-1, 10), file["decode_landm"], **close)


def test_coding_equals_ultra_light():
    file = recorded("loss_ulfg")
    ours = boxes.encode(file["codec_boxes"], file["codec_priors"])
    np.testing.assert_allclose(ours, file["encode"], rtol=1e-6, atol=1e-6)


def pixels(low, high):
    return st.floats(low, high, width=32)


@st.composite
def box_lists(draw, most=24):
    count = draw(st.integers(1, most))
    corner = draw(arrays(np.float32, (count, 2), elements=pixels(-100, 700)))
    size = draw(arrays(np.float32, (count, 2), elements=pixels(1, 600)))
    return np.concatenate([corner, corner + size], 1)


def encode_distance(faces, anchors):
    """Left, top, right and bottom from the anchor's centre, in anchor sizes."""
    reach = np.concatenate([anchors[..., :2] - faces[..., :2], faces[..., 2:] - anchors[..., :2]], axis=-1)
    return (reach / np.tile(anchors[..., 2:], 2)).astype(np.float32)


def encode_points_distance(points, anchors):
    """Offsets from the anchor's centre, in anchor sizes."""
    return boxes.encode_points(points, anchors, (1.0, 1.0))


ANCHOR = st.tuples(pixels(0, 640), pixels(0, 640), pixels(8, 512), pixels(8, 512)).map(np.float32)
CODINGS = [
    (boxes.encode, boxes.decode, boxes.encode_points, boxes.decode_points),
    (
        encode_distance,
        boxes.decode_distance,
        encode_points_distance,
        boxes.decode_points_distance,
    ),
]


@pytest.mark.parametrize("coding", CODINGS, ids=["ssd", "distance"])
@given(box_lists(), ANCHOR)
def test_decoding_undoes_encoding(coding, faces, anchor):
    encode, decode, encode_points, decode_points = coding
    grid = np.tile(anchor, (len(faces), 1))
    back = decode(encode(faces, grid), grid)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, faces, atol=5e-3)
    points = np.repeat(faces.reshape(-1, 2, 2), 3, axis=1)[:, :5]
    coded = encode_points(points, grid)
    assert coded.shape == (len(faces), 10)
    np.testing.assert_allclose(decode_points(coded, grid), points, atol=5e-3)


def test_distances_are_counted_in_strides():
    cell = np.float32([[36, 20, 8, 8]])
    np.testing.assert_array_equal(boxes.decode_distance(np.float32([[1, 2, 3, 4]]), cell), [[28, 4, 60, 52]])
    points = boxes.decode_points_distance(np.float32([[1, -1, 0, 2, 0, 0, 0, 0, 0, 0]]), cell)
    np.testing.assert_array_equal(points[0, :3], [[44, 12], [36, 36], [36, 20]])


@pytest.mark.parametrize("coding", CODINGS, ids=["ssd", "distance"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3e38, -3e38, 500.0])
def test_no_output_of_a_network_makes_a_coordinate_infinite(coding, value):
    grid = anchors.grid(64, 64, (32,), ((512.0,),))
    with np.errstate(all="raise"):
        assert np.isfinite(coding[1](np.full((4, 4), value, np.float32), grid)).all()
        assert np.isfinite(coding[3](np.full((4, 10), value, np.float32), grid)).all()


# Overlap and suppression


def test_iou_by_hand():
    a = np.float32([[0, 0, 10, 10], [5, 5, 5, 5], [20, 20, 10, 30]])
    b = np.float32([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [5, 5, 5, 5]])
    expected = [[1, 1 / 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(boxes.iou(a, b), expected, rtol=1e-6)


@pytest.mark.parametrize(("threshold", "key"), [(0.4, "keep04"), (0.3, "keep03")])
def test_nms_equals_biubug6(threshold, key):
    file = recorded("nms_biubug6")
    detections = file["dets"]
    kept = boxes.nms(detections[:, :4], detections[:, 4], threshold, offset=1)
    np.testing.assert_array_equal(kept, file[key])


def test_nms_equals_ultra_light():
    file = recorded("loss_ulfg")
    found = file["nms_in"]
    np.testing.assert_array_equal(found[boxes.nms(found[:, :4], found[:, 4], 0.3)], file["nms_hard03"])
    np.testing.assert_array_equal(found[boxes.nms(found[:, :4], found[:, 4], 0.3, limit=5)], file["nms_hard03_top5"])


@given(box_lists(), st.integers(0, 2**31), st.floats(0.1, 0.9))
def test_nms_keeps_no_overlap_and_drops_only_what_overlaps(faces, seed, threshold):
    scores = np.random.default_rng(seed).choice([0.1, 0.2, 0.5, 0.9], len(faces)).astype(np.float32)
    kept = boxes.nms(faces, scores, threshold)
    overlap = boxes.iou(faces, faces)
    among = overlap[np.ix_(kept, kept)] - np.eye(len(kept), dtype=np.float32)
    assert (among <= threshold + 1e-5).all()
    assert (np.diff(scores[kept]) <= 0).all()
    for dropped in set(range(len(faces))) - set(kept.tolist()):
        better = kept[scores[kept] >= scores[dropped]]
        assert (overlap[dropped, better] >= threshold - 1e-5).any()


@given(box_lists(), st.permutations(range(24)))
def test_nms_does_not_depend_on_the_order_of_its_input(faces, order):
    scores = np.linspace(0.9, 0.1, len(faces), dtype=np.float32)
    shuffle = np.array([i for i in order if i < len(faces)])
    kept = shuffle[boxes.nms(faces[shuffle], scores[shuffle], 0.4)]
    np.testing.assert_array_equal(kept, boxes.nms(faces, scores, 0.4))


def test_nms_of_nothing_and_of_equal_scores():
    nothing = boxes.nms(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), 0.4)
    assert nothing.shape == (0,)
    apart = np.float32([[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]])
    assert boxes.nms(apart, np.ones(3, np.float32), 0.4).tolist() == [0, 1, 2]
