# SPDX-License-Identifier: Apache-2.0
"""The page from a notebook to a deployment, typed as it stands there and looked at."""

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
    """Type a block of the page into a terminal of its own."""
    block = block.replace("http://127.0.0.1:4200/api", api)
    # `uv run` would find this environment too, a second later.
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
    """Return what a block printed, once it has ended well."""
    output, _ = process.communicate(timeout=patience())
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def folder(live_server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of the pipeline, copied and run once by hand."""
    empty = tmp_path_factory.mktemp("empty")
    output = said(typed(PIPELINE, live_server, empty))
    assert output.count("trained on month") == 3
    return empty / "my_pipeline"


@pytest.fixture(scope="module")
def triggered(live_server: str, folder: Path) -> str:
    """Give what was printed when the deployed pipeline was triggered in both ways.

    Its worker has ended: one that runs makes the pool anew that `REMOVE` deletes.
    """
    said(typed(DEPLOY, live_server, folder))
    worker = typed(WORKER, live_server, folder)
    try:
        return said(typed(TRIGGER, live_server, folder))
    finally:
        # As Ctrl-C does: to all that the terminal runs.
        os.killpg(worker.pid, signal.SIGINT)
        worker.communicate(timeout=patience())


@pytest.fixture(scope="module")
def runs(live_server: str, triggered: str) -> list[dict[str, Any]]:
    """Give the runs of the deployment as the API has them, the newest first."""
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
    """Give an empty page of a laptop's size."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(1000 * patience())
    yield page
    page.close()


def kept(page: Page, file: Path) -> None:
    """Take a picture of a page once nothing on it moves."""
    # What turns for ever has no end, and is left as it is.
    page.evaluate(
        "document.getAnimations().forEach(moving => { try { moving.finish() } catch {} })"
    )
    page.screenshot(path=file)


def test_the_command_of_the_server_is_the_one_that_runs(live_server: str) -> None:
    """The server that these tests use was started as the page says."""
    port = str(urlsplit(live_server).port)
    run, typed_words = SERVER.split()[:2], SERVER.split()[2:]
    assert run == ["uv", "run"]
    words = [
        process.cmdline()
        for process in psutil.Process().children()
        if process.environ().get("PREFECT_SERVER_API_PORT") == port
    ]
    assert words == [[sys.executable, "-m", *typed_words]]


def test_both_ways_to_trigger_run_the_pipeline(runs: list[dict[str, Any]]) -> None:
    """The command line and plain HTTP each made a run, and a worker completed it."""
    assert [run["state_type"] for run in runs] == ["COMPLETED", "COMPLETED"]
    assert {run["work_pool_name"] for run in runs} == {"training"}
    # The second one found its months read and its models trained.
    assert runs[0]["parameters"] == runs[1]["parameters"]


def test_metrics_are_read_back(live_server: str, triggered: str, folder: Path) -> None:
    """The metrics that the client prints are the table of the run, and those in the registry."""
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
def test_the_run_is_seen(
    live_server: str, runs: list[dict[str, Any]], page: Page, pytestconfig: pytest.Config
) -> None:
    """Prefect's page of the run shows its graph and its artifacts; what is seen is kept."""
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
