# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/deployments/trigger_by_http.py`."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.objects import State
from prefect.deployments import run_deployment
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Failed, Pending, Running

from flowgauge.waiting import patience, wait_until
from patterns.deployments import trigger_by_http as pattern
from patterns.deployments.trigger_by_http import TriggerError, artifacts, call, main, start, watch

NAME = "deployments/trigger_by_http"
SCRIPT = Path(pattern.__file__)

MEASURING = """
from prefect import flow
from prefect.artifacts import create_table_artifact

@flow
def measure(n: int, unit: str = "m") -> int:
    create_table_artifact(key="measured", table=[{"n": n, "unit": unit}])
    if n < 0:
        raise ValueError("nothing is shorter than nothing")
    return n

if __name__ == "__main__":
    measure.serve("remote", print_starting_message=False)
"""
"""A flow that publishes a table; as a script it serves itself."""


@flow
def measure(n: int, unit: str = "m") -> int:
    """Measure, in tests that let nothing run."""
    return n


@pytest.fixture
def api(prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give the API of a server that knows the deployment `measure/asked`."""
    deployment: Any = measure.to_deployment("asked")
    deployment.apply()
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    return prefect_server


def bare(*arguments: str, api: str) -> subprocess.CompletedProcess[str]:
    """Run the file with an interpreter that sees the standard library and nothing else."""
    return subprocess.run(
        [sys.executable, "-I", "-S", str(SCRIPT), *arguments],
        env={"PREFECT_API_URL": api},
        capture_output=True,
        text=True,
        timeout=patience(),
    )


def pass_through(run: str, *states: State[Any]) -> None:
    """Let a run pass through states as an engine reports them."""

    async def report() -> None:
        async with get_client() as client:
            for state in states:
                await client.set_flow_run_state(run, state)  # type: ignore[arg-type]

    asyncio.run(report())


@pytest.mark.guarantee(NAME, "standard")
@pytest.mark.guarantee(NAME, "listed")
def test_it_lists_the_deployments_without_prefect(api: str) -> None:
    """An interpreter without any installed package lists the deployments."""
    assert "import prefect" not in SCRIPT.read_text()
    listed = bare(api=api)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "measure/asked" in listed.stdout.split()


@pytest.mark.guarantee(NAME, "same")
def test_it_makes_the_run_that_was_asked_for(api: str) -> None:
    """The run belongs to the deployment and has its parameters, of the types that were given."""
    run = call(api, f"/flow_runs/{start(api, 'measure/asked', pattern.parsed(['n=3', 'unit=mm']))}")
    assert run["parameters"] == {"n": 3, "unit": "mm"}
    assert run["deployment_id"] == pattern.find(api, "measure/asked")["id"]
    assert run["state"]["type"] == "SCHEDULED"


@pytest.mark.guarantee(NAME, "watched")
@pytest.mark.parametrize("end", [Completed(message="well"), Failed(message="badly")])
def test_it_says_how_the_run_ended(api: str, end: State[Any]) -> None:
    """The final state is returned with its message."""
    run = start(api, "measure/asked", {"n": 1})
    pass_through(run, Pending(), Running(), end)
    state = watch(api, run, patience=0)
    assert (state["type"], state["message"]) == (end.type.value, end.message)


@pytest.mark.guarantee(NAME, "errors")
def test_it_does_not_wait_for_ever(api: str) -> None:
    """A run that has not ended in time is an error that names its state."""
    run = start(api, "measure/asked", {"n": 1})
    with pytest.raises(TriggerError, match=f"^run {run} is Scheduled after 0 seconds$"):
        watch(api, run, patience=0)


@pytest.mark.guarantee(NAME, "artifacts")
def test_it_reads_what_the_run_published(api: str) -> None:
    """A table comes back as rows, a text as text, and other runs' artifacts do not."""
    runs = [start(api, "measure/asked", {"n": n}) for n in (1, 2)]

    async def publish() -> None:
        async with get_client() as client:
            for run in runs:
                for kind, data in (("table", json.dumps([{"of": run}])), ("markdown", f"# {run}")):
                    await client.create_artifact(
                        ArtifactCreate(key=f"a-{kind}", type=kind, data=data, flow_run_id=run)  # type: ignore[arg-type]
                    )

    asyncio.run(publish())
    assert artifacts(api, runs[0]) == {"a-table": [{"of": runs[0]}], "a-markdown": f"# {runs[0]}"}


@pytest.mark.guarantee(NAME, "errors")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["measure/lost"], 'no deployment "measure/lost" at .*; there are: .*measure/asked'),
        (["measure/asked", "n=soon"], "refused .* 'n'. Failure reason: 'soon' is not of type"),
        (["measure/asked", "n"], '"n" is no parameter: write name=value'),
    ],
    ids=["name", "parameter", "word"],
)
def test_a_mistake_is_one_line(
    api: str, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    """What is wrong is said in one line, and the status is 2."""
    assert main(arguments) == 2
    line = capsys.readouterr().err
    assert re.search(said, line)
    assert line.count("\n") == 1


@pytest.mark.guarantee(NAME, "errors")
def test_a_server_that_does_not_answer_is_one_line() -> None:
    """The address is named, with the variable that it comes from."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/api"
        asked = bare("measure/asked", api=address)
    assert asked.returncode == 2
    assert re.fullmatch(
        rf"no answer from {address} \(.*\): is PREFECT_API_URL right\?\n", asked.stderr
    )


@pytest.mark.guarantee(NAME, "busy")
def test_a_busy_server_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After two 503s the answer is taken; one that stays busy is told once the time is up."""
    answers = [503, 503, 200]

    class Busy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status = answers.pop(0) if answers else 503
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b'{"well": "rested"}' if status == 200 else b"{}")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Busy) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        try:
            api = f"http://127.0.0.1:{server.server_port}/api"
            assert call(api, "/health") == {"well": "rested"}
            assert answers == []
            monkeypatch.setattr(pattern, "BUSY", 3)
            with pytest.raises(TriggerError, match=r"^the server refused \(503\)"):
                call(api, "/health")
        finally:
            server.shutdown()
            serving.join()


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "same")
@pytest.mark.guarantee(NAME, "watched")
@pytest.mark.guarantee(NAME, "artifacts")
def test_three_ways_start_the_same_run(
    live_server: str, start: Callable[..., Any], prefect: Callable[..., Any], tmp_path: Path
) -> None:
    """Command line, Python and HTTP each start a run that ends alike, also one that fails."""
    (tmp_path / "measuring.py").write_text(MEASURING)
    start("measuring.py", PREFECT_RUNNER_POLL_FREQUENCY="1")
    wait_for_deployment(live_server)
    script = subprocess.Popen(
        [sys.executable, "-I", "-S", str(SCRIPT), "measure/remote", "n=-7", "unit=mm"],
        env={"PREFECT_API_URL": live_server},
        stdout=subprocess.PIPE,
        text=True,
    )
    with temporary_settings({PREFECT_API_URL: live_server}):
        ours: Any = run_deployment(
            "measure/remote", parameters={"n": 7, "unit": "mm"}, timeout=0, as_subflow=False
        )
    said = prefect("deployment", "run", "measure/remote", "-p", "n=7", "-p", "unit=mm", "--watch")
    printed, _ = script.communicate(timeout=patience())
    assert watch(live_server, str(ours.id), patience=patience())["type"] == "COMPLETED"
    assert said.returncode == 0, said.stdout + said.stderr
    assert script.returncode == 1
    assert re.search(r"^run \S+: Failed .*nothing is shorter than nothing", printed)
    runs = call(live_server, "/flow_runs/filter", {"flows": {"name": {"any_": ["measure"]}}})
    ends = sorted((run["parameters"]["n"], run["state"]["type"]) for run in runs)
    assert ends == [(-7, "FAILED"), (7, "COMPLETED"), (7, "COMPLETED")]
    for run in runs:
        assert artifacts(live_server, run["id"]) == {"measured": [run["parameters"]]}


def wait_for_deployment(api: str) -> None:
    """Wait until the flow is served."""
    wait_until(lambda: "measure/remote" in pattern.names(api), "the flow to be served")
