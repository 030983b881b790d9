"""The training state: everything beside the recipe that a run needs to go on as if it had never stopped.

A *model file* (weights and Spec) is for using a network, the *training state* for continuing a run; deploying never
needs the second. What is random in a step follows from (seed, step, number), so no random state is kept.
"""

import json
import math
import os
import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from nnface.errors import TrainingError
from nnface.files import atomic_path, write_atomic
from nnface.training.recipe import parse
from nnface.version import __version__


@dataclass
class State:
    """What changes while a run goes on."""

    model: nn.Module
    optimizer: Optimizer
    average: AveragedModel | None
    """The exponential moving average of the weights, where the recipe wants one."""
    step: int = 0
    """Optimizer steps done."""
    best: float = float("-inf")

    @property
    def shipped(self) -> nn.Module:
        """The weights that are evaluated and saved: the average where there is one."""
        if self.average is None:
            return self.model
        module: nn.Module = self.average.module
        return module

    def save(self, path: Path) -> None:
        """Write the state, whole or not at all.

        Raises:
            NnfaceError: it cannot be written.
        """
        content = {
            "step": self.step,
            "best": self.best,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
        }
        with atomic_path(path) as temporary:
            try:
                torch.save(content, temporary)
            except RuntimeError as error:  # what torch makes of a full disk
                raise TrainingError(f"cannot write {path}: {str(error).splitlines()[0]}; is the disk full?") from error

    def load(self, path: Path) -> None:
        """Go on from a saved state.

        Raises:
            TrainingError: the file is damaged or of another network.
        """
        try:
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            self.model.load_state_dict(content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
            if self.average is not None:
                self.average.load_state_dict(content["average"])
            self.step, self.best = int(content["step"]), float(content["best"])
        except Exception as error:  # torch raises many kinds for a damaged file
            raise TrainingError(f"cannot resume: {path} is damaged or of another network ({error})") from error


class RunFolder:
    """The folder of a run: what it was told, what it measured, where it stands."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.toml"
        self.metrics = path / "metrics.jsonl"
        self.state = path / "state.pt"
        self.best = path / "best.safetensors"
        self.last = path / "last.safetensors"
        self.about = path / "about.json"

    def make(self) -> None:
        """Make the folder, if it is not there.

        Raises:
            TrainingError: it cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainingError(f"cannot make the run folder {self.path}: {error.strerror or error}") from error

    def begin(self, recipe: str, fingerprint: str) -> None:
        """Note what a new run in this folder is told.

        Raises:
            TrainingError: there is a run in it already, or files that the run would replace.
        """
        if self.recipe.exists():
            raise TrainingError(f"{self.path} holds a run already; go on with --resume, or choose another --out")
        for file in (self.best, self.last, self.state, self.metrics):
            if os.path.lexists(file):
                raise TrainingError(f"{file} is there already and would be replaced; choose another --out")
        about = {
            "nnface": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "machine": platform.machine(),
            "command": sys.argv,
            "data": fingerprint,
        }
        write_atomic(self.about, json.dumps(about, indent=1))
        write_atomic(self.recipe, recipe)

    def forget(self) -> None:
        """Take back what :meth:`begin` noted: the run did no step, and the next one may be told something else."""
        self.recipe.unlink(missing_ok=True)
        self.about.unlink(missing_ok=True)

    def check(self, recipe: str, fingerprint: str) -> None:
        """Whether this recipe and this data may go on here.

        Raises:
            TrainingError: there is no run, or it was begun with another recipe or other data.
        """
        if not self.recipe.exists() or not self.about.exists():
            raise TrainingError(f"there is no run to resume in {self.path}; leave --resume out to begin one")
        begun = self.recipe.read_text(encoding="utf-8")
        # By value: a recipe that an earlier version wrote lacks the keys that have come since.
        if begun != recipe and parse(begun, str(self.recipe)) != parse(recipe, "this recipe"):
            raise TrainingError(
                f"the run in {self.path} was begun with another recipe: {self.recipe}; resume with that"
            )
        try:
            data = json.loads(self.about.read_text(encoding="utf-8"))["data"]
        except (ValueError, TypeError, KeyError) as error:
            raise TrainingError(f"{self.about} is damaged, so it cannot be told which data the run has") from error
        if data != fingerprint:
            raise TrainingError(f"the run in {self.path} was begun with other data; an exact resume needs the same")

    def log(self, row: dict[str, Any]) -> None:
        """Append a row to metrics.jsonl; what is not finite becomes null, for JSON has no word for it.

        Raises:
            TrainingError: it cannot be written.
        """
        row = {name: value if math.isfinite(value) else None for name, value in row.items()}
        try:
            with self.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise TrainingError(f"cannot write {self.metrics}: {error.strerror or error}") from error

    def forget_after(self, step: int) -> None:
        """Drop the rows of steps that a resumed run does again."""
        if self.metrics.exists():
            write_atomic(self.metrics, "".join(f"{json.dumps(row)}\n" for row in self._rows() if row["step"] <= step))

    def _rows(self) -> Iterable[dict[str, Any]]:
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # the line that a kill cut short
                return
            if isinstance(row, dict) and "step" in row:
                yield row
