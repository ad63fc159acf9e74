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
    """A question, and the rows that answer it.

    Attributes:
        key: The chart's file name without its suffix.
        title: The question.
        caption: How to read the chart.
        group: The group of its rows.
        form: `baseline` draws a time and the time of its reference, `cost` a time, `rate` a rate,
            `ratio` a ratio, `memory` memory, `efficiency` efficiency over the length of tasks,
            `limits` which part limits a run.
        rows: The rows that can be drawn; none if the run did not measure them.
        shows_timelines: Whether Gantt charts of the rows belong to the answer.
    """

    key: str
    title: str
    caption: str
    group: Group
    form: Literal["efficiency", "baseline", "cost", "rate", "ratio", "memory", "limits"]
    rows: tuple[Row, ...]
    shows_timelines: bool = False


def questions(rows: Iterable[Row]) -> tuple[Question, ...]:
    """Return the questions, each with the rows that answer it.

    Args:
        rows: All rows of a run.

    Returns:
        Every question, also those that the run does not answer.
    """
    ordered = in_order(rows)

    def rows_where(*conditions: Callable[[Row], bool]) -> tuple[Row, ...]:
        return tuple(row for row in ordered if all(condition(row) for condition in conditions))

    return (
        Question(
            "efficiency",
            "Which task runner suits my work?",
            "The share of their time that workers spend on the work itself, relative to a bare"
            " process pool: the longer the tasks, the larger it is. A diamond marks METG(50 %), the"
            " minimum effective task granularity from which on half of the machine works. Dashed"
            " lines are pools without Prefect.",
            Group.METG,
            "efficiency",
            rows_where(_in_group(Group.METG), _has_no_feature)
            if any(map(is_point, ordered))
            else (),
        ),
        Question(
            "metg-features",
            "How much longer must tasks be with a feature?",
            "METG(50 %) of `native` tasks without edges: the time that a worker must have for each"
            " task so that half of it goes into the work.",
            Group.METG,
            "cost",
            rows_where(_in_group(Group.METG), _is_metg_of_feature, _has_time),
        ),
        Question(
            "task-cost",
            "What does a task cost on each task runner?",
            "Time per submitted task that does nothing: a dot, with its 95 % interval. The bar on"
            " the left is the same work without Prefect.",
            Group.FEATURES,
            "baseline",
            rows_where(is_plain_submit),
        ),
        Question(
            "feature-ratio",
            "What does each feature add?",
            "Time of a task with the feature relative to a plain submit on the same task runner. On"
            " the line at ×1 it adds nothing.",
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
            "What do the patterns cost relative to plain code?",
            "Time of the pattern relative to the simplest code that does the same without Prefect.",
            Group.PATTERNS,
            "ratio",
            rows_where(_in_group(Group.PATTERNS), _has_ratio),
        ),
        Question(
            "workflows",
            "How close to the optimum do real workflows come?",
            "Makespan relative to its lower bound: the critical path, or all work divided by the"
            " number of workers, whichever is longer.",
            Group.WORKFLOWS,
            "ratio",
            rows_where(_in_group(Group.WORKFLOWS), _has_ratio),
            shows_timelines=True,
        ),
        Question(
            "lean",
            "What do the lean task runners save?",
            "Time per task of a map, relative to Prefect's own task runner of that kind (`map`) and"
            " to the baseline of both, a bare pool (`map-vs-baseline`).",
            Group.LEAN,
            "ratio",
            rows_where(_in_group(Group.LEAN), _has_id("map", "map-vs-baseline"), _has_ratio),
        ),
        Question(
            "processor-time",
            "Where is the remaining cost of a task spent?",
            "Processor time per task run of a map: in the flow's process, in its workers, and in"
            " Prefect's server. With `task_seconds` above 0 each task waits that long, so that few"
            " task runs are reported to the server at once.",
            Group.LEAN,
            "cost",
            rows_where(_in_group(Group.LEAN), _is_processor_time, _has_time),
        ),
        Question(
            "prediction",
            "How far off is `flowgauge advise`?",
            "Predicted makespan relative to the measured one, of workflows that the costs were not"
            " fitted to. On the line at ×1 the prediction was right.",
            Group.PREDICTION,
            "ratio",
            rows_where(_in_group(Group.PREDICTION), _has_ratio),
        ),
        Question(
            "tasks-scaling",
            "Does a task cost more among many?",
            "Time per task run that does nothing, in flow runs of ten tasks and of many more.",
            Group.SCALING,
            "cost",
            rows_where(_in_group(Group.SCALING), _has_id("tasks"), _has_time),
        ),
        Question(
            "payload-scaling",
            "What do large results cost?",
            "Time until a task has received the result of the previous one, by the size of the"
            " result.",
            Group.SCALING,
            "cost",
            rows_where(_in_group(Group.SCALING), _has_id("payload"), _has_time),
        ),
        Question(
            "workers-scaling",
            "What do more workers gain?",
            "Makespan relative to that of one worker. `strong`: the same work for any number of"
            " workers, so the optimum on two is half the time. `weak`: the same work for each"
            " worker, so the optimum is the same time.",
            Group.SCALING,
            "ratio",
            rows_where(_in_group(Group.SCALING), _has_id("strong", "weak"), _has_ratio),
        ),
        Question(
            "startup",
            "What is slow to start?",
            "Paid once for a pytest run, or once for a flow run, and included in none of the"
            " figures above.",
            Group.STARTUP,
            "cost",
            rows_where(_in_group(Group.STARTUP), _has_time),
        ),
        Question(
            "memory",
            "How much memory does each task runner take?",
            "The peak in the first flow run with one task, beyond what was held before: in pytest's"
            " process and in the workers that it started, without Prefect's server. `first-task`"
            " runs where a cluster or fork server is up already, `first-task-as-shipped` starts its"
            " own. The dark mark is the reference, the same on `sequential`.",
            Group.STARTUP,
            "memory",
            rows_where(
                _in_group(Group.STARTUP),
                _has_id("first-task", "first-task-as-shipped"),
                _has_memory,
            ),
        ),
        Question(
            "deployment-cost",
            "What does a deployed flow run cost?",
            "From the trigger until the flow runs: a served or pulled run waits for the next poll,"
            " by default every ten seconds; a pushed one does not. Also a flow run's share of the"
            " time when many run at once.",
            Group.DEPLOYMENTS,
            "cost",
            rows_where(_in_group(Group.DEPLOYMENTS), _has_time),
        ),
        Question(
            "server-load",
            "How many task runs does one server take?",
            "Task runs in a second. `taken`: as many as clients may start so that states are stored"
            " within a second; `at-least`: the clients were not fast enough to find out. `stored`:"
            " how fast a server catches up with task runs that came faster. One that is 10,000"
            " messages behind, three for each task run, drops what comes next; the rows `lost-…` of"
            " the table count it.",
            Group.LOAD,
            "rate",
            rows_where(_in_group(Group.LOAD), _is_rate),
        ),
        Question(
            "limits",
            "What breaks first in a large run?",
            "Computed, not measured, from the costs of tasks on each task runner and the rate at"
            " which one server stores states; each worker, the flow and the server have a core."
            " The height is the work in a task. Below the highest line its part limits a run, and"
            " batches pay; above it the work does, as it should. Server: stores states. Scheduler:"
            " the flow's own thread, which submits. Runner: what each task costs a worker.",
            Group.LIMITS,
            "limits",
            rows_where(_in_group(Group.LIMITS), _has_id("server", "scheduler", "runner")),
        ),
        Question(
            "limits-prediction",
            "How far off is what was computed for large runs?",
            "What was computed relative to what was measured, for runs of thousands of tasks. On"
            " the line at ×1 it was right.",
            Group.LIMITS,
            "ratio",
            rows_where(_in_group(Group.LIMITS), _is_measured, _has_ratio),
        ),
        Question(
            "harness-ratio",
            "What does a pytest run cost relative to Prefect's own harness?",
            "Time with Flowgauge's server, started with the pytest run (cold) or left running by an"
            " earlier one (kept), relative to Prefect's harness.",
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


# A logarithmic axis cannot show zero.
def _has_time(row: Row) -> bool:
    return row.unit == Unit.SECONDS and row.value.is_positive


def _is_rate(row: Row) -> bool:
    return row.unit == Unit.TASK_RUNS_PER_SECOND and row.value.is_positive


def _is_measured(row: Row) -> bool:
    return not row.is_computed


def _has_memory(row: Row) -> bool:
    return row.memory is not None


def _has_ratio(row: Row) -> bool:
    return row.ratio is not None and row.ratio.is_positive
