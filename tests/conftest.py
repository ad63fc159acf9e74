# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a real Prefect server, its commands, a browser. Also: how many examples are tried."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _pytest.pytester
import pytest
from hypothesis import Phase, settings

from flowgauge.waiting import patience
from patterns.deployments.self_hosted_server import postgres
from patterns.deployments.self_hosted_server import prefect_server as run_prefect_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.hosts import Cluster

BROWSERS = ("chromium", "google-chrome")
COSTLY = ("processes", "dask-threads", "dask-processes", "lean-processes", "lean-dask")
_SETTINGS = "_hypothesis_internal_use_settings"
Command = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., subprocess.Popen[bytes]]


class LoadedModules:
    """Restores the loaded modules, and never removes one that is needed.

    Pytester's own class empties `sys.modules` for a moment. A thread that imports something in
    that moment creates a second `importlib`, which has no `metadata`: no plugin can be loaded.
    """

    def __init__(self, preserve: Callable[[str], bool] = lambda name: False) -> None:
        self.preserve, self.saved = preserve, dict(sys.modules)

    def restore(self) -> None:
        """Remove the modules that were loaded since, and restore all others."""
        for name in set(sys.modules) - set(self.saved):
            if not self.preserve(name):
                sys.modules.pop(name, None)
        sys.modules.update(self.saved)


@pytest.fixture(scope="session", autouse=True)
def gentle_pytester() -> Iterator[None]:
    """Let `pytester` restore modules without a moment in which there are none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_pytest.pytester, "SysModulesSnapshot", LoadedModules)
        yield


@pytest.fixture(scope="session")
def live_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the API URL of a server that schedules, finds late runs and acts on events.

    It uses PostgreSQL: under load SQLite reports for a minute that it is locked.
    """
    # The log of the server is kept here: a test that fails shows its path.
    home = tmp_path_factory.mktemp("live-server")
    with (
        # Not in pytest's folders: each pytest that starts denies PostgreSQL's user access to them.
        tempfile.TemporaryDirectory() as data,
        postgres(Path(data) / "data") as url,
        run_prefect_server(home, url, settings={"PREFECT_SERVER_UI_ENABLED": "true"}) as api,
    ):
        yield api


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Yield a Prefect server and a Dask cluster on hosts of their own; skip where that can't be."""
    from tests.hosts import cluster_of_hosts, require_namespaces

    require_namespaces()
    with cluster_of_hosts(tmp_path_factory.mktemp("hosts")) as cluster:
        yield cluster


@pytest.fixture(scope="session", autouse=True)
def no_samples() -> Iterator[None]:
    """Disable Dask's profiler in clusters that tests start; see `dask_cluster.local_cluster`."""
    import dask

    with dask.config.set({"distributed.worker.profile.enabled": False}):
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Yield a browser."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.fail("no browser to look with: apt-get install chromium", pytrace=False)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def environment(api: str, home: Path, **settings: str) -> dict[str, str]:
    """Return the environment of a process that uses one API and none of the user's settings."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("PREFECT_")}
    return {
        **inherited,
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "NO_COLOR": "1",
        "COLUMNS": "200",
        **settings,
    }


@pytest.fixture
def prefect(live_server: str, tmp_path: Path) -> Command:
    """Return a function that runs `prefect ...` against the live server and captures its output."""

    def run(*words: str, cwd: Path = tmp_path, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "prefect", *words],
            cwd=cwd,
            env=environment(live_server, tmp_path / "home", **settings),
            capture_output=True,
            text=True,
            timeout=patience(),
        )

    return run


@pytest.fixture
def start(live_server: str, tmp_path: Path) -> Iterator[Start]:
    """Yield a function that starts `python ...` against the live server.

    Processes that still run after the test are ended.
    """
    started: list[subprocess.Popen[bytes]] = []

    def run(*words: str, cwd: Path = tmp_path, **settings: str) -> subprocess.Popen[bytes]:
        with (tmp_path / "started.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *words],
                cwd=cwd,
                env=environment(live_server, tmp_path / "home", **settings),
                stdout=log,
                stderr=log,
            )
        started.append(process)
        return process

    yield run
    for process in started:
        process.terminate()
    for process in started:
        try:
            process.wait(timeout=patience())
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave facts about Prefect to the nightly suite, unless files are named.

    They change with Prefect, whose version is pinned in all other suites.
    """
    if config.getoption("file_or_dir"):
        return
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        if "fact" in marks and not marks & {"guarantee", "e2e"}:
            item.add_marker(pytest.mark.nightly)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    """Try only the explicit example, which is a rich one, on runners where a flow run takes long.

    Examples are generated on the other runners, and on all runners if that is done at random.
    """
    test: Any = pyfuncitem.obj
    params = pyfuncitem.callspec.params if hasattr(pyfuncitem, "callspec") else {}
    written = getattr(test, "hypothesis_explicit_examples", ())
    if not written or params.get("runner_name") not in COSTLY or not settings().derandomize:
        return (yield)
    before = getattr(test, _SETTINGS)
    setattr(test, _SETTINGS, settings(before, phases=(Phase.explicit,)))
    try:
        return (yield)
    finally:
        setattr(test, _SETTINGS, before)
