# SPDX-License-Identifier: Apache-2.0
"""Runs of flows inside `@given`, with the plugin's fixtures, as a user writes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prefect import flow, task

from flowgauge import EffectLedger, Faults, History, StartedRunners, VirtualClock
from flowgauge.strategies import FaultPlan, fault_plans, on, runner_names


@task(retries=2, retry_delay_seconds=60)
def fetch(page: int, ledger: EffectLedger) -> None:
    """Record that a page is fetched."""
    ledger.record("fetched", page=page)


@flow
def crawl(pages: int, ledger: EffectLedger) -> None:
    """Fetch pages."""
    fetch.map(list(range(pages)), ledger).wait()


plans = fault_plans(fetch, times=2, at=("before the body", "after the effect"), runs=2, at_most=1)


@settings(max_examples=6)
@given(pages=st.integers(1, 2), plan=plans, runner=runner_names("sequential", "threads"))
@example(
    pages=2,
    plan=FaultPlan(on("fetch", at="after the effect").fail_times(2, in_run=2)),
    runner="threads",
)
def test_each_example_begins_with_fresh_fixtures(
    started_runners: StartedRunners,
    virtual_clock: VirtualClock,
    faults: Faults,
    effect_ledger: EffectLedger,
    run_history: Callable[..., History],
    pages: int,
    plan: FaultPlan,
    runner: str,
) -> None:
    """Faults, their counts, the ledger and elapsed time begin anew; no health check objects."""
    assert virtual_clock.elapsed < 60
    assert (effect_ledger.count(), faults.struck("fetch")) == (0, 0)
    plan.apply(faults)
    run = crawl.with_options(task_runner=started_runners.task_runner(runner))
    state: Any = run(pages, effect_ledger, return_state=True)
    expected = 0
    for fault in plan:
        runs = [fault.options["in_run"]] if fault.options else range(1, pages + 1)
        expected += sum(fault.arguments[0] for number in runs if number <= pages)
    assert faults.struck("fetch") == expected
    repeated = faults.struck("fetch", at="after the effect")
    assert effect_ledger.count("fetched") == pages + repeated
    assert (virtual_clock.elapsed >= 60) == (expected > 0)
    assert run_history(state).matches("Pending Running Completed")


@pytest.fixture
def down(faults: Faults) -> None:
    """Let the first attempt of each run fail."""
    faults.on("fetch").fail_times(1)


@pytest.mark.usefixtures("down", "virtual_clock")
@settings(max_examples=2)
@given(pages=st.integers(1, 3), more=st.booleans())
@example(pages=3, more=True)
def test_a_fault_from_before_the_examples_strikes_in_all_of_them(
    faults: Faults, effect_ledger: EffectLedger, pages: int, more: bool
) -> None:
    """A fault that a fixture placed counts anew in each example; what an example adds, ends."""
    if more:
        faults.on("fetch", at="after the effect").fail_times(1)
    crawl(pages, effect_ledger)
    assert faults.struck("fetch") == pages * (1 + more)
    assert effect_ledger.count() == pages * (1 + more)


@pytest.mark.e2e
def test_what_a_user_reads(pytester: pytest.Pytester) -> None:
    """A plan that fails a test is shrunk and printed as code; a misspelt task is told.

    So is a fixture of another origin that is not reset.
    """
    pytester.makepyfile(
        """
        from hypothesis import example, given, settings, strategies as st
        from prefect import flow, task
        from flowgauge.strategies import FaultPlan, fault_plans, on

        settings.register_profile("here", deadline=None, derandomize=True, database=None)
        settings.load_profile("here")

        @task(retries=2, retry_delay_seconds=60)
        def fetch():
            pass

        @flow
        def crawl():
            fetch.submit().wait()

        @settings(max_examples=30)
        @given(plan=fault_plans("fetch", times=3))
        def test_shrunk(faults, virtual_clock, plan):
            plan.apply(faults)
            assert crawl(return_state=True).is_completed()
            assert faults.struck("fetch") < 2

        @settings(max_examples=2)
        @given(plan=fault_plans("fetsh"))
        @example(plan=FaultPlan(on("fetsh").fail_times(1)))
        def test_a_name_that_is_wrong(faults, plan):
            plan.apply(faults)
            crawl()

        @given(page=st.integers())
        def test_other_fixtures(faults, tmp_path, page):
            pass
        """
    )
    result = pytester.runpytest_subprocess("-q")
    result.assert_outcomes(passed=1, failed=2, errors=1)
    result.stdout.fnmatch_lines(
        ["*plan=FaultPlan(on('fetch').fail_times(2)),*", "*reset; this is about tmp_path.*"]
    )
    assert (
        "faults.on('fetsh').fail_times(1): no task of that name ran; those that ran are 'fetch'"
        in result.stdout.str()
    )
