# SPDX-License-Identifier: Apache-2.0
"""The questions a report answers, one chart each, and the rows that answer them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from flowgauge.report.model.labels import in_order, is_point
from flowgauge.results.rows import Group, Row, Unit


@dataclass(frozen=True)
class Question:
    """A question, and what answers it.

    Attributes:
        key: The chart's file name without its ending.
        title: The question.
        caption: How to read the chart.
        group: The group of its rows.
        form: `baseline` draws a time and the time it is paired with, `cost` a time, `ratio` a
            ratio, `efficiency` a line against the length of tasks.
        rows: The rows that can be drawn; none if the run did not measure it.
        shows_timelines: Whether Gantt charts of the rows belong to the answer.
    """

    key: str
    title: str
    caption: str
    group: Group
    form: Literal["efficiency", "baseline", "cost", "ratio"]
    rows: tuple[Row, ...]
    shows_timelines: bool = False


def questions(rows: Iterable[Row]) -> tuple[Question, ...]:
    """List the questions, each with the rows that answer it.

    Args:
        rows: All rows of a run.

    Returns:
        Every question, also those that the run does not answer.
    """
    kept = in_order(rows)

    def rows_where(*wanted: Callable[[Row], bool]) -> tuple[Row, ...]:
        return tuple(row for row in kept if all(is_wanted(row) for is_wanted in wanted))

    return (
        Question(
            "efficiency",
            "Which runner for my work?",
            "The share of their time that workers spend on the work itself, beside a bare process"
            " pool: the longer the tasks, the more of it. A diamond marks METG(50 %), from which on"
            " half of the machine works. Dashed lines are pools without Prefect.",
            Group.METG,
            "efficiency",
            rows_where(_in_group(Group.METG), _has_no_feature) if any(map(is_point, kept)) else (),
        ),
        Question(
            "metg-features",
            "How much longer must tasks be with a feature?",
            "METG(50 %) on `native` work, side by side: the time that a worker needs to have for"
            " each task, so that half of it goes into the work.",
            Group.METG,
            "cost",
            rows_where(_in_group(Group.METG), _is_metg_of_feature, _has_time),
        ),
        Question(
            "task-cost",
            "What does a task cost on each runner?",
            "Time per submitted task that does nothing: a dot, with its 95 % interval. The bar on"
            " the left is the same work without Prefect.",
            Group.FEATURES,
            "baseline",
            rows_where(is_plain_submit),
        ),
        Question(
            "feature-ratio",
            "What does each feature add?",
            "How many times as long a task takes with the feature as a plain submit takes on the"
            " same runner. On the line at ×1 it adds nothing.",
            Group.FEATURES,
            "ratio",
            rows_where(adds_to_submit, _has_ratio),
        ),
        Question(
            "feature-cost",
            "What does each feature cost?",
            "Time per run, with its 95 % interval.",
            Group.FEATURES,
            "cost",
            rows_where(_in_group(Group.FEATURES), _has_time),
        ),
        Question(
            "pattern-ratio",
            "What do the patterns cost beside plain code?",
            "How many times as long the pattern takes as the plainest code that does the same"
            " without Prefect.",
            Group.PATTERNS,
            "ratio",
            rows_where(_in_group(Group.PATTERNS), _has_ratio),
        ),
        Question(
            "workflows",
            "How near to the best do real workflows come?",
            "Makespan beside the least there can be: the critical path, or all work shared by all"
            " workers, whichever is longer.",
            Group.WORKFLOWS,
            "ratio",
            rows_where(_in_group(Group.WORKFLOWS), _has_ratio),
            shows_timelines=True,
        ),
        Question(
            "lean",
            "What do the lean task runners save?",
            "Time per task of a map, as a share of what it takes on Prefect's own runner of that"
            " kind (`map`) and of the pool that both stand on (`map-vs-baseline`).",
            Group.LEAN,
            "ratio",
            rows_where(_in_group(Group.LEAN), _has_id("map", "map-vs-baseline"), _has_ratio),
        ),
        Question(
            "processor-time",
            "Whose is what a task still costs?",
            "Processor time per task run of a map: in the flow's process, in its workers, and in"
            " Prefect's server. With `task_seconds` above 0 each task waits so long, so that the"
            " server is told of few at once.",
            Group.LEAN,
            "cost",
            rows_where(_in_group(Group.LEAN), _is_processor_time, _has_time),
        ),
        Question(
            "prediction",
            "How far off is `flowgauge advise`?",
            "Predicted makespan beside the measured one, of workflows that the costs were not read"
            " from. On the line at ×1 the prediction was right.",
            Group.PREDICTION,
            "ratio",
            rows_where(_in_group(Group.PREDICTION), _has_ratio),
        ),
        Question(
            "tasks-scaling",
            "Does a task cost more among many?",
            "Time per task run that does nothing, in flow runs of ten tasks and of many.",
            Group.SCALING,
            "cost",
            rows_where(_in_group(Group.SCALING), _has_id("tasks"), _has_time),
        ),
        Question(
            "payload-scaling",
            "What do large results cost?",
            "Time until a task has the result of the one before, by the size of the result.",
            Group.SCALING,
            "cost",
            rows_where(_in_group(Group.SCALING), _has_id("payload"), _has_time),
        ),
        Question(
            "workers-scaling",
            "What do more workers bring?",
            "Makespan beside that of one worker. `strong`: the same work for all numbers of"
            " workers, so half the time on two is best. `weak`: as much work for each, so the same"
            " time is.",
            Group.SCALING,
            "ratio",
            rows_where(_in_group(Group.SCALING), _has_id("strong", "weak"), _has_ratio),
        ),
        Question(
            "startup",
            "What is slow to start?",
            "Paid once for a run, or once for a flow, and in none of the figures above.",
            Group.STARTUP,
            "cost",
            rows_where(_in_group(Group.STARTUP), _has_time),
        ),
        Question(
            "deployment-cost",
            "What does a deployed run cost?",
            "From a trigger until the flow runs: what is served or pulled waits until somebody"
            " looks, by default every ten seconds, what is pushed does not. And a flow run's share"
            " of the time where many run at once.",
            Group.DEPLOYMENTS,
            "cost",
            rows_where(_in_group(Group.DEPLOYMENTS), _has_time),
        ),
        Question(
            "harness-ratio",
            "What does a test run cost beside Prefect's own harness?",
            "How many times as long it takes with Flowgauge's server, started with the run (cold)"
            " or left by an earlier one (kept).",
            Group.HARNESS,
            "ratio",
            rows_where(_in_group(Group.HARNESS), _has_ratio),
        ),
    )


def is_plain_submit(row: Row) -> bool:
    """Whether a row is the time of a submitted task with nothing added."""
    return row.group == Group.FEATURES and row.id == "submit" and _has_time(row)


def adds_to_submit(row: Row) -> bool:
    """Whether a row is a feature paired with a plain submit on the same runner."""
    return row.group == Group.FEATURES and (row.reference or "").startswith("submit")


def _has_no_feature(row: Row) -> bool:
    return "feature" not in row.params


def _is_metg_of_feature(row: Row) -> bool:
    return row.id == "metg-50" and "feature" in row.params


def _is_processor_time(row: Row) -> bool:
    return row.id.startswith("processor-time-")


def _has_id(*ids: str) -> Callable[[Row], bool]:
    return lambda row: row.id in ids


def _in_group(name: Group) -> Callable[[Row], bool]:
    return lambda row: row.group == name


# A logarithmic axis has no place for zero.
def _has_time(row: Row) -> bool:
    return row.unit == Unit.SECONDS and row.value.is_positive


def _has_ratio(row: Row) -> bool:
    return row.ratio is not None and row.ratio.is_positive
