"""ONNX files that we write: they compute what torch computes, carry the Spec, and are cut to the bone."""

import collections
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from conftest import shared
from nnface.errors import ModelFileError, NnfaceError, UsageError
from nnface.export import onnx as exporter
from nnface.export.onnx import export
from nnface.header import read_spec
from nnface.models import file
from nnface.models.create import ARCHITECTURES, create, default_spec
from nnface.models.layers import DetectionNetwork
from nnface.models.narrow import is_narrow, narrowed, widened
from nnface.runtime import open_model
from nnface.runtime.torch import TorchRunner

LARGE = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "mobilenet050", "mobilenet100")


def lived_in(architecture):
    """A network whose batch norms have seen something, so that folding them matters."""
    torch.manual_seed(1)
    module = create(architecture)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(part.weight, 0.5, 1)
            torch.nn.init.normal_(part.bias, 0, 0.1)
    return module.eval()


@pytest.fixture
def saved(tmp_path):
    """A function: an architecture to a model file of it, its module and its Spec."""

    def save(architecture, **changes):
        spec = replace(default_spec(architecture, licence="of a test"), **changes)
        module = lived_in(architecture)
        file.save(tmp_path / "a.safetensors", module, spec)
        return tmp_path / "a.safetensors", module, spec

    return save


def opened(path, **changes):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    for name, value in changes.items():
        setattr(options, name, value)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def operators(path):
    return collections.Counter(node.op_type for node in onnx.load(path).graph.node)


def expected(module, images):
    with torch.inference_mode():
        outputs = module(torch.from_numpy(images))
        detects = isinstance(module, DetectionNetwork)
        scores = {"scores": module.scores(outputs.pop("logits")).numpy()} if detects else {}
    return {**scores, **{name: tensor.numpy() for name, tensor in outputs.items()}}


@pytest.mark.parametrize(
    "architecture",
    [pytest.param(a, marks=pytest.mark.slow if a.endswith(LARGE) else ()) for a in ARCHITECTURES],
)
def test_every_network_exports_and_computes_the_same(tmp_path, saved, architecture):
    plan = default_spec(architecture)
    small = {"input": replace(plan.input, size=128, width=128, height=96)} if plan.task == "segment" else {}
    path, module, spec = saved(architecture, **small)
    out = tmp_path / "a.onnx"
    assert export(path, out) == spec == read_spec(out)
    session = opened(out)
    assert [i.name for i in session.get_inputs()] == ["input"]
    plan = spec.input
    sides = [(plan.height, plan.width)] if plan.width else [(75, 133), (32, 200)]
    for batch, (height, width) in zip((3, 1), sides * 2, strict=False):
        images = np.random.default_rng(0).standard_normal((batch, 3, height, width)).astype(np.float32)
        theirs = expected(module, images)
        ours = dict(zip((o.name for o in session.get_outputs()), session.run(None, {"input": images}), strict=True))
        assert list(ours) == list(theirs)
        for name, array in ours.items():
            assert array.shape == theirs[name].shape and array.dtype == np.float32
            scale = 1 if name == "scores" else max(1, np.abs(theirs[name]).max())
            assert np.abs(array - theirs[name]).max() < (1e-4 if name == "scores" else 1e-3) * scale
    counts = operators(out)
    assert counts["Conv"] > 12
    assert not {"BatchNormalization", "Constant", "Identity", "Dropout"} & set(counts)
    # What shapes remain belongs to the upsampling: a level's own output has a plain shape.
    assert counts["Shape"] <= 3 * counts["Resize"]


def test_the_graph_is_standard_whole_and_described(tmp_path, saved):
    path, _, spec = saved("retinaface-mobilenet025")
    export(path, tmp_path / "a.onnx")
    proto = onnx.load(tmp_path / "a.onnx", load_external_data=False)
    assert {(o.domain, o.version) for o in proto.opset_import} == {("", exporter.OPSET)}
    assert all(t.data_location == onnx.TensorProto.DEFAULT for t in proto.graph.initializer)
    assert {entry.key for entry in proto.metadata_props} == {"nnface"}
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in proto.graph.output}
    assert shapes == {
        "scores": ["batch", "anchors"],
        "boxes": ["batch", "anchors", 4],
        "landmarks": ["batch", "anchors", 10],
    }
    used = {name for node in proto.graph.node for name in node.input}
    assert {tensor.name for tensor in proto.graph.initializer} <= used
    assert {name for node in proto.graph.node for name in node.output} <= used | set(shapes)
    assert {p.name for p in tmp_path.iterdir()} == {"a.safetensors", "a.onnx"}
    assert read_spec(tmp_path / "a.onnx").licence == spec.licence


