"""Tables, plots and pages; and the tables of the documents against the data they come from."""

import importlib.util
import json
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

from nnface.evaluation import widerface
from nnface.metrics import wider
from nnface.report import html, plots
from nnface.report.table import Table, percent, percent_interval

ROOT = Path(__file__).resolve().parents[1]
HOSTILE = "0--Parade/<script>alert('x')</script>&\"[red]$1_$|"


class Elements(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_hostile_names_stay_text_in_html():
    page = html.page(
        HOSTILE,
        [
            html.Section(
                heading=HOSTILE,
                text=HOSTILE,
                tables=[Table(HOSTILE, [HOSTILE], [[HOSTILE]])],
                plots=[(HOSTILE, b"png")],
            )
        ],
        HOSTILE,
    )
    elements = Elements(page)
    assert "script" not in {tag for tag, _ in elements.tags}
    assert elements.text.count(HOSTILE) == 8  # title twice, heading, text, caption, column, cell, footer
    image = next(attributes for tag, attributes in elements.tags if tag == "img")
    assert image == {"alt": HOSTILE, "src": "data:image/png;base64,cG5n"}


def test_hostile_names_stay_text_in_a_saved_report(tmp_path):
    truth = wider.by_height({HOSTILE: [[0, 0, 60, 60]]})
    result = widerface.score({HOSTILE: (np.zeros((0, 4)), np.zeros(0))}, truth)
    assert result.missed == {HOSTILE: (1, 1)}
    widerface.save(result, tmp_path / "report", {"model": HOSTILE, "protocol": "<b>vga</b>"})
    elements = Elements((tmp_path / "report/report.html").read_text())
    assert not {"script", "b"} & {tag for tag, _ in elements.tags}
    assert elements.text.count(HOSTILE) == 2
    assert json.loads((tmp_path / "report/report.json").read_text())["model"] == HOSTILE
    for name in ("precision_recall.png", "heights.png"):
        assert cv2.imread(str(tmp_path / "report" / name)).mean() < 255


def test_a_page_needs_nothing_from_outside():
    page = html.page("t", [html.Section(heading="h", plots=[("p", b"x")])])
    addresses = [
        value for _, attributes in Elements(page).tags for key, value in attributes.items() if key in ("src", "href")
    ]
    assert addresses
    assert all(str(address).startswith("data:") for address in addresses)


def test_names_stay_text_on_a_terminal():
    out = StringIO()
    Table("[bold]t", ["[x]", "y"], [["[red]a[/red]", "1"]]).show(Console(file=out, width=80))
    assert all(text in out.getvalue() for text in ("[bold]t", "[x]", "[red]a[/red]"))


def test_markdown_escapes_bars():
    assert Table("t", ["a", "b"], [["x|y", "1"]]).markdown() == "| a | b |\n| --- | --: |\n| x\\|y | 1 |"


@pytest.mark.parametrize(("value", "text"), [(0.8612, "86.1"), (1.0, "100.0"), (0.0, "0.0"), (float("nan"), "-")])
def test_percent(value, text):
    assert percent(value) == text


def test_percent_interval():
    assert percent_interval((0.5, 0.75)) == "50.0 to 75.0"
    assert percent_interval((float("nan"), float("nan"))) == "-"


def test_plots_are_pictures_and_show_what_they_are_given():
    one = plots.lines({"_a $x_": ([0, 1], [1, 0.5])}, title="t", x="x", y="y", y_range=(0, 1))
    two = plots.lines(
        {"_a $x_": ([0, 1], [1, 0.5]), "b": ([0, 1], [0.4, 0.1])}, title="t", x="x", y="y", y_range=(0, 1)
    )
    bars = plots.bars({"a": 10.0, "none": float("nan"), "b": 90.0}, title="t", x="x", y="y", intervals={"a": (5, 20)})
    images = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in (one, two, bars)]
    assert all(image.shape[:2] == (572, 832) for image in images)
    # The second line is drawn in the second colour, orange-red (BGR 0, 94, 213), and only there.
    found = [(np.abs(image.astype(int) - (0, 94, 213)).max(2) < 12).sum() for image in images[:2]]
    assert found[0] == 0 < found[1]


# Documents and data


@pytest.fixture(scope="module")
def tables():
    plan = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks/tables.py")
    module = importlib.util.module_from_spec(plan)
    plan.loader.exec_module(module)
    return module


def test_tables_of_the_documents_equal_their_data(tables):
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        text = path.read_text("utf-8")
        assert tables.fill(text, ROOT / "results") == text, f"{path} is stale: run python benchmarks/tables.py"
        assert text.count("<!-- table:") == len(tables.MARKED.findall(text)), f"{path} has a marker that is not closed"


def test_a_stale_table_is_made_anew(tables, tmp_path):
    row = {"detector": "d", "protocol": "vga", "easy": 86.14, "medium": 79.0, "hard": 59.4, "cpu_ms": 15.8}
    row |= {"intervals": {"hard": [50.2, 66.7]}, "heights": {"under 16": None, "16 to 32": 31.25}}
    better = row | {"detector": "e", "hard": 70.0}
    (tmp_path / "widerface-holdout.json").write_text(json.dumps({"rows": [row, better]}))
    document = "before\n<!-- table: widerface-holdout -->\nstale\n<!-- end -->\nafter\n"
    filled = tables.fill(document, tmp_path)
    lines = filled.splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert lines[4].startswith("| e | vga |")
    assert lines[5] == "| d | vga | 86.1 | 79.0 | 59.4 (50 to 67) | 15.8 |"
    assert tables.fill(filled, tmp_path) == filled
    with pytest.raises(KeyError):
        tables.fill(document.replace("widerface-holdout", "unknown"), tmp_path)
