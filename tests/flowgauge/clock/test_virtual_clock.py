# SPDX-License-Identifier: Apache-2.0
"""The virtual clock: what it skips, what it leaves alone, and which times it reports."""

from __future__ import annotations

import asyncio
import concurrent.futures
import datetime
import itertools
import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from time import sleep as nap
from typing import Any

import prefect.task_engine
import prefect.types._datetime
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from prefect import flow, task
from prefect.cache_policies import INPUTS
from prefect.client.orchestration import get_client
from prefect.context import TaskRunContext
from prefect.futures import as_completed, wait
from prefect.states import Scheduled
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flowgauge.clock.process import ClockEndedError, ClockProcess
from flowgauge.clock.virtual_clock import VirtualClock
from flowgauge.clock.virtual_clock import virtual_clock as virtual_clock_of
from flowgauge.plugin.session import run_home
from flowgauge.waiting import patience, wait_until
from tests.flowgauge.clock.told import assert_told, is_told

HOUR = 3600.0
SECOND = datetime.timedelta(seconds=1)


def threads(workers: int = 8) -> TaskRunner[Any]:
    """Return a task runner with the given number of threads."""
    return ThreadPoolTaskRunner(max_workers=workers)


def seconds_now() -> float:
    """Return the current time according to Prefect."""
    return prefect.types._datetime.now("UTC").timestamp()


def note(path: str, **what: Any) -> None:
    """Append a line to a file, from any process."""
    with open(path, "a") as file:
        file.write(json.dumps({"at": seconds_now(), **what}) + "\n")


def noted(path: Path | str) -> list[dict[str, Any]]:
    """Return what was appended to a file, oldest first."""
    lines = Path(path).read_text().splitlines() if Path(path).exists() else []
    return sorted((json.loads(line) for line in lines), key=lambda line: line["at"])


@dataclass(frozen=True)
class Job:
    """A task that fails once for each of its delays, and may have to run after another one."""

    delays: tuple[int, ...]
    after: int | None


@task
def attempt_job(path: str, number: int, failures: int) -> int:
    """Fail this number of times, and note when each attempt begins."""
    context = TaskRunContext.get()
    assert context is not None
    attempt = context.task_run.run_count
    note(path, job=number, attempt=attempt)
    if attempt <= failures:
        raise ConnectionError
    return number


@flow
def run_jobs(path: str, jobs: list[tuple[list[int], int | None]]) -> None:
    """Submit all jobs, each with its delays and after the job it names."""
    futures: list[Any] = []
    for number, (delays, after) in enumerate(jobs):
        seconds = [float(delay) for delay in delays]
        job: Any = attempt_job.with_options(retries=len(delays), retry_delay_seconds=seconds)
        wait_for = [] if after is None else [futures[after]]
        futures.append(job.submit(path, number, len(delays), wait_for=wait_for))
    for future in futures:
        future.wait()


def by_hand(jobs: list[Job], *, side_by_side: bool) -> dict[tuple[int, int], float]:
    """Return when each attempt of each job begins, in seconds after the flow did."""
    begins: dict[tuple[int, int], float] = {}
    ends: list[float] = []
    for number, job in enumerate(jobs):
        if side_by_side:
            begin = 0.0 if job.after is None else ends[job.after]
        else:
            begin = ends[-1] if ends else 0.0
        times = list(itertools.accumulate(job.delays, initial=begin))
        begins |= {(number, attempt): at for attempt, at in enumerate(times, start=1)}
        ends.append(times[-1])
    return begins


delays = st.lists(st.integers(30, 100_000), max_size=3).map(tuple)
two_jobs = st.tuples(
    st.builds(Job, delays, st.none()), st.builds(Job, delays, st.sampled_from([None, 0]))
).map(list)


