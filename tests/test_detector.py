"""The Detector on tiny networks that really detect: where faces are, in every form, size, batch and tile."""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from nnface import Analyzer, Classifier, Segmenter
from nnface.errors import ImageError, ModelFileError, UsageError
from nnface.geometry.boxes import iou
from nnface.image import read_reduced
from nnface.predict import tiles
from nnface.predict.detector import CANDIDATES, KEPT, Detector
from nnface.spec import ClassificationSpec, Spec
from tiny_models import bright_detector, detection_spec, squares


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bright_detector(tmp_path_factory.mktemp("onnx") / "tiny.onnx")


class FakeRunner:
    """A runner whose outputs are given; it stands for a module in training."""

    device = "cpu"

    def __init__(self, spec: Spec, **outputs: NDArray[np.float32]) -> None:
        self.spec = spec
        self.outputs = outputs
        self.shapes: list[tuple[int, ...]] = []

    def run(self, batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        self.shapes.append(batch.shape)
        return {k: np.repeat(v[None], len(batch), 0).astype(np.float32) for k, v in self.outputs.items()}


def test_boxes_scores_and_landmarks(tiny: Path) -> None:
    faces = Detector(tiny)(squares(128, 96, (32, 48), (96, 16)))
    assert (faces.width, faces.height, len(faces)) == (128, 96, 2)
    order = np.argsort(faces.boxes[:, 0])
    assert np.allclose(faces.boxes[order], [[32, 48, 48, 64], [96, 16, 112, 32]])
    assert faces.scores is not None and np.allclose(faces.scores, 1)
    assert faces.landmarks is not None and faces.landmarks.dtype == faces.boxes.dtype == np.float32
    assert np.allclose(faces.landmarks[order][0], [[36.8, 52.8], [43.2, 52.8], [40, 56], [37.6, 59.2], [42.4, 59.2]])


@pytest.mark.parametrize("coding", ["ssd", "distance"])
@pytest.mark.parametrize("landmarks", [True, False])
def test_both_codings(tmp_path: Path, coding: str, landmarks: bool) -> None:
    sizes = ((16.0,),) if coding == "ssd" else ()
    spec = detection_spec(coding=coding, anchor_sizes=sizes, landmarks=landmarks)
    faces = Detector(bright_detector(tmp_path / "a.onnx", spec))(squares(128, 128, (32, 64)))
    assert np.allclose(faces.boxes, [[32, 64, 48, 80]])
    assert (faces.landmarks is not None) == landmarks
    empty = Detector(tmp_path / "a.onnx")(squares(40, 40))
    assert len(empty) == 0 and (empty.landmarks is not None) == landmarks


@pytest.mark.parametrize("scale", [0.25, 0.5, 2, 3.3, 10])
def test_scaled_pictures_give_the_same_faces_in_their_own_pixels(tiny: Path, scale: float) -> None:
    image = squares(128, 96, (32, 48), (96, 16))
    sides = (round(128 * scale), round(96 * scale))
    scaled = cv2.resize(image, sides, interpolation=cv2.INTER_NEAREST)
    faces = Detector(tiny, min_score=0.6)(scaled)
    assert len(faces) == 2 and (faces.width, faces.height) == sides
    factors = np.array([sides[0] / 128, sides[1] / 96] * 2)
    order = np.argsort(faces.boxes[:, 0])
    assert np.allclose(faces.boxes[order], np.array([[32, 48, 48, 64], [96, 16, 112, 32]]) * factors, atol=0.7)


def test_colour_mean_and_std(tmp_path: Path) -> None:
    spec = detection_spec()
    image = np.random.default_rng(0).integers(0, 256, (70, 128, 3), np.uint8)
    for color, order in [("bgr", [0, 1, 2]), ("rgb", [2, 1, 0])]:
        plan = replace(spec.input, color=color, mean=(104.0, 117.5, 123.0), std=(1.0, 58.0, 57.5))
        runner = FakeRunner(replace(spec, input=plan))
        prepared = Detector(runner).prepare(image)
        assert prepared.input.shape == (1, 3, 80, 128) and prepared.input.dtype == np.float32
        wanted = ((image[:, :, order] - np.array(plan.mean)) / plan.std).transpose(2, 0, 1)
        assert np.abs(prepared.input[0, :, :70] - wanted).max() < 1e-4
        assert (prepared.input[0, :, 70:] == 0).all()
        assert np.array_equal(Detector(runner).prepare(image[:, :, ::-1], "rgb").input, prepared.input)


def test_paths_and_pil_images(tiny: Path, tmp_path: Path) -> None:
    detector, image = Detector(tiny), squares(128, 96, (32, 48))
    Image.fromarray(image[:, :, ::-1]).save(tmp_path / "a.png")
    wanted = detector(image).boxes
    for picture in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.open(tmp_path / "a.png")):
        assert np.array_equal(detector(picture).boxes, wanted)
    with pytest.raises(ImageError, match="not there"):
        detector(tmp_path / "b.png")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_reduced_jpegs_report_full_pixels(tiny: Path, tmp_path: Path, orientation: int) -> None:
    # 8 times what the network needs, with sides that 8 does not divide, in each of EXIF's orientations.
    upright = cv2.resize(squares(128, 96, (32, 48), (96, 16)), (1021, 763), interpolation=cv2.INTER_NEAREST)
    undo = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2),
        6: np.rot90(upright), 7: upright[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(undo)).save(tmp_path / "a.jpg", exif=exif, quality=95)
    detector = Detector(tiny, size=250, min_score=0.4)
    assert read_reduced(tmp_path / "a.jpg", 250).factor == 4
    wanted, got = detector(upright), detector(tmp_path / "a.jpg")
    assert (got.width, got.height) == (1021, 763) and len(got) == len(wanted) > 0
    # Within a pixel of the network's input, which is four of the picture: the tiny network answers in whole cells.
    order, other = (np.lexsort(np.round(faces.boxes, -1).T) for faces in (got, wanted))
    assert np.abs(got.boxes[order] - wanted.boxes[other]).max() < 4
    full = Detector(tiny, size="original", min_score=0.4)
    assert full.prepare(tmp_path / "a.jpg").input.shape == (1, 3, 768, 1024)


