# SPDX-License-Identifier: Apache-2.0
"""The headline of a report: the main findings as sentences, and the machine in one line."""

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
    """Return the main findings of a run.

    Args:
        rows: All rows of the run.
        bands: The A/A bands of the run.

    Returns:
        One or more sentences, the most important one first.
    """
    if not rows:
        return ("Nothing was measured in this run.",)
    findings = (
        _half_busy(rows),
        _task_cost(rows),
        _costliest_feature(rows, bands),
        _slowest_start(rows),
        _prediction_error(rows),
        _server_rate(rows),
    )
    sentences = tuple(sentence for sentence in findings if sentence)
    return sentences or (f"Rows measured in this run: {len(rows)}.",)


def machine(fingerprint: Mapping[str, Any]) -> str:
    """Describe the machine of a run in one line.

    Args:
        fingerprint: The fingerprint of the run; missing keys are left out.

    Returns:
        Parts joined by " · "; empty if there are none.
    """
    return " · ".join(_machine_parts(fingerprint))


def details(fingerprint: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return every entry of a fingerprint as text; nested ones are named "versions prefect"."""
    entries: list[tuple[str, str]] = []
    for key, value in fingerprint.items():
        inner = value.items() if isinstance(value, Mapping) else ((None, value),)
        entries += ((key.replace("_", " ") + (f" {k}" if k else ""), _plain(v)) for k, v in inner)
    return tuple(entries)


def noise(bands: Bands) -> str:
    """Return a sentence on how far the same thing differed from itself."""
    if not bands:
        return "Not measured in this run, so only the intervals decide."
    widest = max(max(high - 1, 1 - low) for low, high in bands.values())
    return f"In this run the same thing differed from itself by up to {widest * 100:.1f} %."


def _half_busy(rows: Sequence[Row]) -> str:
    """Return a sentence with the METG(50 %) of each task runner."""
    metg = [r for r in rows if r.id == "metg-50" and r.runner and not is_baseline(r)]
    metg = [row for row in metg if "feature" not in row.params]
    # Tasks without edges if they were measured, otherwise what was measured first.
    plain = min(metg, key=lambda row: row.params.get("shape") != PLAIN_SHAPE, default=None)
    metg = [row for row in metg if plain and row.params == plain.params]
    by_outcome = {outcome: [row for row in metg if row.outcome is outcome] for outcome in Outcome}
    reached = sorted(by_outcome[Outcome.FOUND], key=lambda row: row.value.median)
    if not metg:
        return ""
    kernel = metg[0].params.get("kernel")
    parts = [", ".join(_cost_on(row) for row in reached)] if reached else []
    for outcome, words in ((Outcome.BEYOND, "longer than tried"), (Outcome.NEVER, "never reached")):
        if names := [str(row.runner) for row in by_outcome[outcome]]:
            parts.append(f"{words} on {' and '.join(names)}")
    return (
        f"The minimum effective task granularity (METG) of {kernel} tasks, from which on half of"
        f" the machine works, is {'; '.join(parts)}."
    )


def _task_cost(rows: Sequence[Row]) -> str:
    costs = sorted((row for row in rows if is_plain_submit(row)), key=lambda row: row.value.median)
    if not costs:
        return ""
    least, most = costs[0], costs[-1]
    if least is most:
        relative = (
            f", {ratio(least.ratio.median)} relative to {least.reference}" if least.ratio else ""
        )
        return f"A task costs {_cost_on(least)}{relative}."
    if least.value.high >= most.value.low:
        return f"A task costs {_cost_on(least)} and {_cost_on(most)}: no difference seen."
    many = most.value.median / least.value.median if least.value.median > 0 else None
    times = f": {ratio(many)} as much" if many else ""
    return (
        f"A task costs least{_on(least)}, {seconds(least.value.median)},"
        f" and most{_on(most)}, {seconds(most.value.median)}{times}."
    )


def _costliest_feature(rows: Sequence[Row], bands: Bands) -> str:
    paired = [row for row in rows if adds_to_submit(row)]
    slower = [row for row in paired if verdict(row, bands) == "slower"]
    if not paired:
        return ""
    if not slower:
        return "No feature was seen to add to the time of a plain submit."
    costliest = max(slower, key=_times)
    return (
        f"The feature that adds most to a plain submit is {costliest.id}{_on(costliest)}:"
        f" {ratio(_times(costliest))}."
    )


def _slowest_start(rows: Sequence[Row]) -> str:
    starts = [row for row in rows if row.group == Group.STARTUP and row.unit == Unit.SECONDS]
    if not starts:
        return ""
    slowest = max(starts, key=lambda row: row.value.median)
    cost = seconds(slowest.value.median)
    return (
        f"The slowest start-up is {slowest.id}{_on(slowest)}: {cost}, which no other figure"
        " includes."
    )


def _prediction_error(rows: Sequence[Row]) -> str:
    errors = [
        abs(row.ratio.median - 1) for row in rows if row.group == Group.PREDICTION and row.ratio
    ]
    if not errors:
        return ""
    text = (
        f"Predicted makespans of {len(errors)} workflows were off by"
        f" {statistics.median(errors):.0%} at the median."
    )
    shares = [row for row in rows if row.group == Group.PREDICTION and row.unit == Unit.SHARE]
    if held := [row for row in shares if row.runner]:
        count = sum(row.rounds for row in held)
        share = sum(row.value.median * row.rounds for row in held) / count
        text += f" The 95 % intervals held {share:.0%} of {count} measured makespans."
    if advised := [row for row in shares if not row.runner]:
        text += (
            f" The advised task runner was within a tenth of the best for"
            f" {advised[0].value.median:.0%} of the workflows."
        )
    return text


def _server_rate(rows: Sequence[Row]) -> str:
    """Return a sentence with the task runs that a server takes from one client."""
    rates = [
        f"{row.value.median:.0f} task runs a second on {row.params.get('database')}"
        for row in rows
        if (row.group, row.id, row.params.get("clients")) == (Group.LOAD, "taken", 1)
    ]
    if not rates:
        return ""
    return (
        f"One client can start {' and '.join(rates)} before a server stores their states more than"
        " a second late."
    )


def _cost_on(row: Row) -> str:
    return f"{seconds(row.value.median)}{_on(row)}"


def _times(row: Row) -> float:
    return row.ratio.median if row.ratio else 0.0


def _on(row: Row) -> str:
    return f" on {row.runner}" if row.runner else ""


def _machine_parts(fingerprint: Mapping[str, Any]) -> Iterator[str]:
    """Yield the entries on the machine, the most important ones first."""
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
        (fingerprint.get("prefect_server"), "Prefect server: {}"),
        (fingerprint.get("dask_workers"), "Dask workers: {}"),
        (fingerprint.get("load_1m"), "load {}"),
        (fingerprint.get("git_commit"), "commit {}"),
    )
    return (form.format(_plain(value)) for value, form in known if value is not None)


def _when(value: object) -> str | None:
    """Format an ISO 8601 time with spaces, for reading."""
    return None if value is None else str(value).replace("T", " ").replace("+00:00", " UTC")


def _plain(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return "unknown" if value is None else str(value)
