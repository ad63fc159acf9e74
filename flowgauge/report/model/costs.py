# SPDX-License-Identifier: Apache-2.0
"""The costs of a pattern: the rows that its header names, with the figures of a run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowgauge.results.rows import Row

_NAMED = re.compile(r"\b[Rr]ows? ((?:`[^`]+`(?:, | and )?)+)")
NOT_MEASURED = "not measured yet"


def named_rows(costs: str) -> tuple[str, ...]:
    """Return the rows that a "Costs" section names, in its order."""
    rows = (row for part in _NAMED.findall(costs) for row in part.split("`")[1::2])
    return tuple(dict.fromkeys(rows))


def figures(costs: str, rows: Iterable[Row]) -> Iterator[str]:
    """Return the figures that belong to a "Costs" section.

    Args:
        costs: The section.
        rows: The rows of a run.

    Yields:
        A line for each named row, and within it for each figure measured under that name.
    """
    from flowgauge.report.model.labels import figure_text

    measured = [row for row in rows if row.reference != "itself"]
    for name in named_rows(costs):
        values_by_figure: dict[str, list[str]] = {}
        for row in measured:
            if row.id == name:
                params = ", ".join(f"{key} {value}" for key, value in row.params.items())
                figure = f"{row.figure} ({params})" if params else row.figure
                runner = f"{row.runner} " if row.runner else ""
                values_by_figure.setdefault(figure, []).append(runner + figure_text(row))
        for figure, values in values_by_figure.items():
            yield f"{name}: {figure}: {', '.join(values)}"
        if not values_by_figure:
            yield f"{name}: {NOT_MEASURED}"
