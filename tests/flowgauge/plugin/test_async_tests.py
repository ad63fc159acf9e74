# SPDX-License-Identifier: Apache-2.0
"""Async tests of a project, with the plugins that run them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from flowgauge.waiting import patience

TESTS = """
import asyncio
import threading
from datetime import timedelta

import pytest
from prefect import flow, get_client, get_run_logger, task
from prefect.context import FlowRunContext
from prefect.events import emit_event
from flowgauge.leftovers import watch

{imports}

HOURS = timedelta(hours=5)
kept = []


@task(retries=1, retry_delay_seconds=3600)
def load(ledger=None, n=0):
    get_run_logger().warning("load %s", n)
    ledger and ledger.record("loaded", n=n)
    return n


@task(retries=1, retry_delay_seconds=3600)
async def fetch(ledger=None, n=0):
    get_run_logger().warning("fetch %s", n)
    emit_event("fetched", {{"prefect.resource.id": "page"}}, payload={{"n": n}})
    ledger and ledger.record("fetched", n=n)
    await asyncio.sleep(0)
    return n


@flow
async def pipeline(ledger=None):
    called = await fetch(ledger, 1)
    submitted = [load.submit(ledger, 2), fetch.submit(ledger, 3)]
    return called + sum(future.result() for future in submitted)


@flow
async def fetches():
    kept[:] = [FlowRunContext.get().flow_run.id]
    return sum(await asyncio.gather(*(fetch(n=n) for n in range(3))))


@flow
async def patient():
    return await asyncio.to_thread(ended.wait)


@flow
def sync_pipeline():
    return load.submit(n=4).result()


@{fixture}
async def client(prefect_server):
    async with get_client() as client:
        yield client


@{fixture}
async def slow_fetch(faults, virtual_clock):
    faults.on("fetch").fail_times(1)
    await asyncio.sleep(0)
    yield virtual_clock
    assert virtual_clock.skipped > 3500


@{module_fixture}
async def state(prefect_server):
    yield await pipeline(return_state=True)


@{module_fixture}
async def module_client(prefect_server):
    async with get_client() as client:
        yield client


@pytest.fixture(scope="module")
def sync_client(prefect_server):
    with get_client(sync_client=True) as client:
        yield client


async def started(flow_run):
    kept.clear()
    running = asyncio.create_task(flow_run)
    while not kept:
        await asyncio.sleep(0.01)
    return running, kept.pop()


{mark}
async def test_client(prefect_server, client):
    assert str(client.api_url).startswith(prefect_server)
    state = await fetches(return_state=True)
    run = await client.read_flow_run(state.state_details.flow_run_id)
    assert run.state.is_completed()


{mark}
async def test_time_faults_and_ledger(virtual_clock, faults, effect_ledger, task_runner):
    faults.on("fetch").fail_times(1)
    faults.on("load", at="after the effect").fail_times(1)
    assert await pipeline.with_options(task_runner=task_runner)(effect_ledger) == 6
    assert 3500 < virtual_clock.skipped < 4 * 3600
    effect_ledger.assert_exactly_once("fetched", n=3)
    assert effect_ledger.count("loaded") == 2
    assert faults.struck("fetch") == 2


{mark}
async def test_observers(run_history, run_logs, run_events, task_runner):
    state = await pipeline.with_options(task_runner=task_runner)(return_state=True)
    assert run_history(state).matches("Pending Running Completed")
    assert run_logs(state).contains("fetch 3", level="WARNING", task="fetch")
    assert run_events(state).contains("fetched", payload={{"n": 3}})


{mark}
async def test_retries_wait_together(slow_fetch):
    assert await fetches() == 3
    assert slow_fetch.skipped < 2 * 3600


{mark}
async def test_sync_flow(run_history, virtual_clock, faults):
    faults.on("load").fail_times(1)
    state = sync_pipeline(return_state=True)
    assert run_history(state).matches("Pending Running Completed")
    assert virtual_clock.skipped > 3500


{mark}
async def test_beside_a_flow_that_runs(slow_fetch, run_history):
    running, run = await started(fetches(return_state=True))
    await asyncio.to_thread(slow_fetch.advance, HOURS)
    assert await asyncio.to_thread(run_history, run)
    assert (await running).is_completed()
    slow_fetch.advance(HOURS)
    assert slow_fetch.elapsed >= 10 * 3600


{mark}
async def test_what_would_block(faults, virtual_clock, run_history, run_logs, run_events):
    faults.on("fetch").slow(0.3)
    running, run = await started(fetches())
    for name, block in (
        ("run_history", lambda: run_history(run)),
        ("run_logs", lambda: run_logs(run)),
        ("run_events", lambda: run_events(run)),
        ("virtual_clock.advance", lambda: virtual_clock.advance(HOURS)),
    ):
        with pytest.raises((LookupError, ValueError)) as error:
            block()
        assert str(error.value).endswith(f"write `await asyncio.to_thread({{name}}, …)`")
        assert str(error.value).startswith(f"{{name}}: ")
    assert await running == 3


