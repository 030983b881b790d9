"""``nnface recolor`` and ``nnface blur``, as real processes."""

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from nnface.commands import main
from nnface.spec import InputSpec, SegmentationSpec, Spec
from processes import Ended, nnface, nnface_on_terminal
from tiny_models import bright_detector

SIDE = 64
"""Of a face in the pictures below: a cell of the detector, which sees them at a quarter."""


def _colour_parser(path: Path) -> Path:
    """A parser by colour: green is skin, red hair, blue the upper lip, black background."""
    spec = Spec(
        task="segment",
        architecture="tiny",
        licence="Apache-2.0",
        input=InputSpec(size=64, width=64, height=64, fit="stretch", std=(255, 255, 255)),
        segmentation=SegmentationSpec(labels=("background", "skin", "u_lip", "hair")),
        provenance={"data": "none", "data_licence": "none", "command": "true"},
    )
    # Logits of B, G, R in 0..1.
    weights = np.array([[0, 0, 0], [0, 20, 0], [20, -20, 0], [0, -20, 20]], np.float32)[:, :, None, None]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["input", "weights", "bias"], ["logits"])],
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 64, 64])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4, 64, 64])],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array([6, 0, 0, 0], np.float32), "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"nnface": spec.to_json()})
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    detector = bright_detector(folder / "bright.onnx")
    return ["--model", str(detector), "--parser", str(_colour_parser(folder / "parser.onnx"))]


def _people(*corners: tuple[int, int], width: int = 512, height: int = 384) -> NDArray[np.uint8]:
    """Bright, grainy faces with dark red hair above them, on black."""
    random = np.random.default_rng(1)
    image = np.zeros((height, width, 3), np.uint8)
    for x, y in corners:
        image[y : y + SIDE, x : x + SIDE] = random.integers(225, 256, (SIDE, SIDE, 1))
        image[max(y - 12, 0) : y, x : x + SIDE, 2] = 110 + random.integers(0, 30, (min(12, y), SIDE))
    return image


def _save(path: Path, *corners: tuple[int, int], **size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), _people(*corners, **size))
    return path


def _names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _one_sentence(ended: Ended) -> str:
    lines = ended.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("nnface: "), ended.err
    return lines[0]


def _grain(image: NDArray[np.uint8]) -> float:
    return float(np.abs(np.diff(image.astype(float), axis=1)).mean())


