"""What the pages about the data sets have in common: picture sizes, bands of numbers, samples to look at."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from nnface.curate.pictures import Cache, sizes
from nnface.files import make_folder
from nnface.report.table import Table

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How often each size of a picture occurs."""

    counter: Counter[tuple[int, int]]
    """Of width and height; pictures whose headers cannot be read are not counted."""

    def counts(self) -> dict[str, int]:
        """As JSON values, the most frequent first."""
        return {f"{width}x{height}": count for (width, height), count in self.counter.most_common()}

    def table(self, most: int = 12) -> Table:
        """The most frequent sizes."""
        total = max(self.counter.total(), 1)
        rows = [[f"{w} x {h}", f"{n:,}", f"{100 * n / total:.1f}"] for (w, h), n in self.counter.most_common(most)]
        rest = self.counter.total() - sum(n for _, n in self.counter.most_common(most))
        if rest:
            other = len(self.counter) - most
            rows.append([f"{other:,} other sizes", f"{rest:,}", f"{100 * rest / total:.1f}"])
        return Table("sizes of the pictures", ["width x height", "pictures", "per cent"], rows)


def picture_sizes(root: str | Path, paths: Sequence[Path]) -> Sizes:
    """Sizes of pictures below ``root``: what ``verify`` saw, else from their headers."""
    with Cache(Path(root)) as cache:
        return Sizes(Counter(size for size in sizes(paths, cache) if size is not None))


def bands(values: ArrayLike, edges: Sequence[int]) -> dict[str, int]:
    """How many whole numbers, 0 or more, lie below the first edge, from there to the next, ..., from the last on."""
    between = [str(a) if a == b - 1 else f"{a}-{b - 1}" for a, b in pairwise(edges)]
    names = ["0" if edges[0] == 1 else f"< {edges[0]}", *between, f"{edges[-1]}+"]
    counts = np.bincount(np.searchsorted(edges, np.asarray(values), side="right"), minlength=len(names))
    return dict(zip(names, counts.tolist(), strict=True))


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most so many of the items, evenly from the first to the last."""
    return [items[i] for i in np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)]


def made(folder: str | Path) -> Path:
    """The folder, which is made.

    Raises:
        NnfaceError: it cannot be made.
    """
    folder = Path(folder)
    make_folder(folder)
    return folder


def shares(title: str, what: str, unit: str, counts: dict[str, int]) -> Table:
    """A table of counts and their per cents."""
    total = max(sum(counts.values()), 1)
    rows = [[name, f"{count:,}", f"{100 * count / total:.1f}"] for name, count in counts.items()]
    return Table(title, [what, unit, "per cent"], rows)
