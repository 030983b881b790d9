"""A report as a folder: one page for people, its pictures one by one, and the numbers in JSON for machines."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnface.files import make_folder, write_atomic
from nnface.report.html import Section, page
from nnface.report.table import Table
from nnface.version import __version__


def save(
    folder: str | Path,
    *,
    title: str,
    about: Mapping[str, str],
    sections: Sequence[Section],
    pictures: Mapping[str, bytes],
    numbers: Mapping[str, Any],
    terms: str = "",
) -> None:
    """Write ``report.json``, ``report.html`` and a PNG for each picture into a folder, which is made.

    Args:
        folder: where to.
        title: of the page.
        about: what was measured, in words: the page's first section.
        sections: those that follow it.
        pictures: PNGs by the name of their file, without its suffix.
        numbers: what goes into the JSON, beside the version; None stands for what cannot be told.
        terms: of the data, for the page's foot.

    Raises:
        DependencyError: jinja2 is not installed (the extra ``[eval]``).
        NnfaceError: the folder cannot be made or written.
    """
    folder = Path(folder)
    make_folder(folder)
    first = Section(heading="What was measured", tables=[Table("", ["", ""], [[k, v] for k, v in about.items()])])
    content = {**about, "nnface": __version__, **numbers}
    write_atomic(folder / "report.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    for name, png in pictures.items():
        write_atomic(folder / f"{name}.png", png)
    footer = f"Made by nnface {__version__}. {terms}".strip()
    write_atomic(folder / "report.html", page(title, [first, *sections], footer))
