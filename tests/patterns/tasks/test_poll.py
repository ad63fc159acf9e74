# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/tasks/poll.py`."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient
from prefect.runtime import flow_run
from prefect.states import Cancelling
from prefect.task_runners import TaskRunner

from flowgauge import VirtualClock
from flowgauge.waiting import patience, wait_until
from patterns.tasks.poll import JobFailed, job_path, render_films

NAME = "tasks/poll"
ROOT = Path(__file__).parents[3]
DONE = {"state": "done", "result": "film"}
RUNNING = {"state": "running"}
LOST = None
"""Instead of an answer: the connection is closed."""

Answer = dict[str, str] | int | None


class Asked(NamedTuple):
    """A request to the service."""

    method: str
    path: str
    at: float


class Studio:
    """A service whose answer to each poll is chosen by a test."""

    def __init__(self, url: str) -> None:
        """Begin without jobs."""
        self.url = url
        self.now: Callable[[], float] = lambda: 0.0
        self.requests: list[Asked] = []
        self.started: dict[str, int] = defaultdict(int)
        self.cancelled: set[str] = set()
        self.poll: Callable[[str, int], Answer] = lambda path, number: DONE
        self.lose_starts = 0
        self.lock = threading.Lock()

    def count(self, method: str, path: str) -> int:
        """Return the number of requests of a kind."""
        return sum(each[:2] == (method, path) for each in self.requests)

    def respond(self, method: str, path: str) -> Answer:
        """Note a request, and choose the answer."""
        with self.lock:
            self.requests.append(Asked(method, path, self.now()))
            if method == "PUT":
                self.started.setdefault(path, len(self.started))
                self.lose_starts -= 1
                return LOST if self.lose_starts >= 0 else {}
            if method == "DELETE":
                self.cancelled.add(path)
                return {}
            return self.poll(path, self.count("GET", path))


@pytest.fixture
def studio() -> Iterator[Studio]:
    """Yield a service on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            answer = here.respond(self.command, self.path)
            if answer is LOST:
                return
            self.send_response_only(answer if isinstance(answer, int) else 200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        do_GET = do_PUT = do_DELETE = answer

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 300

    with Server(("127.0.0.1", 0), Handler) as server:
        here = Studio(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield here
        server.shutdown()
        thread.join()


def render(studio: Studio, *films: str, every: float = 0.01) -> Any:
    """Render films in a batch."""
    return asyncio.run(render_films(studio.url, "may", list(films), every))


def other_threads() -> int:
    """Return the number of threads that are not the service's."""
    return sum("process_request" not in thread.name for thread in threading.enumerate())


@pytest.mark.guarantee(NAME, "one-thread")
@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("many", [20, pytest.param(200, marks=pytest.mark.nightly)])
def test_hundreds_of_jobs_are_waited_for_in_one_thread(studio: Studio, many: int) -> None:
    """While many jobs are waited for at the same time, there are no more threads than with one."""
    threads: list[int] = []
    polled: set[str] = set()

    def until_all_were_asked_twice(total: int) -> Callable[[str, int], Answer]:
        def poll(path: str, number: int) -> Answer:
            if number > 1:
                polled.add(path)
            if time.monotonic() > deadline:
                return {"state": "failed", "error": f"asked twice: {len(polled)} of {total}"}
            if len(polled) < total:
                return RUNNING
            threads.append(other_threads())
            return DONE

        return poll

    counts = []
    deadline = time.monotonic() + patience(150 if many < 100 else 400)
    for total in (1, many):
        threads.clear()
        polled.clear()
        studio.requests.clear()
        studio.poll = until_all_were_asked_twice(total)
        # All jobs are asked twice before one of them is done, so all are waited for at once.
        assert render(studio, *map(str, range(total)), every=many / 200) == ["film"] * total
        counts.append(max(threads))
    assert counts[1] <= counts[0] + 2


@pytest.mark.guarantee(NAME, "polls")
@pytest.mark.usefixtures("prefect_server")
def test_jobs_are_asked_now_and_then(studio: Studio, virtual_clock: VirtualClock) -> None:
    """A job that takes an hour is asked once every `every` seconds, and then gives its result."""
    virtual_clock.skip_sleep()
    studio.now = lambda: virtual_clock.now().timestamp()
    began = studio.now()
    studio.poll = lambda path, number: DONE if studio.now() >= began + 3600 else RUNNING
    assert render(studio, "up", every=900) == ["film"]
    polls = [each.at for each in studio.requests if each.method == "GET"]
    assert 4 <= len(polls) <= 5
    assert min(b - a for a, b in pairwise(polls)) >= 900


