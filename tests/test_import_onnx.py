"""Everything that is imported, run by ONNX Runtime: exported checkpoints, and YuNet and SCRFD, which come as ONNX."""

import importlib.util
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from conftest import shared
from nnface.errors import ModelFileError, NnfaceError, UsageError
from nnface.export.onnx import export
from nnface.export.published import import_checkpoint
from nnface.geometry import anchors, boxes
from nnface.header import read_spec
from nnface.models import file
from nnface.models.create import create
from nnface.predict.detector import Detector
from nnface.runtime import open_model
from test_import import PUBLISHED, assert_equal_detections, detect, photo, yakhyo_checkpoint
from test_parity_networks import with_formula_weights

BATCHES = (1, 2, 7)
ODD = ((97, 131), (33, 65))
"""Heights and widths."""

PEERS = {
    "yunet_n": ("yunet", "yunet/yunet_n_dynamic.onnx"),
    "yunet_s": ("yunet", "yunet/yunet_s_dynamic.onnx"),
    "yunet_s_640": ("yunet", "yunet/yunet_s_640_640.onnx"),
    "scrfd_500m": ("scrfd", "scrfd/scrfd_500m_bnkps.onnx"),
    "scrfd_2.5g": ("scrfd", "scrfd/scrfd_2.5g.onnx"),
}


def assert_equal_to_torch(model, exported, sizes=ODD):
    """The largest difference between ONNX Runtime and torch, on odd sizes and batches, is below 1e-3."""
    ours, theirs = open_model(exported, threads=1), open_model(model)
    plan = ours.spec.input
    for height, width in [(plan.height, plan.width)] if plan.width else sizes:
        pixels = np.random.default_rng(height).uniform(0, 255, (max(BATCHES), 3, height, width))
        mean, std = (np.reshape(values, (3, 1, 1)) for values in (plan.mean, plan.std))
        images = ((pixels - mean) / std).astype(np.float32)
        for batch in BATCHES:
            found, wanted = ours.run(images[:batch]), theirs.run(images[:batch])
            assert found.keys() == wanted.keys()
            for name, values in wanted.items():
                assert found[name].shape == values.shape and len(values) == batch
                # Formula weights, which nobody trained, give values of hundreds: relative there.
                assert np.abs(found[name] - values).max() < 1e-3 * max(1, np.abs(values).max()), (name, batch)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_checkpoint_goes_out_and_finds_what_was_recorded(tmp_path, name):
    format, _ = PUBLISHED[name]
    model, exported = tmp_path / "a.safetensors", tmp_path / "a.onnx"
    import_checkpoint(format, shared(f"reference/checkpoints/{name}.pth"), model)
    spec = export(model, exported)
    assert spec == read_spec(exported) and spec.provenance["source"] and "non-commercial" in spec.licence
    assert_equal_to_torch(model, exported)
    runner = open_model(exported, threads=1)
    if spec.input.width:
        recording = f"detector_ulfg_{name.removeprefix('version-')}_at{spec.input.width}"
        recorded = np.load(shared(f"reference/recorded/{recording}.npz"))
        for key in ("astronaut", "solvay_1927"):
            found, _, scores = detect(runner, spec, photo(key), 0.01, offset=0)
            assert_equal_detections(found, None, scores, recorded[f"{key}/dets_0.01"], above=0.15)
    else:
        recorded = np.load(shared(f"reference/recorded/detector_{name}.npz"))
        for key in ("crop", "grace_hopper"):
            found, points, scores = detect(runner, spec, photo(key), 0.02, offset=1)
            assert_equal_detections(found, points, scores, recorded[f"{key}/dets"], above=0.1)


@pytest.mark.parametrize(
    ("format", "architecture"),
    [
        ("yakhyo", "retinaface-mobilenet050"),
        ("yakhyo", "retinaface-mobilenetv2"),
        pytest.param("yakhyo", "retinaface-resnet18", marks=pytest.mark.slow),
        pytest.param("pytorch-retinaface", "retinaface-resnet50", marks=pytest.mark.slow),
        pytest.param("retinaface-pytorch", "retinaface-dense-resnet50", marks=pytest.mark.slow),
        pytest.param("fairface", "classifier-resnet34", marks=pytest.mark.slow),
        pytest.param("face-parsing", "bisenet-resnet18", marks=pytest.mark.slow),
    ],
)
def test_a_generated_checkpoint_goes_out_as_torch_computes_it(tmp_path, format, architecture):
    model, exported = tmp_path / "a.safetensors", tmp_path / "a.onnx"
    if format == "yakhyo":
        yakhyo_checkpoint(architecture, tmp_path / "a.pth")
    else:
        # On pixels formula weights make logits of hundreds, whose rounding errors a sigmoid shows.
        tensors = with_formula_weights(architecture).state_dict()
        torch.save({k: 0.01 * v if k.startswith("ClassHead") else v for k, v in tensors.items()}, tmp_path / "a.pth")
    spec, _ = import_checkpoint(format, tmp_path / "a.pth", model)
    if spec.input.width:  # fixed at 224 and 512, which take long; these networks take any size
        module, spec = file.load(model)
        small = replace(spec.input, size=96, width=96, height=96 if spec.task == "classify" else 64)
        file.save(model, module, replace(spec, input=small))
    assert export(model, exported).architecture == architecture
    assert_equal_to_torch(model, exported)


