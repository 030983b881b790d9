"""What a change of precision costs and brings: figures, milliseconds and bytes, before and after."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from nnface.evaluation.agreement import Comparison
from nnface.evaluation.bench import Timing, machine
from nnface.report.table import Table

Precision = Literal["fp16", "int8"]

MOST_LOST = 1.0
"""Points of a figure; more are warned of, and with labels more layers are kept in float."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a change of precision costs and brings."""

    precision: Precision
    comparison: Comparison
    """By labels where they were given, else by agreement."""
    agreement: Comparison | None
    """With what the float model says; None where that is ``comparison``, or there were no pictures."""
    speed: Mapping[str, Timing]
    """``float32`` and the new precision, on one thread, milliseconds for ``batch`` pictures."""
    batch: int
    input: tuple[int, int]
    """Width and height that the speed was measured at."""
    bytes: tuple[int, int]
    """Of the files, before and after."""
    method: str
    """Of the calibration; empty for fp16."""
    tried: Mapping[str, float]
    """Points lost: with each method, in the mean, by agreement; with more layers in float, at most, by labels."""
    kept: Sequence[str]
    """The layers with weights that stay in float."""
    calibrated: int
    """Pictures or chips."""

    @property
    def faster(self) -> float:
        """How many times as fast as float32."""
        return self.speed["float32"].median / self.speed[self.precision].median


def tables(report: Report) -> list[Table]:
    """For the terminal."""
    names = ("float32", report.precision, "points lost")
    result = []
    for comparison in (report.comparison, report.agreement):
        if comparison is not None and comparison.before:
            rows = [
                [name, f"{100 * value:.2f}", f"{100 * comparison.after[name]:.2f}", f"{comparison.lost[name]:+.2f}"]
                for name, value in comparison.before.items()
            ]
            result.append(Table(f"On {comparison.on}", ["per cent", *names], rows))
    width, height = report.input
    rows = [
        [name, f"{t.median:.2f}", f"{t.low:.2f} to {t.high:.2f}", f"{size / 1e6:.2f}"]
        for (name, t), size in zip(report.speed.items(), report.bytes, strict=True)
    ]
    title = f"Milliseconds for {report.batch} of {width} x {height} on one thread (its CPU time)"
    result.append(Table(title, ["", "median", "10 to 90 %", "MB file"], rows))
    return result


def warnings(report: Report) -> list[str]:
    """What people have to know, a sentence each."""
    found = []
    lost = report.comparison.lost
    if lost and report.comparison.most_lost > MOST_LOST:
        worst = max(lost, key=lambda name: lost[name])
        what = (
            f"it loses {lost[worst]:.1f} points of {worst}"
            if report.comparison.labelled
            else f"{worst} is {lost[worst]:.1f} points from the float model's; --evaluate tells what that costs"
        )
        found.append(f"{report.precision}: {what}")
    if report.faster < 0.97:
        found.append(f"{report.precision} is slower here, {report.faster:.2f} times as fast as float32")
    if report.precision == "int8" and machine()["vnni"] is False:
        found.append("this processor has no VNNI; on one that has, int8 is faster and sums do not overflow")
    return found


def to_dict(report: Report) -> dict[str, Any]:
    """The report and the machine as JSON values."""
    losses = {"lost": report.comparison.lost, "faster": report.faster}
    return {**asdict(report), **losses, "machine": machine()}
