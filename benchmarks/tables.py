"""Write the tables of README.md, docs/*.md and the model cards from the files of results/.

    python benchmarks/tables.py            # rewrites what stands between the markers
    python benchmarks/tables.py --check    # exit 1 where a table differs from its data

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; :data:`TABLES` says which file it comes from.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnface.files import write_atomic
from nnface.metrics.parsing import RARE
from nnface.report.table import Table
from nnface.spec import CELEBAMASK_LABELS

ROOT = Path(__file__).resolve().parents[1]
MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

Cell = Callable[[dict[str, Any]], str]


def figure(key: str) -> Cell:
    """A figure in per cent, with its interval where the row has one."""

    def cell(row: dict[str, Any]) -> str:
        bounds = row.get("intervals", {}).get(key)
        return f"{row[key]:.1f}" + (f" ({bounds[0]:.0f} to {bounds[1]:.0f})" if bounds else "")

    return cell


def height(name: str) -> Cell:
    """Average precision of a range of face heights."""
    return lambda row: "-" if row["heights"].get(name) is None else f"{row['heights'][name]:.1f}"


def text(key: str) -> Cell:
    """A value as it is."""
    return lambda row: str(row[key])


@dataclass(frozen=True)
class Source:
    """Where a table comes from: a file of results/ with ``rows``, and a cell of each row for every column."""

    file: str
    columns: dict[str, Cell]
    order: Callable[[dict[str, Any]], Any] | None = None
    part: str = "rows"
    """The list of the file that is shown."""
    only: str | None = None
    """Only the rows of this detector or model."""


FIGURES: dict[str, Cell] = {
    "protocol": text("protocol"),
    "easy": figure("easy"),
    "medium": figure("medium"),
    "hard": figure("hard"),
}
HEIGHTS: dict[str, Cell] = {
    name: height(name) for name in ("under 16", "16 to 32", "32 to 64", "64 to 128", "128 and more")
}


def share(part: str, key: str) -> Cell:
    """A share of a part of the row in per cent, with its interval."""

    def cell(row: dict[str, Any]) -> str:
        low, high = row[part][key]["interval"]
        return f"{100 * row[part][key]['value']:.1f} ({100 * low:.1f} to {100 * high:.1f})"

    return cell


def plain(part: str, key: str) -> Cell:
    """A share in per cent, without an interval."""
    return lambda row: f"{100 * row[part][key]:.1f}" if key in row[part] else "-"


ATTRIBUTES: dict[str, Cell] = {
    **{head: share("accuracy", head) for head in ("race", "gender", "age")},
    "age within 1": plain("figures", "age_within_1"),
    "worst race": plain("figures", "race_worst_race"),
}
CROPS: dict[str, Cell] = {
    **{f"{head}, found and aligned": share("in_scenes_aligned", head) for head in ("race", "gender", "age")},
    "race, by box": share("in_scenes_by_box", "race"),
    "not found": text("not_found"),
    "race stays": plain("stable", "race"),
    "gender stays": plain("stable", "gender"),
    "age stays": plain("stable", "age"),
}

PORTRAITS: dict[str, Cell] = {
    "mean F1, 14 parts": figure("frequent_f1"),
    "mean F1, 18 parts": figure("mean_f1"),
    "mean IoU": figure("mean_iou"),
    "boundary F1": figure("boundary_f1"),
}


def rung(key: str) -> Cell:
    """A figure of a ladder's step, with its difference from the step before and the paired interval of that."""

    def cell(row: dict[str, Any]) -> str:
        if key not in row["figures"]:
            return "-"
        gain, low, high = row["differences"].get(key, (None, None, None))
        shown = f"{row['figures'][key]:.1f}"
        return shown if gain is None else f"{shown} ({gain:+.1f}; {low:+.1f} to {high:+.1f})"

    return cell


LADDERS: dict[str, dict[str, str]] = {
    "detect": {"easy": "easy", "medium": "medium", "hard": "hard"},
    "attributes": {"race": "race", "gender": "gender", "age": "age", "worst race": "worst race"},
    "parse": {"mean F1, 14 parts": "frequent_f1", "mean F1, 18 parts": "mean_f1"},
}
"""For each task the columns of its ladder and the figures in them."""

PARTS: dict[str, Cell] = {name: figure(f"f1/{name}") for name in CELEBAMASK_LABELS[1:]}