SIZES = st.tuples(st.integers(1, 300), st.integers(1, 300))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(SIZES, max_size=12), seed=st.integers(0, 99))
def test_batch_equals_one_by_one(tiny: Path, sizes: list[tuple[int, int]], seed: int) -> None:
    random = np.random.default_rng(seed)
    images = [random.integers(0, 256, (h, w, 3), np.uint8) for w, h in sizes + sizes[:3]]
    detector = Detector(tiny, min_score=0.2)
    together = detector.batch(images)
    assert len(together) == len(images)
    for faces, image in zip(together, images, strict=True):
        alone = detector(image)
        assert (faces.width, faces.height) == image.shape[1::-1]
        assert np.allclose(faces.boxes, alone.boxes, atol=1e-3) and np.allclose(faces.scores, alone.scores, atol=1e-6)


def test_batches_are_grouped_and_bounded() -> None:
    spec = detection_spec(size=640)
    cells = 40 * 40
    runner = FakeRunner(spec, scores=np.zeros(cells), boxes=np.zeros((cells, 4)), landmarks=np.zeros((cells, 10)))
    Detector(runner).batch([np.zeros((640, 640, 3), np.uint8)] * 70)
    assert sum(shape[0] for shape in runner.shapes) == 70 and max(shape[0] for shape in runner.shapes) == 8


def test_stages_in_threads(tiny: Path) -> None:
    detector = Detector(tiny, threads=1)
    images = [squares(128, 96, (16 * n, 48)) for n in range(8)] * 8
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda image: detector.run([detector.prepare(image)])[0], images))
    assert all(np.array_equal(a.boxes, detector(b).boxes) for a, b in zip(results, images, strict=True))


def test_threshold_candidates_and_limit() -> None:
    # 6,400 boxes that do not overlap: the best 5,000 are looked at and the best 750 are kept, in order.
    spec = detection_spec(size=1280)
    cells = 80 * 80
    scores = np.random.default_rng(0).permutation(np.linspace(0.3, 1, cells))
    runner = FakeRunner(spec, scores=scores, boxes=np.full((cells, 4), 0.4), landmarks=np.zeros((cells, 10)))
    image = np.zeros((1280, 1280, 3), np.uint8)
    faces = Detector(runner, min_score=0.1)(image)
    assert cells > CANDIDATES and faces.scores is not None
    assert np.allclose(faces.scores, np.sort(scores)[::-1][:KEPT])
    assert len(Detector(runner, min_score=0.95)(image)) == (scores >= 0.95).sum()
    assert len(Detector(runner)(image)) == min(KEPT, (scores >= 0.5).sum())


