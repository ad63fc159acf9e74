# SPDX-License-Identifier: Apache-2.0
"""What a pattern costs: the rows that its header names, with the figures of a run."""

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
    """Write the figures that belong to a "Costs" section.

    Args:
        costs: The section.
        rows: What a run measured.

    Yields:
        A line for each row that is named, and for each thing that was measured under its name.
    """
    from flowgauge.report.model.labels import figure_text

    measured = [row for row in rows if row.reference != "itself"]
    for name in named_rows(costs):
        told: dict[str, list[str]] = {}
        for row in measured:
            if row.id == name:
                params = ", ".join(f"{key} {value}" for key, value in row.params.items())
                figure = f"{row.figure} ({params})" if params else row.figure
                runner = f"{row.runner} " if row.runner else ""
                told.setdefault(figure, []).append(runner + figure_text(row))
        for figure, values in told.items():
            yield f"{name}: {figure}: {', '.join(values)}"
        if not told:
            yield f"{name}: {NOT_MEASURED}"
