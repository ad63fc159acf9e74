# SPDX-License-Identifier: Apache-2.0
"""Tests and benchmarks of a project on a Prefect server and Dask workers of other hosts."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import psutil
import pytest

from flowgauge.results.rows import Results
from flowgauge.waiting import wait_until
from patterns.deployments.self_hosted_server import postgres
from tests.hosts import Cluster, cluster_of_hosts, ip, network, require_namespaces
from tests.processes import is_running

FLOWS = """
from distributed import Event, get_worker
from prefect import flow, task

@task
def meet(me, other):
    Event(me).set()
    assert Event(other).wait(120)
    return get_worker().address

@flow
def meeting():
    return sorted(future.result() for future in (meet.submit("a", "b"), meet.submit("b", "a")))

@task
def double(number):
    return 2 * number

@flow
def doubles(numbers):
    return double.map(numbers).result()
"""
TESTS = """
import pytest
import where_tasks_run as project

def test_both_hosts(task_runner):
    workers = project.meeting.with_options(task_runner=task_runner)()
    assert [worker.rpartition(":")[0] for worker in workers] == WORKERS

def test_hours(task_runner, virtual_clock):
    raise AssertionError

def test_faults(task_runner, faults):
    raise AssertionError

def test_cost(paired, task_runner, runner_name):
    flow = project.doubles.with_options(task_runner=task_runner)
    paired(lambda: flow([1, 2]), check=lambda made: made == [2, 4], per=2, id="doubles",
           group="mine", figure="time per task", runner=runner_name)
"""


@pytest.mark.e2e
def test_a_project_is_tested_and_measured_on_other_hosts(
    hosts: Cluster, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks of one flow run meet on the workers of two hosts, and a row is measured there.

    What needs virtual time is skipped, and so is what needs files in common with the workers.
    """
    assert_tested_and_measured(hosts, pytester, monkeypatch)


@pytest.mark.nightly
def test_the_server_of_the_hosts_may_use_postgresql(
    tmp_path_factory: pytest.TempPathFactory,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same holds if the server of the other hosts keeps its data in PostgreSQL."""
    require_namespaces()
    folder = tmp_path_factory.mktemp("hosts")
    with (
        # Not in pytest's folders: each pytest that starts denies PostgreSQL's user access to them.
        tempfile.TemporaryDirectory() as data,
        postgres(Path(data) / "data") as url,
        cluster_of_hosts(folder, url) as hosts,
    ):
        assert_tested_and_measured(hosts, pytester, monkeypatch)
        assert not list(folder.rglob("prefect.db"))


def assert_tested_and_measured(
    hosts: Cluster, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test and measure a project on hosts, and check what pytest says and what is in its report."""
    workers = sorted(f"tcp://{host.address}" for host in hosts.workers)
    (hosts.modules / "where_tasks_run.py").write_text(FLOWS)
    pytester.makepyfile(TESTS.replace("WORKERS", repr(workers)))
    pytester.makeini("[pytest]\nflowgauge = true")
    monkeypatch.setenv("PYTHONPATH", str(hosts.modules))
    # Otherwise pytest-benchmark takes this for a run whose rounds disturb each other.
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    # One of the workers has another folder there.
    monkeypatch.setenv("TMPDIR", str(hosts.private))
    result = pytester.runpytest_subprocess(
        *("-rs", "--benchmark-enable", "--benchmark-min-rounds=2", "--benchmark-max-time=0.1"),
        *("--flow-runners", "dask-processes"),
        *("--flow-prefect-api", hosts.api, "--flow-dask-address", hosts.scheduler),
        *("--flow-report-dir", "report"),
    )
    result.assert_outcomes(passed=2, skipped=2)
    header = "\n".join(line for line in result.outlines if line.startswith("flowgauge: "))
    assert f"server at {hosts.api}; what they make there stays" in header
    assert f"2 Dask workers on 2 other hosts at {hosts.scheduler}, not all of which share" in header
    skipped = "\n".join(line for line in result.outlines if line.startswith("SKIPPED"))
    assert "time is real on a server that pytest did not start" in skipped
    assert f"the Dask worker tcp://{hosts.workers[1].address}:" in skipped
    assert "shares no files, memory and process ids with pytest" in skipped
    results = Results.load(pytester.path / "report" / "results.json")
    (row,) = results.rows
    assert (row.id, row.memory) == ("doubles", None)
    assert results.fingerprint["workers"] == 2
    assert results.fingerprint["prefect_server"] == f"existing, at {hosts.api}"
    assert results.fingerprint["dask_workers"].startswith("2 Dask workers on 2 other hosts, at ")


@pytest.mark.e2e
def test_workers_that_do_not_reach_the_server_are_told(
    hosts: Cluster, pytester: pytest.Pytester, prefect_server: str
) -> None:
    """A server that listens on loopback is refused in one line: other hosts don't reach it."""
    result = pytester.runpytest_subprocess(
        *("--flow-prefect-api", prefect_server, "--flow-dask-address", hosts.scheduler)
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.outlines + result.errlines if line]
    assert f"--flow-dask-address {hosts.scheduler}: its worker tcp://198.18." in line
    assert f"can't reach the server at {prefect_server} (" in line


@pytest.mark.e2e
def test_hosts_are_gone_after_a_failure(tmp_path: Path) -> None:
    """Namespaces, links and processes of hosts are gone after an error, children included."""
    require_namespaces()
    made: set[str] = set()
    running: list[psutil.Process] = []

    def fail() -> None:
        before = here()
        with network(tmp_path, "only") as (host,):
            process = host.start("sh", "-c", "sleep 1000 & sleep 1001")
            running.append(psutil.Process(process.pid))
            running.extend(wait_until(running[0].children, "the children"))
            made.update(here() - before)
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert len(made) >= 3
    assert not made & here()
    assert len(running) == 3
    assert not any(is_running(process.pid) for process in running)


def here() -> set[str]:
    """Return the names of this machine's network namespaces and links."""
    namespaces = {str(each["name"]) for each in json.loads(ip("-j", "netns") or "[]")}
    return namespaces | {str(each["ifname"]) for each in json.loads(ip("-j", "link"))}
