# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "prefect>=3.8,<4", "fastapi<0.151", "sqlalchemy<2.1", "jsonschema>=4.20,<5"
# ]
# ///
"""Describe a push pool and a managed pool as Prefect Cloud takes them; both need Prefect Cloud.

Problem:
    Nothing here has run in Prefect Cloud: the push pool is validated against the schema that
    Prefect publishes for Cloud Run, both against Prefect's own models and a self-hosted server.

    A push pool hands each run to a serverless service, a managed pool to Prefect's own machines;
    nobody runs a worker. What is wrong in their job template or variables is seen when the first
    run does not start, and the template is 200 lines of JSON.

Guarantees:
    template: the push pool's job template is the one that Prefect publishes for Cloud Run, with
        nothing but the credentials set, in the way Prefect's own command sets them.
    checked: job variables that the published schema refuses raise one line that names them.
    server: a self-hosted server refuses the same job variables, and keeps both pools and their
        deployments as they are described.
    filled: with a deployment's variables the template is a whole job: its image, memory and time
        limit are where Cloud Run looks for them, and no placeholder is left.
    managed: a managed deployment differs in its pool and job variables alone: packages to
        install in place of an image, and nothing of a cloud of one's own.
    cloud-only: stock: a self-hosted server starts no run of either pool; it stays Scheduled.

Not for:
    Self-hosted servers: `deployments/push_on_one_machine` hands runs over there, and
    `deployments/deploy_to_pool` has workers pull them. Managed runs that need a network or disk
    of one's own.

Costs:
    None here. In Prefect Cloud each run pays for the start of a container.

Sources:
    - https://docs.prefect.io/v3/how-to-guides/deployment_infra/serverless
    - https://docs.prefect.io/v3/how-to-guides/deployment_infra/managed
    - https://docs.prefect.io/v3/concepts/work-pools
"""

from __future__ import annotations

import asyncio
import json
from copy import deepcopy
from importlib.resources import files
from typing import Any
from uuid import UUID

import jsonschema
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentCreate, WorkPoolCreate
from prefect.utilities.templating import apply_values

PUBLISHED = "server/api/collections_data/views/aggregate-worker-metadata.json"
"""Where the schemas of all workers lie in Prefect's package."""

PUSHED: dict[str, Any] = {
    "image": "europe-docker.pkg.dev/my-project/flows/invoices:1.4.0",
    "region": "europe-west1",
    "cpu": "2000m",
    "memory": "2Gi",
    "timeout": 3600,
    "env": {"LOG_LEVEL": "INFO"},
}
MANAGED: dict[str, Any] = {"pip_packages": ["pandas==2.2.3"], "env": {"LOG_LEVEL": "INFO"}}


@flow
def send_invoices(month: int) -> str:
    """Send the invoices of a month."""
    return f"invoices of month {month} sent"


def published_template(package: str, worker: str) -> dict[str, Any]:
    """Return the job template that Prefect publishes for a kind of worker."""
    metadata = json.loads(files("prefect").joinpath(PUBLISHED).read_text())
    return dict(metadata[package][worker]["default_base_job_configuration"])


def push_pool(name: str, credentials: UUID) -> WorkPoolCreate:
    """Describe a pool that pushes runs to Cloud Run.

    Args:
        name: Of the pool.
        credentials: The id of a `gcp-credentials` block in the same workspace.

    Returns:
        The pool, not yet created.
    """
    template = published_template("prefect-gcp", "cloud-run-v2")
    reference = {"$ref": {"block_document_id": str(credentials)}}
    template["variables"]["properties"]["credentials"]["default"] = reference
    return WorkPoolCreate(name=name, type="cloud-run-v2:push", base_job_template=template)


def managed_pool(name: str) -> WorkPoolCreate:
    """Describe a pool whose runs Prefect executes; Prefect Cloud brings its template."""
    return WorkPoolCreate(name=name, type="prefect:managed")


def deployment(
    flow_id: UUID, pool: WorkPoolCreate, job_variables: dict[str, Any], source: dict[str, Any]
) -> DeploymentCreate:
    """Describe a deployment to a pool.

    Args:
        flow_id: Of the flow.
        pool: Where it runs.
        job_variables: What its jobs have that differs from the pool's defaults.
        source: The step that brings the flow's source to a job.

    Returns:
        The deployment, not yet created.

    Raises:
        ValueError: If the pool's template has no such variable, or not such a value.
    """
    described = DeploymentCreate(
        name=pool.name,
        flow_id=flow_id,
        entrypoint="invoices.py:send_invoices",
        pull_steps=[source],
        work_pool_name=pool.name,
        job_variables=job_variables,
    )
    variables = deepcopy(pool.base_job_template.get("variables", {}))
    if variables and (unknown := job_variables.keys() - variables["properties"].keys()):
        raise ValueError(f"{pool.name}: no job variable is called {', '.join(sorted(unknown))}")
    try:
        described.check_valid_configuration(pool.base_job_template)
    except jsonschema.ValidationError as error:
        where = ".".join(str(part) for part in error.path)
        raise ValueError(f"{pool.name}: job variable {where}: {error.message}") from None
    return described


def job(pool: WorkPoolCreate, job_variables: dict[str, Any]) -> dict[str, Any]:
    """Return the job that a run becomes: the pool's template, filled in."""
    template = pool.base_job_template
    properties = template["variables"]["properties"]
    defaults = {name: each["default"] for name, each in properties.items() if "default" in each}
    return dict(apply_values(template["job_configuration"], defaults | job_variables))


CLONE: dict[str, Any] = {
    "prefect.deployments.steps.git_clone": {"repository": "https://github.com/me/invoices.git"}
}


async def show() -> None:
    """Describe both pools and their deployments, and check them."""
    async with get_client() as client:
        flow_id = await client.create_flow(send_invoices)
    pushed = push_pool("pushed", UUID(int=1))
    described = deployment(flow_id, pushed, PUSHED, CLONE)
    print(json.dumps(job(pushed, described.job_variables)["job_body"], indent=2))
    print(deployment(flow_id, managed_pool("managed"), MANAGED, CLONE).job_variables)
    try:
        deployment(flow_id, pushed, PUSHED | {"memory": "plenty"}, CLONE)
    except ValueError as error:
        print(f"refused: {error}")


def main() -> None:
    """Show the job of a pushed run, and a mistake."""
    asyncio.run(show())


if __name__ == "__main__":
    main()