def test_onnx_runtime_fuses_every_activation_and_moves_no_data_back_and_forth(tmp_path, saved):
    path, _, _ = saved("retinaface-mobilenet025")
    export(path, tmp_path / "a.onnx")
    opened(tmp_path / "a.onnx", optimized_model_filepath=str(tmp_path / "fused.onnx"))
    counts = operators(tmp_path / "fused.onnx")
    assert counts["Relu"] == counts["LeakyRelu"] == 0
    assert counts["Conv"] + counts["FusedConv"] == 56
    assert counts["Transpose"] <= 9  # at most the ones in front of the outputs


@pytest.mark.parametrize("name", ["version-RFB-320", "fd1mb_slim_Final", "biubug6_mobilenet0.25_Final"])
def test_published_weights_export(tmp_path, name):
    from nnface.export.published import import_checkpoint
    from nnface.export.published.checkpoint import KNOWN
    from nnface.files import sha256

    checkpoint = shared(f"reference/checkpoints/{name}.pth")
    spec, _ = import_checkpoint(KNOWN[sha256(checkpoint)].format, checkpoint, tmp_path / "a.safetensors")
    export(tmp_path / "a.safetensors", tmp_path / "a.onnx")
    assert read_spec(tmp_path / "a.onnx") == spec
    assert spec.provenance["sha256"] == sha256(checkpoint)


def test_a_fixed_input_stays_fixed(tmp_path, saved):
    path, _, spec = saved("ultralight-slim")
    export(path, tmp_path / "a.onnx")
    session = opened(tmp_path / "a.onnx")
    assert session.get_inputs()[0].shape == ["batch", 3, spec.input.height, spec.input.width]
    assert session.get_outputs()[1].shape == ["batch", 4420, 4]


def test_what_computes_something_else_never_gets_the_name(tmp_path, saved):
    path, module, spec = saved("ultralight-slim-landmarks")
    export(path, tmp_path / "a.onnx")
    proto = onnx.load(tmp_path / "a.onnx")
    weight = next(tensor for tensor in proto.graph.initializer if len(tensor.dims) == 4)
    changed = onnx.numpy_helper.to_array(weight) * np.float32(1.05)
    weight.CopyFrom(onnx.numpy_helper.from_array(changed, weight.name))
    onnx.save(proto, tmp_path / "b.onnx")
    network = exporter._Runner(module, "detect").eval().run
    exporter._verify(tmp_path / "a.onnx", network, spec.input, "a.onnx")
    with pytest.raises(NnfaceError, match=r"cannot write b\.onnx: .* differ from torch's"):
        exporter._verify(tmp_path / "b.onnx", network, spec.input, "b.onnx")


def test_refusals_leave_what_is_there(tmp_path, saved):
    path, _, _ = saved("ultralight-slim")
    before = path.read_bytes()
    with pytest.raises(UsageError, match="name another file"):
        export(path, path)
    assert path.read_bytes() == before
    with pytest.raises(NnfaceError, match="does not exist"):
        export(path, tmp_path / "no" / "a.onnx")
    old = tmp_path / "old.onnx"
    old.write_bytes(b"old")
    with pytest.raises(ModelFileError):
        export(old, tmp_path / "b.onnx")
    path.write_bytes(before[:-100])
    with pytest.raises(ModelFileError):
        export(path, old)
    assert old.read_bytes() == b"old"
    assert {p.name for p in tmp_path.iterdir()} == {"a.safetensors", "old.onnx"}


