# SPDX-License-Identifier: Apache-2.0
"""The answers of a run in words, and the machine they hold for in a line."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flowgauge.report.model.formats import ratio, seconds
from flowgauge.report.model.labels import PLAIN_SHAPE, is_baseline
from flowgauge.report.model.questions import adds_to_submit, is_plain_submit
from flowgauge.report.model.verdicts import Bands, verdict
from flowgauge.results.rows import Group, Outcome, Row, Unit


def headline(rows: Sequence[Row], bands: Bands) -> tuple[str, ...]:
    """Say what the run found.

    Args:
        rows: All rows of the run.
        bands: The A/A bands of the run.

    Returns:
        One sentence or more, the most asked-for answer first.
    """
    if not rows:
        return ("Nothing was measured in this run.",)
    found = (
        _half_busy(rows),
        _task_cost(rows),
        _dearest_feature(rows, bands),
        _slowest_start(rows),
        _prediction_error(rows),
    )
    sentences = tuple(sentence for sentence in found if sentence)
    return sentences or (f"Rows measured in this run: {len(rows)}.",)


def machine(fingerprint: Mapping[str, Any]) -> str:
    """Write what a run ran on, in a line.

    Args:
        fingerprint: What a results file says; keys it lacks are left out.

    Returns:
        Parts joined by " · ", empty if there are none.
    """
    return " · ".join(_machine_parts(fingerprint))


def details(fingerprint: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Write every entry of a fingerprint, entries of entries as "versions prefect"."""
    shown: list[tuple[str, str]] = []
    for key, value in fingerprint.items():
        inner = value.items() if isinstance(value, Mapping) else ((None, value),)
        shown += ((key.replace("_", " ") + (f" {k}" if k else ""), _plain(v)) for k, v in inner)
    return tuple(shown)


def noise(bands: Bands) -> str:
    """Say how far the same thing differs from itself, or that it was not measured."""
    if not bands:
        return "Not measured in this run, so only the intervals speak."
    widest = max(max(high - 1, 1 - low) for low, high in bands.values())
    return f"In this run the same thing differed from itself by up to {widest * 100:.1f} %."


def _half_busy(rows: Sequence[Row]) -> str:
    """Say from which task length on each runner keeps half of the machine busy."""
    found = [r for r in rows if r.id == "metg-50" and r.runner and not is_baseline(r)]
    found = [row for row in found if "feature" not in row.params]
    # Tasks without edges, if there are some: whatever was measured first.
    plain = min(found, key=lambda row: row.params.get("shape") != PLAIN_SHAPE, default=None)
    found = [row for row in found if plain and row.params == plain.params]
    of = {outcome: [row for row in found if row.outcome is outcome] for outcome in Outcome}
    reached = sorted(of[Outcome.FOUND], key=lambda row: row.value.median)
    if not found:
        return ""
    kernel = found[0].params.get("kernel")
    said = [", ".join(_cost_on(row) for row in reached)] if reached else []
    for outcome in (Outcome.BEYOND, Outcome.NEVER):
        if names := [str(row.runner) for row in of[outcome]]:
            said.append(f"{outcome} on {' and '.join(names)}")
    return f"Half of the machine works if {kernel} tasks take {'; '.join(said)}."


def _task_cost(rows: Sequence[Row]) -> str:
    costs = sorted((row for row in rows if is_plain_submit(row)), key=lambda row: row.value.median)
    if not costs:
        return ""
    least, most = costs[0], costs[-1]
    if least is most:
        times = f", {ratio(least.ratio.median)} the {least.reference}" if least.ratio else ""
        return f"A task costs {_cost_on(least)}{times}."
    if least.value.high >= most.value.low:
        return f"A task costs {_cost_on(least)} and {_cost_on(most)}: no difference seen."
    many = most.value.median / least.value.median if least.value.median > 0 else None
    times = f": {ratio(many)} as much" if many else ""
    return (
        f"A task costs least{_on(least)}, {seconds(least.value.median)},"
        f" and most{_on(most)}, {seconds(most.value.median)}{times}."
    )


def _dearest_feature(rows: Sequence[Row], bands: Bands) -> str:
    paired = [row for row in rows if adds_to_submit(row)]
    slower = [row for row in paired if verdict(row, bands) == "slower"]
    if not paired:
        return ""
    if not slower:
        return "No feature was seen to add anything to a plain submit."
    dearest = max(slower, key=_times)
    return (
        f"What adds most to a plain submit is {dearest.id}{_on(dearest)}: {ratio(_times(dearest))}."
    )


def _slowest_start(rows: Sequence[Row]) -> str:
    starts = [row for row in rows if row.group == Group.STARTUP and row.unit == Unit.SECONDS]
    if not starts:
        return ""
    slowest = max(starts, key=lambda row: row.value.median)
    cost = seconds(slowest.value.median)
    return f"Slowest to start is {slowest.id}{_on(slowest)}, {cost}, counted apart."


def _prediction_error(rows: Sequence[Row]) -> str:
    errors = [
        abs(row.ratio.median - 1) for row in rows if row.group == Group.PREDICTION and row.ratio
    ]
    if not errors:
        return ""
    return (
        f"Predicted makespans of {len(errors)} workflows were off by"
        f" {statistics.median(errors):.0%} at the median."
    )


def _cost_on(row: Row) -> str:
    return f"{seconds(row.value.median)}{_on(row)}"


def _times(row: Row) -> float:
    return row.ratio.median if row.ratio else 0.0


def _on(row: Row) -> str:
    return f" on {row.runner}" if row.runner else ""


def _machine_parts(fingerprint: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is known of the machine, the dates and versions that matter most first."""
    versions = fingerprint.get("versions")
    prefect = versions.get("prefect") if isinstance(versions, Mapping) else None
    known = (
        (_when(fingerprint.get("when")), "{}"),
        (prefect, "Prefect {}"),
        (fingerprint.get("python"), "{}"),
        (fingerprint.get("cpu_model"), "{}"),
        (fingerprint.get("cores"), "{} cores"),
        (fingerprint.get("memory_gib"), "{} GiB"),
        (fingerprint.get("platform"), "{}"),
        (fingerprint.get("workers"), "{} workers"),
        (fingerprint.get("load_1m"), "load {}"),
        (fingerprint.get("git_commit"), "commit {}"),
    )
    return (form.format(_plain(value)) for value, form in known if value is not None)


def _when(value: object) -> str | None:
    """Write an ISO 8601 time with a space where people put one."""
    return None if value is None else str(value).replace("T", " ").replace("+00:00", " UTC")


def _plain(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return "unknown" if value is None else str(value)
