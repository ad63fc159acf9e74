# SPDX-License-Identifier: Apache-2.0
"""The commands of the page from a notebook to a deployment, run as written, and their results."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from playwright.sync_api import Browser, Page

from flowgauge.waiting import patience
from tests.code_blocks import blocks
from tests.conftest import environment

pytestmark = pytest.mark.e2e

PIPELINE, SERVER, DEPLOY, WORKER, TRIGGER, REMOVE = blocks(
    "console", "docs/tutorial/notebook_to_deployment.md"
)

Terminal = Callable[[str], subprocess.Popen[str]]


def typed(block: str, api: str, folder: Path) -> subprocess.Popen[str]:
    """Start a block of the page in a separate shell."""
    block = block.replace("http://127.0.0.1:4200/api", api)
    # `uv run` would find this environment too, but takes a second longer.
    shell = f'uv() {{ shift; "$@"; }}\n{block.strip()}'
    return subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", shell],
        cwd=folder,
        env={
            **environment(api, folder / "home", PREFECT_WORKER_QUERY_SECONDS="1"),
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def said(process: subprocess.Popen[str]) -> str:
    """Return what a block printed, once it has succeeded."""
    output, _ = process.communicate(timeout=patience())
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def folder(live_server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the pipeline, which was copied and run once without a deployment."""
    empty = tmp_path_factory.mktemp("empty")
    output = said(typed(PIPELINE, live_server, empty))
    assert output.count("trained on month") == 3
    return empty / "my_pipeline"


@pytest.fixture(scope="module")
def triggered(live_server: str, folder: Path) -> str:
    """Return what was printed when the deployed pipeline was triggered in both ways.

    Its worker has ended: a running one would recreate the work pool that `REMOVE` deletes.
    """
    said(typed(DEPLOY, live_server, folder))
    worker = typed(WORKER, live_server, folder)
    try:
        return said(typed(TRIGGER, live_server, folder))
    finally:
        # As Ctrl-C does: to all processes of the terminal.
        os.killpg(worker.pid, signal.SIGINT)
        worker.communicate(timeout=patience())


@pytest.fixture(scope="module")
def runs(live_server: str, triggered: str) -> list[dict[str, Any]]:
    """Return the flow runs of the deployment from the API, the newest first."""
    wanted = {
        "deployments": {"name": {"any_": ["monthly"]}},
        "flows": {"name": {"any_": ["train-and-backtest"]}},
        "sort": "START_TIME_DESC",
    }
    found = httpx.post(f"{live_server}/flow_runs/filter", json=wanted, timeout=patience()).json()
    assert isinstance(found, list)
    return found


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Yield an empty page of the size of a laptop's screen."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(1000 * patience())
    yield page
    page.close()


def kept(page: Page, file: Path) -> None:
    """Take a screenshot of a page once nothing on it moves."""
    # An endless animation cannot be finished, and is left as it is.
    page.evaluate(
        "document.getAnimations().forEach(moving => { try { moving.finish() } catch {} })"
    )
    page.screenshot(path=file)


def test_the_command_of_the_server_is_the_one_that_runs(live_server: str) -> None:
    """The server that these tests use was started as the page says."""
    port = str(urlsplit(live_server).port)
    run, (command, quietly, *rest) = SERVER.split()[:2], SERVER.split()[2:]
    assert run == ["uv", "run"]
    # In a terminal Prefect may ask which profile to use; where there is none it does not.
    assert quietly == "--no-prompt"
    words = [
        process.cmdline()
        for process in psutil.Process().children()
        if process.environ().get("PREFECT_SERVER_API_PORT") == port
    ]
    assert words == [[sys.executable, "-m", command, *rest]]


def test_both_ways_to_trigger_run_the_pipeline(runs: list[dict[str, Any]]) -> None:
    """The command line and plain HTTP each triggered a flow run, which a worker completed."""
    assert [run["state_type"] for run in runs] == ["COMPLETED", "COMPLETED"]
    assert {run["work_pool_name"] for run in runs} == {"training"}
    # The second run found its months already read and its models already trained.
    assert runs[0]["parameters"] == runs[1]["parameters"]


def test_metrics_are_read_back(live_server: str, triggered: str, folder: Path) -> None:
    """Each metric in the run's table was printed by the client and is in the registry."""
    wanted = {"artifacts": {"key": {"any_": ["backtest"]}}}
    artifacts = httpx.post(
        f"{live_server}/artifacts/latest/filter", json=wanted, timeout=patience()
    ).json()
    table = json.loads(artifacts[0]["data"])
    cards = [json.loads(card.read_text()) for card in folder.glob("registry/*/metrics.json")]
    for row in table:
        assert str(row["mae"]) in triggered
        assert row["mae"] in [card["mae"] for card in cards]


@pytest.mark.leaves("threads", reason="Playwright's event loop leaves its idle ones")
def test_the_run_is_shown_in_the_ui(
    live_server: str, runs: list[dict[str, Any]], page: Page, pytestconfig: pytest.Config
) -> None:
    """Prefect's page of the flow run shows its graph and its artifacts; screenshots are kept."""
    shots = Path(pytestconfig.getoption("flow_report_dir") or "reports/latest") / "screenshots"
    address = f"{live_server.removesuffix('/api')}/runs/flow-run/{runs[-1]['id']}"
    with page.expect_response(lambda answer: "/graph-v2" in answer.url) as graph:
        page.goto(address)
    labels = {node["label"].rpartition("-")[0] for _, node in graph.value.json()["nodes"]}
    assert {"read-month", "month"} <= labels
    canvas = page.locator("canvas").first
    canvas.wait_for()
    page.wait_for_load_state("networkidle")
    kept(page, shots / "flow-run.png")
    page.get_by_text("Artifacts", exact=True).first.click()
    for key in ("backtest", "residuals", "model"):
        page.get_by_text(key, exact=True).first.wait_for()
    page.get_by_text("backtest", exact=True).first.click()
    page.get_by_text("route_mae", exact=True).first.wait_for()
    page.wait_for_load_state("networkidle")
    kept(page, shots / "metrics.png")


def test_what_was_deployed_is_removed(
    live_server: str, runs: list[dict[str, Any]], folder: Path
) -> None:
    """The last commands leave no deployment and no work pool of the pipeline on the server."""
    said(typed(REMOVE, live_server, folder))
    gone = ("deployments/name/train-and-backtest/monthly", "work_pools/training")
    answers = [httpx.get(f"{live_server}/{path}", timeout=patience()) for path in gone]
    assert [answer.status_code for answer in answers] == [404, 404]