TABLES = {
    **{
        f"ladder-{task}": Source(
            f"ladder-{task}.json",
            {
                "step": text("step"),
                **{column: rung(key) for column, key in columns.items()},
                "CPU-hours": text("cpu_hours"),
                "command": lambda row: f"`{row['command']}`",
            },
        )
        for task, columns in LADDERS.items()
    },
    **{
        f"{prefix}-{suffix}": Source("celebamask-holdout.json", {**first, **columns}, only=only)
        for prefix, first, only in (("card-parser", {}, "parser"), ("celebamask", {"model": text("model")}, None))
        for suffix, columns in (
            ("holdout", PORTRAITS),
            ("rare", {k: v for k, v in PARTS.items() if k in RARE}),
            ("parts", {k: v for k, v in PARTS.items() if k not in RARE}),
        )
    },
    "celebamask-speed": Source(
        "celebamask-holdout.json",
        {
            "network": text("model"),
            "input": text("input"),
            "faces a second": lambda row: f"{row['faces_per_second']:.1f}",
            "portrait to labels at 512": lambda row: (
                f"{row['whole_per_second']:.1f}" if "whole_per_second" in row else "-"
            ),
            "threads": text("threads"),
        },
        part="speed",
    ),
    "card-attributes": Source("fairface-holdout.json", ATTRIBUTES, only="attributes"),
    "card-attributes-crops": Source("fairface-holdout.json", CROPS, only="attributes"),
    "fairface-holdout": Source("fairface-holdout.json", {"model": text("model"), **ATTRIBUTES}),
    "fairface-holdout-crops": Source("fairface-holdout.json", {"model": text("model"), **CROPS}),
    "fairface-speed": Source(
        "fairface-holdout.json",
        {
            "model": text("model"),
            "faces a second": lambda row: f"{row['faces_per_second']:.0f}",
            "threads": text("threads"),
        },
        part="speed",
    ),
    **{
        f"card-{name}": Source("widerface-holdout.json", {**FIGURES, **HEIGHTS}, only=f"nnface {name}")
        for name in ("default", "fast", "accurate")
    },
    "widerface-holdout": Source(
        "widerface-holdout.json",
        {
            "detector": text("detector"),
            **FIGURES,
            "CPU ms a picture": text("cpu_ms"),
        },
        order=lambda row: -row["hard"],
    ),
    "animals": Source(
        "animals.json",
        {
            "detector": text("detector"),
            "reports from": lambda row: f"{row['score']:.2f}",
            "pictures with a false face, %": figure("taken"),
        },
        order=lambda row: row["taken"],
    ),
    "widerface-imports": Source(
        "widerface-imports.json", {"detector": text("detector"), **FIGURES, "CPU ms a picture": text("cpu_ms")}
    ),
    "widerface-holdout-heights": Source(
        "widerface-holdout.json",
        {
            "detector": text("detector"),
            "protocol": text("protocol"),
            **HEIGHTS,
        },
        order=lambda row: -row["hard"],
    ),
}


def render(name: str, results: Path) -> str:
    """A table in Markdown; without rows while there is no result yet."""
    source = TABLES[name]
    file = results / source.file
    rows = json.loads(file.read_text("utf-8"))[source.part] if file.is_file() else []
    if source.only is not None:
        rows = [row for row in rows if row.get("detector", row.get("model")) == source.only]
    if source.order is not None:
        rows = sorted(rows, key=source.order)
    cells = [[cell(row) for cell in source.columns.values()] for row in rows]
    return Table(name, list(source.columns), cells).markdown()


def fill(document: str, results: Path) -> str:
    """The document with every marked table made anew; KeyError for a name that TABLES lacks."""
    return MARKED.sub(lambda m: f"{m[1]}{render(m[2], results)}\n{m[3]}", document)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 where a table is stale")
    options = parser.parse_args()
    stale = []
    cards = sorted((ROOT / "src" / "nnface" / "zoo" / "weights").glob("*.md"))
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *cards]:
        old = path.read_text("utf-8")
        new = fill(old, ROOT / "results")
        if new != old:
            stale.append(path)
            if not options.check:
                write_atomic(path, new)
    for path in stale:
        print(f"{'stale' if options.check else 'written'}: {path.relative_to(ROOT)}")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
