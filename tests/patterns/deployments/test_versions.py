# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/deployments/versions.py`."""

from __future__ import annotations

import asyncio
from contextlib import chdir
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect import flow, get_client
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import MissingFlowError, ScriptError
from prefect.flow_engine import run_flow
from prefect.flows import load_flow_from_flow_run
from prefect.runner.storage import GitRepository

from patterns.deployments.versions import (
    Service,
    commit_price,
    current,
    git,
    release,
    releases,
    roll_back,
    running_commit,
)

NAME = "deployments/versions"


class Shop:
    """A repository on disk, its service, and what runs of it give."""

    def __init__(self, place: Path) -> None:
        self.repository = place / "shop"
        git("init", "--quiet", "--initial-branch=main", self.repository)
        with get_client(sync_client=True) as client:
            pool = client.create_work_pool(WorkPoolCreate(name=f"pool-{uuid4()}", type="process"))
        self.service = Service(
            str(self.repository), "shop.py:price", f"price/Web {uuid4()}", pool.name
        )

    def commit(self, price: int) -> str:
        """Commit another price, and return the commit's id."""
        commit_price(self.repository, price)
        return git("-C", self.repository, "rev-parse", "HEAD")

    def write(self, source: str) -> str:
        """Commit any source, and return the commit's id."""
        (self.repository / "shop.py").write_text(source)
        developer = ("-c", "user.name=Ann", "-c", "user.email=ann@example.org")
        git("-C", self.repository, *developer, "commit", "--quiet", "-am", "written by hand")
        return git("-C", self.repository, "rev-parse", "HEAD")

    @property
    def deployment(self) -> DeploymentResponse:
        """Return the deployment as the server holds it."""
        with get_client(sync_client=True) as client:
            return client.read_deployment_by_name(self.service.name)

    def created(self, **parameters: Any) -> FlowRun:
        """Create a run of the deployment."""
        with get_client(sync_client=True) as client:
            return client.create_flow_run_from_deployment(self.deployment.id, parameters=parameters)