def test_hair_takes_the_colour_and_nothing_else_does(tmp_path: Path, models: list[str]) -> None:
    _save(tmp_path / "in/team.png", (128, 128), (320, 192))
    ended = nnface("recolor", "--hair", "#2040c0", "in/team.png", *models, cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    (row,) = ended.rows
    assert (row["file"], row["written"], len(row["faces"])) == ("in/team.png", "team.recolored.jpg", 2)
    assert _names(tmp_path) == ["in/team.png", "team.recolored.jpg"]
    before, after = _people((128, 128), (320, 192)), cv2.imread(str(tmp_path / "team.recolored.jpg"))
    for x, y in [(128, 128), (320, 192)]:
        blue, _, red = after[y - 8 : y - 4, x + 4 : x + 60].reshape(-1, 3).mean(0)
        assert blue > red + 60
        assert np.abs(after[y + 8 : y + 56, x : x + SIDE].astype(int) - before[y + 8 : y + 56, x : x + SIDE]).max() < 12
    assert np.abs(after[300:].astype(int) - before[300:]).max() < 3


def test_faces_are_blurred_and_their_hair_is_not(tmp_path: Path, models: list[str]) -> None:
    picture = _save(tmp_path / "in/team.png", (128, 128), (320, 192))
    ended = nnface_on_terminal("blur", picture, *models, cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert "team.png: 2 faces, written to team.blurred.jpg" in " ".join(ended.out.split())
    before, after = cv2.imread(str(picture)), cv2.imread(str(tmp_path / "team.blurred.jpg"))
    for x, y in [(128, 128), (320, 192)]:
        assert _grain(after[y + 8 : y + 56, x + 8 : x + 56]) < 4 < _grain(before[y : y + 64, x : x + 64])
        assert _grain(after[y - 12 : y - 9, x : x + 64]) > 3, "the hair"
    assert np.abs(after[300:].astype(int) - before[300:]).max() < 3


def test_nothing_covered_is_said_and_asked_for_is_refused(tmp_path: Path, models: list[str]) -> None:
    picture = _save(tmp_path / "in/empty.png")
    ended = nnface_on_terminal("blur", picture, *models, cwd=tmp_path)
    assert "no face was found; written unchanged to empty.blurred.jpg" in " ".join(ended.out.split())
    ended = nnface("blur", picture, "--strength", "0", *models, cwd=tmp_path)
    assert ended.code == 2 and "0<x<=6" in _one_sentence(ended)


def test_a_copy_that_is_there_stays_without_force(tmp_path: Path, models: list[str]) -> None:
    _save(tmp_path / "a.png", (128, 128))
    copy = tmp_path / "a.blurred.jpg"
    copy.write_text("mine")
    ended = nnface("blur", "a.png", *models, cwd=tmp_path)
    assert ended.code == 2
    assert "a.blurred.jpg" in _one_sentence(ended) and "--force" in ended.err
    assert ended.rows == [{"file": "a.png", "error": _one_sentence(ended).removeprefix("nnface: ")}]
    assert copy.read_text() == "mine"
    assert nnface("blur", "a.png", "--force", *models, cwd=tmp_path).code == 0
    assert cv2.imread(str(copy)) is not None
    assert _names(tmp_path) == ["a.blurred.jpg", "a.png"]


def test_a_folder_is_mirrored_in_order_and_one_broken_picture_is_one_failure(tmp_path: Path, models: list[str]) -> None:
    for number in range(6):
        _save(tmp_path / f"in/sub/{number}.jpg", (64 * number, 128))
    (tmp_path / "in/sub/3.jpg").write_text("not a picture")
    ended = nnface("blur", "in", "--out", "new/out", "--pixelate", *models, "--threads", "2", cwd=tmp_path)
    assert ended.code == 1 and "3.jpg" in _one_sentence(ended)
    assert [row["file"] for row in ended.rows] == [f"in/sub/{number}.jpg" for number in range(6)]
    assert [row["file"] for row in ended.rows if "error" in row] == ["in/sub/3.jpg"]
    assert _names(tmp_path / "new/out") == [f"sub/{number}.blurred.jpg" for number in (0, 1, 2, 4, 5)]


def test_a_folder_needs_a_folder(tmp_path: Path, models: list[str]) -> None:
    _save(tmp_path / "in/a.png", (128, 128))
    ended = nnface("blur", "in", *models, cwd=tmp_path)
    assert ended.code == 2 and "--out DIR" in _one_sentence(ended)
    assert _names(tmp_path) == ["in/a.png"]


def test_a_video_and_a_picture(tmp_path: Path, models: list[str]) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 12.5, (512, 384))
    for number in range(5):
        writer.write(_people((64 + 64 * number, 128)))
    writer.release()
    _save(tmp_path / "a.png", (128, 128))
    ended = nnface("blur", "clip.avi", "a.png", *models, cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    counts = {"frames": 5, "frames_without_faces": 0, "detections": 5}
    assert ended.rows[0] == {"file": "clip.avi", "written": "clip.blurred.mp4", **counts}
    assert ended.rows[1]["written"] == "a.blurred.jpg"
    clip = cv2.VideoCapture(str(tmp_path / "clip.blurred.mp4"))
    assert clip.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
    for number in range(5):
        good, frame = clip.read()
        assert good and _grain(frame[140:180, 70 + 64 * number : 120 + 64 * number]) < 3
    assert not clip.read()[0]


def test_a_picture_turned_by_exif_comes_out_upright(tmp_path: Path, models: list[str]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = Image.fromarray(_people((128, 128))[:, :, ::-1])
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.jpg", quality=100, subsampling=0, exif=exif)
    assert nnface("blur", "a.jpg", *models, cwd=tmp_path).code == 0
    with Image.open(tmp_path / "a.blurred.jpg") as copy:
        assert copy.size == (512, 384) and 0x0112 not in copy.getexif()
    assert _grain(cv2.imread(str(tmp_path / "a.blurred.jpg"))[132:188, 132:188]) < 3


def test_without_a_parser_an_ellipse(tmp_path: Path, models: list[str]) -> None:
    picture = _save(tmp_path / "a.png", (128, 128))
    assert nnface("blur", "a.png", *models[:2], "--parser", "none", cwd=tmp_path).code == 0
    before, after = cv2.imread(str(picture)), cv2.imread(str(tmp_path / "a.blurred.jpg"))
    assert _grain(after[140:180, 140:180]) < 3
    assert np.abs(after[189:192, 189:192].astype(int) - before[189:192, 189:192]).max() < 20, "a corner of the box"


def test_chosen_parts_and_whole_heads(tmp_path: Path, models: list[str]) -> None:
    picture = _save(tmp_path / "a.png", (128, 128))
    hair, face = (slice(118, 126), slice(130, 190)), (slice(136, 190), slice(130, 190))
    before = cv2.imread(str(picture))
    assert nnface("blur", "a.png", "--parts", "hair,hat", *models, cwd=tmp_path).code == 0
    after = cv2.imread(str(tmp_path / "a.blurred.jpg"))
    assert _grain(after[hair]) < 2 < _grain(before[hair]) and _grain(after[face]) > 3
    assert nnface("blur", "a.png", "--whole", "--force", *models, cwd=tmp_path).code == 0
    after = cv2.imread(str(tmp_path / "a.blurred.jpg"))
    assert _grain(after[hair]) < 2 and _grain(after[face]) < 4 < _grain(before[face])


def test_parts_by_any_name_and_strength(tmp_path: Path, models: list[str]) -> None:
    image = _people((128, 128))
    image[176:184, 144:176] = (140, 0, 0)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    runs = {}
    for strength in ("0", "0.5", "1"):
        options = ["--part", "u_lip=c02020", "--background", "navy", "--strength", strength, "--force"]
        ended = nnface("recolor", "a.png", *options, *models, cwd=tmp_path)
        assert (ended.code, ended.err) == (0, "")
        runs[strength] = cv2.imread(str(tmp_path / "a.recolored.jpg")).astype(int)
    assert np.abs(runs["0"] - image).mean() < 1
    redness = [float((run[178:182, 148:172, 2] - run[178:182, 148:172, 0]).mean()) for run in runs.values()]
    assert redness[0] < redness[1] < redness[2] and redness[2] > 40
    assert np.abs(runs["1"][140:170, 135:185] - image[140:170, 135:185]).max() < 12, "skin"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["recolor", "a.png"], "nothing to colour"),
        (["recolor", "a.png", "--hair", "brownish"], "'brownish' is no colour"),
        (["recolor", "a.png", "--part", "tail=red"], "no part 'tail'"),
        (["recolor", "a.png", "--part", "hair"], "NAME=COLOUR"),
        (["recolor", "a.png", "--hair", "red", "--strength", "2"], "strength"),
        (["blur", "a.png", "--parts", "tail"], "no part 'tail'"),
        (["blur", "a.png", "--parts", "hair", "--whole"], "exclude each other"),
        (["blur", "a.png", "--parts", "hair", "--parser", "none"], "needs a parser"),
        (["blur", "absent.png", "--parser", "none"], "absent.png"),
        (["blur", "a.png", "--parser", "absent.onnx"], "absent.onnx"),
        (["blur", "a.png", "--out", "a.png", "--parser", "none"], "a.png"),
        (["blur"], "PATH"),
    ],
)
def test_what_is_refused_is_one_sentence_and_nothing_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    _save(tmp_path / "a.png", (128, 128))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:  # in this process: it is over before any work
        main(arguments)
    assert words in _one_sentence(Ended(int(ended.value.code or 0), *capsys.readouterr()))
    assert ended.value.code == 2
    assert _names(tmp_path) == ["a.png"]


def test_a_picture_without_faces_is_copied(tmp_path: Path, models: list[str]) -> None:
    _save(tmp_path / "a.png")
    for command in (["blur"], ["recolor", "--hair", "red"]):
        ended = nnface(*command, "a.png", *models, cwd=tmp_path)
        assert ended.code == 0 and json.loads(ended.out)["faces"] == []
    assert cv2.imread(str(tmp_path / "a.blurred.jpg")).max() < 3
    assert _names(tmp_path) == ["a.blurred.jpg", "a.png", "a.recolored.jpg"]
