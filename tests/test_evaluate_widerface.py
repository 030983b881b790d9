"""The WIDER FACE benchmark on a small generated set in the official layout: files, protocols, processes."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from nnface.commands import main
from nnface.datasets.widerface_predictions import read_predictions, rounded, write_predictions
from nnface.datasets.widerface_truth import choose, picture_key, read_list, read_truth
from nnface.errors import DataError, NnfaceError, UsageError
from nnface.evaluation import widerface
from nnface.evaluation.protocol import Measured, factor_1600, parse_protocol, vote
from nnface.metrics import wider
from nnface.runtime import open_model
from tiny_models import bright_detector, detection_spec, squares

# Key to the corners of its faces, squares of 32 px in a picture of 320 x 256.
PICTURES = {
    "0--Parade/0_Parade_a_1": [(0, 0), (96, 64)],
    "0--Parade/0_Parade_a.b_2": [(32, 32), (160, 128), (256, 192)],
    "1--Handshaking/1_Hand_3": [(64, 96)],
}
FIRST, SECOND, _ = PICTURES


def column(items):
    array = np.empty((len(items), 1), object)
    for number, item in enumerate(items):
        array[number, 0] = item
    return array


def write_truth(folder: Path, pictures=None, counted=lambda key, number: True) -> Path:
    """The four .mat files, with the cells in cells of the official ones."""
    pictures = PICTURES if pictures is None else pictures
    folder.mkdir(parents=True, exist_ok=True)
    events = list(dict.fromkeys(key.split("/")[0] for key in pictures))
    inside = {event: [key for key in pictures if key.split("/")[0] == event] for event in events}
    lists = {
        "event_list": column(events),
        "file_list": column([column([key.split("/")[1] for key in inside[event]]) for event in events]),
    }
    boxes = {key: np.array([[x, y, 32, 32] for x, y in faces], np.int32) for key, faces in pictures.items()}
    faces = column([column([boxes[key] for key in inside[event]]) for event in events])
    savemat(folder / "wider_face_val.mat", {**lists, "face_bbx_list": faces})
    for name in ("easy", "medium", "hard"):
        numbers = {
            key: np.array([[n + 1] for n in range(len(faces)) if name != "easy" or counted(key, n)], np.uint8)
            for key, faces in pictures.items()
        }
        listed = column([column([numbers[key].reshape(-1, 1) for key in inside[event]]) for event in events])
        savemat(folder / f"wider_{name}_val.mat", {**lists, "gt_list": listed})
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """DIR/WIDER_val/images, DIR/ground_truth, a model that finds white 16 px squares, and the list of two pictures."""
    folder = tmp_path_factory.mktemp("wider")
    write_truth(folder / "ground_truth", counted=lambda key, number: number == 0)
    for split in ("val", "test"):
        for key, faces in PICTURES.items():
            path = folder / f"WIDER_{split}/images/{key}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), squares(320, 256, *faces, side=32))
    bright_detector(folder / "tiny.onnx", detection_spec(size=160))
    (folder / "two.txt").write_text(f"{SECOND}.jpg\n\n{FIRST}\n")
    return folder


def nnface(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "nnface", *map(str, arguments)], capture_output=True, text=True, **options
    )


# Truth and lists


def test_truth_is_read_in_order(data):
    truth = read_truth(data / "ground_truth")
    assert list(truth.boxes) == list(PICTURES)
    np.testing.assert_array_equal(truth.boxes["0--Parade/0_Parade_a_1"], [[0, 0, 32, 32], [96, 64, 128, 96]])
    assert truth.counted["easy"]["0--Parade/0_Parade_a.b_2"].tolist() == [True, False, False]
    assert truth.counted["hard"]["0--Parade/0_Parade_a.b_2"].all()


def other(folder: Path, name: str, pictures) -> None:
    """Replace one of the four files by that of another set."""
    (write_truth(folder / "other", pictures) / name).replace(folder / name)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda d: (d / "wider_hard_val.mat").unlink(), "wider_hard_val.mat is not there"),
        (lambda d: (d / "wider_easy_val.mat").write_bytes(b"no matlab"), "wider_easy_val.mat is no ground-truth file"),
        (lambda d: other(d, "wider_easy_val.mat", {"9--E/p": [(0, 0)]}), "lists other pictures"),
        (
            lambda d: other(d, "wider_hard_val.mat", {k: [*v, (0, 0)] for k, v in PICTURES.items()}),
            "counts a face of 0",
        ),
        (lambda d: d.rename(d.parent / "moved"), "wider_face_val.mat is not there"),
    ],
    ids=["missing", "damaged", "other-pictures", "other-faces", "no-folder"],
)
def test_wrong_truth_is_named(tmp_path, spoil, sentence):
    folder = write_truth(tmp_path / "truth")
    spoil(folder)
    with pytest.raises(DataError, match=sentence):
        read_truth(folder)


def test_lists(data, tmp_path):
    assert read_list(data / "two.txt") == [SECOND, FIRST]
    for text, sentence in [
        ("0--Parade/a\nnothing\n", "line 2"),
        ("../a.jpg", "line 1"),
        ("\n\n", "names no picture"),
    ]:
        (tmp_path / "list.txt").write_text(text)
        with pytest.raises(DataError, match=sentence):
            read_list(tmp_path / "list.txt")
    with pytest.raises(DataError, match="cannot read the list"):
        read_list(tmp_path / "absent.txt")
    with pytest.raises(DataError, match=r"1 of 2 pictures have no ground truth, the first is 0--Parade/b"):
        choose(read_truth(data / "ground_truth"), [FIRST, "0--Parade/b"], "list.txt")
    assert picture_key("e/a.b_2.JPG") == picture_key("e/a.b_2") == "e/a.b_2"


# Prediction files


def write(folder: Path, key: str, text: str) -> None:
    path = folder / f"{key}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1),
        ("a.b\n", 2),
        ("a.b\nmany\n", 2),
        ("other\n0\n", 1),
        ("a.b\n2\n1 2 3 4 0.5\n", 2),
        ("a.b\n1\n1 2 3 4 0.5\n1 2 3 4 0.5\n", 2),
        ("a.b\n2\n1 2 3 4 0.5\n1 2 3 4\n", 4),
        ("a.b\n2\n1 2 3 4\n1 2 3 4 0.5 6\n", 3),
        ("a.b\n1\n1 2 x 4 0.5\n", 3),
        ("a.b\n1\n1 2 nan 4 0.5\n", 3),
        ("a.b\n1\n1 2 3 4 inf\n", 3),
        ("a.b\n2\n1 2 3 4 0.5\n1 2 -3 4 0.5\n", 4),
        ("a.b\n1\n1_0 2 3 4 0.5\n", 3),
        ("a.b\n-1\n", 2),
    ],
)
def test_a_malformed_file_is_named_with_its_line(tmp_path, text, line):
    write(tmp_path, "e/ok", "ok\n0\n")
    write(tmp_path, "e/a.b", text)
    with pytest.raises(DataError, match=rf"e/a\.b\.txt, line {line}:"):
        read_predictions(tmp_path, ["e/ok", "e/a.b"])


def test_bytes_that_are_no_text_are_named(tmp_path):
    (tmp_path / "e").mkdir()
    (tmp_path / "e/a.txt").write_bytes(b"\xff\xfe\n1\n")
    with pytest.raises(DataError, match=r"e/a\.txt, line"):
        read_predictions(tmp_path, ["e/a"])


def test_missing_files_are_counted(tmp_path):
    write(tmp_path, "e/a", "a\n0\n")
    with pytest.raises(DataError, match=r"lacks the prediction files of 2 of 3 pictures, the first is e/b\.txt"):
        read_predictions(tmp_path, ["e/a", "e/b", "e/c"])
    with pytest.raises(DataError, match="is no folder"):
        read_predictions(tmp_path / "absent", ["e/a"])


def test_unsorted_files_are_sorted_and_equal_scores_keep_their_order(tmp_path):
    write(tmp_path, "e/a", "e/a.jpg\r\n4\r\n1 0 5 5 0.2\r\n2 0 5 5 0.7 \r\n3 0 5 5 0.2\r\n4 0 5 5 0.9\r\n\r\n")
    write(tmp_path, "e/b", "b\n2\n1 0 5 5 0.5\n2 0 5 5 0.5\n")
    files = read_predictions(tmp_path, ["e/a", "e/b"])
    assert files.unsorted == 1
    boxes, scores = files.predictions["e/a"]
    assert boxes[:, 0].tolist() == [4, 2, 1, 3]
    assert scores.tolist() == [0.9, 0.7, 0.2, 0.2]
    assert boxes[0].tolist() == [4, 0, 9, 5]


def test_written_files_come_back_as_they_were_scored(tmp_path):
    generator = np.random.default_rng(0)
    corners = generator.uniform(-20, 900, (50, 2))
    boxes = np.concatenate([corners, corners + generator.uniform(1, 300, (50, 2))], 1).astype(np.float32)
    scores = np.sort(generator.uniform(size=50).astype(np.float32))[::-1]
    predictions = {"e/a.b": rounded(boxes, scores), "f/none": rounded(np.zeros((0, 4)), np.zeros(0))}
    write_predictions(tmp_path / "new/folder", predictions)
    assert (tmp_path / "new/folder/e/a.b.txt").read_text().splitlines()[:2] == ["a.b", "50"]
    back = read_predictions(tmp_path / "new/folder", list(predictions)).predictions
    for key, (kept, ranked) in predictions.items():
        np.testing.assert_allclose(back[key][0], kept, atol=1e-9)
        np.testing.assert_allclose(back[key][1], ranked, atol=1e-12)
    assert not [path for path in tmp_path.rglob("*") if ".part" in path.name]


# Protocols


@pytest.mark.parametrize(
    ("width", "height", "side"),
    [(1024, 768, (2133, 1600)), (1024, 700, (2150, 1470)), (400, 300, (2133, 1600)), (300, 2000, (322, 2150))],
)
def test_factor_1600(width, height, side):
    factor = factor_1600(width, height)
    assert (round(width * factor), round(height * factor)) == side


def test_protocol_names():
    assert parse_protocol("vga").size == 640
    assert parse_protocol("original").size == "original"
    assert parse_protocol("320").size == 320
    assert "1600" in parse_protocol("1600").name
    for text in ("VGA", "7", "-640", "640.5", "99999", ""):
        with pytest.raises(UsageError, match="choose vga"):
            parse_protocol(text)


def test_each_protocol_brings_the_picture_to_its_size(data, tmp_path):
    """Faces of 32 px in 320 x 256; the detector's cells are 16 px: it hits them at half size and nowhere else."""
    truth = read_truth(data / "ground_truth")
    pictures = widerface.find_pictures(data, list(truth.boxes))
    figures = {}
    for protocol in ("160", "320", "original", "vga"):
        measured = Measured(str(data / "tiny.onnx"), parse_protocol(protocol))
        figures[protocol] = widerface.evaluate(measured, pictures, truth)["hard"]
    assert figures["160"] == 1.0
    assert max(figures["320"], figures["original"], figures["vga"]) < 0.1
    # Faces of 8 px: doubled to 16 at the short side of 1600.
    image = squares(1000, 800, (8, 8), (80, 160), side=8)
    boxes, scores = Measured(str(data / "tiny.onnx"), parse_protocol("1600"))([image])[0]
    assert sorted(boxes[scores > 0.7].round().tolist()) == [[8, 8, 16, 16], [80, 160, 88, 168]]


