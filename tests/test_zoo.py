"""The zoo: names to files, the index against the files, and downloads from a real server."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nnface.errors import ModelFileError
from nnface.files import sha256
from nnface.header import read_spec
from nnface.predict.detector import Detector
from nnface.zoo import Entry, card, entries, index, registry, resolve
from tiny_models import bright_detector, detection_spec

BYTES = bytes(range(256)) * 4000


class Handler(BaseHTTPRequestHandler):
    hits = 0
    stalled = threading.Event()
    release = threading.Event()

    def do_GET(self) -> None:
        type(self).hits += 1
        content = b"something else" if self.path == "/wrong" else BYTES
        self.send_response(404 if self.path == "/nowhere" else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.path == "/good" or self.path == "/wrong":
            self.wfile.write(content)
        elif self.path in ("/cut", "/stall"):
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            if self.path == "/stall":
                self.stalled.set()
                self.release.wait(30)
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    Handler.release.set()
    running.shutdown()
    running.server_close()


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package with a zoo of its own, and its own folder for downloads."""
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setattr(registry, "WEIGHTS", folder)
    monkeypatch.setenv("NNFACE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NNFACE_OFFLINE", raising=False)
    entries.cache_clear()
    yield folder
    entries.cache_clear()


def downloadable(url: str | None) -> Entry:
    import hashlib

    return Entry(
        name="large", task="detect", file="large.onnx", bytes=len(BYTES), sha256=hashlib.sha256(BYTES).hexdigest(),
        licence="MIT", data="none", data_licence="none", url=url,
    )  # fmt: skip


def write_index(folder: Path, *table: Entry) -> None:
    (folder / "index.json").write_text(json.dumps([asdict(entry) for entry in table]))


def test_the_index_says_what_the_files_say(weights: Path, tmp_path: Path) -> None:
    spec = replace(detection_spec(), figures={"widerface/holdout/vga/easy": 0.76}, licence="research only")
    for name in ("default", "fast"):
        bright_detector(weights / f"{name}.onnx", spec)
        (weights / f"{name}.md").write_text(f"# {name}")
    write_index(weights, downloadable("https://example.org/large.onnx"))
    index.write(weights)
    table = entries()
    assert [entry.name for entry in table] == ["default", "fast", "large"]
    first = table[0]
    assert (first.licence, first.figures, first.command) == ("research only", dict(spec.figures), "true")
    assert (
        first.bytes == (weights / "default.onnx").stat().st_size and card(first) == "# default" and card(table[2]) == ""
    )
    assert resolve("fast") == weights / "fast.onnx"
    assert Detector("default").runner.spec == spec
    bright_detector(weights / "lazy.onnx", replace(spec, provenance={"data": "x"}))
    with pytest.raises(ModelFileError, match="lacks data_licence, command"):
        index.write(weights)


def test_the_shipped_index_is_up_to_date() -> None:
    files = sorted(registry.WEIGHTS.glob("*.onnx"))
    bundled = [entry for entry in entries() if entry.url is None]
    assert [entry.file for entry in bundled] == [path.name for path in files]
    for entry, path in zip(bundled, files, strict=True):
        assert entry == index.describe(path), f"{path.name} changed; run python -m nnface.zoo.index"
        assert entry.sha256 == sha256(path) and card(entry) and read_spec(path).task == entry.task


def test_files_names_and_typing_errors(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_index(weights, downloadable(None), replace(downloadable(None), name="default", file="default.onnx"))
    path = bright_detector(tmp_path / "mine.onnx")
    assert resolve(path) == resolve(str(path)) == path
    monkeypatch.chdir(tmp_path)
    for name in ("tiny", "large"):
        Path(name).mkdir()
    for model, words in [
        ("defualt", "did you mean default"),
        ("xyz", "the models are large, default"),
        ("runs/best.safetensors", "not there"),
        ("best.onnx", "not there"),
        (tmp_path / "default", "not there"),
        (tmp_path, "a folder"),
        ("/dev/null", "not a regular file"),
        ("tiny", "a folder"),
        ("large", "built without weights"),
        ("default", "built without weights"),
    ]:
        with pytest.raises(ModelFileError, match=words):
            resolve(model)
    (weights / "index.json").unlink()
    entries.cache_clear()
    with pytest.raises(ModelFileError, match="nnface import"):
        resolve("default")


def test_a_download_is_verified_and_kept(weights: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_index(weights, downloadable(f"{server}/good"))
    hits = Handler.hits
    path = resolve("large")
    assert path == registry.home() / "models" / "large.onnx" and path.read_bytes() == BYTES
    assert resolve("large") == path and Handler.hits == hits + 1
    monkeypatch.setenv("NNFACE_OFFLINE", "1")
    assert resolve("large") == path
    path.write_bytes(b"damaged since")
    with pytest.raises(ModelFileError, match="NNFACE_OFFLINE"):
        resolve("large")
    monkeypatch.setenv("NNFACE_OFFLINE", "0")
    assert resolve("large").read_bytes() == BYTES
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("what, words", [("wrong", "SHA-256"), ("cut", "downloaded|SHA-256"), ("nowhere", "404")])
def test_a_bad_download_leaves_nothing(weights: Path, server: str, what: str, words: str) -> None:
    write_index(weights, downloadable(f"{server}/{what}"))
    with pytest.raises(ModelFileError, match=words) as caught:
        resolve("large")
    assert f"{server}/{what}" in str(caught.value) and "\n" not in str(caught.value)
    assert list((registry.home() / "models").iterdir()) == []


def test_no_network_and_no_room(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_index(weights, downloadable("http://127.0.0.1:9/large.onnx"))
    with pytest.raises(ModelFileError, match="could not be downloaded"):
        resolve("large")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NNFACE_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelFileError, match="could not be downloaded"):
        resolve("large")


def test_killed_in_the_middle(weights: Path, server: str) -> None:
    write_index(weights, downloadable(f"{server}/stall"))
    code = (
        "import sys; from pathlib import Path; from nnface.zoo import registry\n"
        "registry.WEIGHTS = Path(sys.argv[1]); registry.resolve('large')"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(weights)], env=dict(os.environ))
    assert Handler.stalled.wait(30)
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    assert not (registry.home() / "models" / "large.onnx").exists()
    write_index(weights, downloadable(f"{server}/good"))
    assert resolve("large").read_bytes() == BYTES
