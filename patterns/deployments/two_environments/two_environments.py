# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4"]
# ///
"""Deploy a flow to staging and to production from one `prefect.yaml`.

Problem:
    Deployments that are clicked together in the UI, or made by two scripts, drift apart: the
    schedule is changed here, the entrypoint there, and what was tried in staging is not what runs.

Guarantees:
    both: one command creates both deployments of the same flow, from the same lines of the file.
    own: each environment has its own pool, queue, parameters, schedule, limit and job variables:
        the file gives staging no schedule, and staging's parameters never name the database of
        production.
    templated: the source folder and the version come from environment variables of whoever
        deploys, so the file holds neither a path nor a commit. If either is missing nothing is
        deployed; only the function `deploy` uses its own folder then.
    one-only: `--name` deploys one environment and leaves the other as it is.
    repeatable: deploying the file again creates no second deployment and no second schedule, and
        resets what somebody changed elsewhere to what the file says: parameters, tags, job
        variables, limit.
    pools: missing pools are created; an existing one keeps its limit, its paused state, its
        description, its job template and its queues.
    bad: a name that is not in the file, a flow that does not exist, an invalid cron schedule and a
        pool that does not exist are each refused with a one-line message, and that deployment is
        left as it was.

Prefect:
    goes-on (3.8, 3.9): deploying again resumes a paused deployment. A paused schedule and a
        paused pool stay paused: pause those instead.
    literal (3.8, 3.9): a missing variable is no error to Prefect: `{{ $NAME }}` stays as it is
        written, and if it stands for a folder each run fails. Hence the step `build`.
    stays (3.8, 3.9): a schedule that is not in the file (it was removed, its slug was changed, or
        somebody added it elsewhere) stays on the server; delete it there
        (`prefect deployment schedule delete`).
    cleared (3.9): with `PREFECT_DEPLOYMENTS_CLEAR_SCHEDULES_ON_EMPTY=true` a deployment loses such
        schedules if the file has `schedules: []`, as for staging.

Not for:
    A misspelt parameter: Prefect deploys it, and its runs fail. Environments with a separate
    server each: set `PREFECT_API_URL` and pass `--name`. One deployment on one machine: see
    `deployments/serve`.

Costs:
    A new Python process for each call, which imports Prefect: seconds.

Sources:
    - https://docs.prefect.io/v3/how-to-guides/deployments/prefect-yaml
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import get_current_settings
from prefect.workers.process import ProcessWorker

HERE = Path(__file__).resolve().parent
QUIET = {"PYTHONWARNINGS": "ignore::FutureWarning"}
"""Silences the warning about `cleared`, which would come last, in place of a failure's reason."""


@flow
def refresh(database: str, rows: int | None = None) -> str:
    """Refresh the sales of the day.

    Args:
        database: Where they are written.
        rows: How many to write; all by default.

    Returns:
        How many rows were written to which database.
    """
    return f"{rows or 'all'} rows to {database}"


async def prepare_pools() -> None:
    """Create the missing pools of both environments, and leave existing ones unchanged.

    On the command line: `prefect work-pool create staging --type process`.
    """
    template = ProcessWorker.get_default_base_job_template()
    async with get_client() as client:
        for name in ("staging", "production"):
            pool = WorkPoolCreate(name=name, type="process", base_job_template=template)
            # With `overwrite=True` a pool would lose its limit, and a paused one would resume.
            with suppress(ObjectAlreadyExists):
                await client.create_work_pool(pool)


def deploy(*words: str, folder: Path = HERE, commit: str | None = None) -> str:
    """Run `prefect deploy` in a folder with a `prefect.yaml`.

    Args:
        *words: What to deploy: `--all`, or `--name` and a name.
        folder: That folder; workers find the source there, unless `SOURCE_FOLDER` says otherwise.
        commit: The version to give the deployments; `GIT_COMMIT` by default.

    Returns:
        The command's output.

    Raises:
        RuntimeError: If it failed or skipped a name; the message is one line.
    """
    folder = folder.resolve()
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    version = {} if commit is None else {"GIT_COMMIT": commit}
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", *words],
        cwd=folder,
        env={"SOURCE_FOLDER": str(folder), **os.environ, **settings, **version, **QUIET},
        capture_output=True,
        text=True,
    )
    said = done.stdout + done.stderr
    # If at least one name is found, Prefect does not treat an unknown one as a failure.
    left_out = "will not be deployed" in " ".join(said.split())
    if done.returncode or left_out:
        # Unknown names are reported before the box of the first deployment, a failure last.
        raise RuntimeError(reason(said.partition("╭")[0] if left_out else said.rpartition("╯")[2]))
    return said


def reason(said: str) -> str:
    """Return in one line why a command failed: all it said, but only the error of a traceback."""
    message, _, trace = said.partition("Traceback")
    errors = [line for line in trace.splitlines() if re.match(r"[\w.]+: ", line)]
    return " ".join([*message.split(), *errors[-1:]])


async def deployed(environment: str) -> DeploymentResponse:
    """Return the deployment of an environment as the server holds it."""
    async with get_client() as client:
        return await client.read_deployment_by_name(f"refresh/{environment}")


def main() -> None:
    """Deploy to both environments and show how they differ."""
    asyncio.run(prepare_pools())
    deploy("--all", commit="1f2e3d4")
    for environment in ("staging", "production"):
        found = asyncio.run(deployed(environment))
        schedules = [each.slug for each in found.schedules]
        pool = f"{found.work_pool_name}/{found.work_queue_name}"
        print(f"{environment}: {found.parameters} on {pool}, schedules {schedules}")


if __name__ == "__main__":
    main()