@pytest.fixture
def shop(prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """Yield a repository with a first commit, and make an empty folder the current one."""
    workplace = tmp_path / "work"
    workplace.mkdir()
    monkeypatch.chdir(workplace)
    shop = Shop(tmp_path)
    shop.commit(1)
    return shop


def execute(run: FlowRun) -> tuple[int, str]:
    """Run a flow run as a worker's process does; return its result and its commit."""
    with chdir("."):
        loaded = asyncio.run(load_flow_from_flow_run(flow_run=run))  # changes the folder
        result: Any = run_flow(loaded, flow_run=run, parameters=run.parameters)
        return result, running_commit()


@pytest.mark.guarantee(NAME, "pinned")
@pytest.mark.guarantee(NAME, "known")
@pytest.mark.guarantee(NAME, "apart")
def test_a_release_is_one_commit(shop: Shop) -> None:
    """Runs have the code of the released branch, tag or commit, although these have moved since.

    What a run has loaded stays as it is when another commit is loaded in the same folder.
    """
    first = git("-C", shop.repository, "rev-parse", "main")
    assert release(shop.service, "main") == first
    second = shop.commit(2)
    git("-C", shop.repository, "tag", "v2")
    assert execute(shop.created(count=10)) == (10, first)
    one = next(Path().glob("*/shop.py"))
    before = one.read_text()

    assert release(shop.service, "v2") == second
    third = shop.commit(3)
    git("-C", shop.repository, "tag", "--force", "v2")
    assert execute(shop.created(count=10)) == (20, second)
    assert one.read_text() == before

    assert release(shop.service, third) == third
    shop.commit(4)
    assert execute(shop.created()) == (3, third)
    assert current(shop.service) == shop.deployment.version == third
    assert releases(shop.service) == [first, second, third]


BROKEN = (
    "def price(",
    "import nothing_like_it",
    "price = 3",
    "from prefect import flow\n\n@flow(name='cost')\ndef price(count: int = 1): ...",
)


@pytest.mark.guarantee(NAME, "refused")
def test_what_cannot_run_is_not_released(shop: Shop) -> None:
    """A revision that is missing, or whose flow is, broken or called otherwise, changes nothing."""
    good = release(shop.service, "main")
    deployed = shop.deployment.model_dump(exclude={"updated"})
    for missing in ("mian", "0" * 40, "-x", "", "main..main"):
        with pytest.raises(ValueError, match=r"no such branch, tag or commit|in .*shop: "):
            release(shop.service, missing)
    elsewhere = Service(f"{shop.repository}-2", "shop.py:price", shop.service.name, "pool")
    with pytest.raises(ValueError, match=r"shop-2: .*does not exist"):
        release(elsewhere, "main")
    for broken in BROKEN:
        shop.write(broken)
        with pytest.raises((SyntaxError, ScriptError, MissingFlowError, ValueError)):
            release(shop.service, "main")
    assert shop.deployment.model_dump(exclude={"updated"}) == deployed
    assert releases(shop.service) == [good]


PICKY = """
from prefect import flow

@flow
def price(count: int, currency: str) -> str:
    return f"{count} {currency}"
"""


@pytest.mark.guarantee(NAME, "rolled-back")
@pytest.mark.guarantee(NAME, "known")
def test_going_back(shop: Shop) -> None:
    """`roll_back` goes back one release, with the parameters of that time, or to a given one.

    What was released twice in a row counts once. A commit that was not released is refused.
    """
    first = release(shop.service, "main")
    with pytest.raises(ValueError, match="nothing else was"):
        roll_back(shop.service)
    commits = [first]
    for price in (2, 3):
        commits.append(shop.commit(price))
        for _ in range(2):
            release(shop.service, "main")
    assert releases(shop.service) == commits
    shop.write(PICKY)
    release(shop.service, "main")
    assert shop.deployment.parameter_openapi_schema["required"] == ["count", "currency"]  # type: ignore[index]

    assert roll_back(shop.service) == commits[2]
    assert not shop.deployment.parameter_openapi_schema.get("required")  # type: ignore[union-attr]
    assert execute(shop.created()) == (3, commits[2])
    assert roll_back(shop.service) == commits[1]
    assert execute(shop.created()) == (2, commits[1])
    assert releases(shop.service) == commits[:2]

    release(shop.service, commits[2])
    with pytest.raises(ValueError, match="abc was not released before"):
        roll_back(shop.service, "abc")
    assert releases(shop.service) == commits
    assert roll_back(shop.service, first[:9]) == first == current(shop.service)
    assert releases(shop.service) == [first]


@pytest.mark.guarantee(NAME, "waiting")
@pytest.mark.guarantee(NAME, "known")
@pytest.mark.fact(NAME, "stale")
def test_a_waiting_run_has_the_code_of_its_start(shop: Shop) -> None:
    """A run that was created before a release has the code of the release, and knows it.

    The server gives the version of the time when it was created.
    """
    first = release(shop.service, "main")
    waiting = shop.created()
    second = shop.commit(2)
    release(shop.service, "main")
    assert execute(waiting) == (2, second)
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(waiting.id).deployment_version == first


@pytest.mark.guarantee(NAME, "kept")
@pytest.mark.fact(NAME, "reset")
def test_a_release_changes_nothing_but_the_code(shop: Shop) -> None:
    """A release and a roll-back leave alone what else was set; to deploy again resets it."""
    release(shop.service, "main")
    changed = DeploymentUpdate(
        paused=True,
        parameters={"count": 7},
        tags=["shop"],
        concurrency_limit=3,
        schedules=[{"schedule": {"cron": "0 6 * * *"}, "active": True}],  # type: ignore[list-item]
    )
    with get_client(sync_client=True) as client:
        client.update_deployment(shop.deployment.id, changed)
    code = {"version", "pull_steps", "updated", "parameter_openapi_schema"}
    before = shop.deployment.model_dump(exclude=code)
    assert before["schedules"]
    shop.commit(2)
    release(shop.service, "main")
    assert shop.deployment.model_dump(exclude=code) == before
    roll_back(shop.service)
    assert shop.deployment.model_dump(exclude=code) == before
    assert shop.created().parameters == {"count": 7}

    again: Any = flow.from_source(str(shop.repository), "shop.py:price")
    again.to_deployment(
        shop.service.name.partition("/")[2], work_pool_name=shop.service.pool
    ).apply()
    after = shop.deployment
    assert (after.paused, after.parameters, after.tags) == (False, {}, [])
    assert after.global_concurrency_limit is None


@pytest.mark.fact(NAME, "branch")
def test_a_branch_is_looked_up_at_each_start(shop: Shop) -> None:
    """A deployment without a commit has the code that the branch has when a run starts."""
    loaded: Any = flow.from_source(
        GitRepository(str(shop.repository), branch="main"), "shop.py:price"
    )
    deployed = loaded.to_deployment("by branch", work_pool_name=shop.service.pool).apply()
    with get_client(sync_client=True) as client:
        run = client.create_flow_run_from_deployment(deployed)
    second = shop.commit(2)
    assert execute(run) == (2, second)


def test_names_of_variables_differ(shop: Shop) -> None:
    """Deployments whose names differ in signs or in capital letters have their own releases."""
    first = release(shop.service, "main")
    other = Service(
        shop.service.repository, "shop.py:price", shop.service.name.lower(), shop.service.pool
    )
    assert releases(other) == []
    assert releases(shop.service) == [first]
