"""What a command goes through, and how it shares the cores: pictures side by side, or one with all of them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import cv2

from nnface.commands.output import say
from nnface.predict.source import Source, expand
from nnface.processors import physical_cores


@dataclass(frozen=True, slots=True)
class Plan:
    """Pictures, videos and cameras, and the threads for them."""

    sources: list[Source]
    failed: int
    """Paths that stand for nothing; a sentence about each is on stderr."""
    workers: int
    """Pictures, or frames of a video, that are worked on at the same time."""
    threads: int
    """Of the network, for each of them."""

    @property
    def single(self) -> bool:
        """Whether there is one picture and nothing else."""
        return len(self.sources) == 1 and self.sources[0].kind == "picture"

    @property
    def total(self) -> int | None:
        """How many results there will be; None where there is a video or camera, whose frames nobody has counted."""
        return None if any(source.kind != "picture" for source in self.sources) else len(self.sources)

    @property
    def endless(self) -> bool:
        """Whether it ends with a camera, so only by Ctrl-C."""
        return self.sources[-1].kind == "camera"

    def exit_code(self, done: int, failed: int) -> int:
        """0: all went well; 1: some failed, of the paths or what they stand for; 2: nothing was done."""
        return 0 if not failed + self.failed else 1 if done else 2


def plan(paths: Iterable[str], threads: int | None) -> Plan:
    """Find what the paths stand for, say on stderr what cannot be had, and set OpenCV's threads accordingly.

    Args:
        paths: as typed, see :func:`nnface.predict.source.expand`.
        threads: what the user allows; None: the physical cores that this process may use.
    """
    notes: list[str] = []
    sources, problems = expand(paths, notes)
    for sentence in (*problems, *notes):
        say(sentence)
    cores = threads or physical_cores()
    found = Plan(sources=sources, failed=len(problems), workers=1, threads=cores)
    if found.single:
        return found
    cv2.setNumThreads(1)  # the workers take up the cores; OpenCV's own threads would be in their way
    return replace(found, workers=cores, threads=1)
