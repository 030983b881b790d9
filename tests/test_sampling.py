"""The sample of slow tests that ``make test`` draws (conftest.py)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SUITE = """
import pytest

@pytest.mark.slow
@pytest.mark.parametrize("number", range(10))
def test_slow(number): pass

def test_quick(): pass
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """One quick test and ten slow ones, with this suite's conftest."""
    shutil.copy(TESTS / "conftest.py", tmp_path)
    (tmp_path / "test_it.py").write_text(SUITE)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow: long\n")
    return tmp_path


def collected(suite: Path, *arguments: str) -> set[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *arguments]
    environment = os.environ | {"PYTHONPATH": str(TESTS)}  # the conftest imports modules that lie beside it
    done = subprocess.run(command, cwd=suite, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return {line for line in done.stdout.splitlines() if "::" in line}


def test_a_sample_is_bounded_repeatable_and_moves_with_the_seed(suite: Path) -> None:
    quick = "test_it.py::test_quick"
    everything = collected(suite, "--slow", "all")
    assert len(everything) == 11
    assert collected(suite, "--slow", "none") == {quick}
    draws = [collected(suite, f"--slow-seed={seed}") for seed in (1, 2, 1)]
    assert all(len(draw) == 4 and quick in draw and draw < everything for draw in draws)
    assert draws[0] == draws[2] != draws[1]