@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(jobs=two_jobs)
@example(jobs=[Job((3600, 60), None), Job((30, 100_000), 0)])
def test_attempts_happen_when_they_should(
    task_runner: TaskRunner[Any],
    runner_name: str,
    virtual_clock: VirtualClock,
    tmp_path: Path,
    jobs: list[Job],
) -> None:
    """For any retry schedule the virtual times of attempts are those computed by hand."""
    path = tmp_path / f"{time.monotonic_ns()}.jsonl"
    start, real = seconds_now(), time.perf_counter()
    run_jobs.with_options(task_runner=task_runner)(
        str(path), [(list(job.delays), job.after) for job in jobs]
    )
    took = time.perf_counter() - real
    seen = {(line["job"], line["attempt"]): line["at"] - start for line in noted(path)}
    expected = by_hand(jobs, side_by_side=runner_name != "sequential")
    assert seen.keys() == expected.keys()
    late = {key: seen[key] - expected[key] for key in expected}
    assert all(0 <= seconds <= took for seconds in late.values()), (late, took)


@task(retries=1, retry_delay_seconds=HOUR)
def fail_once(path: str, number: int) -> int:
    """Fail once, and succeed an hour later."""
    context = TaskRunContext.get()
    assert context is not None
    note(path, number=number, attempt=context.task_run.run_count)
    if context.task_run.run_count == 1:
        raise ConnectionError
    return number


@flow
def fail_once_each(path: str, count: int) -> list[int]:
    """Run this number of tasks that fail once."""
    return [future.result() for future in [fail_once.submit(path, n) for n in range(count)]]


def test_parallel_waits_do_not_add_up(
    task_runner: TaskRunner[Any], runner_name: str, virtual_clock: VirtualClock, tmp_path: Path
) -> None:
    """Two tasks that each wait an hour take one hour in parallel, two in sequence."""
    path = tmp_path / "attempts.jsonl"
    fail_once_each.with_options(task_runner=task_runner)(str(path), 2)
    hours = 2 if runner_name == "sequential" else 1
    assert virtual_clock.skipped <= hours * HOUR <= virtual_clock.elapsed


class SlowToSubmit(ThreadPoolTaskRunner[Any]):
    """A runner that blocks before it submits a second task, like one that starts a thread."""

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        """Submit a task; the second one only after the clock has had time to check."""
        self.submitted = getattr(self, "submitted", 0) + 1
        if self.submitted == 2:
            threading.Event().wait(0.5)
        return super().submit(*args, **kwargs)


def test_time_stands_still_while_a_task_is_submitted(
    virtual_clock: VirtualClock, tmp_path: Path
) -> None:
    """Two tasks wait in parallel, even if it takes a while to submit the second one."""
    path = tmp_path / "attempts.jsonl"
    runner: TaskRunner[Any] = SlowToSubmit(max_workers=2)
    fail_once_each.with_options(task_runner=runner)(str(path), 2)
    assert virtual_clock.skipped <= HOUR <= virtual_clock.elapsed


