"""From the numbers of samples to batches, in this process or in loader processes."""

import signal
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from nnface.errors import NnfaceError
from nnface.training.recipe import Loop

Sample = TypeVar("Sample")
Batch = TypeVar("Batch")


def load(
    sample: Callable[[int], Sample],
    collate: Callable[[list[Sample]], Batch],
    loop: Loop,
    step: int,
    rank: int,
    world: int,
) -> Iterator[Batch]:
    """This process's parts of the steps from ``step`` on; part p of a step holds its p-th share of the numbers.

    Args:
        sample: gives the sample of a number.
        collate: makes a batch of samples.
        loop: how many steps there are, and how large; its batch divides by processes and accumulated parts.
        step: where to begin.
        rank: this process.
        world: all processes.

    Raises:
        NnfaceError: what ``sample`` raised, as it was, from a loader process too.
    """
    loader: DataLoader[Any] = DataLoader(
        _Samples(sample),
        batch_sampler=_Parts(loop, step, rank, world),
        num_workers=loop.workers,
        collate_fn=_Collate(collate),
        worker_init_fn=_quiet_worker,
    )
    for batch in loader:
        if isinstance(batch, NnfaceError):
            raise batch
        yield batch


class _Parts:
    """The numbers of each part, made as they are needed: a long training has millions."""

    def __init__(self, loop: Loop, step: int, rank: int, world: int) -> None:
        self.loop, self.step, self.rank, self.world = loop, step, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        loop = self.loop
        size = loop.batch // (self.world * loop.accumulate)
        for step in range(self.step, loop.steps):
            for part in range(self.rank * loop.accumulate, (self.rank + 1) * loop.accumulate):
                first = step * loop.batch + part * size
                yield list(range(first, first + size))


class _Samples(Dataset[Any], Generic[Sample]):
    """The samples by number; an error that people see comes as a value, for torch would wrap it into a traceback."""

    def __init__(self, sample: Callable[[int], Sample]) -> None:
        self.sample = sample

    def __getitem__(self, number: int) -> Sample | NnfaceError:
        try:
            return self.sample(number)
        except NnfaceError as error:
            return error


class _Collate:
    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: list[Any]) -> Any:
        return next((s for s in samples if isinstance(s, NnfaceError)), None) or self.collate(samples)


def _quiet_worker(worker: int) -> None:
    """One thread; and Ctrl-C, which reaches every process of a terminal, is the training's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
