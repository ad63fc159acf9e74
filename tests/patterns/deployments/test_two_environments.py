# SPDX-License-Identifier: Apache-2.0
"""Proofs of `patterns/deployments/two_environments/`."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.objects import WorkPool
from prefect.settings import get_current_settings
from prefect.utilities.templating import apply_values
from prefect.workers.process import ProcessWorker

from patterns.deployments.two_environments import two_environments as pattern
from patterns.deployments.two_environments.two_environments import deploy, deployed, prepare_pools

NAME = "deployments/two_environments"
FILES = ("prefect.yaml", "two_environments.py")
VARIABLES = ("SOURCE_FOLDER", "GIT_COMMIT")


def copied(folder: Path) -> Path:
    """Copy the pattern to a folder, and return it."""
    folder.mkdir(exist_ok=True)
    for name in FILES:
        shutil.copy(pattern.HERE / name, folder)
    return folder


def held(environment: str) -> Any:
    """Return a deployment as the server holds it."""
    return asyncio.run(deployed(environment))


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the variables with which the tests' environment could affect a deployment."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def folder(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the pattern whose deployments have both been made."""
    asyncio.run(prepare_pools())
    folder = copied(tmp_path_factory.mktemp("environments"))
    deploy("--all", folder=folder, commit="1f2e3d4")
    return folder


@pytest.mark.guarantee(NAME, "both")
@pytest.mark.usefixtures("folder")
def test_one_command_makes_both() -> None:
    """Both deployments are of one flow, with the same entrypoint and the same schema."""
    staging, production = held("staging"), held("production")
    assert staging.flow_id == production.flow_id
    assert staging.id != production.id
    assert staging.entrypoint == production.entrypoint == "two_environments.py:refresh"
    assert staging.parameter_openapi_schema == production.parameter_openapi_schema
    assert staging.pull_steps == production.pull_steps


@pytest.mark.guarantee(NAME, "own")
@pytest.mark.usefixtures("folder")
def test_each_environment_has_its_own_settings() -> None:
    """Each has the pool, queue, parameters, schedule, limit and job variables from the file."""
    staging, production = held("staging"), held("production")
    assert (staging.work_pool_name, staging.work_queue_name) == ("staging", "default")
    assert (production.work_pool_name, production.work_queue_name) == ("production", "nightly")
    assert staging.parameters == {"database": "sales_staging", "rows": 100}
    assert production.parameters == {"database": "sales"}
    assert staging.schedules == []
    (daily,) = production.schedules
    assert (daily.schedule.cron, daily.schedule.timezone) == ("0 6 * * *", "Europe/Berlin")
    assert staging.global_concurrency_limit is None
    assert production.global_concurrency_limit.limit == 1
    assert staging.job_variables == {"env": {"LOG_LEVEL": "DEBUG"}}
    assert production.job_variables == {"env": {"LOG_LEVEL": "WARNING"}}


@pytest.mark.guarantee(NAME, "templated")
def test_folder_and_version_come_from_the_environment(folder: Path) -> None:
    """The pull step has the folder that was deployed, and the version is the commit."""
    for environment in ("staging", "production"):
        found = held(environment)
        assert found.version == "1f2e3d4"
        (step,) = found.pull_steps
        assert step == {
            "prefect.deployments.steps.set_working_directory": {"directory": str(folder)}
        }


def pools(client: SyncPrefectClient) -> list[tuple[WorkPool, list[dict[str, Any]]]]:
    """Return the pools of both environments and their queues as the server holds them."""
    return [
        (
            client.read_work_pool(name),
            client.request("POST", f"/work_pools/{name}/queues/filter", json={}).json(),  # type: ignore[arg-type]
        )
        for name in ("staging", "production")
    ]


