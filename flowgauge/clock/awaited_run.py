# SPDX-License-Identifier: Apache-2.0
"""Whether somebody executes a flow run that another one waits for, according to the server."""

from __future__ import annotations

import contextlib
from datetime import datetime
from typing import Any


def somebody_on(api_url: str, flow_run_id: str, until: float) -> str:
    """Return who executes a flow run in real time, or is about to.

    Args:
        api_url: The address of the API of the Prefect server.
        flow_run_id: The flow run.
        until: Virtual time at which the wait for it ends, in seconds since the epoch.

    Returns:
        Part of a sentence; empty if nobody does.
    """
    import httpx

    # Not by Prefect's client: the clock would count these requests as those of runs.
    with httpx.Client(base_url=f"{api_url}/", trust_env=False) as client:

        def read(path: str) -> dict[str, Any]:
            answer = client.get(path)
            return {} if answer.is_error else answer.json()

        with contextlib.suppress(httpx.HTTPError):
            run = read(f"flow_runs/{flow_run_id}")
            if run.get("state_type") in ("PENDING", "RUNNING", "CANCELLING"):
                return f"flow run {run['name']!r} in another process"
            deployment = run.get("deployment_id")
            if run.get("state_type") != "SCHEDULED" or deployment is None:
                return ""
            start = run.get("next_scheduled_start_time")
            if start and datetime.fromisoformat(start).timestamp() > until:
                return ""
            if read(f"deployments/{deployment}").get("status") == "READY":
                return f"a worker that has not started flow run {run['name']!r}"
    return ""
