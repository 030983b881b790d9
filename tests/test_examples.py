"""The examples: the exported file without nnface, and in a real browser that talks to nobody."""

import functools
import http.server
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest

from browser import Page, chromium
from nnface import Detector, Segmenter, zoo
from nnface.spec import CELEBAMASK_LABELS
from tiny_models import palette_parser, segmentation_spec

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
BROWSER = EXAMPLES / "browser"


@pytest.mark.parametrize("name", ["astronaut", "solvay_1927", "coffee", "grace_hopper"])
def test_onnxruntime_and_numpy_alone_find_the_same_faces(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    from onnxruntime_only import detect

    image = cv2.imread(str(EXAMPLES / f"{name}.jpg"))
    path = zoo.resolve("default")
    boxes, landmarks, scores = detect(onnxruntime.InferenceSession(path), image)
    expected = Detector(path, threads=1)(image)
    assert len(expected) == {"astronaut": 1, "solvay_1927": 29, "coffee": 0, "grace_hopper": 1}[name]
    np.testing.assert_allclose(boxes, expected.boxes, atol=0.01)
    np.testing.assert_allclose(landmarks, expected.landmarks, atol=0.01)
    np.testing.assert_allclose(scores, expected.scores, atol=1e-5)


def test_the_example_needs_no_nnface() -> None:
    script = EXAMPLES / "onnxruntime_only.py"
    code = (
        "import runpy, sys; sys.modules['nnface'] = None; sys.argv = sys.argv[1:];"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", code, script, zoo.resolve("default"), EXAMPLES / "astronaut.jpg"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1, done.stderr


class _Silent(http.server.SimpleHTTPRequestHandler):
    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}  # noqa: RUF012

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder like examples/browser after ``make browser``, without a parser, and its address."""
    chromium()
    if not (BROWSER / "node_modules" / "onnxruntime-web").is_dir():
        pytest.skip("needs ONNX Runtime for browsers, which `make browser` installs")
    folder = tmp_path / "site"
    (folder / "models").mkdir(parents=True)
    for file in BROWSER.glob("*.*"):
        if file.is_file():
            shutil.copy(file, folder)
    (folder / "node_modules").symlink_to(BROWSER / "node_modules")
    shutil.copy(zoo.resolve("default"), folder / "models")
    for name in ("astronaut", "solvay_1927"):
        shutil.copy(EXAMPLES / f"{name}.jpg", folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Silent, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def page(site: tuple[Path, str], tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    parser = getattr(request, "param", None)
    if parser == "bundled":
        if "parser" not in [entry.name for entry in zoo.entries()]:
            pytest.skip("this tree has no bundled parser")
        shutil.copy(zoo.resolve("parser"), site[0] / "models" / "parser.onnx")
    elif parser == "tiny":
        # Looks at the left of the face, turned: the page has to place its chips as Python does.
        rows = ((0.2,) * 2 + (0.0,) * 12 + (-0.1,), (0.0,) * 11 + (0.5, 0, 0, 0.1), (0.0,) * 12 + (0.1,) * 3)
        spec = segmentation_spec(correction=(*rows, (0.0,) * 14 + (0.15,)))
        palette_parser(site[0] / "models" / "parser.onnx", spec)
    opened = Page(f"{site[1]}index.html", tmp_path / "profile")
    yield opened
    opened.close()


def until(page: Page, words: str) -> None:
    """Wait until the page's status line ends with some words, or says that something failed."""
    page.evaluate(
        "new Promise((ready, fail) => { const status = document.getElementById('status'); const look = () => {"
        f"if (status.textContent.endsWith({json.dumps(words)})) ready();"
        "else if (status.textContent.startsWith('This did not work')) fail(new Error(status.textContent)); };"
        "new MutationObserver(look).observe(status, {childList: true, characterData: true, subtree: true}); look();"
        "setTimeout(() => fail(new Error(`still: ${status.textContent}`)), 90000); })"
    )


def drop(page: Page, name: str) -> None:
    """Drop a picture onto the page, as a person does."""
    page.evaluate(
        f"fetch('{name}').then(response => response.blob()).then(blob => {{ const data = new DataTransfer();"
        f"data.items.add(new File([blob], '{name}', {{type: blob.type}}));"
        "document.getElementById('drop').dispatchEvent(new DragEvent('drop', {dataTransfer: data, bubbles: true, "
        "cancelable: true})); })"
    )


def faces(page: Page) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(page.evaluate("import('./faces.js').then(m => JSON.stringify(m.faces))"))
    return found


def test_the_page_finds_the_faces_and_asks_nobody_else(page: Page, site: tuple[Path, str]) -> None:
    until(page, "Ready")
    detector = Detector(threads=1)
    for name, words, shift in [("astronaut.jpg", "1 face", 1.0), ("solvay_1927.jpg", "faces", 3.0)]:
        asked = len(page.requests)
        drop(page, name)
        until(page, words)
        assert page.requests[asked:] == [site[1] + name]  # by this test, to have something to drop
        expected = detector(cv2.imread(str(EXAMPLES / name)))
        found = faces(page)
        if name == "astronaut.jpg":
            assert len(found) == len(expected) == 1
        assert abs(len(found) - len(expected)) <= 2  # the browser's resampling is not OpenCV's
        sure = [face for face in expected if face.score > 0.6]
        assert sure
        for face in sure:
            nearest = min(found, key=lambda other: np.abs(np.array(other["box"]) - face.box).max())
            assert np.abs(np.array(nearest["box"]) - face.box).max() < shift
            assert np.abs(np.array(nearest["landmarks"]) - face.landmarks).max() < shift
            assert abs(nearest["score"] - face.score) < 0.05
    assert all(url.startswith((site[1], "data:")) for url in page.requests), page.requests
    assert page.evaluate("document.getElementById('segment').hidden")
    # What would send the picture away is refused by the page itself.
    sent = "fetch('http://localhost:9/').then(() => 'sent', error => 'refused')"
    assert page.evaluate(sent) == "refused"
    assert any("Content Security Policy" in json.dumps(said) for said in page.complaints)


@pytest.mark.parametrize("page", ["tiny", "bundled"], indirect=True)
def test_the_page_shows_the_parts_of_faces_if_the_parser_is_there(page: Page, site: tuple[Path, str]) -> None:
    until(page, "Ready")
    drop(page, "astronaut.jpg")
    until(page, "1 face")
    parser = f"{site[1]}models/parser.onnx"
    assert page.requests.count(parser) == 1  # whether it is there; its bytes come when they are needed
    page.evaluate("document.getElementById('segment').click()")
    until(page, "with its parts")
    assert page.requests.count(parser) == 2
    image = cv2.imread(str(EXAMPLES / "astronaut.jpg"))
    expected = Segmenter(site[0] / "models" / "parser.onnx", threads=1)(image, Detector(threads=1)(image))[0].parts
    (face,) = faces(page)
    assert expected is not None and set(face["parts"]) <= set(CELEBAMASK_LABELS[1:])
    # Both count pixels over the chip; the browser does so on a grid of its own.
    total = sum(expected.values()), sum(face["parts"].values())
    shares = {name: (expected.get(name, 0) / total[0], face["parts"].get(name, 0) / total[1]) for name in expected}
    for name, (one, other) in shares.items():
        assert abs(one - other) < 0.02, (name, shares)
    assert all(url.startswith((site[1], "data:")) for url in page.requests), page.requests


def test_a_file_that_is_no_picture_is_said(page: Page) -> None:
    until(page, "Ready")
    drop(page, "index.html")
    page.evaluate(
        "new Promise(ready => { const status = document.getElementById('status'); const look = () => "
        "status.textContent.startsWith('This did not work') && ready(); look();"
        "new MutationObserver(look).observe(status, {childList: true}); })"
    )
    assert faces(page) == []