@pytest.mark.guarantee(NAME, "pools")
@pytest.mark.usefixtures("folder")
def test_an_existing_pool_is_left_as_it_is() -> None:
    """Both pools are made from the default template, and keep what a person configures later."""
    with get_client(sync_client=True) as client:
        for pool, queues in pools(client):
            template = pool.base_job_template
            assert template == ProcessWorker.get_default_base_job_template()
            template["variables"]["properties"]["env"]["default"] = {"TEAM": "sales"}
            changes = WorkPoolUpdate(
                description="of sales",
                is_paused=True,
                concurrency_limit=3,
                base_job_template=template,
            )
            client.update_work_pool(pool.name, changes)
            for queue in queues:
                client.update_work_queue(queue["id"], concurrency_limit=2, description="of sales")
        before = pools(client)
        assert [pool.concurrency_limit for pool, _ in before] == [3, 3]
        asyncio.run(prepare_pools())
        assert pools(client) == before


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "one-only")
@pytest.mark.guarantee(NAME, "repeatable")
def test_one_environment_is_deployed_again(folder: Path) -> None:
    """Only that deployment has the new version; it keeps its id and its schedule."""
    before = {name: held(name) for name in ("staging", "production")}
    deploy("--name", "production", folder=folder, commit="a5b6c7d")
    after = {name: held(name) for name in ("staging", "production")}
    assert after["production"].version == "a5b6c7d"
    assert after["production"].id == before["production"].id
    assert [each.schedule for each in after["production"].schedules] == [
        each.schedule for each in before["production"].schedules
    ]
    assert after["staging"] == before["staging"]


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "repeatable")
@pytest.mark.fact(NAME, "goes-on")
@pytest.mark.fact(NAME, "stays")
def test_a_changed_deployment_is_deployed_again(folder: Path) -> None:
    """Deployed again, a changed deployment is as the file says, and no longer paused.

    A paused schedule stays paused, and a schedule that is not in the file stays.
    """
    before = held("staging"), held("production")
    with get_client(sync_client=True) as client:
        for found in before:
            changes = {
                "paused": True,
                "description": "changed",
                "parameters": {"database": "elsewhere"},
                "tags": ["changed"],
                "job_variables": {"env": {"LOG_LEVEL": "CHANGED"}},
                "concurrency_limit": 5,
            }
            client.request("PATCH", f"/deployments/{found.id}", json=changes)  # type: ignore[arg-type]
        (daily,) = before[1].schedules
        of_production = f"/deployments/{before[1].id}/schedules/{daily.id}"
        client.request("PATCH", of_production, json={"active": False})  # type: ignore[arg-type]
        weekly = {"schedule": {"cron": "0 0 * * 0", "timezone": "UTC"}, "active": True}
        of_staging = f"/deployments/{before[0].id}/schedules"
        client.request("POST", of_staging, json=[weekly])  # type: ignore[arg-type]
    assert held("production").paused
    deploy("--all", folder=folder, commit="1f2e3d4")
    again = held("staging"), held("production")
    assert [each.paused for each in again] == [False, False]
    for name in ("id", "parameters", "tags", "description", "job_variables", "work_queue_name"):
        assert [getattr(each, name) for each in again] == [getattr(each, name) for each in before]
    assert [each.schedule.cron for each in again[0].schedules] == ["0 0 * * 0"]
    with get_client(sync_client=True) as client:
        (added,) = again[0].schedules
        client.delete_deployment_schedule(again[0].id, added.id)
    limits = [each.global_concurrency_limit for each in again]
    assert [limit and limit.limit for limit in limits] == [None, 1]
    (paused,) = again[1].schedules
    assert (paused.id, paused.active) == (daily.id, False)

    file = folder / "prefect.yaml"
    file.write_text(file.read_text().replace("slug: daily", "slug: early"))
    deploy("--name", "production", folder=folder, commit="1f2e3d4")
    assert {each.slug for each in held("production").schedules} == {"daily", "early"}


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "bad")
@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("py:refresh", "py:nothing", "Flow function with name 'nothing' not found"),
        ('"0 6 * * *"', '"0 25 * * *"', 'Invalid cron string: "0 25'),
        ("Europe/Berlin", "Europe/Berlim", 'Invalid timezone: "Europe/Berlim"'),
        ("name: production\n      work_q", "name: nowhere\n      work_q", "work pool 'nowhere'"),
        (
            "name: production\n    version",
            "name: other\n    version",
            "could not be found .*: prod",
        ),
    ],
    ids=["flow", "cron", "zone", "pool", "name"],
)
@pytest.mark.usefixtures("folder")
def test_a_mistake_is_refused(tmp_path: Path, right: str, wrong: str, said: str) -> None:
    """The error says in one line what is wrong, and the deployment is as it was."""
    before = held("production")
    file = copied(tmp_path) / "prefect.yaml"
    assert right in file.read_text()
    file.write_text(file.read_text().replace(right, wrong))
    with pytest.raises(RuntimeError, match=said) as caught:
        deploy("--name", "production", folder=tmp_path, commit="1f2e3d4")
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert held("production") == before


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "bad")
@pytest.mark.usefixtures("folder")
def test_only_the_refused_deployment_is_reported(tmp_path: Path) -> None:
    """If one of two is refused, the line ends with its reason and does not mention the other."""
    file = copied(tmp_path) / "prefect.yaml"
    file.write_text(file.read_text().replace('"0 6 * * *"', '"0 25 * * *"'))
    with pytest.raises(RuntimeError, match=r'Invalid cron string: "0 25 [^:]*https:\S*$') as caught:
        deploy("--all", folder=tmp_path, commit="1f2e3d4")
    assert "staging" not in str(caught.value)


