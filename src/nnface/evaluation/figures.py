"""Figures as JSON: what ``--json`` of ``nnface evaluate`` and ``nnface score`` writes, and what reports keep."""

import json
from collections.abc import Mapping, Sequence
from typing import Any


def json_number(value: float) -> float | None:
    """A figure as a JSON value: what cannot be told, NaN, is null."""
    return None if value != value else float(value)


def figures_json(
    figures: Mapping[str, float], differences: Mapping[str, Sequence[float]] | None = None, other: str = ""
) -> str:
    """One line of JSON: ``{"easy": 0.0-1.0, ...}``.

    Args:
        figures: by name.
        differences: from ``other``, where two were compared: of each figure by how much it is better, and the bounds of
            the 95 % interval. They stand under ``better_than``, by the name of the other.
        other: what the figures were compared with.
    """
    content: dict[str, Any] = {name: json_number(value) for name, value in figures.items()}
    if differences is not None:
        rows = {name: [json_number(value) for value in values] for name, values in differences.items()}
        content["better_than"] = {other: rows}
    return json.dumps(content) + "\n"
