"""What several tests need, and which of the tests marked slow run."""

import math
import os
import signal
import zlib
from datetime import date
from pathlib import Path

import pytest
from hypothesis import settings

from generated import widerface
from processes import ENVIRONMENT
from trainings import SMALL

SHARED = Path(__file__).resolve().parents[2] / "shared"
SAMPLED = 4
"""Without ``--slow all`` one in so many of the tests marked slow runs."""


# Hypothesis fails an example that takes longer than 200 ms unless told otherwise: on a busy machine any does.
settings.register_profile("nnface", deadline=None)
settings.load_profile("nnface")


# A suite that a shell started in the background ignores Ctrl-C, and so would every process that it tests.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Downloads and what was verified lie in a folder of the tests' own."""
    os.environ["NNFACE_HOME"] = ENVIRONMENT["NNFACE_HOME"] = str(tmp_path_factory.mktemp("home"))


def shared(path: str) -> Path:
    """A file of ../shared beside the repository; the test is skipped where it is not there."""
    file = SHARED / path
    if not file.exists():
        pytest.skip(f"needs {file}, which this machine does not have")
    return file


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small WIDER FACE, generated; tests that change one make their own."""
    return widerface(tmp_path_factory.mktemp("widerface"))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The recipe of a training of seconds (:mod:`trainings`)."""
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--slow", choices=["all", "sample", "none"], default="sample", help="Which of the tests marked slow run."
    )
    parser.addoption(
        "--slow-seed",
        type=int,
        default=date.today().toordinal(),
        help="What the sample of slow tests is drawn with: by default the day's number, so that it moves on daily.",
    )


def pytest_report_header(config: pytest.Config) -> str:
    slow, seed = config.getoption("--slow"), config.getoption("--slow-seed")
    return f"slow tests: one in {SAMPLED}, by --slow-seed={seed}" if slow == "sample" else f"slow tests: {slow}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out slow tests. A sample is a pure function of the seed and of the slow tests that were collected."""
    slow = [item for item in items if item.get_closest_marker("slow")]
    seed = config.getoption("--slow-seed")
    shuffled = sorted(slow, key=lambda item: zlib.crc32(f"{seed} {item.nodeid}".encode()))
    share = {"all": 1.0, "sample": 1 / SAMPLED, "none": 0.0}[config.getoption("--slow")]
    left_out = set(shuffled[math.ceil(len(slow) * share) :])
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]