@pytest.mark.fact(NAME, "cleared")
@pytest.mark.nightly
def test_schedules_can_be_cleared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the setting, a schedule that somebody added to staging is gone after the next deploy."""
    monkeypatch.setenv("PREFECT_DEPLOYMENTS_CLEAR_SCHEDULES_ON_EMPTY", "true")
    weekly = {"schedule": {"cron": "0 0 * * 0", "timezone": "UTC"}, "active": True}
    with get_client(sync_client=True) as client:
        of_staging = f"/deployments/{held('staging').id}/schedules"
        client.request("POST", of_staging, json=[weekly])  # type: ignore[arg-type]
    assert held("staging").schedules
    deploy("--name", "staging", folder=folder, commit="1f2e3d4")
    left = held("staging").schedules
    with get_client(sync_client=True) as client:
        for each in left:
            client.delete_deployment_schedule(held("staging").id, each.id)
    assert not left


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "bad")
def test_one_wrong_name_next_to_a_right_one_is_an_error(folder: Path) -> None:
    """A second name that is not in the file is refused in one line that names it."""
    with pytest.raises(RuntimeError, match="will not be deployed: stagin") as caught:
        deploy("--name", "production", "--name", "stagin", folder=folder, commit="1f2e3d4")
    assert "\n" not in str(caught.value)
    print(caught.value)


def run_the_head(folder: Path, without: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command in the head of `prefect.yaml` as written, or without a variable."""
    text = (folder / "prefect.yaml").read_text()
    (command,) = [line[1:] for line in text.splitlines() if line.startswith("#   ")]
    if without:
        command, found = re.subn(rf'{without}="[^"]*" ', "", command)
        assert found == 1
    inherited = {name: text for name, text in os.environ.items() if name not in VARIABLES}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    return subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env={**inherited, **settings, "PATH": path},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a copy of the pattern in a repository with one commit."""
    copied(tmp_path)
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], [*who, "commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    return tmp_path


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "both")
@pytest.mark.guarantee(NAME, "templated")
@pytest.mark.usefixtures("folder")
def test_the_command_in_the_head_of_the_file(repository: Path) -> None:
    """Run as it is written, it deploys both, from their folder, with the commit as the version."""
    done = run_the_head(repository)
    assert done.returncode == 0, done.stdout + done.stderr
    git = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(git, cwd=repository, check=True, capture_output=True, text=True).stdout
    for environment in ("staging", "production"):
        ((step,),) = [each.values() for each in held(environment).pull_steps]
        assert (step["directory"], held(environment).version) == (str(repository), commit.strip())


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "templated")
@pytest.mark.parametrize("variable", ["SOURCE_FOLDER", "GIT_COMMIT"])
@pytest.mark.usefixtures("folder")
def test_without_a_variable_nothing_is_deployed(repository: Path, variable: str) -> None:
    """The command fails and names the variable, and both deployments are as they were."""
    before = held("staging"), held("production")
    done = run_the_head(repository, without=variable)
    assert done.returncode != 0
    assert f"{variable}: is missing" in done.stdout + done.stderr
    assert (held("staging"), held("production")) == before


@pytest.mark.fact(NAME, "literal")
def test_a_missing_variable_stays_as_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect's own templating leaves the placeholder of a missing variable in a pull step."""
    monkeypatch.delenv("SOURCE_FOLDER", raising=False)
    step = {"directory": "{{ $SOURCE_FOLDER }}"}
    assert apply_values(step, dict(os.environ), remove_notset=False) == step


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "templated")
@pytest.mark.usefixtures("prefect_server")
def test_a_relative_folder_is_deployed_as_an_absolute_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative folder becomes an absolute one in the pull step, as workers start elsewhere."""
    asyncio.run(prepare_pools())
    copied(tmp_path / "shop")
    monkeypatch.chdir(tmp_path)
    deploy("--name", "staging", folder=Path("shop"), commit="1f2e3d4")
    ((step,),) = [each.values() for each in held("staging").pull_steps]
    assert step == {"directory": str(tmp_path / "shop")}


@pytest.mark.e2e
@pytest.mark.guarantee(NAME, "templated")
def test_deploy_reads_the_environment_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`deploy` takes both variables from the environment, and refuses to run without a version."""
    before = held("staging")
    with pytest.raises(RuntimeError, match="GIT_COMMIT: is missing"):
        deploy("--name", "staging", folder=folder)
    assert held("staging") == before
    monkeypatch.setenv("GIT_COMMIT", "abc1234")
    monkeypatch.setenv("SOURCE_FOLDER", "/srv/app")
    deploy("--name", "staging", folder=folder)
    ((step,),) = [each.values() for each in held("staging").pull_steps]
    assert (step["directory"], held("staging").version) == ("/srv/app", "abc1234")