def test_multiscale_mirrors_and_merges(data):
    # 16 px at a long side of 640; the mirrored pass sees the same cells, for 640 is a multiple of 16.
    image = squares(640, 480, (32, 32), (320, 160))
    measured = Measured(str(data / "tiny.onnx"), parse_protocol("multiscale"))
    boxes, scores = measured([image])[0]
    assert (np.diff(scores) <= 0).all()
    for corner in ([32, 32], [320, 160]):
        best = boxes[np.abs(boxes[:, :2] - corner).max(1) < 6][0]
        np.testing.assert_allclose(best, [*corner, corner[0] + 16, corner[1] + 16], atol=6)


def test_box_voting():
    boxes = np.array([[0, 0, 10, 10], [100, 100, 120, 120], [2, 0, 12, 10], [300, 0, 310, 10]], float)
    merged, scores = vote(boxes, np.array([0.2, 0.9, 0.6, 0.0]), 0.4)
    np.testing.assert_allclose(merged[:2], [[100, 100, 120, 120], [1.5, 0, 11.5, 10]])
    assert scores.tolist() == [0.9, 0.6, 0.0]
    assert vote(np.zeros((0, 4)), np.zeros(0), 0.4)[0].shape == (0, 4)
    assert len(vote(boxes, np.ones(4), 0.4, keep=2)[1]) == 2


