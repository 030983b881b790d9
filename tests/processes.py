"""The command line as real processes: with pipes, or with a terminal on stdout."""

import json
import os
import pty
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NNFACE = [sys.executable, "-m", "nnface"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120", "TERM": "dumb", "PYTHONIOENCODING": "utf-8"}


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Its stdout as JSON Lines."""
        return [json.loads(line) for line in self.out.splitlines()]


def nnface(*arguments: str | Path, cwd: Path, python: list[str] | None = None) -> Ended:
    """Run ``nnface`` with pipes for stdout and stderr."""
    command = [*(python or NNFACE), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, env=ENVIRONMENT, timeout=120, check=False)
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


def nnface_on_terminal(*arguments: str | Path, cwd: Path) -> Ended:
    """Run ``nnface`` with a terminal on stdout and a pipe for stderr."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [*NNFACE, *map(str, arguments)], cwd=cwd, stdout=follower, stderr=subprocess.PIPE, env=ENVIRONMENT
    ) as process:
        os.close(follower)
        shown = read_all(leader)
        assert process.stderr is not None
        err = process.stderr.read().decode()
    os.close(leader)
    return Ended(process.returncode, shown, err)


def read_all(leader: int) -> str:
    """What a terminal shows until its last writer has gone."""
    shown = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # Linux says EIO when nobody holds the other side
            break
        if not part:
            break
        shown += part
    return shown.decode()