# YuNet and SCRFD: the real files


@pytest.fixture(scope="module")
def peers():
    """The module that runs other projects' detectors as they do."""
    plan = importlib.util.spec_from_file_location("peers", shared("peers/peers.py"))
    module = importlib.util.module_from_spec(plan)
    plan.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", PEERS)
def test_yunet_and_scrfd_find_what_their_own_pipelines_find(tmp_path, peers, name):
    format, path = PEERS[name]
    out = tmp_path / "a.onnx"
    spec, known = import_checkpoint(format, shared(f"peers/{path}"), out)
    assert known and spec == read_spec(out)
    assert len(spec.provenance["sha256"]) == 64 and spec.provenance["source"]
    assert "non-commercial" in spec.licence and ("insightface" in spec.licence) == (format == "scrfd")
    ours = Detector(out, size=640, min_score=0.02, threads=1)
    theirs = peers.create(name.removesuffix("_640"))
    most = 0
    for key in ("astronaut", "grace_hopper", "solvay_1927"):
        faces = ours(photo(key))
        corners, scores, points = theirs(photo(key))
        rows = np.concatenate([corners, scores[:, None], points.reshape(-1, 10)], 1)
        # Below 0.3 SCRFD says boxes that are inside out, which OpenCV's suppression and ours take differently.
        assert_equal_detections(faces.boxes, faces.landmarks, faces.scores, rows, above=0.3)
        most = max(most, int((scores > 0.5).sum()))
    assert most > 20  # the Solvay conference had 29 people
    default = Detector(out)
    assert (default.size, default.min_score) == (640, spec.detection.min_score)
    assert len(default(photo("astronaut"))) == 1


