# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/deployments/cloud_pools.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.blocks.system import Secret
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentCreate, WorkPoolCreate
from prefect.exceptions import PrefectHTTPStatusError
from prefect.utilities.templating import find_placeholders
from pydantic import SecretStr

from patterns.deployments.cloud_pools import (
    CLONE,
    MANAGED,
    PUSHED,
    deployment,
    job,
    managed_pool,
    published_template,
    push_pool,
    send_invoices,
)

NAME = "deployments/cloud_pools"
CREDENTIALS = UUID(int=7)
Pools = list[tuple[WorkPoolCreate, dict[str, Any]]]

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "memory": ({"memory": "plenty"}, "memory: 'plenty' does not match"),
    "timeout": ({"timeout": 999_999}, "timeout: 999999 is greater than the maximum"),
    "env": ({"env": {"LEVEL": 3}}, "env.LEVEL: 3 is not of type 'string'"),
    "unknown": ({"colour": "red"}, "no job variable is called colour"),
}


@pytest.fixture
def client(prefect_server: str) -> Iterator[SyncPrefectClient]:
    """Give a client of a self-hosted server."""
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def pools(prefect_server: str) -> Pools:
    """Give both pools, with a block that the server has, and job variables for each."""
    # Of another type: that of the credentials comes with a package of Google's clients.
    block: Any = Secret(value=SecretStr("account")).save("cloud-pools", overwrite=True)
    return [(push_pool("pushed", block), PUSHED), (managed_pool("managed"), MANAGED)]


def differences(left: Any, right: Any, path: str = "") -> set[str]:
    """Return where two JSON values differ."""
    if isinstance(left, dict) and isinstance(right, dict):
        keys = left.keys() | right.keys()
        found = (differences(left.get(k), right.get(k), f"{path}/{k}") for k in keys)
        return set().union(*found)
    return set() if left == right else {path}


@pytest.mark.guarantee(NAME, "template")
def test_only_the_credentials_are_set() -> None:
    """The template is the published one with a reference to a block as the credentials."""
    pool = push_pool("pushed", CREDENTIALS)
    template = pool.base_job_template
    published = published_template("prefect-gcp", "cloud-run-v2")
    set_here = "/variables/properties/credentials/default"
    assert pool.type == "cloud-run-v2:push"
    assert differences(template, published) == {set_here}
    reference = template["variables"]["properties"]["credentials"]["default"]
    assert reference == {"$ref": {"block_document_id": str(CREDENTIALS)}}


@pytest.mark.guarantee(NAME, "template")
def test_the_type_is_one_that_prefects_command_provisions() -> None:
    """`prefect work-pool create --provision-infra` knows the type of the push pool."""
    from prefect.infrastructure.provisioners import (
        get_infrastructure_provisioner_for_work_pool_type as provisioner,
    )

    assert provisioner(push_pool("pushed", CREDENTIALS).type)
    with pytest.raises(ValueError, match="cloud-run-v3"):
        provisioner("cloud-run-v3:push")


@pytest.mark.guarantee(NAME, "checked")
@pytest.mark.parametrize(("wrong", "said"), WRONG.values(), ids=WRONG)
def test_wrong_job_variables_are_named(wrong: dict[str, Any], said: str) -> None:
    """What the published schema refuses is one line with the pool and the variable."""
    with pytest.raises(ValueError, match=r"^pushed: ") as error:
        deployment(uuid4(), push_pool("pushed", CREDENTIALS), PUSHED | wrong, CLONE)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def stored(client: SyncPrefectClient, pool: WorkPoolCreate, described: DeploymentCreate) -> Any:
    """Create a pool and a deployment, and return the deployment as the server holds it."""
    client.create_work_pool(pool, overwrite=True)
    fields = described.model_dump(
        mode="json", include={"name", "entrypoint", "pull_steps", "work_pool_name", "job_variables"}
    )
    id = client.create_deployment(flow_id=described.flow_id, **fields)
    return client.read_deployment(id)


def described(
    client: SyncPrefectClient, pool: WorkPoolCreate, **variables: Any
) -> DeploymentCreate:
    """Describe a deployment of the pattern's flow."""
    return deployment(client.create_flow(send_invoices), pool, variables, CLONE)


@pytest.mark.guarantee(NAME, "server")
def test_a_server_keeps_what_is_described(client: SyncPrefectClient, pools: Pools) -> None:
    """Pools and deployments are read back as they were described."""
    for pool, variables in pools:
        held = stored(client, pool, described(client, pool, **variables))
        assert held.job_variables == variables
        assert held.pull_steps == [CLONE]
        kept = client.read_work_pool(pool.name)
        assert (kept.type, kept.base_job_template) == (pool.type, pool.base_job_template)


@pytest.mark.guarantee(NAME, "server")
@pytest.mark.parametrize("wrong", ["memory", "timeout", "env"])
def test_a_server_refuses_the_same_job_variables(
    client: SyncPrefectClient, pools: Pools, wrong: str
) -> None:
    """What is refused here before it is sent, a server refuses too, for the same reason."""
    pool, _ = pools[0]
    good = described(client, pool, **PUSHED)
    bad = good.model_copy(
        update={"job_variables": PUSHED | WRONG[wrong][0], "name": f"bad-{wrong}"}
    )
    with pytest.raises(PrefectHTTPStatusError, match=wrong):
        stored(client, pool, bad)


@pytest.mark.guarantee(NAME, "filled")
def test_a_job_is_whole() -> None:
    """Image, memory and time limit are in the body of the Cloud Run job, and nothing is open."""
    made = job(push_pool("pushed", CREDENTIALS), PUSHED)
    inner = made["job_body"]["template"]["template"]
    (container,) = inner["containers"]
    assert container["image"] == PUSHED["image"]
    assert container["resources"]["limits"] == {"cpu": "2000m", "memory": "2Gi"}
    assert inner["timeout"] == made["timeout"] == 3600
    assert made["env"] == PUSHED["env"]
    assert find_placeholders(made) == set()


@pytest.mark.guarantee(NAME, "managed")
def test_managed_differs_in_pool_and_variables_alone() -> None:
    """The two descriptions of one deployment differ in their pool, its name and the variables."""
    flow_id = uuid4()
    pushed = deployment(flow_id, push_pool("pushed", CREDENTIALS), PUSHED, CLONE)
    managed = deployment(flow_id, managed_pool("managed"), MANAGED, CLONE)
    found = differences(pushed.model_dump(mode="json"), managed.model_dump(mode="json"))
    assert {path.split("/")[1] for path in found} == {"name", "work_pool_name", "job_variables"}
    assert managed.job_variables.keys() - pushed.job_variables.keys() == {"pip_packages"}
    assert not managed.job_variables.keys() & {"image", "region", "cpu", "memory", "credentials"}


@pytest.mark.guarantee(NAME, "cloud-only")
def test_a_self_hosted_server_starts_none(client: SyncPrefectClient, pools: Pools) -> None:
    """A run of either pool is Scheduled, waits in the pool, and nobody is there to take it."""
    for pool, variables in pools:
        held = stored(client, pool, described(client, pool, **variables))
        run = client.create_flow_run_from_deployment(held.id)
        waiting = client.get_scheduled_flow_runs_for_work_pool(pool.name)
        assert run.id in {each.flow_run.id for each in waiting}
        assert client.read_flow_run(run.id).state_name == "Scheduled"
        assert str(client.read_work_pool(pool.name).status) != "WorkPoolStatus.READY"
