# SPDX-License-Identifier: Apache-2.0
"""What rows cost from one version to the next: lines that a table and charts show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flowgauge.report.model.comparison import Change, compare
from flowgauge.report.model.formats import ratio
from flowgauge.report.model.labels import figure_text, groups, is_point, params_text, runner_name
from flowgauge.results.rows import Group, Results, Row

_Key = tuple[str, str, str | None, str, str]


@dataclass(frozen=True)
class TrendPoint:
    """One row as one version has it.

    Attributes:
        row: The row; None if that version has none.
        change: What changed since the first version; None for that one, and where it has no row.
    """

    row: Row | None
    change: Change | None

    @property
    def text(self) -> str:
        """The figure, and how many times the first version's it is; empty without a row."""
        if self.row is None:
            return ""
        shown = [figure_text(self.row)]
        if self.change and self.change.ratio is not None:
            shown.append(ratio(self.change.ratio.median))
        if self.verdict:
            shown.append(self.verdict)
        return " ".join(shown)

    @property
    def verdict(self) -> str:
        """Whether it is "slower" or "faster" than in the first version; empty if neither."""
        told = self.change.verdict if self.change else ""
        return told if told in ("slower", "faster") else ""


@dataclass(frozen=True)
class TrendLine:
    """One row through all versions.

    Attributes:
        group: The row's group, as the results call it.
        label: What was measured.
        runner: The task runner, or "no runner".
        points: One for each version, in their order.
    """

    group: str
    label: str
    runner: str
    points: tuple[TrendPoint, ...]


def trend(runs: Mapping[str, Results]) -> tuple[TrendLine, ...]:
    """Follow each row through the versions.

    Args:
        runs: The figures of each version; the first is what the others are compared with.

    Returns:
        A line for each row that any of them has, in the order of the report; noise and the points
        of curves are left out.
    """
    first, *later = runs.values()
    changes = [{_key(each.new): each for each in compare(first, run).changes} for run in later]
    rows = [{_key(row): row for row in run.rows if not _left_out(row)} for run in runs.values()]
    shown = {key: row for found in reversed(rows) for key, row in found.items()}
    return tuple(
        TrendLine(
            group=row.group,
            label=" ".join(filter(None, (row.id, params_text(row)))),
            runner=runner_name(row),
            points=tuple(
                TrendPoint(found.get(_key(row)), changed.get(_key(row)))
                for found, changed in zip(rows, [{}, *changes], strict=True)
            ),
        )
        for group in groups(shown.values())
        for row in group.rows
    )


def titles(runs: Iterable[tuple[str, Results]]) -> tuple[str, ...]:
    """Name each run by the version of Prefect that it says it ran under, else as it was asked."""
    found = []
    for asked, results in runs:
        versions = results.fingerprint.get("versions")
        installed = versions.get("prefect") if isinstance(versions, Mapping) else None
        found.append(str(installed or asked))
    return tuple(found)


def _key(row: Row) -> _Key:
    return row.key


def _left_out(row: Row) -> bool:
    return row.group == Group.NOISE or is_point(row)
