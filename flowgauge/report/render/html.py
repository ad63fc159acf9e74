# SPDX-License-Identifier: Apache-2.0
"""The report as a single HTML file without external resources."""

from __future__ import annotations

from collections.abc import Mapping

from flowgauge.report.charts.charts import bundle
from flowgauge.report.charts.drawings import Drawing
from flowgauge.report.model.glossary import COMMAND, NOT_MEASURED
from flowgauge.report.model.report import Report
from flowgauge.report.model.tables import COLUMNS
from flowgauge.report.render.templates import fill_in


def page(report: Report, drawings: Mapping[str, Drawing]) -> str:
    """Render the page.

    Args:
        report: The report.
        drawings: The drawing for each question that the run answers, by the question's key.

    Returns:
        A complete HTML document.
    """
    return fill_in(
        "page.html",
        report=report,
        drawings=drawings,
        specs={key: drawing.chart for key, drawing in drawings.items()},
        not_measured=NOT_MEASURED,
        columns=COLUMNS,
        command=COMMAND,
        bundle=bundle() if drawings else "",
    )