def test_wild_outputs_stay_finite() -> None:
    cells = 8 * 8
    wild = np.tile(np.array([np.nan, np.inf, -np.inf, 1e30], np.float32), (cells, 1))
    for coding, sizes in (("ssd", ((16.0,),)), ("distance", ())):
        spec = detection_spec(coding=coding, anchor_sizes=sizes, clip_boxes=True)
        runner = FakeRunner(spec, scores=np.linspace(0, 2, cells), boxes=wild, landmarks=np.full((cells, 10), np.nan))
        faces = Detector(runner)(np.zeros((128, 128, 3), np.uint8))
        assert len(faces) and np.isfinite(faces.boxes).all() and np.isfinite(faces.landmarks).all()
        assert (
            faces.scores is not None and faces.scores.max() <= 1 and faces.boxes.min() >= 0 and faces.boxes.max() <= 128
        )


def test_fixed_networks_use_their_own_size(tmp_path: Path) -> None:
    for fit in ("letterbox", "stretch"):
        path = bright_detector(tmp_path / f"{fit}.onnx", detection_spec(size=128, width=128, height=96, fit=fit))
        for good in (None, 128):
            faces = Detector(path, size=good)(squares(256, 192, (64, 96), side=32))
            assert np.allclose(faces.boxes, [[64, 96, 96, 128]])
        for bad in (320, "original"):
            with pytest.raises(UsageError, match="fixed input of 128 x 96"):
                Detector(path, size=bad)
    tall = cv2.resize(squares(128, 96, (32, 48)), (300, 900), interpolation=cv2.INTER_NEAREST)
    stretched = Detector(tmp_path / "stretch.onnx", min_score=0.3)(tall).boxes
    assert np.allclose(stretched, [[75, 450, 112.5, 600]], atol=0.1)
    assert Detector(tmp_path / "letterbox.onnx").prepare(tall).letterbox.inner_width == 32


