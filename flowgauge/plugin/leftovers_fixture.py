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

_MEND = {
    "processes": "wait for it or end it in the test, for instance with subprocess.Popen in `with`",
    "threads": "join it, or close what started it, for instance with the pool in `with`",
    "connections": "close the client, for instance with get_client() in `with`",
    "files": "write below tmp_path, or remove it in the test",
}


_APPEARED = "flowgauge_appeared"
"""The user property that carries the path of a file from nobody known, also between processes."""


def pytest_configure(config: pytest.Config) -> None:
    """Describe the mark."""
    config.pluginmanager.register(_Notes(), "flowgauge-appeared")
    config.addinivalue_line(
        "markers",
        "leaves(*kinds, reason): the test may leave these behind: processes, threads,"
        " connections, files",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a mark that can't be understood before any test runs."""
    for item in items:
        for mark in item.iter_markers("leaves"):
            _check_mark(item, mark)


class _Notes:
    """Says at the end of the run which files came from nobody known; no test fails for them."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the files that appeared during a test."""
        if report.when == "teardown":
            for name, path in report.user_properties:
                if name == _APPEARED:
                    self.files.setdefault(str(path), report.nodeid)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name them, and the test that was running."""
        for path, test in sorted(self.files.items()):
            if os.path.lexists(path):
                terminalreporter.write_line(
                    f"note: {path} appeared during {test}; who made it is not known"
                )


def _check_mark(item: pytest.Item, mark: pytest.Mark) -> None:
    where = f"{item.nodeid}: mark leaves"
    known = ", ".join(_MEND)
    for kind in mark.args:
        if kind not in _MEND:
            raise pytest.UsageError(f"{where}: there is no kind {kind!r}; choose from {known}")
    if not mark.args:
        raise pytest.UsageError(f"{where}: say what; choose from {known}")
    reason = mark.kwargs.get("reason")
    if mark.kwargs.keys() - {"reason"} or not isinstance(reason, str) or not reason.strip():
        raise pytest.UsageError(f'{where}: say why, and no more, with reason="..."')


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> Generator[None, object, object]:
    """Take for the run's what a fixture for more than one test starts while a test runs."""
    if fixturedef.scope == "function":
        return (yield)
    from flowgauge.leftovers.watch import adopted

    with adopted():
        return (yield)


@pytest.fixture(autouse=True)
def _leaves_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test if a process, a thread, a connection or a file is left after it."""
    if not (request.config.getini("flowgauge") or "prefect_server" in request.fixturenames):
        yield
        return
    from flowgauge.leftovers.watch import LeftoverWatch

    watch = LeftoverWatch(_folders(request.config, request.getfixturevalue("tmp_path_factory")))
    try:
        yield
        marks = request.node.iter_markers("leaves")
        left = watch.left(frozenset(kind for mark in marks for kind in mark.args))
        request.node.user_properties += [(_APPEARED, path) for path in watch.appeared()]
    finally:
        watch.close()
    if left:
        pytest.fail(_message(left), pytrace=False)


def _folders(config: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    from flowgauge.leftovers.files import Folders, temporary_folders

    def allowed() -> tuple[Path, ...]:
        temporary = temporary_folders(tmp_path_factory.getbasetemp())
        return (config.stash[RUN_OPTIONS].report_dir, *temporary)

    return Folders(run_home(config), allowed, alone=not hasattr(config, "workerinput"))


def _message(left: dict[str, list[str]]) -> str:
    lines = ["the test leaves something behind"]
    for kind, things in left.items():
        lines += [f"  {thing}" for thing in things]
        lines.append(f"  -> {_MEND[kind]}; or allow it: @pytest.mark.leaves({kind!r}, reason=...)")
    return "\n".join(lines)
