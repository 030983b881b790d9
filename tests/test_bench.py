"""Timing model files: what is measured, not how long it takes."""

import json
from pathlib import Path

import pytest

from nnface.commands import main
from nnface.errors import DeviceError, ImageError, ModelFileError, UsageError
from nnface.evaluation import bench as benchmark
from nnface.evaluation.bench import STAGES, alternate, bench, machine, sample_picture, tables, timing
from nnface.zoo import resolve
from tiny_models import bright_detector, palette_parser

PHOTOGRAPH = str(Path(__file__).parents[1] / "examples" / "astronaut.jpg")


def test_every_model_runs_with_every_batch_and_number_of_threads(tmp_path):
    models = [
        str(bright_detector(tmp_path / "tiny.onnx")),
        str(palette_parser(tmp_path / "parser.onnx")),
        str(resolve("attributes")),
    ]
    turns = []
    rows = bench(
        models,
        [PHOTOGRAPH, str(sample_picture(tmp_path))],
        batches=(1, 3),
        threads=(1, 2),
        size=96,
        rounds=4,
        memory=False,
        done=lambda: turns.append(1),
    )
    assert len(turns) == 4 + benchmark.WARM_UP
    assert [(r.model, r.threads, r.batch) for r in rows] == [(m, t, b) for m in models for t in (1, 2) for b in (1, 3)]
    assert {row.input for row in rows[:4]} == {(96, 80)}  # of 1024 x 768 at 96, whose sides are multiples of 16
    assert {row.input for row in rows[4:]} == {(64, 64), (96, 96)}
    for row in rows:
        assert row.precision == "float32" and row.memory is None
        assert list(row.stages) == list(STAGES) and min(row.stages.values()) > 0
        assert row.network.low <= row.network.median <= row.network.high and row.network.rounds == 4
        assert row.network.median < row.whole.median
        assert row.pictures_per_second == pytest.approx(1000 * row.batch / row.whole.median)
        assert row.megabytes == pytest.approx(Path(row.model).stat().st_size / 1e6)
    speed, steps = (table.markdown() for table in tables(rows))
    assert "tiny.onnx float32" in speed and "cpu x2" in speed and "select" in steps


def test_memory_is_that_of_a_process_of_its_own(tmp_path):
    tiny = str(bright_detector(tmp_path / "tiny.onnx"))
    few, many = bench([tiny], [PHOTOGRAPH], batches=(1, 64), threads=(1,), size=512, rounds=3)
    assert few.memory is not None and many.memory is not None
    # 64 pictures of 512 x 512 x 3 in float32 are 201 MB.
    assert many.memory - few.memory > 150


def test_things_take_turns():
    order = []
    times = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 5)
    assert "".join(order) == "ab" * (5 + benchmark.WARM_UP)
    assert times["a"].rounds == times["b"].rounds == 5


def test_median_and_spread():
    found = timing([0.001 * n for n in range(1, 12)])
    assert (found.median, found.low, found.high) == pytest.approx((6, 2, 10))


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bright_detector(tmp_path / "tiny.onnx")

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["bench", *arguments])
        return ended.value.code, capsys.readouterr()

    code, said = run("tiny.onnx", "--rounds", "3", "--batch", "1,2", "--no-memory", "--json", "speed.json")
    assert code == 0 and "tiny.onnx" in said.out and said.err == ""
    written = json.loads((tmp_path / "speed.json").read_text())
    assert written["machine"].keys() == machine().keys() and [row["batch"] for row in written["rows"]] == [1, 2]
    code, said = run("tiny.onnx", "--rounds", "3", "--no-memory", "--json", "-", "--pictures", PHOTOGRAPH)
    assert code == 0 and len(json.loads(said.out)["rows"]) == 1
    for arguments, words in {
        ("absent.onnx",): "absent.onnx is not there",
        ("tiny.onnx", "--batch", "0"): "--batch is '0'",
        ("tiny.onnx", "--threads", "two"): "--threads is 'two'",
        ("tiny.onnx", "--device", "toaster"): "toaster",
        ("tiny.onnx", "--pictures", "."): "holds no picture",
        ("tiny.onnx", "--size", "3"): "--size",
        ("tiny.onnx", "--json", "no/speed.json", "--rounds", "3", "--no-memory"): "does not exist",
    }.items():
        code, said = run(*arguments)
        assert code == 2 and words in said.err and len(said.err.splitlines()) == 1


def test_errors_are_those_of_the_predictors(tmp_path):
    tiny = str(bright_detector(tmp_path / "tiny.onnx"))
    with pytest.raises(ImageError):
        bench([tiny], [str(tmp_path / "absent.jpg")], rounds=3)
    with pytest.raises(DeviceError):
        bench([tiny], [PHOTOGRAPH], devices=("toaster",), rounds=3)
    with pytest.raises(ModelFileError):
        bench([PHOTOGRAPH], [PHOTOGRAPH], rounds=3)
    with pytest.raises(UsageError, match="no picture to run on"):
        bench([tiny], [], rounds=3)
