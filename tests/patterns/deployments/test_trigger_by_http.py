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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.artifacts import create_markdown_artifact
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
    """Return a measure; the tests never execute this flow."""
    return n


@pytest.fixture
def api(prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the API of a server that has the deployment `measure/asked`."""
    deployment: Any = measure.to_deployment("asked")
    deployment.apply()
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    return prefect_server


def bare(*arguments: str, api: str) -> subprocess.CompletedProcess[str]:
    """Run the file with an interpreter that sees only the standard library."""
    return subprocess.run(
        [sys.executable, "-I", "-S", str(SCRIPT), *arguments],
        env={"PREFECT_API_URL": api},
        capture_output=True,
        text=True,
        timeout=patience(),
    )


def pass_through(run: str, *states: State[Any]) -> None:
    """Report states for a run as an engine does."""

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
    """The run belongs to the deployment and has the given parameters, with the right types."""
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
def test_it_does_not_wait_forever(api: str) -> None:
    """If a run has not ended in time, an error names the run and its state."""
    run = start(api, "measure/asked", {"n": 1})
    with pytest.raises(TriggerError, match=f"^run {run} is Scheduled after 0 seconds$"):
        watch(api, run, patience=0)


@pytest.mark.guarantee(NAME, "artifacts")
def test_it_reads_what_the_run_published(api: str) -> None:
    """A table is returned as rows and a text as text; other runs' artifacts are not returned."""
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


@pytest.mark.guarantee(NAME, "artifacts")
def test_it_reads_all_artifacts_and_the_newest_of_a_key(api: str) -> None:
    """From a server that returns two at a time, the newest artifact of all three keys is read."""
    run = start(api, "measure/asked", {"n": 1})
    for key, data in (("a", "1"), ("b", "1"), ("a", "2"), ("c", "1"), ("a", "3"), ("b", "2")):
        body = {"key": key, "type": "markdown", "data": data, "flow_run_id": run}
        call(api, "/artifacts/", body)
    with between(api, limit=2) as (address, _):
        assert artifacts(address, run) == {"a": "3", "b": "2", "c": "1"}


@flow(persist_result=True)
def publish_without_a_key() -> str:
    """Publish a text without a key, in a run whose return value is persisted."""
    create_markdown_artifact("# without a key")
    return "of the flow"


@pytest.mark.guarantee(NAME, "artifacts")
def test_it_reads_an_artifact_without_a_key_but_no_value(api: str) -> None:
    """A text without a key is read under its id; the run's value, which is stored alike, is not."""
    run = str(publish_without_a_key(return_state=True).state_details.flow_run_id)
    kept = pattern.everything(
        api, "/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}}
    )
    ids = [each["id"] for each in kept if each["data"] == "# without a key"]
    assert (len(kept), len(ids)) == (2, 1)
    assert artifacts(api, run) == {ids[0]: "# without a key"}


@pytest.mark.guarantee(NAME, "errors")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["measure/lost"], 'no deployment "measure/lost" at .*; there are: .*measure/asked'),
        (["measure/asked", "n=soon"], "refused .* 'n'. Failure reason: 'soon' is not of type"),
        (["measure/asked", "n"], '"n" is not a parameter: write name=value'),
        (["measure/asked", "n=1", "n=2"], 'parameter "n" is given twice'),
        (["measure/asked", "n=NaN"], "refused .* 'n'. Failure reason: 'NaN' is not of type"),
        (["measure/asked", "n=1e999"], "refused .* 'n'. Failure reason: '1e999' is not of type"),
    ],
    ids=["name", "parameter", "word", "twice", "nan", "infinite"],
)
def test_a_mistake_is_reported_in_one_line(
    api: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    said: str,
) -> None:
    """The mistake is reported in one line, and the exit status is 2."""
    monkeypatch.setattr(pattern, "watch", lambda *_: pytest.fail("a run was made"))
    assert main(arguments) == 2
    line = capsys.readouterr().err
    assert re.search(said, line)
    assert line.count("\n") == 1


@pytest.mark.guarantee(NAME, "errors")
@pytest.mark.parametrize("n", [float("nan"), float("inf"), {1}])
def test_a_parameter_that_is_not_json_is_refused(api: str, n: object) -> None:
    """A parameter that JSON can't represent is refused in one line, and no run is made."""
    before = number_of_runs(api)
    with pytest.raises(TriggerError, match=r"^not valid JSON: .*$"):
        start(api, "measure/asked", {"n": n})
    assert number_of_runs(api) == before


@pytest.mark.guarantee(NAME, "errors")
@pytest.mark.parametrize("text", ["NaN", "-Infinity", "1e999", "[NaN]", "north"])
def test_a_word_that_is_not_json_is_text(text: str) -> None:
    """A word on the command line that is not JSON, or that JSON can't represent, is text."""
    assert pattern.parsed([f"x={text}"]) == {"x": text}