def test_the_command_writes_beside_the_model_and_does_not_overwrite(tmp_path, saved, capsys):
    from nnface.commands import main

    path, _, spec = saved("ultralight-slim")

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["export", str(path), *arguments])
        return ended.value.code, capsys.readouterr().err

    assert run("--to", "onnx") == (0, "")
    out = tmp_path / "a.onnx"
    assert read_spec(out) == spec
    out.write_bytes(b"mine")
    code, words = run("--to", "onnx")
    assert code == 2 and "--force" in words and out.read_bytes() == b"mine"
    assert run("--to", "onnx", "--force") == (0, "")
    assert run("--to", "onnx", "--out", str(tmp_path / "b.onnx")) == (0, "")
    assert out.read_bytes() == (tmp_path / "b.onnx").read_bytes()
    for options, words in {
        ("--size", "640"): "not a width and a height",
        ("--size", "640x480"): "has a fixed input of 320 x 240",
        ("--batch", "many"): "neither 'dynamic' nor a number",
        ("--min-score", "0.5"): "--min-score is the cut of --with-nms",
    }.items():
        code, said = run("--to", "onnx", "--out", str(tmp_path / "c.onnx"), *options)
        assert code == 2 and words in said and len(said.splitlines()) == 1
    assert not (tmp_path / "c.onnx").exists()
    (tmp_path / "a.fp16.json").write_bytes(b"mine")  # the report would have this name
    code, words = run("--to", "onnx", "--precision", "fp16")
    assert code == 2 and "a.fp16.json is there already" in words
    assert (tmp_path / "a.fp16.json").read_bytes() == b"mine" and not (tmp_path / "a.fp16.onnx").exists()
    (tmp_path / "d.json").write_bytes(b"mine")
    code, words = run("--to", "onnx", "--precision", "fp16", "--out", str(tmp_path / "d.onnx"))
    assert code == 2 and "d.json is there already" in words and (tmp_path / "d.json").read_bytes() == b"mine"
    for _ in range(2):  # what an earlier export wrote is made anew
        assert run("--to", "onnx", "--precision", "fp16", "--out", str(tmp_path / "e.onnx"))[0] == 0
    (tmp_path / "e.json").write_bytes(b'{"my": "labels"}')
    assert run("--to", "onnx", "--precision", "fp16", "--out", str(tmp_path / "e.onnx"))[0] == 2
    assert run("--to", "onnx", "--with-nms", "--batch", "2") == (0, "")
    assert opened(tmp_path / "a.nms.onnx").get_inputs()[0].shape == [2, 3, 240, 320]


def test_a_parser_gives_logits_alone_and_the_spec_counts_them(tmp_path, saved):
    path, module, spec = saved("parser")
    export(path, tmp_path / "a.onnx")
    session = opened(tmp_path / "a.onnx")
    assert session.get_inputs()[0].shape == ["batch", 3, 256, 256]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("logits", ["batch", 19, 128, 128])]

    images = np.random.default_rng(3).standard_normal((2, 3, 256, 256)).astype(np.float32)
    found = [open_model(p, threads=1).run(images) for p in (path, tmp_path / "a.onnx")]
    for outputs in found:
        np.testing.assert_allclose(outputs["logits"], expected(module, images)["logits"], rtol=0, atol=1e-3)

    fewer = replace(spec, segmentation=replace(spec.segmentation, labels=spec.segmentation.labels[:-1]))
    with pytest.raises(ModelFileError, match="names 18 labels, its network parser has 19"):
        file.save(tmp_path / "b.safetensors", module, fewer)
    with pytest.raises(ModelFileError, match="its Spec has 18 labels"):
        TorchRunner(module, fewer).run(images)
    proto = onnx.load(tmp_path / "a.onnx")
    onnx.helper.set_model_props(proto, {"nnface": fewer.to_json()})
    onnx.save(proto, tmp_path / "b.onnx")
    with pytest.raises(ModelFileError, match="its output logits has shape"):
        open_model(tmp_path / "b.onnx", threads=1).run(images)


