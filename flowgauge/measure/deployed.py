# SPDX-License-Identifier: Apache-2.0
"""Times deployed flow runs from outside: they are triggered and polled through a server's API."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Self

_READS = ("/filter", "/count")
"""How the paths of requests end that change nothing, and may be made again."""
DEADLINE = 120
"""Seconds to wait for a flow run or a process before the measurement fails."""

FLOW = """\
from prefect import flow


@flow
def add_one(number: int = 41) -> int:
    return number + 1


if __name__ == "__main__":
    add_one.serve("served")
"""


BURST = """\
import asyncio
import sys
import time

from prefect import flow, task


@task
async def add_one(number: int) -> int:
    return number + 1


@flow
async def count(number: int) -> int:
    return await add_one(number)


async def count_at_once(runs: int) -> None:
    await count(0)
    start = time.perf_counter()
    numbers = await asyncio.gather(*(count(number) for number in range(runs)))
    seconds = time.perf_counter() - start
    assert numbers == [number + 1 for number in range(runs)], numbers
    print(seconds)


asyncio.run(count_at_once(int(sys.argv[1])))
"""


class DeployedError(RuntimeError):
    """A deployed flow run, or a process that serves it, failed or took too long."""


@dataclass(frozen=True)
class Site:
    """A flow in a folder, and the server that its runs are triggered on.

    Attributes:
        api: The address of the server's API.
        folder: Holds the flow, and the logs and the Prefect home of the processes that run it.
    """

    api: str
    folder: Path
    _client: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Write the flows, and create the client of the API."""
        import httpx

        object.__setattr__(self, "_client", httpx.Client(base_url=self.api, timeout=DEADLINE))
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "flows.py").write_text(FLOW)
        (self.folder / "burst.py").write_text(BURST)

    def request(self, method: str, path: str, /, **body: Any) -> Any:
        """Call the API, again while the server is busy.

        Args:
            method: The HTTP method.
            path: The path below the address of the API.
            **body: The fields of the JSON body of a POST.

        Returns:
            The JSON value of the answer; None if it is empty.

        Raises:
            DeployedError: If the server answers with an error, or stays busy for too long.
        """
        # SQLite has one writer; a server on it answers 503 when it is locked (Prefect #18934). A
        # query that takes longer than the time limit of the database is answered with 500.
        busy = (500, 503) if path.endswith(_READS) else (503,)
        deadline = time.monotonic() + DEADLINE
        while True:
            answer = self._client.request(method, path, json=body if method == "POST" else None)
            if answer.status_code not in busy or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        if answer.is_error:
            raise DeployedError(f"{method} {path}: {answer.status_code} {answer.text:.300}")
        return answer.json() if answer.content else None

    def __enter__(self) -> Self:
        """Enter the block for which the connection to the server stays open."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._client.close()

    def environment(self, home: str = "home") -> dict[str, str]:
        """Return the environment of a process whose flows run on this server.

        Args:
            home: Its Prefect home, a folder below this one.

        Returns:
            Variables and their values, without other settings of Prefect.
        """
        others = {name: text for name, text in os.environ.items() if "PREFECT_" not in name}
        own = {"PREFECT_API_URL": self.api, "PREFECT_HOME": str(self.folder / home)}
        return others | own

    @contextmanager
    def running(self, *words: str, **settings: str) -> Iterator[None]:
        """Run `python ...` in the folder of the flow until the block ends.

        Args:
            *words: What follows `python`.
            **settings: Settings of Prefect, by the names of their environment variables.

        Yields:
            Nothing; the process has been started.
        """
        with (self.folder / "processes.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *words],
                cwd=self.folder,
                env=self.environment() | settings,
                stdout=log,
                stderr=log,
            )
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def deploy(self, name: str, pool: str | None = None) -> str:
        """Deploy the flow.

        Args:
            name: The deployment's name.
            pool: A work pool of type `process`, created if it is missing; None for a deployment
                whose runs something else starts.

        Returns:
            The deployment's id.
        """
        if pool:
            self.request("POST", "/work_pools/", name=pool, type="process")
        flow = self.request("POST", "/flows/", name="add-one")
        entry = {"path": str(self.folder), "entrypoint": "flows.py:add_one"}
        target = {"work_pool_name": pool} if pool else {}
        body = {"name": name, "flow_id": flow["id"], **entry, **target}
        return str(self.request("POST", "/deployments/", **body)["id"])

    def find(self, name: str) -> str:
        """Wait for a deployment that another process creates, and return its id."""
        return str(self._wait(lambda: self._named(name), f"a deployment {name}")["id"])

    def runs(self, deployment: str, count: int = 1) -> list[dict[str, Any]]:
        """Trigger flow runs and wait until all have completed.

        Args:
            deployment: The deployment's id.
            count: How many to trigger at once.

        Returns:
            The flow runs as the API describes them.

        Raises:
            DeployedError: If a run does not complete, or not in time.
        """
        path = f"/deployments/{deployment}/create_flow_run"
        triggered = [self.request("POST", path)["id"] for _ in range(count)]
        return [self._wait(partial(self.ended, id), f"run {id}") for id in triggered]

    def seconds_to_start(self, deployment: str) -> float:
        """Trigger a flow run and return the seconds until it was running."""
        triggered = time.time()
        (run,) = self.runs(deployment)
        return datetime.fromisoformat(run["start_time"]).timestamp() - triggered

    def seconds_at_once(self, runs: int) -> float:
        """Run a flow with one task many times at once.

        The flow runs share one subprocess, because its clients must not outlive the server.

        Args:
            runs: The number of flow runs.

        Returns:
            The seconds for all of them together.

        Raises:
            DeployedError: If an answer is wrong, or not all runs end in time.
        """
        try:
            done = subprocess.run(
                [sys.executable, "burst.py", str(runs)],
                cwd=self.folder,
                env=self.environment(),
                capture_output=True,
                text=True,
                timeout=DEADLINE,
            )
        except subprocess.TimeoutExpired:
            raise DeployedError(f"{runs} runs at once took more than {DEADLINE} s") from None
        if done.returncode:
            raise DeployedError(f"{runs} runs at once failed: {done.stderr[-500:]}")
        return float(done.stdout.splitlines()[-1])

    def _named(self, name: str) -> dict[str, Any] | None:
        response = self._client.get(f"/deployments/name/add-one/{name}")
        return dict(response.json()) if response.is_success else None

    def ended(self, id: str) -> dict[str, Any] | None:
        """Return a flow run if it has completed.

        Args:
            id: The id of the flow run.

        Returns:
            The flow run as the API describes it; None if it has not ended yet.

        Raises:
            DeployedError: If it ended as failed, crashed or cancelled.
        """
        run = self.request("GET", f"/flow_runs/{id}")
        if run["state_type"] in {"FAILED", "CRASHED", "CANCELLED"}:
            raise DeployedError(f"run {id} ended as {run['state_name']}: {self._log()}")
        return dict(run) if run["state_type"] == "COMPLETED" else None

    def _wait(self, look: Callable[[], dict[str, Any] | None], what: str) -> dict[str, Any]:
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            if entity := look():
                return entity
            time.sleep(0.05)
        raise DeployedError(f"gave up waiting for {what} after {DEADLINE} s: {self._log()}")

    def _log(self) -> str:
        log = self.folder / "processes.log"
        return log.read_text(errors="replace")[-500:] if log.exists() else "nothing was logged"
