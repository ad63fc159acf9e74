# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4", "httpx>=0.27,<1"]
# ///
"""Wait for hundreds of jobs at another service, all in one thread.

Problem:
    A job at another service takes an hour. A task that sleeps and asks again occupies a thread or
    a worker process for that hour; so do a task whose retries are the polls, and an async task that
    is submitted. And if the flow is started again, so is the job.

Guarantees:
    one-thread: hundreds of jobs are waited for at the same time in the thread of the flow, because
        it calls its async tasks and does not submit them.
    polls: each job is asked for no sooner than `every` seconds after its last answer.
    once: a job is started once per batch: if the answer to the start is lost, if the flow is
        retried, or if another run of the flow has the same batch, the same job is found again.
    lost-poll: a poll without an answer, or with 429 or a 5xx, is repeated after `every` seconds.
    failed: a job that failed fails its task with `JobFailed` and the job's own error; the flow
        still waits for the other jobs, and then raises all errors in one ExceptionGroup.
    unknown: an answer with any other error status fails the task.
    deadline: after `timeout_seconds` the flow ends TimedOut, and its jobs keep running: a later run
        of the same batch finds them.
    cancelled: when a run is cancelled in Prefect, its jobs are cancelled at the service.

Prefect:
    retry-slot (3.8, 3.9): a task that waits for a retry occupies its place in the task runner.
    async-slot (3.8, 3.9): so does an async task that is submitted, while it awaits.
    gathered (3.8, 3.9): async tasks that are called and gathered all run in the thread of their
        flow, whatever its task runner.

Not for:
    A service at which a second PUT of the same job starts a second job: ask for its own key, such
    as an `Idempotency-Key`. Jobs that should run again: name another batch; a failed job is found
    again as failed. The flow run keeps its process, and its slot in a work pool, for all jobs
    together: if even that is too much, let the service trigger a deployment when a job is done.
    A killed process, or a run that no worker or `serve` has started: its jobs keep running. Ending
    `serve` cancels its runs, and may so cancel their jobs. A job whose service never answers
    again: it is asked until the deadline.

Costs:
    For each job one request at its start, and one every `every` seconds.

Sources:
    - https://docs.prefect.io/v3/how-to-guides/workflows/write-and-run
    - https://docs.prefect.io/v3/how-to-guides/workflows/state-change-hooks
    - Prefect #15156: a task that is awaited does not use the task runner
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import quote

import httpx
from prefect import flow, task
from prefect.cache_policies import NO_CACHE


class JobFailed(Exception):
    """A job ended with an error at the service; the arguments are its path and that error."""


def job_path(batch: str, film: str) -> str:
    """Return the path of a job, which is the same in each run of the flow."""
    return f"/jobs/{quote(batch, safe='')}/{quote(film, safe='')}"


async def ask(client: httpx.AsyncClient, path: str) -> dict[str, Any] | None:
    """Return what the service says about a job, or None if it can't be asked just now."""
    try:
        answer = await client.get(path)
    except httpx.TransportError:
        return None
    if answer.status_code == 429 or answer.is_server_error:
        return None
    answer.raise_for_status()
    job: dict[str, Any] = answer.json()
    return job


# A client is no part of a cache key, and the state of a job is not to be cached.
@task(retries=3, retry_delay_seconds=10, cache_policy=NO_CACHE)
async def start_job(client: httpx.AsyncClient, path: str) -> None:
    """Start a job; if it is there already, a PUT changes nothing, so that retries are harmless."""
    (await client.put(path)).raise_for_status()


@task(cache_policy=NO_CACHE)
async def wait_for_job(client: httpx.AsyncClient, path: str, every: float) -> str:
    """Return the result of a job when it is done."""
    while True:
        job = await ask(client, path)
        if job and job["state"] == "failed":
            raise JobFailed(path, job["error"])
        if job and job["state"] == "done":
            return str(job["result"])
        await asyncio.sleep(every)


def cancel_jobs(flow: Any, flow_run: Any, state: Any) -> None:
    """Cancel the jobs of a cancelled run; its parameters say which these are."""
    given = flow_run.parameters
    with httpx.Client(base_url=given["service"]) as client:
        for film in given["films"]:
            client.delete(job_path(given["batch"], film))


@flow(timeout_seconds=6 * 3600, on_cancellation=[cancel_jobs])
async def render_films(
    service: str, batch: str, films: list[str], every: float = 30.0
) -> list[str]:
    """Render films at a service, side by side.

    Args:
        service: The URL of the service.
        batch: A name for this order; the same name finds the same jobs again.
        films: What to render.
        every: Seconds between two polls of a job.

    Returns:
        The results, in the order of the films.

    Raises:
        BaseExceptionGroup: The errors of all jobs that did not succeed.
    """

    async def render(film: str) -> str:
        path = job_path(batch, film)
        await start_job(client, path)
        return await wait_for_job(client, path, every)

    async with httpx.AsyncClient(base_url=service) as client:
        # Called, not submitted: a submitted task would occupy a thread while it awaits.
        ended = await asyncio.gather(*map(render, films), return_exceptions=True)
    if errors := [each for each in ended if isinstance(each, BaseException)]:
        raise BaseExceptionGroup(f"{len(errors)} of {len(films)} jobs did not succeed", errors)
    return [str(each) for each in ended]


class Studio(BaseHTTPRequestHandler):
    """A service that renders a film while it is asked three times."""

    polls: ClassVar[Counter[str]] = Counter()

    def do_PUT(self) -> None:
        """Start a job, or do nothing if it was started before."""
        self.answer({})

    def do_GET(self) -> None:
        """Tell how a job is doing."""
        self.polls[self.path] += 1
        done = self.polls[self.path] > 3
        self.answer({"state": "done" if done else "running", "result": f"{self.path}.mp4"})

    def answer(self, job: dict[str, str]) -> None:
        """Answer with a job."""
        self.send_response_only(200)
        self.end_headers()
        self.wfile.write(json.dumps(job).encode())


def main() -> None:
    """Show that the films of a batch are rendered side by side."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Studio) as studio:
        threading.Thread(target=studio.serve_forever, daemon=True).start()
        service = f"http://127.0.0.1:{studio.server_port}"
        for film in asyncio.run(render_films(service, "may", ["alien", "up"], every=0.1)):
            print(film)
        studio.shutdown()


if __name__ == "__main__":
    main()