@pytest.mark.parametrize("kind", ["safetensors", "onnx"])
def test_shapes_are_fixed_on_request(tmp_path, saved, kind):
    path, _, _ = saved("retinaface-mobilenet025")
    if kind == "onnx":
        export(path, tmp_path / "free.onnx")
        path = tmp_path / "free.onnx"
    spec = export(path, tmp_path / "b.onnx", size=(160, 96), batch=3)
    assert (spec.input.width, spec.input.height, spec.input.size) == (160, 96, 160)
    session = opened(tmp_path / "b.onnx")
    assert session.get_inputs()[0].shape == [3, 3, 96, 160]
    assert session.get_outputs()[0].shape == [3, 630]
    # A file of fixed batch runs any number of pictures, and nothing of a picture depends on its neighbours.
    images = np.random.default_rng(2).standard_normal((4, 3, 96, 160)).astype(np.float32)
    one, many = open_model(path, threads=1).run(images), open_model(tmp_path / "b.onnx", threads=1).run(images)
    for name, values in one.items():
        np.testing.assert_allclose(many[name], values, rtol=0, atol=1e-3)
    with pytest.raises(UsageError, match="fixed input of 160 x 96"):
        export(tmp_path / "b.onnx", tmp_path / "c.onnx", size=(320, 320))
    with pytest.raises(UsageError, match="batches of 3"):
        export(tmp_path / "b.onnx", tmp_path / "c.onnx")
    with pytest.raises(UsageError, match="16 to 8192"):
        export(path, tmp_path / "c.onnx", size=(8, 320))
    assert not (tmp_path / "c.onnx").exists()


@pytest.mark.parametrize(
    "architecture", ["ultralight-slim", "ultralight-slim-landmarks", "retinaface-mobilenet025", "anchorfree"]
)
def test_the_selection_inside_is_the_detectors(tmp_path, saved, architecture):
    from nnface import Detector
    from nnface.export.selection import add_selection

    path, _, spec = saved(architecture)
    export(path, tmp_path / "a.onnx")
    image = np.random.default_rng(3).integers(0, 255, (120, 160, 3), np.uint8)
    detector = Detector(tmp_path / "a.onnx", threads=1)
    prepared = [detector.prepare(image), detector.prepare(image[:, ::-1])]
    batch = np.concatenate([p.input for p in prepared])
    scores = detector.runner.run(batch)["scores"]
    cut = float(np.sort(scores.ravel())[-60])
    detector.min_score = cut

    selected = add_selection(tmp_path / "a.onnx", tmp_path / "b.onnx", cut)
    assert selected.detection.min_score == cut and selected.detection.selected
    session = opened(tmp_path / "b.onnx")
    assert {o.domain for o in onnx.load(tmp_path / "b.onnx").opset_import} == {""}
    (rows,) = session.run(None, {"input": batch})
    assert [o.name for o in session.get_outputs()] == ["detections"]
    assert rows.shape[1] == (16 if spec.detection.landmarks else 6) and rows.dtype == np.float32
    assert (np.diff(rows[:, 0]) >= 0).all() and 0 < len(rows) <= 60
    for number, item in enumerate(prepared):
        place = item.letterbox
        faces = detector.run([item])[0]
        mine = rows[rows[:, 0] == number]
        assert len(mine) == len(faces) and (np.diff(mine[:, 5]) <= 0).all()
        np.testing.assert_allclose(mine[:, 5], faces.scores, atol=1e-4)
        np.testing.assert_allclose(mine[:, 1:5], place.boxes(faces.boxes), atol=0.05)
        if spec.detection.landmarks:
            np.testing.assert_allclose(mine[:, 6:].reshape(-1, 5, 2), place.points(faces.landmarks), atol=0.05)

    empty = add_selection(tmp_path / "a.onnx", tmp_path / "c.onnx", 1.0)
    (rows,) = opened(tmp_path / "c.onnx").run(None, {"input": batch})
    assert rows.shape == (0, 16 if empty.detection.landmarks else 6)


def test_a_file_with_the_selection_inside_is_refused_with_words(tmp_path, saved):
    from nnface import Detector
    from nnface.export.selection import add_selection

    path, _, _ = saved("ultralight-slim")
    export(path, tmp_path / "a.onnx")
    add_selection(tmp_path / "a.onnx", tmp_path / "b.onnx")
    with pytest.raises(ModelFileError, match="has non-maximum suppression inside, for use without nnface"):
        Detector(tmp_path / "b.onnx")
    with pytest.raises(UsageError, match="must lie between 0 and 1"):
        add_selection(tmp_path / "a.onnx", tmp_path / "c.onnx", 1.5)
    path, _, _ = saved("parser")
    export(path, tmp_path / "p.onnx")
    with pytest.raises(UsageError, match="only detectors have boxes"):
        add_selection(tmp_path / "p.onnx", tmp_path / "c.onnx")


