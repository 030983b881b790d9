"""Tables: one object, for the terminal, for Markdown and for HTML."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under column names; the first column is text, the others are figures set to the right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def show(self, console: Console | None = None) -> None:
        """Print it on a terminal; names in it are shown as they are, never as markup."""
        table = RichTable(title=Text(self.title), title_justify="left")
        for number, column in enumerate(self.columns):
            table.add_column(Text(column), justify="right" if number else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        (console or Console()).print(table)

    def markdown(self) -> str:
        """The table in Markdown, without the title."""
        lines = [list(self.columns), ["---", *("--:" for _ in self.columns[1:])], *self.rows]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def percent(value: float) -> str:
    """A share of 0..1 as a percentage with one decimal; ``-`` for NaN."""
    return "-" if value != value else f"{100 * value:.1f}"


def percent_interval(bounds: tuple[float, float]) -> str:
    """An interval of shares, such as ``80.1 to 91.4``; ``-`` for NaN."""
    return "-" if bounds[0] != bounds[0] else f"{percent(bounds[0])} to {percent(bounds[1])}"