@pytest.mark.guarantee(NAME, "once")
@pytest.mark.usefixtures("prefect_server")
def test_a_lost_answer_to_the_start_starts_no_second_job(
    studio: Studio, virtual_clock: VirtualClock
) -> None:
    """If the answer to the start is lost twice, the start is repeated, for the same job."""
    studio.lose_starts = 2
    assert render(studio, "up") == ["film"]
    assert studio.count("PUT", job_path("may", "up")) == 3
    assert len(studio.started) == 1
    assert virtual_clock.elapsed >= 20


@pytest.mark.guarantee(NAME, "once")
@pytest.mark.usefixtures("prefect_server")
def test_a_retried_flow_finds_its_jobs(studio: Studio) -> None:
    """A flow that is retried starts no second job."""
    studio.poll = lambda path, number: {"state": "failed", "error": "?"} if number == 1 else DONE

    @flow(retries=1)
    async def order() -> tuple[int, list[str]]:
        films = await render_films(studio.url, "may", ["up"], 0.01)
        return flow_run.run_count, films

    assert asyncio.run(order()) == (2, ["film"])
    assert studio.count("PUT", "/jobs/may/up") == 2
    assert list(studio.started) == ["/jobs/may/up"]


@pytest.mark.guarantee(NAME, "once")
@given(
    one=st.tuples(st.text("a/-%. ", min_size=1), st.text("a/-%. ", min_size=1)),
    other=st.tuples(st.text("a/-%. ", min_size=1), st.text("a/-%. ", min_size=1)),
)
def test_jobs_have_a_path_of_their_own(one: tuple[str, str], other: tuple[str, str]) -> None:
    """Two jobs have the same path only if their batches and their films are equal."""
    assert (job_path(*one) == job_path(*other)) == (one == other)
    assert job_path(*one).count("/") == 3


@pytest.mark.guarantee(NAME, "lost-poll")
@pytest.mark.usefixtures("prefect_server")
def test_a_lost_poll_is_repeated(studio: Studio) -> None:
    """A poll without an answer, or with 429 or a 5xx, is repeated, and the job is then done."""
    answers: list[Answer] = [LOST, 429, 500, 503, LOST, RUNNING, DONE]
    studio.poll = lambda path, number: answers[number - 1]
    assert render(studio, "up") == ["film"]
    assert studio.count("GET", "/jobs/may/up") == len(answers)


@pytest.mark.guarantee(NAME, "failed")
@pytest.mark.guarantee(NAME, "unknown")
@pytest.mark.usefixtures("prefect_server")
def test_failed_jobs_fail_the_flow_at_its_end(studio: Studio) -> None:
    """A failed or unknown job fails its task; the flow waits for the others and raises all."""

    def poll(path: str, number: int) -> Answer:
        if path.endswith("jaws"):
            return {"state": "failed", "error": "no shark"}
        if path.endswith("gone"):
            return 404
        return RUNNING if number < 5 else DONE

    studio.poll = poll
    with pytest.raises(ExceptionGroup, match="2 of 3 jobs") as raised:
        render(studio, "jaws", "up", "gone")
    jaws, gone = raised.value.exceptions
    assert isinstance(jaws, JobFailed)
    assert jaws.args == ("/jobs/may/jaws", "no shark")
    assert isinstance(gone, httpx.HTTPStatusError)
    assert studio.count("GET", "/jobs/may/up") == 5
    assert studio.count("GET", "/jobs/may/gone") == 1


