"""Self-contained HTML pages: one file with its pictures inside, that opens without a network.

Every text is escaped by jinja2: names of files and pictures are other people's words.
"""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from nnface.errors import DependencyError
from nnface.report.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of a page: text, then tables, then plots."""

    heading: str
    text: str = ""
    tables: Sequence[Table] = ()
    plots: Sequence[tuple[str, bytes]] = ()
    """What the plot shows in words, for those who cannot see it, and its PNG."""


def page(title: str, sections: Sequence[Section], footer: str = "") -> str:
    """A whole HTML page.

    Raises:
        DependencyError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise DependencyError("HTML pages need jinja2: pip install 'nnface[eval]'") from error
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["base64"] = lambda data: b64encode(data).decode()
    template = files("nnface.report").joinpath("templates/page.html").read_text("utf-8")
    return environment.from_string(template).render(title=title, sections=sections, footer=footer)
