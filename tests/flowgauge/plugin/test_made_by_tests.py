# SPDX-License-Identifier: Apache-2.0
"""What a test makes on the server by name is gone after it; what was there before stays."""

from __future__ import annotations

import pytest

from flowgauge.server.template import cache_folder
from tests.flowgauge.plugin.test_own_results import FILES

CACHE = cache_folder()
TESTS = """
import pytest
from prefect import flow, get_client, task
from prefect.artifacts import Artifact, create_markdown_artifact
from prefect.automations import Automation
from prefect.blocks.system import Secret
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate
from prefect.concurrency.sync import concurrency
from prefect.events.actions import DoNothing
from prefect.events.schemas.automations import EventTrigger
from prefect.variables import Variable

@flow
def nothing():
    pass

def make(name):
    Secret(value=f"secret of {name}").save(name.replace("_", "-"))
    Variable.set(name, f"value of {name}", tags=["a"])
    with get_client(sync_client=True) as client:
        client.create_concurrency_limit(name, 1)
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
        client.create_work_pool(WorkPoolCreate(name=name.replace("_", "-")))
    nothing.to_deployment(name).apply()
    trigger = EventTrigger(expect={name}, posture="Reactive", threshold=1)
    Automation(name=name, trigger=trigger, actions=[DoNothing()]).create()
    create_markdown_artifact("text", key=name.replace("_", "-"))

def made():
    with get_client(sync_client=True) as client:
        def read(path):
            return client.request("POST", path, json={}).json()
        names = {
            "block": {block["name"] for block in read("/block_documents/filter")},
            "variable": {variable["name"] for variable in read("/variables/filter")},
            "tag": {limit["tag"] for limit in read("/concurrency_limits/filter")},
            "limit": {limit["name"] for limit in read("/v2/concurrency_limits/filter")},
            "pool": {pool["name"] for pool in read("/work_pools/filter")},
            "deployment": {deployment["name"] for deployment in read("/deployments/filter")},
            "automation": {automation["name"] for automation in read("/automations/filter")},
            "artifact": {artifact["key"] for artifact in read("/artifacts/filter")},
        }
    return {kind: names & {"a_test", "a-test", "tag:a_test"} for kind, names in names.items()}, {
        kind for kind, names in names.items() if names & {"of_module", "of-module"}
    }

ALL = {"block", "variable", "tag", "limit", "pool", "deployment", "automation", "artifact"}

@pytest.fixture(scope="module")
def of_module(prefect_server):
    make("of_module")

@pytest.mark.parametrize("turn", [1, 2])
def test_gone(of_module, turn):
    ours, of_modules = made()
    assert not any(ours.values()) and of_modules == ALL
    make("a_test")
    ours, of_modules = made()
    assert all(ours.values()) and of_modules == ALL
    with pytest.raises(TimeoutError), concurrency("a_test"), concurrency(
        "a_test", timeout_seconds=0.1
    ):
        pass
    # A slot that stays taken.
    with get_client(sync_client=True) as client:
        client.increment_concurrency_slots(["a_test"], 1, "concurrency")
        client.increment_v1_concurrency_slots(["a_test"], nothing(return_state=True).id)

@pytest.mark.parametrize("turn", [1, 2])
def test_variables_as_they_were(of_module, turn):
    assert Variable.get("of_module") == "value of of_module"
    if turn == 1:
        Variable.set("of_module", {"other": 1}, overwrite=True)
    else:
        Variable.unset("of_module")

def test_variables_stay(of_module):
    assert Variable.get("of_module") == "value of of_module"
    with get_client(sync_client=True) as client:
        assert client.read_variable_by_name("of_module").tags == ["a"]

@pytest.fixture(scope="module")
def late():
    Secret(value="late").save("late")
    Variable.set("of_module", "late", overwrite=True)
    Variable.unset("early")

@pytest.fixture(scope="module")
def early(prefect_server):
    Variable.set("early", 1)

def test_asks_late(early, prefect_server, request):
    Variable.set("a_test", 1)
    request.getfixturevalue("late")
    assert Secret.load("late").get() == "late"

@pytest.mark.parametrize("turn", [1, 2])
def test_late_stays(prefect_server, turn):
    assert Secret.load("late").get() == "late"
    assert Variable.get("of_module") == "late"
    assert Variable.get("early") is None is Variable.get("a_test")

@task
def keep():
    Secret(value="of a task").save("of-a-task")

@pytest.mark.parametrize("turn", [1, 2])
@pytest.mark.runners("processes")
def test_by_workers(task_runner, turn):
    with pytest.raises(ValueError):
        Secret.load("of-a-task")
    flow(lambda: keep.submit().result(), name="keeps").with_options(task_runner=task_runner)()
    assert Secret.load("of-a-task").get() == "of a task"
"""


@pytest.mark.parametrize(
    ("options", "passed"),
    [
        pytest.param(["-n0"], 10, id="in one process"),
        pytest.param(
            ["-n2", "-k", "gone or as_they_were or workers or transaction"],
            8,
            id="distributed",
            marks=pytest.mark.e2e,
        ),
    ],
)
def test_nothing_made_by_a_test_stays(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, options: list[str], passed: int
) -> None:
    """Blocks, variables, limits, work pools, deployments, automations and artifacts of a test are
    removed, and what fixtures of wider scopes made stays as it was.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(CACHE.parent))
    files = {"test_made": TESTS}
    if "-n2" in options:
        # The processes of pytest-xdist have a result storage each, too.
        files["test_apart"] = FILES["test_apart"]
    pytester.makepyfile(**files)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", *options)
    result.assert_outcomes(passed=passed)
