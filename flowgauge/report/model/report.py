# SPDX-License-Identifier: Apache-2.0
"""All that a report says, worked out once for whatever shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flowgauge.report.model.commands import command
from flowgauge.report.model.glossary import glossary
from flowgauge.report.model.headline import details, headline, machine
from flowgauge.report.model.labels import groups, kernels, runners
from flowgauge.report.model.questions import Question, questions
from flowgauge.report.model.tables import Pivot, TableRow, pivot, table_rows
from flowgauge.report.model.verdicts import noise_bands, warnings
from flowgauge.results.rows import Results


@dataclass(frozen=True)
class Section:
    """The rows of one group as tables.

    Attributes:
        name: The group, as the results call it.
        title: For people.
        matrix: What was measured, by task runner.
        lines: Every figure.
    """

    name: str
    title: str
    matrix: Pivot
    lines: tuple[TableRow, ...]


@dataclass(frozen=True)
class Report:
    """What a run found, in words and tables.

    Attributes:
        results: The figures.
        headline: Sentences, the most asked-for answer first.
        warnings: What makes the figures doubtful, a sentence each.
        machine: What it ran on, in a line.
        details: Pairs of a name and a value: the machine, the versions, the command.
        questions: All that are asked, each with the rows that answer it.
        sections: The tables, a section for each group that was measured.
        runners: The task runners that rows have, in the order they are shown.
        kernels: The kinds of work that rows have.
        commands: What measures a group again, by the group's name.
        glossary: Pairs of a term and its meaning.
    """

    results: Results
    headline: tuple[str, ...]
    warnings: tuple[str, ...]
    machine: str
    details: tuple[tuple[str, str], ...]
    questions: tuple[Question, ...]
    sections: tuple[Section, ...]
    runners: tuple[str, ...]
    kernels: tuple[str, ...]
    commands: Mapping[str, str]
    glossary: tuple[tuple[str, str], ...]


def report_on(results: Results) -> Report:
    """Work out what a report on a run says.

    Args:
        results: The figures.

    Returns:
        The report, for any number of renderers.
    """
    rows, fingerprint = results.rows, results.fingerprint
    bands = noise_bands(rows)
    found = groups(rows)
    return Report(
        results=results,
        headline=headline(rows, bands),
        warnings=warnings(results),
        machine=machine(fingerprint),
        details=details(fingerprint),
        questions=questions(rows),
        sections=tuple(
            Section(each.name, each.title, pivot(each.rows, bands), table_rows(each.rows, bands))
            for each in found
        ),
        runners=runners(rows),
        kernels=kernels(rows),
        commands={each.name: command(fingerprint, each.name) for each in found},
        glossary=glossary(bands),
    )