@pytest.mark.guarantee(NAME, "deadline")
@pytest.mark.guarantee(NAME, "once")
@pytest.mark.usefixtures("prefect_server")
def test_after_the_deadline_a_later_run_finds_the_jobs(studio: Studio) -> None:
    """At `timeout_seconds` the flow ends TimedOut; a later run of the batch finds its jobs."""
    studio.poll = lambda path, number: RUNNING
    films = ["jaws", "up"]
    hurried: Any = render_films.with_options(timeout_seconds=0.5)
    state: Any = asyncio.run(hurried(studio.url, "may", films, 0.01, return_state=True))
    assert state.name == "TimedOut"
    assert studio.cancelled == set()
    begun = set(studio.started)
    studio.poll = lambda path, number: DONE
    assert render(studio, *films) == ["film"] * 2
    # On a slow machine the first run may have started fewer jobs.
    assert begun <= set(studio.started) == {"/jobs/may/jaws", "/jobs/may/up"}
    assert render_films.timeout_seconds == 6 * 3600


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "cancelled")
def test_a_cancelled_run_cancels_its_jobs(
    studio: Studio, live_server: str, start: Callable[..., Any]
) -> None:
    """When a run that `serve` has started is cancelled, its jobs are cancelled at the service."""
    studio.poll = lambda path, number: RUNNING
    code = "from patterns.tasks.poll import render_films; render_films.serve('studio')"
    start("-c", code, cwd=ROOT, PREFECT_RUNNER_POLL_FREQUENCY="1", PREFECT_RUNNER_SERVER_ENABLE="0")
    with SyncPrefectClient(live_server) as client:

        def served() -> Any:
            return next((each for each in client.read_deployments() if each.name == name), None)

        name = "studio"
        deployment = wait_until(served)
        given = {"service": studio.url, "batch": "a b", "films": ["jaws", "up"], "every": 0.1}
        run = client.create_flow_run_from_deployment(deployment.id, parameters=given)
        wait_until(lambda: studio.count("GET", job_path("a b", "up")) > 1)
        client.set_flow_run_state(run.id, Cancelling())
        # Prefect sets this state after the hooks.
        wait_until(lambda: client.read_flow_run(run.id).state_name == "Cancelled")
    assert studio.cancelled == {job_path("a b", "jaws"), job_path("a b", "up")}


def order_of(file: Path) -> list[tuple[str, str]]:
    """Return what tasks noted in a file, in order: a name and what happened to it."""
    lines = [line.split() for line in file.read_text().splitlines()]
    return [(name, what) for name, what in lines]


@pytest.mark.fact(NAME, "retry-slot")
@pytest.mark.usefixtures("prefect_server")
def test_a_task_that_waits_for_a_retry_holds_its_place(
    task_runner: TaskRunner[Any], tmp_path: Path, virtual_clock: VirtualClock
) -> None:
    """While two tasks wait for their retries on two workers, no third task starts."""

    @task(retries=1, retry_delay_seconds=3600)
    def poll(name: str, file: Path) -> None:
        polled = file.exists() and (name, "polled") in order_of(file)
        with file.open("a") as lines:
            lines.write(f"{name} {'done' if polled else 'polled'}\n")
        if not polled:
            raise LookupError("not done yet")

    @flow(task_runner=task_runner)
    def jobs(file: Path) -> None:
        [each.wait() for each in [poll.submit(name, file) for name in "abc"]]

    jobs(tmp_path / "order")
    order = order_of(tmp_path / "order")
    assert len(order) == 6
    started_last = max(order.index((name, "polled")) for name in "abc")
    assert "done" in [what for _, what in order[:started_last]]


@pytest.mark.fact(NAME, "async-slot")
@pytest.mark.runners("threads", "processes", "dask-processes")
@pytest.mark.usefixtures("prefect_server")
def test_a_submitted_async_task_holds_its_place(
    task_runner: TaskRunner[Any], tmp_path: Path
) -> None:
    """While two submitted async tasks await on two workers, no third task starts."""

    @task
    async def wait(name: str, file: Path) -> None:
        for what in ("polled", "done"):
            with file.open("a") as lines:
                lines.write(f"{name} {what}\n")
            await asyncio.sleep(0.2)

    @flow(task_runner=task_runner)
    def jobs(file: Path) -> None:
        [each.wait() for each in [wait.submit(name, file) for name in "abc"]]

    jobs(tmp_path / "order")
    order = order_of(tmp_path / "order")
    started_last = max(order.index((name, "polled")) for name in "abc")
    assert "done" in [what for _, what in order[:started_last]]


@pytest.mark.fact(NAME, "gathered")
@pytest.mark.usefixtures("prefect_server")
def test_gathered_async_tasks_run_in_the_thread_of_the_flow(task_runner: TaskRunner[Any]) -> None:
    """Async tasks that are called and gathered run side by side in the flow's own thread."""
    everyone: list[Any] = []

    @task
    async def wait(all_here: Any) -> int:
        await all_here.wait()
        return threading.get_ident()

    @flow(task_runner=task_runner)
    async def jobs() -> None:
        all_here = asyncio.Barrier(9)
        threads = await asyncio.gather(*[wait(all_here) for _ in range(9)])
        everyone.extend({*threads, threading.get_ident()})

    asyncio.run(jobs())
    assert len(everyone) == 1
