# SPDX-License-Identifier: Apache-2.0
"""The fixtures `serve` and `worker` in a project of its own."""

from __future__ import annotations

import pytest

PROJECT = """
    import asyncio
    import threading
    from datetime import timedelta

    import pytest
    from prefect import flow
    from prefect.deployments import run_deployment

    from flowgauge.services import service

    go_on = threading.Event()

    @flow
    def fail() -> None:
        raise LookupError("no rows")

    @flow
    def wait_for_the_test() -> None:
        go_on.wait(60)

    @flow
    async def count(number: int) -> int:
        return number

    def test_nobody_looks_at_the_child(serve):
        run_deployment(serve(fail).name, poll_interval=0.1, flow_run_name="goat")

    def test_the_child_is_looked_at(serve):
        served = serve(fail)
        run_deployment(served.name, poll_interval=0.1)
        with pytest.raises(LookupError):
            served.runs()[0].state.result()

    @pytest.fixture
    def ends():
        yield
        go_on.set()
        for thread in threading.enumerate():
            if thread.name == "flowgauge-snail":
                thread.join()

    def test_the_child_does_not_end(ends, serve, monkeypatch):
        monkeypatch.setattr(service, "STOP_SECONDS", 0.1)
        run_deployment(serve(fail, "other").name, poll_interval=0.1, flow_run_name="sheep")
        served = serve(wait_for_the_test, "slow")
        run = run_deployment(served.name, timeout=0, flow_run_name="snail")
        while run.id not in served.executing:
            pass

    @pytest.mark.asyncio
    async def test_in_an_event_loop(serve, virtual_clock):
        served = serve(count, interval=timedelta(days=1), parameters={"number": 5})
        run = await run_deployment(served.name, parameters={"number": 4})
        assert run.state.is_completed()
        runs = await asyncio.to_thread(served.runs, 3)
        assert [await run.state.aresult() for run in runs] == [4, 5, 5]
"""


def test_children_are_seen(pytester: pytest.Pytester) -> None:
    """A failed child is a warning unless the test looks at it; one that does not end fails it.

    Each service of a test is ended, whatever becomes of the others.
    """
    pytester.makepyfile(PROJECT)
    result = pytester.runpytest_subprocess("-n0", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=4, errors=1, warnings=2)
    result.stdout.fnmatch_lines(
        [
            "flow run 'snail' of 'wait-for-the-test/slow' still runs at the end of the test; wait"
            " for it with runs()",
            "*FailedRun: flow run 'goat' of 'fail/fail' is Failed: Flow run encountered an"
            " exception: LookupError: no rows",
            "*FailedRun: flow run 'sheep' of 'fail/other' is Failed*",
        ]
    )