def test_a_network_of_fixed_input_uses_its_own(data, tmp_path):
    model = bright_detector(tmp_path / "fixed.onnx", detection_spec(size=160, width=160, height=128))
    measured = Measured(str(model), parse_protocol("vga"))
    assert measured.name == "fixed 160x128"
    truth = read_truth(data / "ground_truth")
    pictures = widerface.find_pictures(data, list(truth.boxes))
    assert widerface.evaluate(measured, pictures, truth)["hard"] == 1.0


def test_a_runner_is_judged_like_the_file(data):
    truth = wider.by_height({key: [[x, y, x + 32, y + 32] for x, y in faces] for key, faces in PICTURES.items()})
    pictures = widerface.find_pictures(data, list(truth.boxes))
    measured = Measured(open_model(data / "tiny.onnx"), parse_protocol("160"))
    for batch in (1, 2, 5):
        figures = widerface.evaluate(measured, pictures, truth, batch)
        assert (figures["medium"], figures["hard"]) == (1.0, 1.0)
        assert np.isnan(figures["easy"])  # no face is over 50 px


# The commands, as processes


def test_evaluate_then_score_give_the_same_figures(data, tmp_path):
    done = nnface(
        "evaluate", "widerface", "--model", data / "tiny.onnx", "--data", data, "--protocol", "160",
        "--predictions", tmp_path / "out", "--json", tmp_path / "a.json", "--save", tmp_path / "report",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "long side 160" in done.stdout
    assert "95 % interval" in done.stdout
    figures = json.loads((tmp_path / "a.json").read_text())
    assert figures == {"easy": 1.0, "medium": 1.0, "hard": 1.0}
    report = json.loads((tmp_path / "report/report.json").read_text())
    assert report["protocol"] == "long side 160"
    assert report["heights"]["32 to 64"] == {"ap": 1.0, "faces": 6, "interval": [1.0, 1.0]}
    page = (tmp_path / "report/report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "http://" not in page.replace('http-equiv="', "")
    scored = nnface(
        "score", "widerface", tmp_path / "out", "--truth", data / "ground_truth", "--json", tmp_path / "b.json"
    )
    assert scored.returncode == 0
    assert json.loads((tmp_path / "b.json").read_text()) == figures


def test_score_of_a_list_counts_its_pictures_only(data, tmp_path):
    for key in list(PICTURES)[:2]:
        x, y = PICTURES[key][0]
        write(tmp_path, key, f"{key.split('/')[1]}\n1\n{x} {y} 32 32 0.9\n")
    common = ["score", "widerface", tmp_path, "--truth", data / "ground_truth", "--json", "-"]
    whole = nnface(*common)
    assert whole.returncode == 2
    assert "lacks the prediction files of 1 of 3 pictures" in whole.stderr
    listed = nnface(*common, "--list", data / "two.txt")
    assert listed.returncode == 0
    assert json.loads(listed.stdout) == {"easy": 1.0, "medium": 0.4, "hard": 0.4}


def test_compare_is_paired(data, tmp_path):
    """The other finds all but one face of the second picture: with every draw it is as good or worse, never better."""
    truth = read_truth(data / "ground_truth")
    whole = {key: (boxes, np.linspace(0.9, 0.5, len(boxes))) for key, boxes in truth.boxes.items()}
    part = whole | {SECOND: tuple(values[:2] for values in whole[SECOND])}
    gain, low, high = widerface.compare(whole, part, truth)["hard"]
    assert gain == pytest.approx(1 / 6)
    assert 0 <= low < gain < high < 0.4
    assert widerface.compare(whole, whole, truth)["hard"] == (0, 0, 0)
    for name, predictions in (("a", whole), ("b", part)):
        write_predictions(tmp_path / name, predictions)
    done = nnface("score", "widerface", tmp_path / "a", "--truth", data / "ground_truth", "--against", tmp_path / "b")
    assert done.returncode == 0
    assert "paired" in done.stdout
    assert "16.7" in done.stdout


@pytest.mark.parametrize(
    ("module", "arguments"), [("scipy.io", []), ("matplotlib", ["--save", "report"]), ("jinja2", ["--save", "report"])]
)
def test_a_missing_extra_is_named_before_the_work(data, tmp_path, capsys, monkeypatch, module, arguments):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit):
        main(["evaluate", "widerface", "--model", str(data / "tiny.onnx"), "--data", str(data), *arguments])
    assert "pip install 'nnface[eval]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_test_split_writes_what_the_challenge_takes(data, tmp_path):
    common = [
        "evaluate",
        "widerface",
        "--model",
        data / "tiny.onnx",
        "--data",
        data,
        "--protocol",
        "160",
        "--split",
        "test",
    ]
    done = nnface(*common, "--predictions", tmp_path / "challenge")
    assert done.returncode == 0
    assert "3 prediction files" in done.stdout
    boxes, scores = read_predictions(tmp_path / "challenge", list(PICTURES)).predictions["1--Handshaking/1_Hand_3"]
    assert len(boxes) == len(scores) > 0
    refused = nnface(*common)
    assert refused.returncode == 2
    assert "--predictions" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--protocol", "huge"], "choose vga"),
        (["--json", "{tmp}/no/figures.json"], "the folder"),
        (["--json", "{tmp}"], "it is a folder"),
        (["--save", "{data}/tiny.onnx"], "there is a file of that name"),
        (["--truth", "{tmp}"], "wider_face_val.mat is not there"),
        (["--data", "{tmp}/absent"], "wider_face_val.mat is not there"),
        (["--data", "{tmp}", "--truth", "{data}/ground_truth"], "lacks 3 of 3 pictures"),
        (["--list", "{data}/tiny.onnx"], "tiny.onnx"),
        (["--model", "{tmp}/absent.onnx"], "absent.onnx"),
    ],
)
def test_bad_calls_are_one_sentence(data, tmp_path, capsys, arguments, sentence):
    known = {"--model": str(data / "tiny.onnx"), "--data": str(data), "--protocol": "160"}
    texts = [text.format(tmp=tmp_path, data=data) for text in arguments]
    known.update(zip(texts[::2], texts[1::2], strict=True))
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "widerface", *(item for pair in known.items() for item in pair)])
    assert ended.value.code == 2
    stderr = capsys.readouterr().err
    assert sentence in stderr
    assert stderr.count("\n") == 1


def test_a_broken_picture_stops_the_benchmark(data, tmp_path):
    truth = wider.by_height({"e/a": [[0, 0, 32, 32]]})
    (tmp_path / "e").mkdir()
    (tmp_path / "e/a.jpg").write_bytes(b"no picture")
    measured = Measured(str(data / "tiny.onnx"), parse_protocol("160"))
    with pytest.raises(NnfaceError, match=r"e/a\.jpg"):
        widerface.evaluate(measured, widerface.find_pictures(tmp_path, ["e/a"]), truth)
