# SPDX-License-Identifier: Apache-2.0
"""Who else may act, outside of all runs: code of the test that works, and workers."""

from __future__ import annotations

import asyncio
import queue
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prefect.runner import Runner

from flowgauge.clock.outside import code_outside
from flowgauge.services.deployed import Services
from flowgauge.waiting import wait_until


@contextmanager
def in_thread(run: Callable[[threading.Event], None]) -> Iterator[int]:
    """Run something in another thread until the event that it is given is set."""
    over = threading.Event()
    thread = threading.Thread(target=run, args=(over,))
    thread.start()
    try:
        yield thread.ident or 0
    finally:
        over.set()
        thread.join()


def works(over: threading.Event) -> None:
    """Work without a pause."""
    while not over.is_set():
        sum(range(1000))


def sleeps(over: threading.Event) -> None:
    """Look again and again, with naps."""
    while not over.is_set():
        time.sleep(0.01)


def looks_often(over: threading.Event) -> None:
    """Look again and again, with waits that others may end."""
    while not over.wait(0.05):
        pass


def waits(over: threading.Event) -> None:
    """Wait for others, for as long as it takes."""
    over.wait()


def waits_with_a_bound(over: threading.Event) -> None:
    """Wait for others, for a minute at most."""
    over.wait(60)


def waits_for_work(over: threading.Event) -> None:
    """Wait for what others put into a queue."""
    work: queue.Queue[None] = queue.Queue()

    def end() -> None:
        over.wait()
        work.put(None)

    ender = threading.Thread(target=end)
    ender.start()
    work.get()
    ender.join()


def serves(over: threading.Event) -> None:
    """Wait for requests, as a web server of a test does."""
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as server:

        def end() -> None:
            over.wait()
            server.shutdown()

        ender = threading.Thread(target=end)
        ender.start()
        server.serve_forever(poll_interval=0.05)
        ender.join()


def sleeps_in_loop(over: threading.Event) -> None:
    """Look again and again, in a coroutine."""

    async def look() -> None:
        while not over.is_set():
            await asyncio.sleep(0.01)

    asyncio.run(look())


def waits_in_loop(over: threading.Event) -> None:
    """Wait for others, in a coroutine."""
    asyncio.run(asyncio.to_thread(over.wait))


@pytest.mark.parametrize(
    "run",
    [works, sleeps, looks_often, sleeps_in_loop],
    ids=lambda run: run.__name__.replace("_", "-"),
)
def test_code_that_goes_on_by_itself_may_act(run: Callable[[threading.Event], None]) -> None:
    """Code of the test that works, sleeps or looks often may act; it is told where it is."""
    with in_thread(run):
        wait_until(
            lambda: code_outside(()).startswith(f"code of the test, which is at {__file__}:"),
            "code that may act",
        )


@pytest.mark.parametrize(
    "run",
    [waits, waits_with_a_bound, waits_for_work, serves, waits_in_loop],
    ids=lambda run: run.__name__.replace("_", "-"),
)
def test_code_that_waits_for_others_does_not_act(run: Callable[[threading.Event], None]) -> None:
    """Code that waits for others, or for requests, does nothing before they do."""
    with in_thread(run):
        wait_until(lambda: not code_outside(()), "no code that may act")


def test_the_threads_of_runs_are_judged_elsewhere() -> None:
    """The code of runs is no code outside of them."""
    with in_thread(works) as thread:
        wait_until(lambda: code_outside(()), "code that may act")
        assert code_outside({thread}) == ""


def test_a_runner_may_start_a_run(
    prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker or runner of Prefect in this process may act, though it only waits for work."""
    # Where the runner makes its folder.
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    runner: Any = Runner(name="waits", query_seconds=60)

    def run(over: threading.Event) -> None:
        async def start() -> None:
            running = asyncio.create_task(runner.start())
            await asyncio.to_thread(over.wait)
            await runner.stop()
            await running

        asyncio.run(start())

    with in_thread(run):
        wait_until(lambda: runner.started, "the start of the runner")
        wait_until(lambda: code_outside(()) == "a worker that may start another run", "the runner")


@pytest.mark.parametrize(
    ("function", "may_act"),
    [(lambda: None, True), (Services.serve, True), (int, False), (asyncio.run, False)],
    ids=["of the test", "starts a service", "built-in", "of a library"],
)
def test_a_timer_of_the_test_may_act(function: Callable[..., object], may_act: bool) -> None:
    """A timer that will call code of the test, or start a service, counts; no other one does."""
    timer = threading.Timer(600, function)
    timer.start()
    try:
        assert code_outside([threading.get_ident()]).startswith("a timer") == may_act
    finally:
        timer.cancel()
        timer.join()