@pytest.mark.parametrize("name", PEERS)
def test_yunet_and_scrfd_take_batches_and_sizes(tmp_path, name):
    format, path = PEERS[name]
    spec, _ = import_checkpoint(format, shared(f"peers/{path}"), tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    used = {name for node in model.graph.node for name in node.input} | {o.name for o in model.graph.output}
    assert all(used & set(node.output) for node in model.graph.node), "dead nodes"
    assert {tensor.name for tensor in model.graph.initializer} <= used
    runner = open_model(tmp_path / "a.onnx", threads=1)
    for height, width in ((96, 160), (32, 64)):
        images = np.random.default_rng(0).uniform(0, 255, (7, 3, height, width)).astype(np.float32)
        alone = [runner.run(image[None]) for image in images]
        coding = spec.detection
        count = anchors.count(height, width, coding.strides, coding.anchor_sizes)
        for batch in BATCHES:
            for output, values in runner.run(images[:batch]).items():
                assert values.shape[:2] == (batch, count)
                wanted = np.concatenate([one[output] for one in alone[:batch]])
                np.testing.assert_allclose(values, wanted, rtol=1e-4, atol=1e-4)
    # Odd sizes of pictures are padded to what the network takes.
    detector = Detector(tmp_path / "a.onnx", size="original")
    odd = photo("crop")
    assert odd.shape[0] % 32 and odd.shape[1] % 32
    assert len(detector(odd)) == len(detector.batch([odd] * 3)[2]) == 1


def test_ultra_light_finds_what_its_own_pipeline_finds(tmp_path, peers):
    out = tmp_path / "a.safetensors"
    import_checkpoint("ultra-light", shared("reference/checkpoints/version-RFB-640.pth"), out)
    export(out, tmp_path / "a.onnx")
    ours, theirs = Detector(tmp_path / "a.onnx", min_score=0.02, threads=1), peers.create("ultralight_rfb_640")
    for key in ("astronaut", "grace_hopper", "solvay_1927"):
        faces = ours(photo(key))
        corners, scores, _ = theirs(photo(key))
        rows = np.concatenate([corners, scores[:, None]], 1)
        # theirs lets boxes overlap by 0.4, our Spec by 0.3 as its project does
        assert_equal_detections(faces.boxes, None, faces.scores, rows, above=0.5)


@pytest.mark.parametrize(
    ("format", "path", "words"),
    [
        ("scrfd", "yunet/yunet_n_dynamic.onnx", "nnface import yunet"),
        ("yunet", "scrfd/scrfd_2.5g.onnx", "nnface import scrfd"),
        ("ultra-light", "scrfd/scrfd_2.5g.onnx", "nnface import scrfd"),
        ("scrfd", "mtcnn/onet.onnx", "has 3 outputs"),
        ("yunet", "ulfg/version-RFB-640.onnx", "YuNet of 2023 has cls_8"),
        ("scrfd", "blazeface/face_detection_back.tflite", "not a model file"),
    ],
)
def test_other_files_are_refused(tmp_path, format, path, words):
    with pytest.raises(ModelFileError, match=words):
        import_checkpoint(format, shared(f"peers/{path}"), tmp_path / "a")
    assert not (tmp_path / "a").exists()


# The same with files made here: a convolution a level and output, laid out as the projects lay them out


def tiny(path, format, *, side=64, free=False, anchors_of_cell=None, sigmoid=True, names=None, change=None):
    """Write a file as YuNet's or SCRFD's exporters do, of random weights.

    Args:
        path: where to.
        format: ``yunet`` or ``scrfd``.
        side: of the input.
        free: any batch and size, where SCRFD's and OpenCV's files are fixed.
        anchors_of_cell: other than the project's.
        sigmoid: behind the scores.
        names: the outputs' names by the project's, where they are to be others.
        change: a function that changes the model.
    """
    rng = np.random.default_rng(3)
    each = anchors_of_cell or (1 if format == "yunet" else 2)
    kinds = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10} if format == "yunet" else {"score": 1, "bbox": 4, "kps": 10}
    nodes, weights, outputs = [], [], []

    def constant(name, values):
        weights.append(numpy_helper.from_array(values, name))
        return name

    for kind, values in kinds.items():
        for stride in (8, 16, 32):
            name = f"{kind}_{stride}"
            weight = (rng.standard_normal((each * values, 3, stride, stride)) * 0.01 / stride).astype(np.float32)
            made = [name + end for end in ("_w", "_conv", "_rows", "_flat")]
            last = sigmoid and kind in ("cls", "obj", "score")
            shape = constant(f"{name}_shape", np.array([0 if free else 1, -1, values], np.int64))
            nodes += [
                helper.make_node(
                    "Conv",
                    ["pixels", constant(made[0], weight)],
                    [made[1]],
                    kernel_shape=[stride] * 2,
                    strides=[stride] * 2,
                ),
                helper.make_node("Transpose", [made[1]], [made[2]], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [made[2], shape], [made[3] if last else name]),
                *([helper.make_node("Sigmoid", [made[3]], [name])] if last else []),
            ]
            outputs.append(name)
    shape = ["n", 3, "h", "w"] if free else [1, 3, side, side]
    renamed = {name: (names or {}).get(name, name) for name in outputs}
    for node in nodes:
        node.output[:] = [renamed.get(name, name) for name in node.output]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(renamed[name], TensorProto.FLOAT, None) for name in outputs],
            weights,
        ),
        opset_imports=[helper.make_opsetid("", 11)],
        ir_version=6,
    )
    if change is not None:
        change(model)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("free", [False, True], ids=["fixed", "free"])
