"""Whom a classifier fails: the figures of :mod:`nnface.evaluation.fairface` as tables, JSON and one page with plots."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnface.evaluation.fairface import LEAST, Head, Result
from nnface.evaluation.figures import json_number
from nnface.metrics.fairness import Share
from nnface.report.table import Table, percent, percent_interval


def figures_table(result: Result, name: str = "FairFace") -> Table:
    """The main figures of each head; ``name`` is the data set's."""
    columns = ["", "accuracy", "95 % interval", "balanced", "within 1", "mean error", "worst race", "gap", "ECE"]
    rows = []
    for attribute, head in result.heads.items():
        gap = head.gaps.get("race")
        worst = list(head.groups["race"])[gap.worst] if gap else ""
        rows.append(
            [
                attribute,
                percent(head.accuracy.value),
                percent_interval(head.accuracy.interval),
                percent(head.balanced),
                percent(head.within_one.value) if head.within_one else "",
                f"{head.mean_error:.2f}" if head.mean_error is not None else "",
                f"{worst} {percent(head.groups['race'][worst].value)}" if gap else "",
                f"{percent(gap.value)} ({percent_interval(gap.interval)})" if gap else "",
                percent(head.calibration_error),
            ]
        )
    missed = f", no face found in {result.missed:,}" if result.missed else ""
    return Table(f"{name}, {result.faces:,} faces{missed}", columns, rows)


def certainty_table(result: Result) -> Table:
    """What holding back uncertain answers gives."""
    rows = [
        [
            name,
            f"{head.temperature:.2f}",
            f"{head.least:.2f}",
            percent(head.abstained),
            percent(head.certain.value),
            percent_interval(head.certain.interval),
        ]
        for name, head in result.heads.items()
    ]
    columns = ["", "temperature", "least confidence", "held back", "accuracy of the rest", "95 % interval"]
    return Table("Answers that are marked as certain", columns, rows)


def groups_table(head: Head, axis: str, name: str) -> Table:
    """Accuracy of a head for each group of one attribute."""
    rows = [
        [group, percent(share.value), percent_interval(share.interval), f"{share.count:,}"]
        for group, share in head.groups[axis].items()
    ]
    return Table(f"Accuracy of {name} by {axis}", [axis, "accuracy", "95 % interval", "faces"], rows)


def confusion_table(head: Head, name: str) -> Table:
    """Rows are labels, columns answers, in faces."""
    rows = [[label, *(f"{v:,}" for v in row)] for label, row in zip(head.labels, head.confusion.tolist(), strict=True)]
    return Table(f"{name}: label down, answer across", ["", *head.labels], rows)


def cells_table(result: Result) -> Table:
    """Every combination of race, gender and age, those that fare worst in race first; empty ones left out."""
    first, *others = result.cells
    rows: list[tuple[float, list[str]]] = []
    for place, share in result.cells[first].items():
        if share.count:
            told = [
                f"{percent(s.value)} ({percent_interval(s.interval)})"
                for s in (share, *(result.cells[o][place] for o in others))
            ]
            rows.append((share.value, [", ".join(place), str(share.count), *told]))
    rows.sort(key=lambda row: row[0])
    return Table("", ["faces of", "number", first, *others], [row for _, row in rows])


def differences_table(differences: Mapping[str, tuple[float, tuple[float, float]]], other: str) -> Table:
    """The result of :func:`nnface.evaluation.fairface.compare`."""
    rows = [[name, percent(gain), percent_interval(bounds)] for name, (gain, bounds) in differences.items()]
    return Table(f"Better than {other} by", ["", "accuracy", "95 % interval, paired"], rows)


def to_dict(result: Result) -> dict[str, Any]:
    """Everything as JSON values; NaN becomes None."""
    heads = {
        name: {
            "labels": list(head.labels),
            "accuracy": _share(head.accuracy),
            "balanced_accuracy": json_number(head.balanced),
            "confusion": head.confusion.tolist(),
            **({"within_one": _share(head.within_one)} if head.within_one else {}),
            **({"mean_error": json_number(head.mean_error)} if head.mean_error is not None else {}),
            "calibration_error": json_number(head.calibration_error),
            "temperature": head.temperature,
            "least_confidence": head.least,
            "abstained": json_number(head.abstained),
            "certain": _share(head.certain),
            "groups": {a: {g: _share(s) for g, s in shares.items()} for a, shares in head.groups.items()},
            "gaps": {
                axis: None
                if gap is None
                else {
                    "best": list(head.groups[axis])[gap.best],
                    "worst": list(head.groups[axis])[gap.worst],
                    "value": gap.value,
                    "interval": list(gap.interval),
                }
                for axis, gap in head.gaps.items()
            },
            "cells": [
                {**dict(zip(result.heads, place, strict=True)), **_share(share)}
                for place, share in result.cells[name].items()
                if share.count
            ],
        }
        for name, head in result.heads.items()
    }
    return {"faces": result.faces, "missed": result.missed, "heads": heads}


