# SPDX-License-Identifier: Apache-2.0
"""Deployed runs, timed from outside: triggered through a server's API and watched there."""

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

DEADLINE = 120
"""Seconds to wait for a run or a process before the measurement is given up."""

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
    """A deployed run or a process that serves it did not do what it should."""


@dataclass(frozen=True)
class Site:
    """A flow in a folder, and a server that runs of it are triggered on.

    Attributes:
        api: The address of the server's API.
        folder: Where the flow lies, and the logs and the Prefect home of what runs it.
    """

    api: str
    folder: Path
    _client: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Write the flows."""
        import httpx

        object.__setattr__(self, "_client", httpx.Client(base_url=self.api, timeout=30))
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "flows.py").write_text(FLOW)
        (self.folder / "burst.py").write_text(BURST)

    def request(self, method: str, path: str, /, **body: Any) -> Any:
        """Call the API and return what it answers.

        Raises:
            DeployedError: If it refuses, or is too busy for too long.
        """
        deadline = time.monotonic() + DEADLINE
        while True:
            answer = self._client.request(method, path, json=body if method == "POST" else None)
            # SQLite has one writer, and a server on it asks to be asked again (Prefect #18934).
            if answer.status_code != 503 or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        if answer.is_error:
            raise DeployedError(f"{method} {path}: {answer.status_code} {answer.text:.300}")
        return answer.json() if answer.content else None

    def __enter__(self) -> Self:
        """Keep the connection to the server open for the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self._client.close()

    @contextmanager
    def running(self, *words: str, **settings: str) -> Iterator[None]:
        """Run `python ...` beside the flow until the block ends.

        Args:
            words: What follows `python`.
            settings: Settings of Prefect, by the names of their variables.
        """
        with (self.folder / "processes.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *words],
                cwd=self.folder,
                env=self._environment() | settings,
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
        """Deploy the flow, and return the deployment's id.

        Args:
            name: The deployment's name.
            pool: A work pool of type `process`, made if it is missing; None for a deployment
                that something else starts the runs of.
        """
        if pool:
            self.request("POST", "/work_pools/", name=pool, type="process")
        flow = self.request("POST", "/flows/", name="add-one")
        entry = {"path": str(self.folder), "entrypoint": "flows.py:add_one"}
        target = {"work_pool_name": pool} if pool else {}
        body = {"name": name, "flow_id": flow["id"], **entry, **target}
        return str(self.request("POST", "/deployments/", **body)["id"])

    def find(self, name: str) -> str:
        """Wait for a deployment that another process makes, and return its id."""
        return str(self._wait(lambda: self._named(name), f"a deployment {name}")["id"])

    def runs(self, deployment: str, count: int = 1) -> list[dict[str, Any]]:
        """Trigger runs, wait until all have completed, and return them as the API has them.

        Args:
            deployment: The deployment's id.
            count: How many to trigger at once.

        Raises:
            DeployedError: If a run ends otherwise, or not in time.
        """
        path = f"/deployments/{deployment}/create_flow_run"
        triggered = [self.request("POST", path)["id"] for _ in range(count)]
        return [self._wait(partial(self.ended, id), f"run {id}") for id in triggered]

    def seconds_to_start(self, deployment: str) -> float:
        """Trigger a run and return the seconds until it was running."""
        triggered = time.time()
        (run,) = self.runs(deployment)
        return datetime.fromisoformat(run["start_time"]).timestamp() - triggered

    def seconds_at_once(self, runs: int) -> float:
        """Run a flow with one task many times at once, and return the seconds for all.

        The runs share a process of their own: its clients must not outlive the server.

        Args:
            runs: How many.

        Raises:
            DeployedError: If an answer is wrong, or there is none in time.
        """
        try:
            done = subprocess.run(
                [sys.executable, "burst.py", str(runs)],
                cwd=self.folder,
                env=self._environment(),
                capture_output=True,
                text=True,
                timeout=DEADLINE,
            )
        except subprocess.TimeoutExpired:
            raise DeployedError(f"{runs} runs at once took over {DEADLINE} s") from None
        if done.returncode:
            raise DeployedError(f"{runs} runs at once failed: {done.stderr[-500:]}")
        return float(done.stdout.splitlines()[-1])

    def _environment(self) -> dict[str, str]:
        others = {name: text for name, text in os.environ.items() if "PREFECT_" not in name}
        own = {"PREFECT_API_URL": self.api, "PREFECT_HOME": str(self.folder / "home")}
        return others | own

    def _named(self, name: str) -> dict[str, Any] | None:
        response = self._client.get(f"/deployments/name/add-one/{name}")
        return dict(response.json()) if response.is_success else None

    def ended(self, id: str) -> dict[str, Any] | None:
        """Return a run if it has completed.

        Raises:
            DeployedError: If it ended otherwise.
        """
        run = self.request("GET", f"/flow_runs/{id}")
        if run["state_type"] in {"FAILED", "CRASHED", "CANCELLED"}:
            raise DeployedError(f"run {id} ended as {run['state_name']}: {self._log()}")
        return dict(run) if run["state_type"] == "COMPLETED" else None

    def _wait(self, look: Callable[[], dict[str, Any] | None], what: str) -> dict[str, Any]:
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            if found := look():
                return found
            time.sleep(0.05)
        raise DeployedError(f"no end of waiting for {what} after {DEADLINE} s: {self._log()}")

    def _log(self) -> str:
        log = self.folder / "processes.log"
        return log.read_text(errors="replace")[-500:] if log.exists() else "nothing was logged"
