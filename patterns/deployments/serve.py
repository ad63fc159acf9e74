# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4", "pydantic>=2.10,<3"]
# ///
"""Serve a flow from one process: checked parameters, schedules and a limit, and no work pool.

Problem:
    A script that is run by hand must become something that others can start, with parameters that
    are checked before anything runs, and that starts by itself in the morning. On one machine
    one process is enough for that; work pools and workers can come later.

Guarantees:
    schema: the deployment states the type, choices, bounds, default and description of each
        parameter, as given in the flow's signature and docstring.
    refused: a value of the wrong type, out of bounds or not among the choices creates no run, and
        the error names the parameter.
    served: a triggered run is executed with its parameters, and `trigger` returns its value when it
        has ended.
    schedules: each schedule of the deployment has its own time and its own parameters.
    limit: a run above the deployment's limit waits, and is not cancelled.
    waited: `trigger` says in a one-line error that a run has not ended within the given time, or
        that an event loop is running, in which it would not wait.
    paused: when the process ends by Ctrl-C or SIGTERM its deployment is paused, so nothing is
        scheduled that no process would execute; it resumes when the process is started again.

Prefect:
    misspelt (3.8, 3.9): a parameter that the flow does not have is accepted, and the run ends as
        Crashed when it starts.
    types (3.8, 3.9): `flow.serve` sends a script's flow to the run's process without the names
        that its types need if they are text: under `from __future__ import annotations` a run of
        a flow with an `Annotated` parameter fails.
    second (3.8, 3.9): if two processes serve one deployment, the first to end pauses it for both:
        the other keeps running, but its schedules create no runs until one is started again.

Not for:
    More runs than one machine can hold, or runs that need a separate environment: deploy to a work
    pool, see `deployments/deploy_to_pool`.

Costs:
    A new Python process for each run, which imports Prefect: seconds, whatever the flow does.
    Before that a run waits for the next poll of the server, every ten seconds by default
    (`PREFECT_RUNNER_POLL_FREQUENCY`).

Sources:
    - https://docs.prefect.io/v3/how-to-guides/deployment_infra/run-flows-in-local-processes
    - https://docs.prefect.io/v3/concepts/schedules
"""

# Not `from __future__ import annotations`: see "types" above.
import signal
import sys
import threading
import time
from collections.abc import Mapping
from typing import Annotated, Literal

from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import PrefectHTTPStatusError
from prefect.schedules import Cron
from pydantic import Field


@flow(persist_result=True)  # or the value would be lost with the run's process
def forecast(
    station: Annotated[str, Field(min_length=3)],
    days: Annotated[int, Field(ge=1, le=14)] = 3,
    unit: Literal["C", "F"] = "C",
) -> list[str]:
    """Forecast the temperature at a weather station.

    Args:
        station: Where it is measured.
        days: How many days ahead.
        unit: The unit of the temperatures.

    Returns:
        A line for each day.
    """
    return [f"{station} in {day} days: {20 + day} °{unit}" for day in range(1, days + 1)]


def serve_forecasts() -> None:
    """Execute the runs of `forecast/served` as they are triggered, until Ctrl-C or SIGTERM."""
    forecast.serve(
        "served",
        parameters={"station": "Oslo"},
        schedules=[
            Cron("0 6 * * *", timezone="Europe/Oslo", slug="daily"),
            Cron("0 7 * * 1", timezone="Europe/Oslo", slug="weekly", parameters={"days": 7}),
        ],
        global_limit=1,  # `limit` would count the runs of this process only
        pause_on_shutdown=True,
    )


def trigger(parameters: Mapping[str, str | int], patience: float = 600) -> list[str]:
    """Trigger a run of `forecast/served`, wait for its end and return its value.

    Args:
        parameters: The parameters that differ from the deployment's own.
        patience: How many seconds to wait.

    Returns:
        The value of the run: a line for each day.

    Raises:
        PrefectHTTPStatusError: If a parameter does not fit the flow; the message names it.
        TimeoutError: If the run has not ended by then.
        RuntimeError: If an event loop is running.
        Exception: Whatever the run raised.
    """
    run = run_deployment(
        "forecast/served", parameters=dict(parameters), timeout=patience, poll_interval=0.5
    )
    if not isinstance(run, FlowRun):
        run.close()
        raise RuntimeError("an event loop runs: await arun_deployment instead")
    if run.state is None or not run.state.is_final():
        raise TimeoutError(f"run {run.id} is {run.state_name} after {patience:g} seconds")
    value: list[str] = run.state.result()
    return value


def show(client: SyncPrefectClient) -> None:
    """Trigger a run with a wrong parameter and one without, then send the signal of Ctrl-C."""
    try:
        while not any(each.name == "served" for each in client.read_deployments()):
            time.sleep(0.5)
        try:
            trigger({"days": "soon"})
        except PrefectHTTPStatusError as error:
            print(f"refused: {error}")
        print(trigger({"days": 2}))
    finally:
        signal.raise_signal(signal.SIGINT)


def main() -> None:
    """Serve one run and end, or keep serving until Ctrl-C if the argument is `serve`."""
    if sys.argv[1:] != ["serve"]:
        # If no server is running this starts one, which two threads cannot do at the same time.
        client = get_client(sync_client=True)
        threading.Thread(target=show, args=(client,), daemon=True).start()
    serve_forecasts()


if __name__ == "__main__":
    main()