def save(
    result: Result,
    folder: str | Path,
    about: Mapping[str, str],
    differences: Table | None = None,
    name: str = "FairFace",
) -> None:
    """Write ``report.json``, ``report.html`` and the plots as PNG into a folder, which is made.

    Raises:
        DependencyError: matplotlib or jinja2 is not installed (the extra ``[eval]``).
        NnfaceError: the folder cannot be made or written.
    """
    from nnface.report import folder as report
    from nnface.report import html

    sections = [
        html.Section(
            heading="In short",
            text="Labels are what people perceived in a picture; they are noisy, and no truth about a person. "
            "Intervals are Wilson's, 95 %. Worst race and gap: among races with at least "
            f"{LEAST} faces. ECE: how far confidence and accuracy are apart, on average.",
            tables=[figures_table(result, name), certainty_table(result)],
        ),
    ]
    if differences is not None:
        text = "On the same faces; a difference whose interval holds 0 is no difference."
        sections.append(html.Section(heading="Side by side", text=text, tables=[differences]))
    drawn: dict[str, bytes] = {}
    for attribute, head in result.heads.items():
        plots = _plots(result, attribute)
        drawn |= {title: png for title, (_, png) in plots.items()}
        tables = [*(groups_table(head, axis, attribute) for axis in result.heads), confusion_table(head, attribute)]
        sections.append(html.Section(heading=attribute.capitalize(), tables=tables, plots=list(plots.values())))
    sections.append(
        html.Section(
            heading="Race, gender and age together",
            text="Accuracy, with its 95 % interval. Most groups are small: read the intervals.",
            tables=[cells_table(result)],
        )
    )
    report.save(
        folder,
        title=f"Whom the classifier fails: {name}",
        about=about,
        sections=sections,
        pictures=drawn,
        numbers=to_dict(result),
        terms="FairFace: Karkkainen and Joo, WACV 2021, CC BY 4.0." if name == "FairFace" else "",
    )


def _plots(result: Result, attribute: str) -> dict[str, tuple[str, bytes]]:
    """The plots of one attribute by the names of their files: what each shows, in words, and its PNG."""
    from nnface.report import plots

    head = result.heads[attribute]
    drawn: dict[str, tuple[str, bytes]] = {}
    for axis in result.heads:
        known = {_two_lines(group): share for group, share in head.groups[axis].items() if share.count}
        bars = plots.bars(
            {group: 100 * share.value for group, share in known.items()},
            title=f"Accuracy of {attribute} by {axis}, {result.faces:,} faces",
            x=axis,
            y="accuracy, per cent",
            intervals={group: (100 * s.interval[0], 100 * s.interval[1]) for group, s in known.items()},
            y_range=(0, 105),
        )
        drawn[f"{attribute}_by_{axis}"] = f"Accuracy of {attribute} for each {axis}", bars
    confusion = plots.matrix(
        head.confusion,
        head.labels,
        title=f"{attribute}: share of each label's faces by answer",
        x="answer",
        y="label",
    )
    drawn[f"{attribute}_confusion"] = f"Confusion matrix of {attribute}", confusion
    told = head.calibration[head.calibration[:, 2] > 0]
    calibration = plots.lines(
        {
            f"{attribute}, ECE {percent(head.calibration_error)}": (told[:, 0], told[:, 1]),
            "perfect": ([0, 1], [0, 1]),
        },
        title=f"Calibration of {attribute}, {result.faces:,} faces",
        x="confidence",
        y="accuracy",
        x_range=(0, 1),
        y_range=(0, 1.02),
    )
    drawn[f"{attribute}_calibration"] = f"Accuracy of {attribute} against confidence", calibration
    return drawn


def _two_lines(label: str) -> str:
    return label.replace("_", " ").replace(" ", "\n", 1)


def _share(share: Share) -> dict[str, Any]:
    low, high = share.interval
    return {"value": json_number(share.value), "count": share.count, "interval": [json_number(low), json_number(high)]}
