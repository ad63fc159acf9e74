import os, time
from typing import Any
import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from flowgauge.history import run_history


@task(retries=2, retry_delay_seconds=0)
def fetch(n: int) -> int:
    return n


@task
async def afetch(n: int) -> int:
    return n


@task(persist_result=True)
def keep(n: int) -> int:
    return n


def run_one(a_task, runner, *args):
    futures = []

    @flow(task_runner=runner, name="one")
    def one():
        futures.append(a_task.submit(*args))
        futures[0].wait()
        return futures[0].state

    s = one(return_state=True)
    return s, futures


@pytest.mark.parametrize("at", ["after the effect", "after completion"])
def test_points(faults, task_runner, at):
    faults.on("fetch", at=at).fail_times(1, ConnectionError("down"))
    s, f = run_one(fetch, task_runner, 1)
    print(s, run_history(f[0]))


def test_store(faults, task_runner):
    faults.on("keep", at="before the result is stored").fail_times(1, ConnectionError("down"))
    s, f = run_one(keep, task_runner, 1)
    print(s, run_history(f[0]))


def test_corrupt(faults, task_runner):
    faults.on("keep").corrupt_result()
    s, f = run_one(keep, task_runner, 1)
    print(s, run_history(f[0]))
    with get_client(sync_client=True) as c:
        st = c.read_task_run(f[0].task_run_id).state
        try:
            print(st, st.result())
        except BaseException as e:
            print("READ", type(e), str(e)[:300])


@pytest.mark.parametrize("at", ["before the body", "after the effect", "after completion"])
def test_crash(faults, task_runner, at):
    faults.on("fetch", at=at).crash_process()
    t = time.time()
    s, f = run_one(fetch, task_runner, 1)
    print("CRASH", at, time.time() - t, s, run_history(f[0], final=False))


@task
def asks() -> list[str]:
    seen = []
    for _ in range(4):
        try:
            with get_client(sync_client=True) as c:
                c.hello()
            seen.append("ok")
        except Exception as e:
            seen.append(type(e).__name__)
    return seen


def test_lose(faults, task_runner):
    faults.on("asks").lose_connection(2)
    t = time.time()
    s, f = run_one(asks, task_runner)
    print("LOSE", time.time() - t, s, run_history(f[0]), f[0].result())
