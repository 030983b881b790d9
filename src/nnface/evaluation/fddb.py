"""The FDDB benchmark: predictions against ellipses, the discrete ROC, a report."""

import json
from collections.abc import Mapping
from pathlib import Path

from nnface.datasets.fddb import Ellipses
from nnface.metrics.fddb import Roc, discrete_roc
from nnface.metrics.wider import Prediction
from nnface.report.table import Table, percent

FALSE_POSITIVES = (100, 500, 1000, 2000)
"""The true-positive rate is read off at these numbers of false positives over the whole set."""


def score(predictions: Mapping[str, Prediction], truth: Mapping[str, Ellipses]) -> Roc:
    """The discrete ROC of predictions for every picture of ``truth``."""
    return discrete_roc([predictions[key] for key in truth], list(truth.values()))


def rates_table(roc: Roc, protocol: str) -> Table:
    """True-positive rates by the number of false positives."""
    rows = [[f"{count:,}", percent(roc.rate_at(count)), protocol] for count in FALSE_POSITIVES]
    return Table(
        f"FDDB, discrete ROC, {roc.faces:,} faces", ["false positives", "true-positive rate", "protocol"], rows
    )


def rates_json(roc: Roc) -> str:
    """``{"discrete@100": 0.0-1.0, ...}``."""
    return json.dumps({f"discrete@{count}": roc.rate_at(count) for count in FALSE_POSITIVES}) + "\n"


def save(roc: Roc, folder: str | Path, about: Mapping[str, str]) -> None:
    """Write ``report.json``, ``roc.png`` and ``report.html`` into a folder, which is made.

    Raises:
        DependencyError: matplotlib or jinja2 is not installed (the extra ``[eval]``).
        NnfaceError: the folder cannot be made or written.
    """
    from nnface.report import folder as report
    from nnface.report import html, plots

    protocol = about.get("protocol", "")
    plot = plots.lines(
        {"discrete": (roc.false_positives, roc.rate)},
        title=f"FDDB, discrete ROC, {protocol}",
        x="false positives over the whole set",
        y="true-positive rate",
        y_range=(0, 1.02),
    )
    sections = [
        html.Section(
            heading="Discrete ROC",
            tables=[rates_table(roc, protocol)],
            plots=[("True-positive rate against the number of false positives", plot)],
        ),
    ]
    curve = {"false_positives": roc.false_positives.tolist(), "true_positive_rate": roc.rate.tolist()}
    report.save(
        folder,
        title="FDDB evaluation",
        about=about,
        sections=sections,
        pictures={"roc": plot},
        numbers={"faces": roc.faces, **json.loads(rates_json(roc)), "curve": curve},
    )
