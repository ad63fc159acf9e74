# SPDX-License-Identifier: Apache-2.0
"""The report as one HTML file that needs nothing else, no network least of all."""

from __future__ import annotations

import re
from collections.abc import Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from flowgauge.report.charts.charts import Spec, bundle
from flowgauge.report.model.commands import command
from flowgauge.report.model.glossary import COMMAND, NOT_MEASURED, how_to_read
from flowgauge.report.model.headline import details, headline, machine
from flowgauge.report.model.labels import groups, kernels, runners
from flowgauge.report.model.questions import questions
from flowgauge.report.model.tables import COLUMNS, lines, matrix
from flowgauge.report.model.verdicts import noise_bands, warnings
from flowgauge.results.rows import Results


def page(
    results: Results, specs: Mapping[str, Spec], gantts: Mapping[str, str] | None = None
) -> str:
    """Write the page.

    Args:
        results: The figures.
        specs: A chart for each question that the run answers, by the question's key.
        gantts: Gantt charts as SVG, by their names.

    Returns:
        A whole HTML document.
    """
    environment = Environment(
        loader=PackageLoader("flowgauge.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["with_code"] = with_code
    bands = noise_bands(results.rows)
    return environment.get_template("page.html").render(
        headline=headline(results),
        machine=machine(results.fingerprint),
        warnings=warnings(results),
        details=details(results.fingerprint),
        questions=questions(results.rows),
        specs=specs,
        gantts=gantts or {},
        not_measured=NOT_MEASURED,
        columns=COLUMNS,
        runners=runners(results.rows),
        kernels=kernels(results.rows),
        again=lambda group: command(results.fingerprint, group),
        tables=[
            (group, matrix(group.rows, bands), lines(group.rows, bands))
            for group in groups(results.rows)
        ],
        reading=how_to_read(results),
        command=COMMAND,
        bundle=bundle() if specs else "",
    )


def with_code(text: str) -> Markup:
    """Write a sentence with what stands in backticks as code; the sentence itself is no markup."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
