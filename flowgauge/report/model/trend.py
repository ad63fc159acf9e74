# SPDX-License-Identifier: Apache-2.0
"""The trend of rows over several versions of Prefect, as lines for a table and charts."""

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
    """One row in one version.

    Attributes:
        row: The row; None if that version does not have it.
        change: The change since the first version; None for the first one, and if there is no row.
    """

    row: Row | None
    change: Change | None

    @property
    def text(self) -> str:
        """The figure, and its ratio to that of the first version; empty without a row."""
        if self.row is None:
            return ""
        parts = [figure_text(self.row)]
        if self.change and self.change.ratio is not None:
            parts.append(ratio(self.change.ratio.median))
        if self.verdict:
            parts.append(self.verdict)
        return " ".join(parts)

    @property
    def verdict(self) -> str:
        """Whether it is "slower" or "faster" than in the first version; empty if neither."""
        verdict = self.change.verdict if self.change else ""
        return verdict if verdict in ("slower", "faster") else ""


@dataclass(frozen=True)
class TrendLine:
    """One row through all versions.

    Attributes:
        group: The name of the row's group in the results.
        label: What was measured.
        runner: The task runner, or "no runner".
        points: A point for each version, in their order.
    """

    group: str
    label: str
    runner: str
    points: tuple[TrendPoint, ...]


def trend(runs: Mapping[str, Results]) -> tuple[TrendLine, ...]:
    """Trace each row through the versions.

    Args:
        runs: The figures of each version; the others are compared with the first.

    Returns:
        A line for each row that any of them has, in the order of the report; noise and the points
        of curves are left out.
    """
    first, *later = runs.values()
    changes = [
        {_key(change.new): change for change in compare(first, run).changes} for run in later
    ]
    rows = [{_key(row): row for row in run.rows if not _left_out(row)} for run in runs.values()]
    all_rows = {key: row for by_key in reversed(rows) for key, row in by_key.items()}
    return tuple(
        TrendLine(
            group=row.group,
            label=" ".join(filter(None, (row.id, params_text(row)))),
            runner=runner_name(row),
            points=tuple(
                TrendPoint(by_key.get(_key(row)), changes_by_key.get(_key(row)))
                for by_key, changes_by_key in zip(rows, [{}, *changes], strict=True)
            ),
        )
        for group in groups(all_rows.values())
        for row in group.rows
    )


def titles(runs: Iterable[tuple[str, Results]]) -> tuple[str, ...]:
    """Return the Prefect version of each run: the recorded one, or else the requested one."""
    names = []
    for requested, results in runs:
        versions = results.fingerprint.get("versions")
        installed = versions.get("prefect") if isinstance(versions, Mapping) else None
        names.append(str(installed or requested))
    return tuple(names)


def _key(row: Row) -> _Key:
    return row.key


def _left_out(row: Row) -> bool:
    return row.group == Group.NOISE or is_point(row)
