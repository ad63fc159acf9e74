# SPDX-License-Identifier: Apache-2.0
"""Runs of a deployment are triggered, followed until they end, and timed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from flowgauge.measure import deployed
from flowgauge.measure.deployed import DeployedError, Site


@pytest.fixture
def site(prefect_server: str, tmp_path: Path) -> Iterator[Site]:
    """Yield a flow that can be deployed on the tests' server."""
    with Site(prefect_server, tmp_path) as site:
        yield site


def test_an_error_response_is_reported(site: Site) -> None:
    """An error response is raised, with the request and the status code."""
    with pytest.raises(DeployedError, match="GET /deployments/none: 4"):
        site.request("GET", "/deployments/none")


class Overloaded(BaseHTTPRequestHandler):
    """A server that answers two requests with an error, and others with a number."""

    answered = 0

    def do_POST(self) -> None:
        """Answer a request."""
        type(self).answered += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200 if self.answered > 2 else 500)
        self.send_header("Content-Length", "1")
        self.end_headers()
        self.wfile.write(b"7")

    def log_message(self, format: str, *arguments: object) -> None:
        """Print nothing."""


def test_only_what_changes_nothing_is_asked_again(tmp_path: Path) -> None:
    """A count that takes the database too long is asked for again; nothing is triggered twice."""
    Overloaded.answered = 0
    with HTTPServer(("127.0.0.1", 0), Overloaded) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with Site(f"http://127.0.0.1:{server.server_port}", tmp_path) as site:
                with pytest.raises(DeployedError, match="create_flow_run: 500"):
                    site.request("POST", "/deployments/1/create_flow_run")
                assert Overloaded.answered == 1
                assert site.request("POST", "/task_runs/count") == 7
                assert Overloaded.answered == 3
        finally:
            server.shutdown()
            thread.join()


def test_a_run_that_never_starts_is_reported(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for a run that nobody starts ends with an error at the deadline."""
    monkeypatch.setattr(deployed, "DEADLINE", 0.3)
    with pytest.raises(DeployedError, match=r"gave up waiting for run .* after 0\.3 s"):
        site.runs(site.deploy("left-alone"))


def test_a_run_that_does_not_complete_is_reported(site: Site) -> None:
    """A run that doesn't complete ends the measurement with an error that names its state."""
    deployment = site.deploy("cancelled")
    run = site.request("POST", f"/deployments/{deployment}/create_flow_run")["id"]
    cancelled = {"type": "CANCELLED", "name": "Cancelled"}
    site.request("POST", f"/flow_runs/{run}/set_state", state=cancelled)
    with pytest.raises(DeployedError, match="ended as Cancelled"):
        site.ended(run)


@pytest.mark.e2e
def test_a_served_run_is_timed(site: Site) -> None:
    """A run of a deployment that a process serves is timed from its trigger to its start."""
    with site.running("flows.py", PREFECT_RUNNER_POLL_FREQUENCY="1"):
        before = time.monotonic()
        seconds = site.seconds_to_start(site.find("served"))
        assert 0 < seconds < time.monotonic() - before


@pytest.mark.e2e
def test_a_burst_is_timed_if_its_answers_are_right(site: Site) -> None:
    """Concurrent runs are timed together; a wrong answer is an error."""
    before = time.monotonic()
    assert 0 < site.seconds_at_once(3) < time.monotonic() - before
    burst = site.folder / "burst.py"
    burst.write_text(burst.read_text().replace("return number + 1", "return number"))
    with pytest.raises(DeployedError, match=r"(?s)3 runs at once failed: .*AssertionError"):
        site.seconds_at_once(3)
