# SPDX-License-Identifier: Apache-2.0
"""A real Prefect server, commands on it, a browser to look with; how many examples are tried."""

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

BROWSERS = ("chromium", "google-chrome")
COSTLY = ("processes", "dask-threads", "dask-processes", "lean-processes", "lean-dask")
ALIKE = ("sequential", "dask-threads")
"""Task runners on which tasks run in threads of this process, as on `threads`."""
_SETTINGS = "_hypothesis_internal_use_settings"
Command = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., subprocess.Popen[bytes]]


class LoadedModules:
    """Puts loaded modules back as they were, and never takes one away that is needed.

    Pytester's own empties `sys.modules` for a moment. A thread that imports something in that
    moment makes a second `importlib`, which has no `metadata`, and no plugin can be loaded.
    """

    def __init__(self, preserve: Callable[[str], bool] = lambda name: False) -> None:
        self.preserve, self.saved = preserve, dict(sys.modules)

    def restore(self) -> None:
        """Forget what was loaded since, and have all else as it was."""
        for name in set(sys.modules) - set(self.saved):
            if not self.preserve(name):
                sys.modules.pop(name, None)
        sys.modules.update(self.saved)


@pytest.fixture(scope="session", autouse=True)
def gentle_pytester() -> Iterator[None]:
    """Let `pytester` put modules back without a moment in which there are none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_pytest.pytester, "SysModulesSnapshot", LoadedModules)
        yield


@pytest.fixture(scope="session")
def live_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the API of a server that schedules, finds late runs and acts on events.

    On PostgreSQL: under load SQLite answers for a minute that it is locked.
    """
    # Its log is kept here: a test that fails shows where it lies.
    home = tmp_path_factory.mktemp("live-server")
    with (
        # Not among pytest's folders: each pytest that starts shuts them to PostgreSQL's own user.
        tempfile.TemporaryDirectory() as data,
        postgres(Path(data) / "data") as url,
        run_prefect_server(home, url, settings={"PREFECT_SERVER_UI_ENABLED": "true"}) as api,
    ):
        yield api


@pytest.fixture(scope="session", autouse=True)
def no_samples() -> Iterator[None]:
    """Take Dask's profiler from clusters that tests start; see `dask_cluster.local_cluster`."""
    import dask

    with dask.config.set({"distributed.worker.profile.enabled": False}):
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Give a browser."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.fail("no browser to look with: apt-get install chromium", pytrace=False)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def environment(api: str, home: Path, **settings: str) -> dict[str, str]:
    """Return the environment of a process that knows one API and none of a person's settings."""
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
    """Run `prefect ...` against the live server, and return what it said."""

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
    """Start `python ...` against the live server; what still runs is ended after the test."""
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
    """Leave to the night what Prefect does on task runners that do as another one does.

    What a pattern guarantees is proved on all of them; a fact is one of Prefect's engine.
    """
    if config.getoption("flow_runners"):
        return
    for item in items:
        runner = item.callspec.params.get("runner_name") if hasattr(item, "callspec") else None
        marks = {mark.name for mark in item.iter_markers()}
        if runner in ALIKE and "fact" in marks and "guarantee" not in marks:
            item.add_marker(pytest.mark.nightly)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    """On runners where a flow run takes long try the written example, which is a rich one.

    Examples are drawn where they are cheap; and on all runners where they are drawn at random.
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