@pytest.mark.parametrize("format", ["yunet", "scrfd"])
def test_an_unknown_file_is_rewired_and_proved(tmp_path, format, free):
    source = tiny(tmp_path / "theirs.onnx", format, free=free)
    spec, known = import_checkpoint(format, source, tmp_path / "ours.onnx")
    assert not known and "unknown file named theirs.onnx" in spec.provenance["source"]
    pixels = np.random.default_rng(1).uniform(0, 255, (1, 3, 64, 64)).astype(np.float32)
    outputs = open_model(tmp_path / "ours.onnx", threads=1).run(pixels)
    grid = anchors.grid(64, 64, spec.detection.strides, spec.detection.anchor_sizes)
    corners, points = boxes.decode_distance(outputs["boxes"][0], grid), outputs["landmarks"][0]
    points = boxes.decode_points_distance(points, grid)
    # One cell by hand: the second row, third column of stride 16, whose corner is at 32, 16.
    weights = {t.name: numpy_helper.to_array(t) for t in onnx.load(source).graph.initializer}
    patch = pixels[0, :, 16:32, 32:48] if format == "yunet" else (pixels[0, :, 16:32, 32:48] - 127.5) / 128
    raw = {name[:-2]: (w * patch).sum((1, 2, 3)) for name, w in weights.items() if name.endswith("_16_w")}
    first = (64 + 4 + 2) * (1 if format == "yunet" else 2)  # behind the 8 x 8 cells of stride 8
    if format == "yunet":
        centre = 16 * raw["bbox_16"][:2] + (32, 16)
        half = 8 * np.exp(raw["bbox_16"][2:])
        wanted = np.concatenate([centre - half, centre + half])
        score = np.sqrt(np.prod([1 / (1 + np.exp(-raw[name][0])) for name in ("cls_16", "obj_16")]))
    else:
        reach = 16 * raw["bbox_16"][:4]
        wanted = np.array([32, 16, 32, 16]) + reach * (-1, -1, 1, 1)
        score = 1 / (1 + np.exp(-raw["score_16"][0]))
    np.testing.assert_allclose(corners[first], wanted, atol=1e-3)
    np.testing.assert_allclose(points[first], 16 * raw["kps_16"][:10].reshape(5, 2) + (32, 16), atol=1e-3)
    assert outputs["scores"][0, first] == pytest.approx(score, abs=1e-5)
    if format == "scrfd":  # black is what the padding is, too
        assert open_model(tmp_path / "ours.onnx").spec.input.mean == (0, 0, 0)


def without(name):
    def change(model):
        kept = [output for output in model.graph.output if output.name != name]
        del model.graph.output[:]
        model.graph.output.extend(kept)

    return change


def outside(model):
    """Weights in another file, which is not to be opened."""
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/hostname")
    tensor.ClearField("raw_data")


def two_inputs(model):
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1, 3, 64, 64]))


def no_operator(model):
    model.graph.node[0].op_type = "Nonsense"


SWAPPED = {"cls_8": "cls_16", "cls_16": "cls_8"}


@pytest.mark.parametrize(
    ("format", "options", "words"),
    [
        ("yunet", {"change": without("kps_32")}, "YuNet of 2023 has cls_8"),
        ("scrfd", {"change": without("kps_32")}, "has 8 outputs"),
        ("yunet", {"sigmoid": False}, "computes otherwise.*differs in scores"),
        ("yunet", {"names": SWAPPED}, "is not what it seems|computes otherwise"),
        ("scrfd", {"anchors_of_cell": 1}, "is not what it seems|computes otherwise"),
        ("yunet", {"anchors_of_cell": 2}, "is not what it seems|computes otherwise"),
        ("yunet", {"change": outside}, "names data outside the file"),
        ("yunet", {"change": two_inputs}, "does not have one input"),
        ("scrfd", {"change": no_operator}, "cannot be brought to|is not what it seems"),
        ("yunet", {"change": lambda model: model.graph.node[1].attribute[0].ints.__setitem__(1, 1)}, "in a way that"),
    ],
)
def test_an_onnx_file_that_is_something_else_is_refused_in_one_sentence(tmp_path, format, options, words):
    source = tiny(tmp_path / "a.onnx", format, **options)
    with pytest.raises(ModelFileError, match=words) as caught:
        import_checkpoint(format, source, tmp_path / "out.onnx")
    assert str(source) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out.onnx").exists()


def test_files_of_other_kinds_and_names_are_refused(tmp_path):
    torch.save(create("ultralight-slim").state_dict(), tmp_path / "a.pth")
    with pytest.raises(ModelFileError, match="is a PyTorch checkpoint; yunet reads ONNX files"):
        import_checkpoint("yunet", tmp_path / "a.pth", tmp_path / "out.onnx")
    source = tiny(tmp_path / "a.onnx", "yunet")
    (tmp_path / "cut.onnx").write_bytes(source.read_bytes()[:3000])
    with pytest.raises(ModelFileError, match=r"not a model file .* or is damaged"):
        import_checkpoint("yunet", tmp_path / "cut.onnx", tmp_path / "out.onnx")
    with pytest.raises(UsageError, match=r"becomes a .onnx file; name it so: --out .*out\.onnx"):
        import_checkpoint("yunet", source, tmp_path / "out.safetensors")
    with pytest.raises(UsageError, match="is the checkpoint itself"):
        import_checkpoint("yunet", source, source)
    with pytest.raises(NnfaceError, match=r"the folder .* does not exist"):
        import_checkpoint("yunet", source, tmp_path / "none" / "out.onnx")
    with pytest.raises(ModelFileError, match="bring YuNet and SCRFD in with nnface import"):
        Detector(source)
    assert not list(tmp_path.glob("out*"))
