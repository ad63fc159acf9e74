# SPDX-License-Identifier: Apache-2.0
"""The whole content of a report, computed once for all renderers."""

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
        name: The name of the group in the results.
        title: The heading to show.
        matrix: The short table: figures by task runner.
        lines: The full table.
    """

    name: str
    title: str
    matrix: Pivot
    lines: tuple[TableRow, ...]


@dataclass(frozen=True)
class Report:
    """The content of a report on a benchmark run, as words and tables.

    Attributes:
        results: The figures.
        headline: The main findings as sentences, the most important one first.
        warnings: Reasons to doubt the figures, a sentence each.
        machine: The machine in one line.
        details: Pairs of a name and a value: the machine, the versions, the command.
        questions: All questions, each with the rows that answer it.
        sections: The tables, a section for each group that was measured.
        runners: The task runners of the rows, in the order to show.
        kernels: The kinds of work of the rows.
        commands: The command that measures a group again, by the group's name.
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
    """Compute the content of a report on a benchmark run.

    Args:
        results: The figures.

    Returns:
        The report, for any number of renderers.
    """
    rows, fingerprint = results.rows, results.fingerprint
    bands = noise_bands(rows)
    measured = groups(rows)
    return Report(
        results=results,
        headline=headline(rows, bands),
        warnings=warnings(results),
        machine=machine(fingerprint),
        details=details(fingerprint),
        questions=questions(rows),
        sections=tuple(
            Section(
                group.name, group.title, pivot(group.rows, bands), table_rows(group.rows, bands)
            )
            for group in measured
        ),
        runners=runners(rows),
        kernels=kernels(rows),
        commands={group.name: command(fingerprint, group.name) for group in measured},
        glossary=glossary(bands),
    )
