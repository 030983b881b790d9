"""What several tests need."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def shared(path: str) -> Path:
    """A file of ../shared beside the repository; the test is skipped where it is not there."""
    file = SHARED / path
    if not file.exists():
        pytest.skip(f"needs {file}, which this machine does not have")
    return file
