# SPDX-License-Identifier: Apache-2.0
"""Costs are fitted to measured rows, and makespans are predicted from the costs."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowgauge.predict.fitting import fit, predictors
from flowgauge.predict.observations import (
    MOST_TASKS,
    Observation,
    machine_of,
    observations,
    sampled,
)
from flowgauge.predict.prediction import Predictor
from flowgauge.predict.simulation import Machine, simulated_makespan
from flowgauge.results.rows import Results, ResultsError
from flowgauge.runners.table import RUNNERS
from flowgauge.workflows.shapes import random_layered, shape
from flowgauge.workflows.workflow import Workflow
from tests.flowgauge.predict.simulated_rows import TRUE, WORKERS, figure, results, rows_of


@functools.cache
def predictor(runner: str = "processes", load: float = 0.0) -> Predictor:
    """Return the predictor that is fitted to the rows of a task runner."""
    (found,) = predictors(results(*rows_of(runner, TRUE, Machine(WORKERS, 2.0, load))))
    return found


HELD_OUT = (
    random_layered(4, 5, seed=1, seconds=0.04, kernel="native"),
    random_layered(3, 4, seed=2, seconds=0.03, kernel="python"),
    shape("fork-join", 6, 4, seconds=0.05, kernel="wait"),
    shape("trivial", 100, 1, seconds=0.01, kernel="native"),
    shape("chain", 2, 6, seconds=0.02, kernel="native", output_bytes=10**6),
)


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("load", [0.0, 1.5])
def test_a_runner_that_behaves_as_simulated_is_predicted(runner: str, load: float) -> None:
    """Workflows that are not in the rows are predicted to within 3 %, also on a loaded machine."""
    found = predictor(runner, load)
    machine = Machine(WORKERS, 2.0, load)
    assert found.machine.load == pytest.approx(load, abs=1e-6)
    assert found.start == pytest.approx(0.5, abs=0.01)
    assert found.most_bytes == 10**7
    assert found.most_tasks == 12
    assert found.knows_edges
    for workflow in HELD_OUT:
        true = simulated_makespan(workflow, runner, TRUE, machine)
        assert found.seconds(workflow) == pytest.approx(true, rel=0.03)


@pytest.mark.parametrize("runner", ["threads", "processes"])
def test_costs_are_found_in_runs_of_many_tasks(runner: str) -> None:
    """A part of a long run has its share of the time, so the same costs are fitted to it."""
    machine = Machine(WORKERS, 2.0)
    runs = [
        shape("trivial", WORKERS, steps, seconds=seconds, kernel="native")
        for seconds, steps in ((0.0, 300), (0.02, 200), (0.2, 20))
    ]
    whole = [
        Observation(each, simulated_makespan(each, runner, TRUE, machine), 0.0, machine)
        for each in runs
    ]
    parts = [sampled(each) for each in whole]
    assert [len(each.workflow.tasks) for each in parts] == [MOST_TASKS, MOST_TASKS, 40]
    found = fit(runner, parts, machine)
    for each in whole:
        assert found.seconds(each.workflow) == pytest.approx(each.seconds, rel=0.03)


def test_costs_are_found() -> None:
    """If each cost affects some row, each is fitted to within 10 %."""
    assert dataclasses.astuple(predictor().costs) == pytest.approx(
        dataclasses.astuple(TRUE), rel=0.1
    )


@settings(max_examples=20)
@given(st.integers(1, 6), st.integers(1, 5), st.floats(0, 1))
def test_an_interval_is_around_its_value(width: int, steps: int, seconds: float) -> None:
    """A prediction lies within its interval, which is narrow if the rows don't scatter."""
    found = predictor().interval(shape("stencil", width, steps, seconds=seconds))
    assert found.low <= found.median <= found.high
    assert found.high / found.low < 1.25


def test_scattered_rows_give_a_wide_interval() -> None:
    """If rows are off by a factor of 1.5, the ends of the interval differ by more than that."""
    rows = rows_of("processes", TRUE, Machine(WORKERS, 2.0))
    factors = [1.5 if index % 2 else 1 / 1.5 for index in range(len(rows))]
    scattered = [
        dataclasses.replace(row, value=row.value.scaled(factor), ratio=None)
        for row, factor in zip(rows, factors, strict=True)
    ]
    (found,) = predictors(results(*scattered))
    interval = found.interval(HELD_OUT[0])
    assert interval.high / interval.low > 1.5


