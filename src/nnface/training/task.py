"""The seam between the loop and what it trains."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from nnface.spec import Spec

Batch = Any
"""What a task's loader yields and its loss takes; the loop only hands it on."""


class Evaluation(NamedTuple):
    """What a network does on the tenth of train that is kept for choosing."""

    figures: Mapping[str, float]
    """By name; NaN where there is nothing to measure by."""
    best: float
    """The one that chooses, higher better; NaN where nothing was measured."""
    spec: Spec
    """The task's, with what was fitted to this network."""


class Task(Protocol):
    """What the loop needs of a task; it knows nothing of boxes, parts or labels."""

    def model(self) -> nn.Module:
        """A fresh network, initialised from the recipe's seed (and backbone, if it names one)."""
        ...

    def spec(self) -> Spec:
        """What the model file will say of itself, but for what an evaluation fits."""
        ...

    def sizes(self) -> tuple[int, int]:
        """How many pictures it trains on, and how many are kept for choosing."""
        ...

    def batches(self, step: int, rank: int, world: int) -> Iterable[Batch]:
        """This process's parts of the steps from ``step`` on: one item for each accumulated part of each step.

        A part is a pure function of the seed and its number, so that starting at ``step`` gives what an unbroken run
        would have seen there.
        """
        ...

    def counts(self, batch: Batch) -> Mapping[str, float]:
        """What the loss is divided by, from the labels alone; the loop sums it over parts and processes."""
        ...

    def loss(self, model: nn.Module, batch: Batch, counts: Mapping[str, float]) -> dict[str, Tensor]:
        """The weighted parts of the loss, scalars; ``counts`` are the sums of the whole step."""
        ...

    def names(self, batch: Batch) -> list[str]:
        """The pictures of the batch, for the message where the loss or a gradient is not finite."""
        ...

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Measure the network, through the ordinary predictor."""
        ...

    def fingerprint(self) -> str:
        """A hash of the data's names and labels: a run goes on only with the data that it began with."""
        ...