@pytest.mark.parametrize(
    "options, words",
    [
        ({"size": 8}, "between 16 and 16384"),
        ({"size": -1}, "between 16 and 16384"),
        ({"size": "big"}, "'big'"),
        ({"size": True}, "True"),
        ({"size": 64.5}, "64.5"),
        ({"min_score": 1.5}, "between 0 and 1"),
        ({"min_score": float("nan")}, "between 0 and 1"),
        ({"tile": 8}, "at least 64"),
        ({"threads": 0}, "at least 1"),
        ({"tile": 256, "size": "original"}, "exclude"),
    ],
)
def test_impossible_options(tiny: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Detector(tiny, **options)


def test_a_model_of_another_task(tmp_path: Path) -> None:
    spec = detection_spec()
    other = replace(
        spec, task="classify", detection=None, classification=ClassificationSpec(heads={"scores": ("a", "b")})
    )
    with pytest.raises(ModelFileError, match="classify"):
        Detector(bright_detector(tmp_path / "a.onnx", text=other.to_json()))


def test_one_picture_where_many_are_due_and_a_wrong_colour_order(tiny: Path, tmp_path: Path) -> None:
    detector, picture = Detector(tiny), squares(128, 96, (16, 32))
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    for one in (picture, str(tmp_path / "a.png"), tmp_path / "a.png", Image.fromarray(picture)):
        for predictor in (detector, Analyzer(detector, Classifier()), Classifier(), Segmenter()):
            with pytest.raises(UsageError, match="list"):
                predictor.batch(one)
    for one in (picture, tmp_path / "a.png"):
        with pytest.raises(UsageError, match="'BGR'"):
            detector(one, color="BGR")  # type: ignore[arg-type]
    assert [len(faces) for faces in detector.batch(np.stack([picture, picture]))] == [1, 1]
    assert detector.batch([]) == []


def test_a_file_that_asks_for_endless_anchors(tmp_path: Path) -> None:
    sizes = ((16.0,) * 4096,) * 16
    greedy = detection_spec(coding="ssd", strides=(1,) * 16, anchor_sizes=sizes)
    honest = detection_spec(coding="ssd", anchor_sizes=((16.0,),))
    path = bright_detector(tmp_path / "a.onnx", honest, text=greedy.to_json())
    with pytest.raises(ModelFileError, match="64 scores for 1073741824 anchors"):
        Detector(path)(squares(128, 128))


def test_extreme_pictures(tiny: Path) -> None:
    detector = Detector(tiny)
    for shape in ((1, 1, 3), (1, 10000, 3), (10000, 1, 3)):
        assert len(detector(np.zeros(shape, np.uint8))) == 0
        assert len(Detector(tiny, tile=64)(np.zeros(shape, np.uint8))) == 0


def test_faces_are_equal_by_their_values(tiny: Path) -> None:
    picture = squares(128, 96, (16, 32), (96, 64))
    first, second = Detector(tiny)(picture), Detector(tiny)(picture)
    assert len(first) == 2 and first == second and first[0] == second[0] and first[1] in second
    assert first.index(second[1]) == 1 and first.count(first[0]) == 1
    assert first != first[:1] and first[0] != first[1] and first != "faces"
    assert replace(first, boxes=first.boxes + 1) != first
    assert list(Detector(tiny).batch(iter([picture, picture]))) == [first, second]


def blobs(width: int, height: int, centres: list[tuple[int, int, int]]) -> NDArray[np.uint8]:
    image = np.zeros((height, width, 3), np.uint8)
    for x, y, side in centres:
        cv2.rectangle(image, (x - side // 2, y - side // 2), (x + side // 2, y + side // 2), (255, 255, 255), -1)
    return image


def test_tiles_find_what_is_too_small_for_the_whole(tiny: Path) -> None:
    image = blobs(2000, 1500, [(700, 900, 30), (1985, 30, 30), (1000, 300, 34), (20, 1480, 30)])
    assert len(Detector(tiny)(image)) == 0
    faces = Detector(tiny, tile=128, min_score=0.5)(image)
    for x, y in [(700, 900), (1985, 30), (1000, 300), (20, 1480)]:
        inside = (
            (faces.boxes[:, 0] <= x) & (faces.boxes[:, 2] >= x) & (faces.boxes[:, 1] <= y) & (faces.boxes[:, 3] >= y)
        )
        assert inside.any()
    overlaps = iou(faces.boxes, faces.boxes) - np.eye(len(faces))
    assert overlaps.max() <= 0.4 + 1e-6 and (faces.width, faces.height) == (2000, 1500)


def test_tiles_of_a_picture_that_was_decoded_at_a_half_tell_places_of_the_whole(tiny: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), blobs(2000, 1500, [(704, 896, 60), (1904, 96, 60)]))
    half = read_reduced(tmp_path / "a.jpg", 1000)
    assert half.factor == 2
    faces = Detector(tiny, tile=128, min_score=0.5)(half)
    for x, y in [(704, 896), (1904, 96)]:
        near = np.abs((faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2 - (x, y)).max(1) < 40
        assert near.any()
    assert (faces.width, faces.height) == (2000, 1500)


@given(width=st.integers(1, 3000), height=st.integers(1, 3000), tile=st.integers(64, 700), data=st.data())
def test_every_small_face_is_whole_in_a_tile(width: int, height: int, tile: int, data: st.DataObject) -> None:
    spots = list(tiles.windows(width, height, tile))
    assert spots[-1] == (0, 0, width, height)
    side = data.draw(st.integers(1, max(1, min(width, height))))
    x, y = data.draw(st.integers(0, width - side)), data.draw(st.integers(0, height - side))
    box = np.array([[x, y, x + side, y + side]], np.float32)
    good = [w for w in spots if w[0] <= x and w[1] <= y and x + side <= w[2] and y + side <= w[3]]
    kept = [w for w in good if tiles.whole(box, w, width, height)[0]]
    # No wider than nine times its side: faces are looked for at a size where they are not tiny.
    assert min(max(w[2] - w[0], w[3] - w[1]) for w in kept) <= max(9 * side, tile)


def test_a_face_that_a_tile_cuts_is_dropped() -> None:
    boxes = np.array(
        [[10, 10, 50, 50], [60, 10, 99.5, 50], [0, 0, 30, 30], [-3, 20, 20, 40], [10, 95, 30, 105]], np.float32
    )
    assert tiles.whole(boxes, (0, 0, 100, 100), 300, 300).tolist() == [True, False, True, True, False]
    assert tiles.whole(boxes, (0, 0, 100, 100), 100, 100).all()


def test_no_torch_in_the_right_half(tiny: Path) -> None:
    import subprocess

    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['onnx'] = None\n"
        "import numpy; from nnface import Detector\n"
        "print(len(Detector(sys.argv[1])(numpy.full((64, 64, 3), 255, numpy.uint8))))"
    )
    process = subprocess.run([sys.executable, "-c", code, str(tiny)], capture_output=True, text=True)
    assert process.stdout == "64\n", process.stderr