def test_a_selection_that_selects_something_else_never_gets_the_name(tmp_path, saved, monkeypatch):
    from nnface.export import selection

    path, _, _ = saved("ultralight-slim")
    export(path, tmp_path / "a.onnx")
    right = selection._grid
    monkeypatch.setattr(selection, "_grid", lambda g, *rest: g.one("Add", right(g, *rest), g.floats(2)))
    with pytest.raises(NnfaceError, match=r"cannot write .*b\.onnx: .* not the"):
        selection.add_selection(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert not (tmp_path / "b.onnx").exists()


@pytest.mark.parametrize(("bits", "share", "apart"), [(16, 0.52, 5e-3), (8, 0.28, 5e-2)])
def test_weights_stored_in_fewer_bits_compute_as_before_and_come_back(tmp_path, bits, share, apart):
    torch.manual_seed(0)
    spec = default_spec("parser", licence="of a test")
    file.save(tmp_path / "a.safetensors", create("parser"), spec)
    export(tmp_path / "a.safetensors", tmp_path / "a.onnx")
    whole = onnx.load(tmp_path / "a.onnx")
    onnx.save(narrowed(onnx.load(tmp_path / "a.onnx"), bits), tmp_path / "small.onnx")
    onnx.checker.check_model(str(tmp_path / "small.onnx"), full_check=True)
    assert (tmp_path / "small.onnx").stat().st_size < share * (tmp_path / "a.onnx").stat().st_size
    inputs = np.random.default_rng(0).standard_normal((2, 3, 256, 256)).astype(np.float32)
    found = [open_model(tmp_path / name, threads=1).run(inputs)["logits"] for name in ("a.onnx", "small.onnx")]
    assert np.abs(found[0] - found[1]).max() < apart * np.abs(found[0]).max()
    again = widened(onnx.load(tmp_path / "small.onnx"))
    assert not is_narrow(again) and is_narrow(onnx.load(tmp_path / "small.onnx"))
    onnx.checker.check_model(again, full_check=True)
    assert [node.op_type for node in again.graph.node] == [node.op_type for node in whole.graph.node]
    before = {t.name: onnx.numpy_helper.to_array(t) for t in whole.graph.initializer}
    after = {t.name: onnx.numpy_helper.to_array(t) for t in again.graph.initializer}
    assert before.keys() == after.keys()
    for name, values in after.items():
        assert values.dtype == before[name].dtype
        if values.dtype == np.float32 and bits == 16:
            np.testing.assert_allclose(values, before[name], rtol=1e-3, atol=1e-7)
        elif values.dtype == np.float32 and values.size >= 1024:
            rows, rounded = (array.reshape(len(array), -1) for array in (before[name], values))
            step = np.abs(rows).max(1, keepdims=True) / 127
            assert (np.abs(rounded - rows).mean(1, keepdims=True) <= step / 2).all()


def test_weights_that_fewer_bits_do_not_hold_are_refused(tmp_path):
    spec = default_spec("parser", licence="of a test")
    file.save(tmp_path / "a.safetensors", create("parser"), spec)
    export(tmp_path / "a.safetensors", tmp_path / "a.onnx")
    for factor, bits, words in ((1e6, 16, "beyond what 16 bits hold"), (np.nan, 8, "is not finite")):
        with pytest.raises(ValueError, match=words):
            narrowed(scaled(onnx.load(tmp_path / "a.onnx"), factor), bits)


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 8), st.integers(1024, 1100)),
        elements=st.floats(-3, 3, width=32, allow_subnormal=False),
    )
)
@settings(max_examples=30)
def test_eight_bits_round_each_row_by_half_a_step_at_most_or_better(values):
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, len(values)])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, values.shape[1]])],
        [onnx.numpy_helper.from_array(values, "w")],
    )
    (tensor,) = widened(narrowed(onnx.helper.make_model(graph), 8)).graph.initializer
    error = onnx.numpy_helper.to_array(tensor) - values
    step = np.abs(values).max(1, keepdims=True) / 127
    assert ((error**2).mean(1, keepdims=True) <= (step / 2) ** 2 * 1.001 + 1e-12).all()


def scaled(proto, factor):
    for tensor in proto.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            tensor.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(factor), tensor.name))
    return proto
