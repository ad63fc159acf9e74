# SPDX-License-Identifier: Apache-2.0
"""Runs of a deployment are triggered, followed until they end, and timed."""

from __future__ import annotations

import time
from collections.abc import Iterator
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