def test_a_large_workflow_has_the_interval_of_its_first_tasks() -> None:
    """Relative to its value, the interval of a large workflow is that of its first 1000 tasks."""
    wide = shape("stencil", 20, 100, seconds=0.01)
    whole = predictor().interval(wide)
    first = predictor().interval(Workflow("first", wide.tasks[:1000]))
    assert whole.median == predictor().seconds(wide)
    for ends in ("low", "high"):
        shares = [getattr(each, ends) / each.median for each in (whole, first)]
        assert shares[0] == pytest.approx(shares[1], rel=1e-3)


def test_each_worker_brings_a_core() -> None:
    """Twice the workers finish 64 independent tasks in half the time."""
    workflow = shape("trivial", 64, 1, seconds=1.0, kernel="native")
    wide = predictor().with_workers(4)
    assert wide.seconds(workflow) == pytest.approx(predictor().seconds(workflow) / 2, rel=0.02)


def test_only_rows_that_can_be_simulated_are_read() -> None:
    """Rows of features, baselines, METG, real workflows or too many tasks are not read."""
    good = rows_of("threads", TRUE, Machine(WORKERS, 2.0))[:2]
    params = dict(good[0].params)
    others = [
        dataclasses.replace(good[0], params=params | {"feature": "retries"}),
        dataclasses.replace(good[0], runner="ThreadPoolExecutor"),
        dataclasses.replace(good[0], id="metg-50"),
        figure("scaling", "tasks", "threads", 0.01, params={"tasks": MOST_TASKS + 1}),
        figure("scaling", "payload", "threads", 0.01, params={"payload_bytes": 10}),
        figure("workflows", "montage", "threads", 2.0, params={"tasks": 60}),
    ]
    measured = results(*good, *others)
    found = observations(measured, "threads", machine_of(measured))
    assert [each.workflow.tasks[0].seconds for each in found] == [0.0, 0.02]
    assert found[0].seconds == pytest.approx(good[0].value.median * params["tasks"] / WORKERS)


def test_a_curve_is_read_at_its_ends_and_middle() -> None:
    """Of a curve with many points only three are read: its ends and its middle."""
    (point,) = rows_of("threads", TRUE, Machine(WORKERS, 2.0))[2:3]
    works = (0.3, 0.0, 0.01, 0.2, 0.02, 0.04, 0.1)
    rows = [
        dataclasses.replace(point, params=dict(point.params) | {"work_seconds": work}, ratio=None)
        for work in works
    ]
    measured = results(*rows)
    found = observations(measured, "threads", machine_of(measured))
    assert [each.workflow.tasks[0].seconds for each in found] == [0.0, 0.04, 0.3]


@pytest.mark.parametrize(
    "params", [{}, {"shape": "chain"}, {"shape": "chain", "tasks": "4", "kernel": "native"}]
)
def test_a_row_that_does_not_say_what_it_timed_is_reported(params: dict[str, Any]) -> None:
    """A row whose parameters are missing or wrong is reported by its name."""
    odd = figure("metg", "curve", "threads", 0.1, params=params)
    with pytest.raises(ResultsError, match="the metg row curve on threads does not say what"):
        predictors(results(*rows_of("threads", TRUE, Machine(WORKERS, 2.0)), odd))


def test_results_without_what_is_needed_are_reported(tmp_path: Path) -> None:
    """Results without rows to predict from, or without the number of workers, are reported."""
    with pytest.raises(ResultsError, match=r"no rows to predict from: measure with pytest"):
        predictors(results(figure("startup", "first-task", "threads", 0.1)))
    with pytest.raises(ResultsError, match="how many workers"):
        predictors(Results({"cores": 2}, ()))


def test_what_was_not_measured_is_not_known() -> None:
    """Without rows of start-up and payloads, the start-up time is unknown and bytes are free."""
    rows = [
        row
        for row in rows_of("threads", TRUE, Machine(WORKERS, 2.0))
        if row.id not in ("payload", "first-task")
    ]
    found = predictors(results(*rows))[0]
    assert found.start is None
    assert found.most_bytes == 0
    assert found.knows_edges
    sending = shape("chain", 2, 3, output_bytes=10**8)
    assert found.seconds(sending) == pytest.approx(found.seconds(shape("chain", 2, 3)), rel=1e-3)
