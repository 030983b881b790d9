"""What a look through a data set finds, by severity."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from nnface.curate.pictures import Cache, Seen

Advance = Callable[[], None]


@dataclass(kw_only=True)
class Findings:
    """Sentences by severity. A data set is wrong where there are problems, and only there."""

    problems: list[str] = field(default_factory=list)
    """Errors: what is wrong and has to be mended."""
    warnings: list[str] = field(default_factory=list)
    """What may spoil a training or flatter a score, such as pictures that stand in two parts."""
    notes: list[str] = field(default_factory=list)
    """What is worth knowing, such as parts that are partial."""
    duplicates: list[tuple[str, str, float]] = field(default_factory=list)
    """Pictures of two parts that are the same (1.0) or nearly so, and their correlation."""

    def rows(self) -> list[tuple[str, str]]:
        """Severity (``error``, ``warning``, ``note``) and sentence, the worst first."""
        levels = (("error", self.problems), ("warning", self.warnings), ("note", self.notes))
        return [(severity, text) for severity, texts in levels for text in texts]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def broken(part: str, seen: Sequence[Seen], found: Findings) -> None:
    """One problem for the pictures of a part that cannot be read."""
    reasons = [one.problem for one in seen if one.problem]
    if reasons:
        found.problems.append(f"{part}: {len(reasons)} pictures cannot be read; the first: {reasons[0]}")


def compare(parts: Mapping[str, Sequence[tuple[str, Seen]]], cache: Cache, found: Findings) -> None:
    """Warn of pictures that stand in two parts of a data set, as the same file or nearly the same picture.

    Args:
        parts: for each part the keys of its pictures, and what was seen of them.
        cache: that they were seen with.
        found: gets pairs and warnings.
    """
    sound = {part: [(key, seen) for key, seen in pictures if not seen.problem] for part, pictures in parts.items()}
    names = list(sound)
    for number, second in enumerate(names):
        for first in names[:number]:
            found.duplicates += _pairs(first, sound[first], second, sound[second], cache, found)


def _pairs(
    first: str,
    one: Sequence[tuple[str, Seen]],
    second: str,
    other: Sequence[tuple[str, Seen]],
    cache: Cache,
    found: Findings,
) -> list[tuple[str, str, float]]:
    places: dict[bytes, list[int]] = {}
    for i, (_, seen) in enumerate(one):
        places.setdefault(seen.digest, []).append(i)
    same = [(i, j, 1.0) for j, (_, seen) in enumerate(other) for i in places.get(seen.digest, ())]
    known = {(i, j) for i, j, _ in same}
    near = [
        (i, j, correlation)
        for j, i, correlation in cache.pairs([seen for _, seen in other], [seen for _, seen in one])
        if (i, j) not in known
    ]
    for what, some in (("the same file as", same), ("nearly the same as", near)):
        if some:
            of_first, of_second = len({i for i, _, _ in some}), len({j for _, j, _ in some})
            found.warnings.append(
                f"{of_first} pictures of {first} are {what} one of {second} ({of_second} of {second}), such as "
                f"{one[some[0][0]][0]} and {other[some[0][1]][0]}"
            )
    return [(one[i][0], other[j][0], correlation) for i, j, correlation in (*same, *near)]
