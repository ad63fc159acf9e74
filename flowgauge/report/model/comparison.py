# SPDX-License-Identifier: Apache-2.0
"""Compares two benchmark runs row by row."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flowgauge.report.model.labels import BASELINES, in_order, is_point
from flowgauge.report.model.verdicts import Bands, band, judged, noise_bands, widest
from flowgauge.results.interval import Interval
from flowgauge.results.rows import Group, Outcome, Results, Row, Unit

ChangeVerdict = Literal["slower", "faster", "no difference seen", "too few rounds"]
_MACHINE = (
    "cpu_model",
    "cores",
    "memory_gib",
    "platform",
    "workers",
    "prefect_server",
    "dask_workers",
)
_VERSIONS = ("python", "versions")
_MORE_IS_BETTER = (
    Unit.RUNS_PER_MINUTE,
    Unit.TASK_RUNS_PER_SECOND,
    Unit.BUSY,
    Unit.EFFICIENCY,
)
_OUTCOMES = tuple(Outcome)
"""The outcomes, the best first."""
_LEAST_ROUNDS = 2
_LEAST = 1e-12
"""Replaces a zero, to avoid dividing by it."""


@dataclass(frozen=True)
class Change:
    """One row in two runs.

    Attributes:
        old: The row of the earlier run.
        new: The row of the later run.
        ratio: New over old, above 1 if it got worse; None if only one of them has a time, because
            the other never reaches the target efficiency.
        verdict: The verdict on the change.
    """

    old: Row
    new: Row
    ratio: Interval | None
    verdict: ChangeVerdict


@dataclass(frozen=True)
class Comparison:
    """The result of comparing two runs.

    Attributes:
        by_ratio: Whether rows are compared by their ratio to their own reference.
        machine_time: The time of references without Prefect relative to the earlier run; None if
            there are none.
        notes: The differences between the machines and the versions, one line each.
        changes: A change for each row that can be compared.
        gone: Rows that only the old run has.
        added: Rows that only the new run has.
        left_out: Rows of both runs without a ratio, if only ratios are compared.
    """

    by_ratio: bool
    machine_time: float | None
    notes: tuple[str, ...]
    changes: tuple[Change, ...]
    gone: tuple[Row, ...]
    added: tuple[Row, ...]
    left_out: tuple[Row, ...]

    def slower_than(self, share: float) -> tuple[Change, ...]:
        """Return the changes whose whole interval is slower by more than a share, such as 0.1."""
        return tuple(
            change
            for change in self.changes
            if change.verdict == "slower" and change.ratio and change.ratio.low > 1 + share
        )


def compare(old: Results, new: Results, *, by_ratio: bool = False) -> Comparison:
    """Compare two runs.

    Args:
        old: The earlier one.
        new: The later one.
        by_ratio: Whether to compare ratios to the rows' references even on the same machine.

    Returns:
        The comparison, without points of curves, because each run chooses its own, and without
        figures that are computed.
    """
    machine = _differences(old.fingerprint, new.fingerprint, _MACHINE)
    notes = (*machine, *_differences(old.fingerprint, new.fingerprint, _VERSIONS))
    before, after = _by_key(old.rows), _by_key(new.rows)
    bands = widest((noise_bands(old.rows), noise_bands(new.rows)))
    both = [(before[key], after[key]) for key in after if key in before]
    by_ratio = by_ratio or bool(machine)
    comparable = [pair for pair in both if not by_ratio or all(map(_is_paired, pair))]
    return Comparison(
        by_ratio=by_ratio,
        machine_time=_machine_time(both),
        notes=notes,
        changes=tuple(_change(*pair, bands, by_ratio=by_ratio) for pair in comparable),
        gone=tuple(row for key, row in before.items() if key not in after),
        added=tuple(row for key, row in after.items() if key not in before),
        left_out=tuple(pair[1] for pair in both if pair not in comparable),
    )


def _by_key(rows: Iterable[Row]) -> dict[tuple[Any, ...], Row]:
    compared = (
        row
        for row in rows
        if row.group != Group.NOISE and not is_point(row) and not row.is_computed
    )
    return {row.key: row for row in in_order(compared)}


def _machine_time(pairs: Iterable[tuple[Row, Row]]) -> float | None:
    """Return the median time of references without Prefect, relative to the earlier run."""
    times = [
        after / before
        for old, new in pairs
        if old.reference in BASELINES
        and (before := _seconds_of_reference(old))
        and (after := _seconds_of_reference(new))
    ]
    return statistics.median(times) if times else None


def _change(old: Row, new: Row, bands: Bands, *, by_ratio: bool) -> Change:
    if old.outcome is not new.outcome:
        worse = _OUTCOMES.index(new.outcome) > _OUTCOMES.index(old.outcome)
        return Change(old, new, None, "slower" if worse else "faster")
    before, after = (row.ratio if by_ratio and row.ratio else row.value for row in (old, new))
    ratio = _quotient(before, after)
    if new.unit in _MORE_IS_BETTER and not by_ratio:
        ratio = Interval(1 / ratio.median, 1 / ratio.high, 1 / ratio.low)
    return Change(old, new, ratio, _verdict(old, new, ratio, bands))


def _seconds_of_reference(row: Row) -> float | None:
    return row.value.median / row.ratio.median if row.ratio and row.ratio.median > 0 else None


def _is_paired(row: Row) -> bool:
    return row.ratio is not None and row.ratio.median > 0


def _quotient(old: Interval, new: Interval) -> Interval:
    """Divide two figures that each have a 95 % interval.

    The runs are independent, so on the log scale the squares of the distances from the middle to
    the ends add up ("square and add": Zou and Donner, Statistics in Medicine 27, 2008).
    """
    a, a_low, a_high, b, b_low, b_high = (
        math.log(max(end, _LEAST))
        for interval in (old, new)
        for end in (interval.median, interval.low, interval.high)
    )
    return Interval(
        math.exp(b - a),
        math.exp(b - a - math.hypot(b - b_low, a_high - a)),
        math.exp(b - a + math.hypot(b_high - b, a - a_low)),
    )


def _verdict(old: Row, new: Row, quotient: Interval, bands: Bands) -> ChangeVerdict:
    if min(old.rounds, new.rounds) < _LEAST_ROUNDS:
        return "too few rounds"
    return judged(quotient, band(new, bands))


def _differences(
    old: Mapping[str, Any], new: Mapping[str, Any], keys: Iterable[str]
) -> tuple[str, ...]:
    """Return a line for each entry, also nested ones, that both have and that differs."""
    lines: list[str] = []
    for key in keys:
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += _differences(before, after, [name for name in before if name in after])
        elif before is not None and after is not None and before != after:
            lines.append(f"{key.replace('_', ' ')}: {before}, now {after}")
    return tuple(lines)
