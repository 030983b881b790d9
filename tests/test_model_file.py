"""Model files: what is saved is loaded, and nothing else is."""

import dataclasses
import json
import pickle
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from nnface.errors import ModelFileError, NnfaceError
from nnface.models.create import create, default_spec
from nnface.models.file import load, save

NAME = "ultralight-slim"


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return create(NAME).eval()


@pytest.fixture(scope="module")
def spec():
    return dataclasses.replace(
        default_spec(NAME, licence="Apache-2.0"), provenance={"recipe": "test"}, figures={"widerface/vga/easy": 0.5}
    )


@pytest.fixture
def file(tmp_path, network, spec):
    path = tmp_path / "model.safetensors"
    save(path, network, spec)
    return path


def read(path):
    """The header and what follows it."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write(path, header, rest):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + rest)


def edit_spec(path, **changes):
    header, rest = read(path)
    spec = json.loads(header["__metadata__"]["nnface"])
    header["__metadata__"]["nnface"] = json.dumps({**spec, **changes})
    write(path, header, rest)


def refused(path, *words):
    with pytest.raises(ModelFileError) as error:
        load(path)
    text = str(error.value)
    assert str(path) in text
    assert "\n" not in text
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    "name",
    ["ultralight-rfb-landmarks", "retinaface-mobilenet025", "retinaface-mobilenet025-relu", "retinaface-resnet18"],
)
def test_round_trip(tmp_path, name):
    torch.manual_seed(1)
    network, spec = create(name), default_spec(name, licence="none")
    path = tmp_path / "model.safetensors"
    save(path, network, spec)
    loaded, read_back = load(path)
    assert read_back == spec
    assert not loaded.training
    assert network.training
    assert list(loaded.state_dict()) == list(network.state_dict())
    for key, values in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], values), key


def test_settings_travel(tmp_path):
    settings = {"stem": 8, "widths": [8, 8, 16, 16], "neck": 8, "head_depth": 1, "landmarks": False}
    network = create("anchorfree", settings)
    detection = dataclasses.replace(
        default_spec(NAME).detection, coding="distance", strides=(8, 16, 32), anchor_sizes=(), clip_anchors=False
    )
    spec = dataclasses.replace(default_spec(NAME), architecture="anchorfree", settings=settings, detection=detection)
    save(tmp_path / "m.safetensors", network, spec)
    loaded, read_back = load(tmp_path / "m.safetensors")
    assert read_back.settings == settings
    assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in network.parameters())


def test_the_same_model_makes_the_same_bytes(file, tmp_path, network, spec):
    other = tmp_path / "again.safetensors"
    save(other, network, spec)
    assert other.read_bytes() == file.read_bytes()


def test_types_and_layouts_of_memory_leave_no_trace(tmp_path, spec):
    torch.manual_seed(2)
    network = create(NAME).to(memory_format=torch.channels_last).bfloat16()
    save(tmp_path / "m.safetensors", network, spec)
    state = load_file(tmp_path / "m.safetensors")
    assert {values.dtype for values in state.values()} == {torch.float32, torch.int64}
    loaded, _ = load(tmp_path / "m.safetensors")
    for key, values in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[key].to(values.dtype), values), key


def test_nothing_is_half_written(file, tmp_path, spec):
    before = file.read_bytes()
    broken = create(NAME)
    with torch.no_grad():
        broken.base_net[0][0].weight[0] = float("nan")
    with pytest.raises(ModelFileError, match=r"1 not finite \(base_net\.0\.0\.weight\)"):
        save(file, broken, spec)
    with pytest.raises(ModelFileError, match="do not fit the network ultralight-slim"):
        save(file, create("ultralight-rfb"), spec)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(NnfaceError, match="does not exist"):
        save(tmp_path / "absent/m.safetensors", create(NAME), spec)


def test_absent_and_folder(tmp_path):
    refused(tmp_path / "absent.safetensors")
    refused(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"text, not weights\n" * 9, b"\x08\0\0\0\0\0\0\0{nothing", b"\xff" * 64]
)
def test_files_of_other_kinds(tmp_path, content):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    refused(path)


def test_pickles_are_not_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("exploded").touch, ())

    path = tmp_path / "m.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    refused(path)
    torch.save(create(NAME).state_dict(), path)
    refused(path, "import")
    assert not (tmp_path / "exploded").exists()


def test_foreign_safetensors(tmp_path, network):
    path = tmp_path / "m.safetensors"
    save_file(network.state_dict(), path)
    refused(path, "import")
    save_file(network.state_dict(), path, metadata={"format": "pt"})
    refused(path, "import")


@pytest.mark.parametrize("share", [0.001, 0.3, 0.999])
def test_truncated(file, share):
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    refused(file)


def test_a_header_longer_than_the_file(file):
    data = file.read_bytes()
    file.write_bytes(struct.pack("<Q", 1 << 62) + data[8:])
    refused(file)


def test_bytes_after_the_tensors(file):
    file.write_bytes(file.read_bytes() + b"more")
    refused(file, "damaged")


def test_a_newer_format(file):
    edit_spec(file, format=2)
    refused(file, "format 2", "update nnface")


def test_an_unknown_network_and_setting(file):
    edit_spec(file, architecture="ultralight-slimm")
    refused(file, "did you mean ultralight-slim")
    edit_spec(file, architecture=NAME, settings={"depth": 9})
    refused(file, "no setting named 'depth'")


@pytest.mark.parametrize(
    "settings", [{"neck": 1 << 40}, {"neck": "wide"}, {"widths": [1]}, {"neck": -4}, {"stem": None}]
)
def test_impossible_settings_cost_nothing(file, settings):
    edit_spec(file, architecture="anchorfree", settings=settings)
    refused(file, "anchorfree")


@pytest.mark.parametrize(
    ("architecture", "settings", "words"),
    [
        ("anchorfree", {"depths": [100_000_000, 1, 1, 1]}, "depths has more than 64 values or one beyond 65536"),
        ("anchorfree", {"depths": [60_000, 1, 1, 1]}, "more than 1024 blocks"),
        ("anchorfree", {"head_depth": 60_000}, "more than 1024 blocks"),
        ("parser", {"widths": [8] * 4000, "depths": [1] * 4000}, "widths has more than 64 values"),
        ("classifier-ensemble", {"members": 200, "depths": [50, 50, 50, 50]}, "more than 1024 blocks"),
    ],
)
def test_settings_without_end_are_refused_before_a_network_is_built(file, architecture, settings, words):
    edit_spec(file, architecture=architecture, settings=settings)
    refused(file, architecture, words)


def test_another_task(file):
    edit_spec(file, task="segment", segmentation={"labels": ["skin", "hair"]})
    refused(file, "segment")


def test_a_spec_that_lies_about_the_outputs(file, spec):
    detection = json.loads(spec.to_json())["detection"]
    for change in ({"strides": [8, 16, 32, 32]}, {"landmarks": True}, {"anchor_sizes": [[10, 16], [32], [64], [128]]}):
        edit_spec(file, detection={**detection, **change})
        refused(file, "its network ultralight-slim has")
    edit_spec(file, detection={**detection, "anchor_sizes": [[9, 15, 24], [32, 48], [64, 96], [128, 192, 256]]})
    assert load(file)[1].detection.anchor_sizes[0] == (9, 15, 24)  # sizes are the weights' own


def test_every_tensor_is_accounted_for(file, network, spec):
    state = dict(network.state_dict())
    state.pop("base_net.0.0.weight")
    state["extra\x1b[31m"] = torch.zeros(3)
    state["base_net.0.1.weight"] = torch.zeros(17)
    state["base_net.0.1.bias"] = torch.zeros(16, dtype=torch.float16)
    save_file(state, file, metadata={"nnface": spec.to_json()})
    refused(
        file,
        "1 missing (base_net.0.0.weight)",
        "1 not of this network (extra\\x1b[31m)",
        "base_net.0.1.weight: F32 17, not F32 16",
        "base_net.0.1.bias: F16 16, not F32 16",
    )


def test_a_type_that_torch_has_no_word_for(file, spec):
    header = {
        "__metadata__": {"nnface": spec.to_json()},
        "base_net.0.0.weight": {"dtype": "F8_E8M0", "shape": [4], "data_offsets": [0, 4]},
    }
    words = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(words)) + words + bytes(4))
    refused(file, "numbers of a type that is not known here: 'F8_E8M0'")


def test_weights_that_are_not_finite(file, network, spec):
    state = dict(network.state_dict())
    state["base_net.3.0.weight"] = torch.full_like(state["base_net.3.0.weight"], float("inf"))
    save_file(state, file, metadata={"nnface": spec.to_json()})
    refused(file, "1 not finite (base_net.3.0.weight)")