def test_a_runner_that_blocks_in_submit_does_not_hold_up_time_indefinitely(
    virtual_clock: VirtualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runner that waits for a free worker in `submit` holds time up for the grace period only."""
    import flowgauge.clock.coordinator as coordinator

    monkeypatch.setattr(coordinator, "START_GRACE", 0.5)
    free = threading.Semaphore(1)

    @task(retries=1, retry_delay_seconds=HOUR)
    def then_free(path: str, number: int) -> int:
        done = fail_once.fn(path, number)
        free.release()
        return done

    class OneAtATime(ThreadPoolTaskRunner[Any]):
        def submit(self, *args: Any, **kwargs: Any) -> Any:
            free.acquire()
            return super().submit(*args, **kwargs)

    runner: TaskRunner[Any] = OneAtATime(max_workers=2)

    @flow(task_runner=runner)
    def in_turn(path: str) -> list[int]:
        return [future.result() for future in [then_free.submit(path, n) for n in range(2)]]

    assert in_turn(str(tmp_path / "attempts.jsonl")) == [0, 1]
    assert virtual_clock.elapsed >= 2 * HOUR


def test_tasks_queue_for_a_worker_that_waits(virtual_clock: VirtualClock, tmp_path: Path) -> None:
    """Three tasks that each wait an hour take two hours on two threads, as in real time."""
    fail_once_each.with_options(task_runner=threads(2))(str(tmp_path / "attempts.jsonl"), 3)
    assert virtual_clock.skipped <= 2 * HOUR <= virtual_clock.elapsed


@pytest.mark.runners("threads", "processes", "dask-threads", "dask-processes")
def test_time_stands_still_while_a_task_works(
    task_runner: TaskRunner[Any], virtual_clock: VirtualClock, tmp_path: Path
) -> None:
    """While a task works no time is skipped, so it ends before another one's retry begins."""
    path = tmp_path / "work.jsonl"

    @task
    def work() -> None:
        # Not before the other task's first attempt, which may be slow to start.
        wait_until(lambda: noted(path))
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            sum(range(1000))
        note(str(path), number="worked")

    @flow(task_runner=task_runner)
    def work_beside() -> None:
        futures: list[Any] = [fail_once.submit(str(path), 1), work.submit()]
        wait(futures)

    work_beside()
    assert [line["number"] for line in noted(path)] == [1, "worked", 1]


@pytest.mark.runners("threads", "processes", "dask-threads", "dask-processes")
def test_a_flow_that_waits_for_a_finished_task_goes_on_first(
    task_runner: TaskRunner[Any], virtual_clock: VirtualClock, tmp_path: Path
) -> None:
    """A flow that gets a result goes on before time is skipped for another task's retry."""
    path = tmp_path / "order.jsonl"

    @task
    def quick(number: int) -> int:
        note(str(path), number=number)
        return number

    @flow(task_runner=task_runner)
    def go_on() -> None:
        slow, first = fail_once.submit(str(path), 0), quick.submit(1)
        for future in as_completed([slow, first]):
            if future.task_run_id == first.task_run_id:
                quick.submit(2).result()

    go_on()
    numbers = [line["number"] for line in noted(path)]
    assert sorted(numbers) == [0, 0, 1, 2]
    # When the first attempt runs depends on the threads; the second one comes last.
    assert numbers[-1] == 0


def test_flow_retries(virtual_clock: VirtualClock, tmp_path: Path) -> None:
    """A flow is retried when its delay is over; Prefect's server rounds that to seconds."""
    path = tmp_path / "runs.jsonl"

    @flow(retries=2, retry_delay_seconds=HOUR)
    def fail_twice() -> str:
        note(str(path))
        if len(noted(path)) < 3:
            raise ConnectionError
        return "done"

    real = time.perf_counter()
    assert fail_twice() == "done"
    took = time.perf_counter() - real
    first, *later = [line["at"] for line in noted(path)]
    late = [at - first - hours * HOUR for hours, at in enumerate(later, start=1)]
    assert len(late) == 2
    assert all(-1 <= seconds <= took + 1 for seconds in late)


def test_async_tasks_wait_together(virtual_clock: VirtualClock, tmp_path: Path) -> None:
    """Async tasks that one flow gathers wait in parallel."""
    path = tmp_path / "async.jsonl"

    @task(retries=1, retry_delay_seconds=HOUR)
    async def fail_once_async(number: int) -> int:
        note(str(path), number=number)
        if len([line for line in noted(path) if line["number"] == number]) == 1:
            raise ConnectionError
        return number

    @flow
    async def gather() -> list[int]:
        return await asyncio.gather(*(fail_once_async(number) for number in range(3)))

    assert asyncio.run(gather()) == [0, 1, 2]
    assert virtual_clock.skipped <= HOUR <= virtual_clock.elapsed


@pytest.mark.runners("sequential")
def test_an_async_task_that_runs_while_it_is_submitted_waits(
    virtual_clock: VirtualClock, task_runner: TaskRunner[Any]
) -> None:
    """A retry is skipped of a task that `submit` runs in another thread, after tasks it called."""
    attempts = []

    @task
    async def called() -> None:
        attempts.append(seconds_now())

    @task(retries=1, retry_delay_seconds=HOUR)
    async def fail_once_async() -> None:
        await called()
        if len(attempts) == 1:
            raise ConnectionError

    @flow(task_runner=task_runner)
    async def submits() -> None:
        fail_once_async.submit().wait()

    asyncio.run(submits())
    assert len(attempts) == 2
    assert HOUR - 1 <= virtual_clock.skipped <= HOUR + 1


def test_an_async_flow_is_retried(virtual_clock: VirtualClock) -> None:
    """An async flow's wait for its retry is skipped, too."""
    attempts = []

    @flow(retries=1, retry_delay_seconds=HOUR)
    async def fail_once_async() -> str:
        attempts.append(seconds_now())
        if len(attempts) == 1:
            raise ConnectionError
        return "done"

    assert asyncio.run(fail_once_async()) == "done"
    # The server rounds to whole seconds.
    assert attempts[1] - attempts[0] >= HOUR - 1
    assert virtual_clock.skipped <= HOUR + 1


def test_a_day_of_retries_is_skipped(virtual_clock: VirtualClock) -> None:
    """24 hours of retries are skipped, except for the real time that the work takes."""
    attempts = []

    @task(retries=24, retry_delay_seconds=HOUR)
    def fail_all_day() -> int:
        attempts.append(seconds_now())
        if len(attempts) < 25:
            raise ConnectionError
        return len(attempts)

    @flow
    def all_day() -> int:
        return fail_all_day()

    real = time.perf_counter()
    assert all_day() == 25
    real = time.perf_counter() - real
    assert virtual_clock.skipped <= 24 * HOUR <= attempts[-1] - attempts[0]
    assert attempts[-1] - attempts[0] <= virtual_clock.skipped + real


def test_a_scheduled_run_starts_at_its_time(virtual_clock: VirtualClock) -> None:
    """A flow run scheduled for later begins at that time, and the server's states say so."""
    begun = []

    @flow
    def later() -> None:
        begun.append(virtual_clock.now())

    from prefect.flow_engine import run_flow

    at = virtual_clock.now() + datetime.timedelta(hours=5)
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(later, state=Scheduled(scheduled_time=at))
        run_flow(later, flow_run=run)
        states = client.read_flow_run_states(run.id)
    running = [state.timestamp for state in states if state.name == "Running"]
    # The server rounds to whole seconds.
    assert at - SECOND <= running[0] <= begun[0] + SECOND
    assert virtual_clock.skipped <= 5 * HOUR + 1


def test_cached_results_expire(
    task_runner: TaskRunner[Any], virtual_clock: VirtualClock, tmp_path: Path
) -> None:
    """A cached result is used until `advance` moves time past its expiration."""
    path = tmp_path / "calls.jsonl"

    @task(
        cache_policy=INPUTS,
        cache_expiration=datetime.timedelta(hours=1),
        persist_result=True,
    )
    def compute(path: str) -> int:
        note(path)
        return len(noted(path))

    @flow(task_runner=task_runner)
    def run_compute() -> int:
        return int(compute.submit(str(path)).result())

    assert [run_compute(), run_compute()] == [1, 1]
    virtual_clock.advance(datetime.timedelta(minutes=59))
    assert run_compute() == 1
    virtual_clock.advance(60)
    assert run_compute() == 2


def test_now_and_elapsed_agree(virtual_clock: VirtualClock) -> None:
    """The clock and Prefect agree on the time, and advanced time counts as elapsed."""
    start = virtual_clock.now()
    virtual_clock.advance(90)
    assert (virtual_clock.now() - start).total_seconds() >= 90
    before, told, after = seconds_now(), virtual_clock.now().timestamp(), seconds_now()
    assert before - 1e-3 <= told <= after + 1e-3
    assert virtual_clock.skipped <= 90 <= virtual_clock.elapsed


def test_time_does_not_go_back(virtual_clock: VirtualClock) -> None:
    """Advancing by a negative amount is refused."""
    with pytest.raises(ValueError, match="time does not go back"):
        virtual_clock.advance(-1)


def test_advance_wakes_on_the_way(virtual_clock: VirtualClock, tmp_path: Path) -> None:
    """A run whose wait ends within the advanced time wakes at that moment, not at the end."""
    path = tmp_path / "attempts.jsonl"
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        run = pool.submit(fail_once_each.with_options(task_runner=threads()), str(path), 1)
        wait_until(lambda: noted(path), "the first attempt")
        virtual_clock.advance(10 * HOUR)
        run.result()
    first, second = (line["at"] for line in noted(path))
    # Not at the end of the advanced time, nine hours later.
    assert HOUR <= second - first < 2 * HOUR


def test_time_is_real_again_afterwards(
    prefect_server: str, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    """When a test gives the clock back, time and waits are real again."""
    home = run_home(pytestconfig)
    with virtual_clock_of(ClockProcess(home), home, prefect_server) as clock:
        clock.skip_sleep()
        clock.advance(HOUR)
        assert seconds_now() - time.time() > HOUR - 1
    before, told, after = time.time(), seconds_now(), time.time()
    assert before - 1e-3 <= told <= after + 1e-3
    assert vars(prefect.task_engine)["time"] is time
    assert time.sleep is nap


@task
def sleep_an_hour(path: str, how: str) -> None:
    """Call `sleep` by one of its two names, and note when it is over."""
    (time.sleep if how == "time.sleep" else nap)(HOUR)
    note(path)


def test_sleep_is_skipped_on_request(
    task_runner: TaskRunner[Any], virtual_clock: VirtualClock, tmp_path: Path
) -> None:
    """`skip_sleep` skips `time.sleep` in tasks, also if it was imported by another name."""
    virtual_clock.skip_sleep()
    path = tmp_path / "slept.jsonl"
    start = seconds_now()

    @flow(task_runner=task_runner)
    def sleep_twice() -> None:
        for future in [sleep_an_hour.submit(str(path), how) for how in ("time.sleep", "nap")]:
            future.wait()

    sleep_twice()
    assert [round((line["at"] - start) / HOUR) for line in noted(path)] in ([1, 1], [1, 2])


def test_async_sleep_is_skipped_on_request(virtual_clock: VirtualClock) -> None:
    """`skip_sleep` skips `asyncio.sleep`, and gathered sleeps do not add up."""
    virtual_clock.skip_sleep()

    @task
    async def sleep_async() -> None:
        await asyncio.sleep(HOUR)

    @flow
    async def sleep_together() -> None:
        await asyncio.gather(sleep_async(), sleep_async())

    asyncio.run(sleep_together())
    assert virtual_clock.skipped <= HOUR <= virtual_clock.elapsed


def test_sleep_is_left_alone_otherwise(virtual_clock: VirtualClock) -> None:
    """Unless `skip_sleep` is called, the clock leaves a task's `time.sleep` as it is."""

    @task
    def doze() -> float:
        start = time.perf_counter()
        time.sleep(0.2)
        return time.perf_counter() - start

    @flow
    def doze_once() -> float:
        return doze()

    assert doze_once() >= 0.2
    assert virtual_clock.skipped == 0


def test_flows_in_their_own_threads(virtual_clock: VirtualClock, tmp_path: Path) -> None:
    """Flows that a flow starts in threads, where Prefect does not know it, wait in parallel."""

    @flow
    def outer() -> list[list[int]]:
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            paths = [str(tmp_path / name) for name in ("one", "two")]
            return list(pool.map(fail_once_each, paths, [1, 1]))

    assert outer() == [[0], [0]]
    assert virtual_clock.skipped <= HOUR <= virtual_clock.elapsed


def test_an_event_loop_that_is_blocked(virtual_clock: VirtualClock, tmp_path: Path) -> None:
    """An async flow that blocks on a future holds up its siblings, as it does in real time."""

    @flow
    async def one(number: int) -> Any:
        return fail_once.submit(str(tmp_path / str(number)), number).result()

    @flow
    async def both() -> list[Any]:
        return list(await asyncio.gather(one(0), one(1)))

    assert asyncio.run(both()) == [0, 1]
    assert virtual_clock.skipped <= 2 * HOUR <= virtual_clock.elapsed


def test_flows_in_tasks(
    task_runner: TaskRunner[Any],
    runner_name: str,
    virtual_clock: VirtualClock,
    tmp_path: Path,
) -> None:
    """Flows that tasks call are retried on time, in parallel if the tasks run in parallel."""

    @flow(retries=1, retry_delay_seconds=HOUR)
    def retried(number: int) -> int:
        note(str(tmp_path / str(number)))
        if len(noted(tmp_path / str(number))) == 1:
            raise ConnectionError
        return number

    @task
    def call(number: int) -> int:
        return retried(number)

    @flow(task_runner=task_runner)
    def outer() -> list[int]:
        return call.map([0, 1]).result()

    assert outer() == [0, 1]
    hours = 2 if runner_name == "sequential" else 1
    # The server rounds to whole seconds.
    assert virtual_clock.skipped - 2 <= hours * HOUR <= virtual_clock.elapsed + 2


def test_waits_for_a_slot_end_when_it_is_free(virtual_clock: VirtualClock, tmp_path: Path) -> None:
    """A task that waits for another one's concurrency slot gets it after the other one's retry."""
    with get_client(sync_client=True) as client:
        client.create_concurrency_limit("one-at-a-time", 1)
    limited = fail_once.with_options(tags=["one-at-a-time"])

    @flow(task_runner=threads())
    def in_turn() -> list[int]:
        return [f.result() for f in [limited.submit(str(tmp_path / "a"), n) for n in range(2)]]

    assert in_turn() == [0, 1]
    # A task that waits for a slot asks for it every now and then.
    assert virtual_clock.skipped - 120 <= 2 * HOUR <= virtual_clock.elapsed


def test_a_run_that_outlives_its_test_fails(
    prefect_server: str, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    """A run that still waits when the test gives the clock back fails instead of waiting on."""
    home = run_home(pytestconfig)
    process = ClockProcess(home)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with virtual_clock_of(process, home, prefect_server):
            hold = threading.Event()

            @task
            def work() -> None:
                hold.wait(patience())

            @flow(task_runner=threads())
            def left_behind() -> None:
                futures: list[Any] = [fail_once.submit(str(tmp_path / "a"), 1), work.submit()]
                futures[0].result()

            run = pool.submit(left_behind)
            wait_until(lambda: process._sleepers, "the retry's wait")
        hold.set()
        with pytest.raises(ClockEndedError, match="the test that used the clock is over"):
            run.result(patience())


def test_a_wait_for_something_else_is_reported(
    virtual_clock: VirtualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever keeps time from being skipped is reported once it has held up a wait for a while."""
    import flowgauge.clock.coordinator as coordinator

    monkeypatch.setattr(coordinator, "REPORT_AFTER", 0.2)
    words = "'fail_once' waited in real time for task 'outside_work'", "test_virtual_clock.py"

    @task
    def outside_work() -> None:
        # It is reported only if a check falls into this time, so wait until one does.
        while not is_told(virtual_clock, *words):
            time.sleep(0.05)

    @flow(task_runner=threads())
    def hold_up() -> None:
        futures: list[Any] = [fail_once.submit(str(tmp_path / "a.jsonl"), 1), outside_work.submit()]
        wait(futures)

    hold_up()
    assert_told(virtual_clock, *words)
