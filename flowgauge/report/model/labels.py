# SPDX-License-Identifier: Apache-2.0
"""The order, labels and colours of rows, the same in every table and chart."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowgauge.report.model.formats import number, quantity
from flowgauge.results.rows import Group, Outcome, Row, Unit
from flowgauge.runners.table import RUNNERS, BaselineKind

NO_RUNNER = "no runner"
PLAIN_SHAPE = "trivial"
"""The shape shown first of those that the minimum effective task granularity (METG) was measured
for: tasks without edges."""

BASELINES = tuple(kind.value for kind in BaselineKind)
_FEATURES = (
    "flow",
    "task-call",
    "submit",
    "map",
    "subflow",
    "retry",
    "cache-miss",
    "cache-hit",
    "persisted-result",
)
_TITLES: dict[str, str] = {
    Group.METG: "How long tasks must be",
    Group.FEATURES: "What each feature costs",
    Group.PATTERNS: "What each pattern costs",
    Group.SCALING: "What more tasks, workers and bytes cost",
    Group.WORKFLOWS: "Real workflows",
    Group.LEAN: "What the lean task runners cost",
    Group.PREDICTION: "What was predicted",
    Group.STARTUP: "What is slow to start",
    Group.DEPLOYMENTS: "What a deployment costs",
    Group.LOAD: "What one server takes",
    Group.LIMITS: "What limits large runs",
    Group.HARNESS: "What a pytest run costs",
    Group.NOISE: "The same thing compared with itself",
}
# For names that are not in the table of task runners.
_SPARE_COLOURS = ("#8C8C8C", "#A6761D", "#5A5A5A")


@dataclass(frozen=True)
class RowsOfGroup:
    """The rows of one group.

    Attributes:
        name: The name in the results.
        title: The heading to show.
        rows: The rows, in the order to show.
    """

    name: str
    title: str
    rows: tuple[Row, ...]


def groups(rows: Iterable[Row]) -> tuple[RowsOfGroup, ...]:
    """Sort rows into groups: the known ones first, unknown ones under their own name."""
    by_group: dict[str, list[Row]] = {}
    for row in rows:
        by_group.setdefault(row.group, []).append(row)
    names: list[str] = [name for name in Group if name in by_group]
    names += [name for name in by_group if name not in names]
    return tuple(
        RowsOfGroup(name, _TITLES.get(name, name), in_order(by_group[name])) for name in names
    )


def in_order(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Sort rows by id, known features first, then by runner; unknown ids keep their order."""
    rows = list(rows)
    ids = _listed((row.id for row in rows), _FEATURES)
    names = runners(rows)
    return tuple(sorted(rows, key=lambda row: (ids.index(row.id), names.index(runner_name(row)))))


def runners(rows: Iterable[Row]) -> tuple[str, ...]:
    """Return the runners of rows: known ones first, then others, "no runner" last."""
    names = _listed((runner_name(row) for row in rows), (*RUNNERS, *BASELINES))
    return tuple(sorted(names, key=NO_RUNNER.__eq__))


def runner_name(row: Row) -> str:
    """Return the name to show for a row's runner."""
    return row.runner or NO_RUNNER


def colours(names: Sequence[str]) -> tuple[str, ...]:
    """Return a colour for each runner, always the same one for a known runner."""
    spare = iter(_SPARE_COLOURS * len(names))
    known = {name: runner.colour for name, runner in RUNNERS.items() if runner.colour}
    return tuple(known.get(name) or next(spare) for name in names)


def labels(rows: Sequence[Row]) -> tuple[str, ...]:
    """Label each row with its id, and with its parameters if other rows have the same id.

    Args:
        rows: The rows that are shown together.

    Returns:
        One label for each row; that of a figure that was not measured says so.
    """
    times = Counter((row.id, row.runner) for row in rows)
    ambiguous = {id for (id, _), count in times.items() if count > 1}
    figures = Counter(id for id, _ in {(row.id, row.figure) for row in rows})
    distinguishing = {
        id: _distinguishing([row for row in rows if row.id == id]) for id in ambiguous
    }
    return tuple(
        " · ".join(filter(None, _label(row, figures, distinguishing.get(row.id)))) for row in rows
    )


def _label(
    row: Row, figures: Mapping[str, int], distinguishing: Sequence[str] | None
) -> Iterator[str]:
    """Yield the parts of a row's label; None distinguishes nothing."""
    yield row.id
    if distinguishing is not None:
        yield row.figure * (figures[row.id] > 1)
        yield _params_text({n: row.params[n] for n in distinguishing if n in row.params})
    if row.is_computed:
        yield "computed"


def _distinguishing(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the parameters that distinguish rows of one id.

    The number of tasks is left out if it follows from the other parameters.
    """
    names = dict.fromkeys(name for row in rows for name in row.params)
    differing = [n for n in names if len({json.dumps(row.params.get(n)) for row in rows}) > 1]
    others = tuple(name for name in differing if name != "tasks")

    def combinations(names: Sequence[str]) -> int:
        return len({json.dumps([row.params.get(name) for name in names]) for row in rows})

    return others if combinations(others) == combinations(differing) else tuple(differing)


def is_baseline(row: Row) -> bool:
    """Return whether a row measures a baseline (a bare executor, without Prefect)."""
    return row.runner in BASELINES


def kernels(rows: Iterable[Row]) -> tuple[str, ...]:
    """Return the kinds of work that rows were measured for, each once."""
    return tuple(dict.fromkeys(name for row in rows if (name := kernel_name(row))))


def kernel_name(row: Row) -> str:
    """Return the kind of work of a row; empty if it has none."""
    return str(row.params.get("kernel") or "")


def is_point(row: Row) -> bool:
    """Return whether a row is one point of a curve, which means little by itself."""
    return row.group == Group.METG and row.id == "curve"


def figure_text(row: Row) -> str:
    """Return a row's figure as text, or the outcome of the search if nothing was found."""
    if row.outcome is Outcome.NEVER:
        return f"never, ceiling {number(row.value.median)}"
    if row.outcome is Outcome.BEYOND:
        longest = "" if row.tried is None else f" at {quantity(row.tried, Unit.SECONDS)}"
        return f"longer than tried ({quantity(row.value.median, Unit.BUSY)} busy{longest})"
    return quantity(row.value.median, row.unit)


def interval_text(row: Row) -> str:
    """Return the interval of a row's figure as text, and how wide it is if that is too wide."""
    if row.outcome is not Outcome.FOUND:
        return figure_text(row)
    low, high = (quantity(end, row.unit) for end in (row.value.low, row.value.high))
    if row.is_precise or row.is_computed:
        return f"{low} – {high}"
    return f"{low} – {high}, ± {row.value.half_width:.0%}" if row.rounds > 1 else "one round"


def params_text(row: Row) -> str:
    """Return a row's parameters as text, for example "tasks=100, depth=2"."""
    return _params_text(row.params)


def _params_text(params: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in params.items()
    )


def _listed(names: Iterable[str], known: Sequence[str]) -> list[str]:
    """Return each name once: known ones in their order, then others in the original order."""
    unique = list(dict.fromkeys(names))
    return [name for name in known if name in unique] + [n for n in unique if n not in known]