@pytest.mark.guarantee(NAME, "errors")
def test_a_server_that_does_not_answer_is_reported_in_one_line() -> None:
    """The line names the address, and the variable that it comes from."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/api"
        asked = bare("measure/asked", api=address)
    assert asked.returncode == 2
    assert re.fullmatch(
        rf"no answer from {address} \(.*\): is PREFECT_API_URL right\?\n", asked.stderr
    )


@pytest.mark.guarantee(NAME, "errors")
@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:port/api", "127.0.0.1:4200/api", "prefect.example/api"]
)
def test_an_invalid_address_is_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], address: str
) -> None:
    """An address with a bad port or no scheme is named, with the variable that it comes from."""
    monkeypatch.setenv("PREFECT_API_URL", address)
    assert main(["measure/asked"]) == 2
    assert re.fullmatch(rf".*{address} .*PREFECT_API_URL.*\n", capsys.readouterr().err)


@pytest.mark.guarantee(NAME, "listed")
def test_an_empty_address_counts_as_unset(
    api: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With `PREFECT_API_URL` empty, this machine's server is asked, as if it were not set."""
    monkeypatch.setattr(pattern, "LOCAL", api)
    monkeypatch.setenv("PREFECT_API_URL", "")
    assert main() == 0
    assert "measure/asked" in capsys.readouterr().out.split()


@contextmanager
def between(
    api: str = "", *answers: int, limit: int | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Yield the address of a server that forwards requests, and the list of these requests.

    Args:
        api: The API to forward to; without one, every request gets the same answer.
        answers: The statuses of the first answers, whatever the API answered.
        limit: How many items a filter returns at a time.
    """
    asked: list[str] = []
    statuses = iter(answers)

    class Between(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or "null")
            if limit and self.path.endswith("/filter"):
                body["limit"] = limit
            path = self.path.removeprefix("/api")
            asked.append(f"{self.command} {path}")
            answer = call(api, path, body) if api else {"well": "rested"}
            status = next(statuses, 200)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer if status == 200 else {}).encode())

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with HTTPServer(("127.0.0.1", 0), Between) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/api", asked
        finally:
            server.shutdown()
            serving.join()


@pytest.mark.guarantee(NAME, "listed")
def test_it_lists_deployments_that_come_in_parts(api: str) -> None:
    """From a server that returns two at a time, all are listed, also those that share a name."""
    for number in range(5):
        flow = call(api, "/flows/", {"name": f"part-{number}"})
        call(api, "/deployments/", {"name": "same", "flow_id": flow["id"]})
    with between(api, limit=2) as (address, _):
        assert {f"part-{number}/same" for number in range(5)} <= pattern.names(address)


@pytest.mark.guarantee(NAME, "busy")
@pytest.mark.parametrize("body", [None, {}], ids=["GET", "POST"])
def test_a_busy_server_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, body: dict[str, Any] | None
) -> None:
    """After two 503s the next answer is returned; a server that stays busy is finally an error."""
    with between("", 503, 503, 200, *[503] * 60) as (api, asked):
        assert call(api, "/health", body) == {"well": "rested"}
        assert len(asked) == 3
        monkeypatch.setattr(pattern, "BUSY", 1)
        with pytest.raises(TriggerError, match=r"^the server refused \(503\)"):
            call(api, "/health", body)
        assert len(asked) > 4


@pytest.mark.guarantee(NAME, "busy")
@pytest.mark.parametrize("status", [400, 429, 500, 502, 504])
@pytest.mark.parametrize("body", [None, {}], ids=["GET", "POST"])
def test_another_refusal_is_final(status: int, body: dict[str, Any] | None) -> None:
    """A request that the server refuses with another status is not repeated."""
    with between("", status) as (api, asked):
        with pytest.raises(TriggerError, match=rf"^the server refused \({status}\)"):
            call(api, "/health", body)
        assert len(asked) == 1


@pytest.mark.guarantee(NAME, "once")
def test_a_repeated_request_makes_one_run(api: str) -> None:
    """If a run was made although the answer was 503, the repeated request returns that run."""
    before = number_of_runs(api)
    with between(api, 200, 503) as (address, asked):
        run = start(address, "measure/asked", {"n": 1})
    assert [each.rpartition("/")[2] for each in asked] == ["asked", *["create_flow_run"] * 2]
    assert number_of_runs(api) == before + 1
    assert call(api, f"/flow_runs/{run}")["parameters"] == {"n": 1}


@pytest.mark.guarantee(NAME, "once")
def test_a_key_stands_for_a_run(api: str) -> None:
    """The same key, even an empty one, returns the same run.

    Another key, no key, or the key with another deployment makes a new run.
    """
    flow_id = pattern.find(api, "measure/asked")["flow_id"]
    call(api, "/deployments/", {"name": "other", "flow_id": flow_id})
    keys = ("x", "x", "", "", "y", None, None)
    runs = [start(api, "measure/asked", {"n": 1}, key) for key in keys]
    runs.append(start(api, "measure/other", {"n": 1}, "x"))
    assert (runs[0], runs[2]) == (runs[1], runs[3])
    assert len(set(runs)) == 6


def number_of_runs(api: str) -> int:
    """Return how many runs the server has."""
    return int(call(api, "/flow_runs/count", {}))


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "same")
@pytest.mark.guarantee(NAME, "watched")
@pytest.mark.guarantee(NAME, "artifacts")
def test_three_ways_start_the_same_run(
    live_server: str, start: Callable[..., Any], prefect: Callable[..., Any], tmp_path: Path
) -> None:
    """Prefect's command line, Python and HTTP each start a run with its parameters and artifact.

    Two complete; the one started by HTTP fails on its parameter, and is reported as failed.
    """
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
