"""fp16 and INT8: bundled models on the photographs of the examples, refusals, and what the report says."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from nnface import Classifier, Detector
from nnface.datasets.interchange import coco, voc
from nnface.datasets.samples import DetectionSample, is_chosen
from nnface.errors import DataError, ModelFileError, NnfaceError, UsageError
from nnface.evaluation import agreement
from nnface.evaluation.agreement import Agreement, Comparison
from nnface.export import cost, quantize
from nnface.export.pipeline import build
from nnface.header import read_spec
from nnface.models.narrow import widened
from nnface.runtime.onnx import OnnxRunner
from nnface.zoo import resolve
from tiny_models import bright_detector, palette_parser

PHOTOGRAPHS = Path(__file__).parents[1] / "examples"


def float32_size(name):
    """Bytes of a bundled model with weights of 32 bits; its own file stores 16."""
    return widened(onnx.load(resolve(name))).ByteSize()


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """The examples' photographs, and quarters of them, so that there is something to calibrate and to compare on."""
    folder = tmp_path_factory.mktemp("photographs")
    for path in sorted(p for p in PHOTOGRAPHS.glob("*.jpg")):
        image = cv2.imread(str(path))
        cv2.imwrite(str(folder / f"{path.stem}.jpg"), image)
        height, width = image.shape[:2]
        for number, (y, x) in enumerate([(0, 0), (0, width // 4), (height // 4, width // 4)]):
            cv2.imwrite(
                str(folder / f"{path.stem}-{number}.jpg"), image[y : y + 3 * height // 4, x : x + 3 * width // 4]
            )
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def small(photographs, tmp_path_factory):
    """``fast`` as INT8, and the report."""
    out = tmp_path_factory.mktemp("int8") / "fast.onnx"
    _, report = build(resolve("fast"), out, precision="int8", calibrate=str(photographs), pictures=24, method="minmax")
    return out, report


def test_int8_finds_the_same_faces(small, photographs):
    out, report = small
    before, after = Detector("fast", threads=1), Detector(out, threads=1)
    faces = 0
    for path in sorted(photographs.glob("*-0.jpg")):
        one, other = before(path), after(path)
        sure = one.scores > before.min_score + 0.1
        faces += sure.sum()
        for box, points in zip(one.boxes[sure], one.landmarks[sure], strict=True):
            distance = np.abs(other.boxes - box).max(1)
            nearest, side = distance.argmin(), np.sqrt(np.prod(box[2:] - box[:2]))
            assert distance[nearest] < 0.15 * side
            assert np.linalg.norm(other.landmarks[nearest] - points, axis=1).mean() < 0.1 * side
    assert faces > 0
    assert report.agreement is None and not report.comparison.labelled
    assert report.comparison.after["hard"] > 0.9 and report.comparison.after["landmark_error"] < 0.05


def test_int8_is_per_channel_in_integers_with_the_ends_in_float(small):
    out, report = small
    proto = onnx.load(out)
    onnx.checker.check_model(proto, full_check=True)
    assert {o.domain for o in proto.opset_import} == {""}
    makers = {output: node for node in proto.graph.node for output in node.output}
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    integer = [n for n in convolutions if n.input[1] in makers and makers[n.input[1]].op_type == "DequantizeLinear"]
    assert {n.name for n in convolutions} - {n.name for n in integer} == set(report.kept)
    assert 1 <= len(report.kept) < len(integer)
    assert convolutions[0].name in report.kept
    for node in integer:
        whole, scale = (weights[name] for name in makers[node.input[1]].input[:2])
        assert whole.data_type == onnx.TensorProto.INT8
        assert list(scale.dims) == [whole.dims[0]]  # a scale for each output channel
    assert out.stat().st_size < 0.5 * float32_size("fast")


def test_the_file_and_the_json_beside_it_say_what_it_costs(small):
    out, report = small
    spec, float_spec = read_spec(out), read_spec(resolve("fast"))
    assert spec.provenance["precision"] == "int8" and "per channel, minmax" in spec.provenance["quantization"]
    assert spec.detection == float_spec.detection and spec.input == float_spec.input
    assert not set(float_spec.figures) & set(spec.figures)  # they were not measured on this file
    assert {f"float32/{name}" for name in float_spec.figures} <= set(spec.figures)
    assert spec.figures["int8/agreement/hard"] == report.comparison.after["hard"]
    written = json.loads(out.with_suffix(".json").read_text())
    assert written["comparison"]["after"] == pytest.approx(dict(report.comparison.after))
    assert written["faster"] == pytest.approx(report.faster) and written["machine"]["onnxruntime"]
    assert list(written["speed"]) == ["float32", "int8"] and set(written["tried"]) == {"minmax"}
    shown = [table.markdown() for table in cost.tables(report)]
    assert "landmark_error" in shown[0] and "int8" in shown[-1]
    with pytest.raises(UsageError, match="is int8 already"):
        build(out, out.with_name("b.onnx"), precision="fp16")


def test_a_network_of_fixed_batch_is_calibrated(photographs, tmp_path):
    out = tmp_path / "two.onnx"
    options = {"size": (96, 96), "calibrate": str(photographs), "pictures": 6, "method": "minmax"}
    _, report = build(resolve("fast"), out, batch=2, precision="int8", **options)
    assert report.batch == 2 and OnnxRunner(out).batch == 2
    assert Detector(out, min_score=0.05)(np.zeros((96, 96, 3), np.uint8)) is not None


def test_fp16_agrees_and_keeps_its_inputs_and_outputs(photographs, tmp_path):
    out = tmp_path / "half.onnx"
    spec, report = build(resolve("fast"), out, precision="fp16", calibrate=str(photographs), pictures=6)
    assert spec.provenance["precision"] == "fp16"
    assert all(abs(lost) < 0.5 for lost in report.comparison.lost.values())
    before, after = OnnxRunner(resolve("fast"), threads=1), OnnxRunner(out, threads=1)
    images = np.random.default_rng(0).standard_normal((2, 3, 96, 64)).astype(np.float32)
    for (name, one), other in zip(before.run(images).items(), after.run(images).values(), strict=True):
        assert other.dtype == np.float32
        np.testing.assert_allclose(other, one, rtol=0, atol=0.01 if name == "scores" else 0.1)
    halves = [t for t in onnx.load(out).graph.initializer if t.data_type == onnx.TensorProto.FLOAT16]
    assert len(halves) > 20 and out.stat().st_size < 0.6 * float32_size("fast")


def test_a_bundled_model_comes_out_with_plain_weights(tmp_path):
    spec, report = build(resolve("default"), tmp_path / "plain.onnx")
    assert report is None and spec == read_spec(resolve("default"))
    assert (tmp_path / "plain.onnx").stat().st_size > 3 * resolve("default").stat().st_size
    images = np.random.default_rng(0).standard_normal((1, 3, 96, 64)).astype(np.float32)
    one, other = (OnnxRunner(path, threads=1).run(images) for path in (resolve("default"), tmp_path / "plain.onnx"))
    for name, values in one.items():
        np.testing.assert_allclose(other[name], values, rtol=1e-4, atol=1e-5)


def test_a_network_that_leaves_the_range_of_fp16_is_refused(tmp_path):
    proto = widened(onnx.load(resolve("attributes")))
    first = next(node for node in proto.graph.node if node.op_type == "Conv")
    last = next(node for node in proto.graph.node if node.op_type == "Gemm")
    for name, factor in ((first.input[1], 1e6), (first.input[2], 1e6), (last.input[1], 1e-6)):
        tensor = next(t for t in proto.graph.initializer if t.name == name)
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(factor), name))
    onnx.save(proto, tmp_path / "a.onnx")
    with pytest.raises(NnfaceError, match=r"cannot write .* in fp16 its"):
        build(tmp_path / "a.onnx", tmp_path / "b.onnx", precision="fp16")
    assert not (tmp_path / "b.onnx").exists()
    spec, report = build(resolve("attributes"), tmp_path / "c.onnx", precision="fp16")
    assert report.comparison.before == {} and report.precision == spec.provenance["precision"] == "fp16"


def test_a_classifier_is_calibrated_on_faces_that_the_bundled_detector_finds(photographs, tmp_path):
    out = tmp_path / "a.onnx"
    _, report = build(
        resolve("attributes"), out, precision="int8", calibrate=str(photographs), pictures=12, method="minmax"
    )
    assert set(report.comparison.after) == {"race", "gender", "age"}
    assert min(report.comparison.after.values()) >= 0.5 and report.batch == 8
    chips = np.random.default_rng(0).integers(0, 255, (3, 96, 96, 3), np.uint8)
    assert Classifier(out, threads=1).logits(list(chips))["race"].shape == (3, 7)


def test_labels_measure_what_is_lost_and_a_limit_refuses(photographs, tmp_path):
    # The float model's own answers as the labels.
    faces = Detector("fast", threads=1)
    data = tmp_path / "voc"
    images = sorted(photographs.glob("*-*.jpg"))
    samples = [
        DetectionSample(
            key=f"val{n}",
            path=path,
            boxes=(found := faces(path)).boxes,
            landmarks=found.landmarks,
            ignored=np.zeros(len(found), bool),
        )
        for n, path in enumerate(images)
    ]
    voc.write(data, "val", samples, copy=True, force=False)
    read = agreement.read_samples("detect", f"voc:{data}", training=False)
    assert len(read) == len(images)
    own = agreement.figures(OnnxRunner(resolve("fast"), threads=1), read)
    assert own["medium"] > 0.99

    out = tmp_path / "a.onnx"
    with pytest.raises(NnfaceError, match=r"a\.onnx was not written: it would lose [-\d.]+ points on \d+ labelled"):
        quantize.convert(resolve("fast"), out, "fp16", evaluate=f"voc:{data}", most_lost=-1)
    assert not list(tmp_path.glob("a.*"))


class Reversed:
    """The same network with its logits turned round."""

    def __init__(self, runner):
        self.runner, self.spec, self.device = runner, runner.spec, "cpu"

    def run(self, batch):
        return {name: values[:, ::-1] for name, values in self.runner.run(batch).items()}


def test_a_broken_val_is_an_error_and_not_a_reason_to_measure_on_train(tmp_path):
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / kind / split).mkdir(parents=True)
        for number in range(30):
            cv2.imwrite(str(tmp_path / "images" / split / f"{split}{number}.png"), np.zeros((64, 64, 3), np.uint8))
            (tmp_path / "labels" / split / f"{split}{number}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    read = agreement.read_samples("detect", f"yolo:{tmp_path}", training=False)
    assert len(read) == 30 and all(sample.key.startswith("val") for sample in read)
    (tmp_path / "labels/val/val0.txt").write_text("0 0.5 0.5\n")
    with pytest.raises(DataError, match=r"val0\.txt"):
        agreement.read_samples("detect", f"yolo:{tmp_path}", training=False)


def test_faces_too_low_for_every_figure_are_refused_before_the_work(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((64, 64, 3), np.uint8))
    key = next(str(n) for n in range(1000) if is_chosen(str(n)))
    for height, ignored in ((10, False), (40, True)):
        box = np.float32([[5, 5, 25, 5 + height]])
        low = DetectionSample(
            key=key,
            path=tmp_path / "a.png",
            boxes=box,
            landmarks=np.full((1, 5, 2), np.nan, np.float32),
            ignored=np.array([ignored]),
        )
        coco.write(tmp_path / "low.json", [low])
        with pytest.raises(DataError, match="no labelled face of more than 10 pixels in height"):
            agreement.read_samples("detect", f"coco:{tmp_path / 'low.json'}", training=False)


def test_agreement_is_whole_with_oneself_and_not_with_another(photographs, tmp_path):
    spec = read_spec(resolve("attributes"))
    chips = agreement.drawn("classify", spec, str(photographs), 8, Detector("fast", threads=1))
    assert all(chip.shape == (96, 96, 3) for chip in chips) and len(chips) >= 4
    runner = OnnxRunner(resolve("attributes"), threads=1)
    own = Agreement(runner, chips)
    assert set(own.before.values()) == {1.0} and own.of(runner) == own.before
    assert own.of(Reversed(runner))["gender"] == 0
    parser = OnnxRunner(palette_parser(tmp_path / "p.onnx"), threads=1)
    noise = np.random.default_rng(0).integers(0, 255, (6, 64, 64, 3), np.uint8)
    whole = Agreement(parser, list(noise))
    assert whole.before["mean_f1"] == pytest.approx(1)
    assert whole.of(Reversed(parser))["mean_f1"] < 0.5


def test_points_lost():
    compared = Comparison(
        on="", labelled=True, before={"hard": 0.5, "landmark_error": 0.1}, after={"hard": 0.49, "landmark_error": 0.13}
    )
    assert compared.lost == pytest.approx({"hard": 1, "landmark_error": 3})
    assert compared.most_lost == pytest.approx(3)
    assert Comparison(on="", labelled=True, before={"a": 0.5}, after={"a": float("nan")}).most_lost == 100


def test_refusals_are_one_sentence(tmp_path, photographs):
    out = tmp_path / "out.onnx"
    fast = resolve("fast")

    def refused(error, words, model=fast, **options):
        with pytest.raises(error, match=words):
            build(model, options.pop("out", out), **options)
        assert not out.exists()

    (tmp_path / "none").mkdir()
    (tmp_path / "faceless").mkdir()
    (tmp_path / "unreadable").mkdir()
    cv2.imwrite(str(tmp_path / "faceless" / "a.png"), np.zeros((64, 64, 3), np.uint8))
    (tmp_path / "unreadable" / "a.png").write_bytes(b"no picture")
    refused(UsageError, "int8 needs pictures .* --calibrate", precision="int8")
    refused(DataError, "holds no picture", precision="int8", calibrate=str(tmp_path / "none"))
    refused(DataError, "no picture in .* can be read", precision="int8", calibrate=str(tmp_path / "unreadable"))
    refused(DataError, "no face of more than 10 .* found", precision="int8", calibrate=str(tmp_path / "faceless"))
    refused(
        DataError,
        "no face was found",
        resolve("attributes"),
        precision="int8",
        calibrate=str(tmp_path / "faceless"),
    )
    refused(UsageError, "neither a folder", precision="int8", calibrate=str(tmp_path / "absent"))
    refused(
        UsageError,
        "no data for a model to detect; give widerface:PATH",
        precision="int8",
        calibrate=str(photographs),
        evaluate="fairface:x",
    )
    nobody = DetectionSample(
        key=next(str(n) for n in range(1000) if is_chosen(str(n))),
        path=tmp_path / "faceless" / "a.png",
        boxes=np.zeros((0, 4), np.float32),
        landmarks=np.zeros((0, 5, 2), np.float32),
        ignored=np.zeros(0, bool),
    )
    coco.write(tmp_path / "nobody.json", [nobody])
    for options in ({"precision": "fp16"}, {"precision": "int8", "calibrate": str(photographs)}):
        refused(DataError, "no labelled face", evaluate=f"coco:{tmp_path / 'nobody.json'}", **options)
    refused(NnfaceError, "does not exist", out=tmp_path / "no" / "a.onnx", precision="fp16")
    refused(UsageError, "is the model file itself", out=fast, precision="fp16")
    refused(UsageError, "--min-score is the cut of --with-nms", min_score=0.5, precision="fp16")
    refused(UsageError, "belong to --precision", calibrate=str(photographs), with_nms=True)
    refused(UsageError, "--pictures and --most-lost belong to --precision", most_lost=1.0, with_nms=True)
    refused(UsageError, "--most-lost needs pictures", most_lost=1.0, precision="fp16")
    tiny = bright_detector(tmp_path / "tiny.onnx")
    with pytest.raises(UsageError, match=r"tiny.onnx is ONNX already; --precision"):
        build(tiny, tmp_path / "b.onnx")
    refused(UsageError, "no layer between", tiny, precision="int8", calibrate=str(photographs))
    foreign = onnx.load(fast)
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    refused(ModelFileError, "without nnface metadata", tmp_path / "foreign.onnx", precision="fp16")


def test_it_is_said_where_the_same_pictures_calibrate_and_compare(photographs, tmp_path):
    for name in ("astronaut.jpg", "grace_hopper.jpg"):
        shutil.copy(photographs / name, tmp_path)
    said = []
    options = {"precision": "int8", "calibrate": str(tmp_path), "method": "minmax"}
    build(resolve("fast"), tmp_path / "a.onnx", say=said.append, **options)
    assert any("only 2 to calibrate on" in sentence for sentence in said)


def test_the_command_quantizes_without_torch_and_selects_inside(photographs, tmp_path):
    program = "import sys; sys.modules['torch'] = None; from nnface.commands import main; main(sys.argv[1:])"
    options = ["--precision", "int8", "--calibrate", str(photographs), "--pictures", "6", "--method", "minmax"]
    done = subprocess.run(
        [sys.executable, "-c", program, "export", "fast", "--to", "onnx", "--with-nms", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    spec = read_spec(tmp_path / "fast.int8.nms.onnx")
    assert spec.detection.selected and spec.provenance["precision"] == "int8"
    assert json.loads((tmp_path / "fast.int8.nms.json").read_text())["precision"] == "int8"
    assert "landmark_error" in done.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fast.int8.nms.json", "fast.int8.nms.onnx"]
