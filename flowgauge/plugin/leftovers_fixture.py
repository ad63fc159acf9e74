# SPDX-License-Identifier: Apache-2.0
"""Fails a test that leaves something behind."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flowgauge.plugin.session import RUN_OPTIONS, run_home

if TYPE_CHECKING:
    from flowgauge.leftovers.files import Folders

_FIXES = {
    "processes": "wait for it or end it in the test, for instance with subprocess.Popen in `with`",
    "threads": "join it, or close what started it, for instance with the pool in `with`",
    "connections": "close the client, for instance with get_client() in `with`",
    "files": "write below tmp_path, or remove it in the test",
}


_APPEARED = "flowgauge_appeared"
"""The user property with the path of a file of unknown origin; it reaches the xdist controller."""


def pytest_configure(config: pytest.Config) -> None:
    """Describe the mark."""
    config.pluginmanager.register(_AppearedFiles(), "flowgauge-appeared")
    config.addinivalue_line(
        "markers",
        "leaves(*kinds, reason): the test may leave these behind: processes, threads,"
        " connections, files",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Reject an invalid mark before any test runs."""
    for item in items:
        for mark in item.iter_markers("leaves"):
            _check_mark(item, mark)


class _AppearedFiles:
    """Lists files of unknown origin at the end of the run; no test fails because of them."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the files that appeared during a test."""
        if report.when == "teardown":
            for name, path in report.user_properties:
                if name == _APPEARED:
                    self.files.setdefault(str(path), report.nodeid)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """List the files, each with the test that was running."""
        for path, test in sorted(self.files.items()):
            if os.path.lexists(path):
                terminalreporter.write_line(
                    f"note: {path} appeared during {test}; what created it is unknown"
                )


def _check_mark(item: pytest.Item, mark: pytest.Mark) -> None:
    where = f"{item.nodeid}: mark leaves"
    known = ", ".join(_FIXES)
    for kind in mark.args:
        if kind not in _FIXES:
            raise pytest.UsageError(f"{where}: unknown kind {kind!r}; choose from {known}")
    if not mark.args:
        raise pytest.UsageError(f"{where}: name what the test may leave; choose from {known}")
    reason = mark.kwargs.get("reason")
    if mark.kwargs.keys() - {"reason"} or not isinstance(reason, str) or not reason.strip():
        raise pytest.UsageError(f'{where}: give a reason="...", and no other keyword')


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> Generator[None, object, object]:
    """Attribute what a wider-scoped fixture starts to the session, not to the test it runs in."""
    if fixturedef.scope == "function":
        return (yield)
    from flowgauge.leftovers.lasting import keep
    from flowgauge.leftovers.watch import adopted

    with adopted():
        value = yield
    keep(value)
    return value


@pytest.fixture(autouse=True)
def _leaves_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test if it leaves a process, a thread, a connection or a file behind."""
    if not (request.config.getini("flowgauge") or "prefect_server" in request.fixturenames):
        yield
        return
    from flowgauge.leftovers.watch import LeftoverWatch

    watch = LeftoverWatch(_folders(request.config, request.getfixturevalue("tmp_path_factory")))
    try:
        yield
        marks = request.node.iter_markers("leaves")
        leftovers = watch.left(frozenset(kind for mark in marks for kind in mark.args))
        request.node.user_properties += [(_APPEARED, path) for path in watch.appeared()]
    finally:
        watch.close()
    if leftovers:
        pytest.fail(_message(leftovers), pytrace=False)


def _folders(config: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    from flowgauge.leftovers.files import Folders, temporary_folders

    def allowed() -> tuple[Path, ...]:
        temporary = temporary_folders(tmp_path_factory.getbasetemp())
        return (config.stash[RUN_OPTIONS].report_dir, *temporary)

    return Folders(run_home(config), allowed, alone=not hasattr(config, "workerinput"))


def _message(leftovers: dict[str, list[str]]) -> str:
    lines = ["the test leaves something behind"]
    for kind, things in leftovers.items():
        lines += [f"  {thing}" for thing in things]
        lines.append(f"  -> {_FIXES[kind]}; or allow it: @pytest.mark.leaves({kind!r}, reason=...)")
    return "\n".join(lines)