{mark}
async def test_a_sleep_of_the_test_is_real(virtual_clock):
    virtual_clock.skip_sleep()
    before = asyncio.get_running_loop().time()
    await asyncio.sleep(0.1)
    assert asyncio.get_running_loop().time() - before > 0.09


{mark}
async def test_time_limit(prefect_server):
    global ended
    ended = threading.Event()
    try:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await patient()
    finally:
        ended.set()


{module_mark}
async def test_module_loop(state, module_client, run_history):
    assert run_history(state).matches("Pending Running Completed")
    assert await module_client.read_flow_runs()
    await asyncio.to_thread(int)


{module_mark}
async def test_module_loop_again(state, module_client, run_logs):
    assert await module_client.read_flow_runs()
    assert run_logs(await pipeline(return_state=True)).contains("fetch 3")


{mark}
async def test_sync_client_of_the_module(sync_client):
    assert sync_client.read_flow_runs()


{mark}
async def test_leaves_a_thread(prefect_server):
    global over
    watch.PATIENCE = 0  # nothing of what the rest leaves would end
    over = threading.Event()
    threading.Thread(target=over.wait).start()


{mark}
async def test_leaves_a_client(prefect_server):
    over.set()
    kept[:] = [get_client()]
    await kept[0].__aenter__()
    await kept[0].api_healthcheck()


def test_leaves_a_loop(prefect_server):
    over.clear()
    kept[:] = [asyncio.new_event_loop()]
    kept[0].run_in_executor(None, over.wait)


def test_end():
    over.set()
    watch.PATIENCE = 10
    kept[0].run_until_complete(kept[0].shutdown_default_executor())
    kept.pop().close()
"""


@dataclass(frozen=True)
class Mode:
    """A way to run async tests: settings, and what marks tests and fixtures."""

    settings: str
    runners: str
    imports: str = ""
    fixture: str = "pytest.fixture"
    module_fixture: str = 'pytest.fixture(scope="module")'
    mark: str = ""
    module_mark: str = ""

    @property
    def tests(self) -> str:
        """The tests, which are the same but for their marks."""
        names = ("imports", "fixture", "module_fixture", "mark", "module_mark")
        return TESTS.format(**{name: getattr(self, name) for name in names})


MODULE_SCOPE = '(scope="module", loop_scope="module")'
MODULE_LOOP = '@pytest.mark.asyncio(loop_scope="module")'
SCOPE = "asyncio_default_fixture_loop_scope = function\n"
STRICT = Mode(
    f"asyncio_mode = strict\n{SCOPE}",
    "sequential,threads",
    imports="import pytest_asyncio",
    fixture="pytest_asyncio.fixture",
    module_fixture=f"pytest_asyncio.fixture{MODULE_SCOPE}",
    mark="@pytest.mark.asyncio",
    module_mark=MODULE_LOOP,
)
AUTO = Mode(
    f"asyncio_mode = auto\n{SCOPE}",
    "threads,processes",
    imports="import pytest_asyncio",
    module_fixture=f"pytest_asyncio.fixture{MODULE_SCOPE}",
    module_mark=MODULE_LOOP,
)
ANYIO = Mode(
    "addopts = -p no:asyncio\n",
    "sequential,dask-processes",
    imports=(
        "pytestmark = pytest.mark.anyio\n"
        "@pytest.fixture(scope='module')\n"
        "def anyio_backend(): return 'asyncio'"
    ),
)


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param(STRICT, id="asyncio-strict"),
        pytest.param(AUTO, id="asyncio-auto", marks=pytest.mark.e2e),
        pytest.param(ANYIO, id="anyio", marks=pytest.mark.e2e),
    ],
)
def test_fixtures_work_in_async_tests(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    """Every fixture works in async tests, beside async fixtures; only what a test leaves is left.

    That is a thread, an open client and a busy thread of a loop of its own, each in its own test.
    """
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    pytester.makepyfile(mode.tests)
    pytester.makeini(f"[pytest]\nflowgauge = true\n{mode.settings}")
    result = pytester.runpytest_subprocess(
        f"--flow-runners={mode.runners}", "-W", "error::UserWarning", timeout=patience()
    )
    result.assert_outcomes(passed=18, errors=3)
    result.stdout.fnmatch_lines(
        [
            "* ERROR at teardown of test_leaves_a_thread *",
            "*  thread 'Thread-*",
            "* ERROR at teardown of test_leaves_a_client *",
            "*  connection from port * in test_leaves_a_client",
            "* ERROR at teardown of test_leaves_a_loop *",
            "*  thread 'asyncio_*",
        ]
    )


def test_without_a_plugin_pytest_alone_says_what_is_missing(pytester: pytest.Pytester) -> None:
    """If nothing runs async tests, pytest says which plugins do, and Flowgauge adds nothing."""
    pytester.makepyfile("async def test_it(effect_ledger): assert effect_ledger.count('x') == 0")
    without = ("-p", "no:asyncio", "-p", "no:anyio", "-o", "flowgauge=true")
    result = pytester.runpytest_subprocess(*without)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["async def functions are not natively supported.*"])
    assert "flowgauge" not in result.stdout.str().partition("FAILURES")[2].partition("=====")[0]
