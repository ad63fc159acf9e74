# SPDX-License-Identifier: Apache-2.0
"""Gives each test its own result storage: caches, persisted results and transactions.

Prefect's local storage is a link, which leads to the folder of the test that is running. No setting
changes from test to test, so all processes of the pytest run follow it, however long they live.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flowgauge.plugin.session import folder_of

if TYPE_CHECKING:
    from _pytest.nodes import Node

SHARED = "shared_results"
_STORAGE = pytest.StashKey["_Storage"]()


class _Storage:
    """The link, and the folders of tests and of the scopes of fixtures."""

    def __init__(self, home: Path, session: Node) -> None:
        self._link = home / "storage"
        self._folders = home / "results"
        self._folders.mkdir()
        self._number = 0
        self._of: dict[Node, Path] = {}
        self._current = session
        self._lead_to(session)

    @contextmanager
    def used_by(self, node: Node) -> Iterator[None]:
        """Store results in the folder of a node for a while: a test, or the scope of a fixture.

        A new folder holds what is in those of wider scopes, and they give what is stored later,
        by a fixture that is first used by a test or a scope inside.
        """
        before, node = self._current, _sharing(node)
        if node is before:
            yield
            return
        self._lead_to(node)
        try:
            yield
        finally:
            self._lead_to(before)
            inside = before.listchain()
            if node in inside:
                for narrower in inside[inside.index(node) + 1 :]:
                    self._copy(node, narrower)

    def forget(self, test: pytest.Item) -> None:
        """Give a test a new folder, if it is run again; later tests may read what is in the old."""
        self._of.pop(test, None)

    def _lead_to(self, node: Node) -> None:
        if node not in self._of:
            self._number += 1
            folder = self._folders / str(self._number)
            folder.mkdir()
            self._of[node] = folder
            for wider in node.listchain()[:-1]:
                self._copy(wider, node)
        fresh = self._link.with_name("storage.new")
        fresh.symlink_to(self._of[node])
        os.replace(fresh, self._link)
        self._current = node

    def _copy(self, source: Node, target: Node) -> None:
        if source in self._of and target in self._of and any(self._of[source].iterdir()):
            shutil.copytree(self._of[source], self._of[target], dirs_exist_ok=True)


def _sharing(node: Node) -> Node:
    """Return the class or module whose tests share their results, or the node itself."""
    chain = node.listchain()
    return next((n for n in chain if any(mark.name == SHARED for mark in n.own_markers)), node)


def _storage(node: Node) -> _Storage | None:
    """Return the storage of the pytest run, None if no test has asked for Prefect so far."""
    stash, home = node.config.stash, folder_of(node.config)
    if _STORAGE not in stash and home is not None:
        stash[_STORAGE] = _Storage(home, node.session)
    return stash.get(_STORAGE, None)


def pytest_configure(config: pytest.Config) -> None:
    """Describe the mark."""
    config.addinivalue_line(
        "markers",
        f"{SHARED}: the tests of this class or module share their stored results and caches",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Reject a mark that can't do what it says, before any test runs."""
    for item in items:
        for node, mark in item.iter_markers_with_node(SHARED):
            if mark.args or mark.kwargs:
                raise pytest.UsageError(f"{item.nodeid}: mark {SHARED} takes no arguments")
            if node is item:
                raise pytest.UsageError(
                    f"{item.nodeid}: mark {SHARED} on one test shares with none; mark its class,"
                    f" or its module with `pytestmark = pytest.mark.{SHARED}`"
                )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Begin a test without what it stored when it was run before."""
    if storage := _storage(item):
        storage.forget(item)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Store what a wider-scoped fixture runs with its scope, not with the test it runs in."""
    storage = None if fixturedef.scope == "function" else _storage(request.node)
    if storage is None:
        return (yield)
    at_end = contextlib.ExitStack()
    # What is added first runs last: this is after the fixture's own end,
    fixturedef.addfinalizer(at_end.close)
    with storage.used_by(request.node):
        value = yield
    # and this before it.
    fixturedef.addfinalizer(lambda: at_end.enter_context(storage.used_by(request.node)))
    return value


@pytest.fixture(autouse=True)
def _own_results(request: pytest.FixtureRequest) -> Iterator[None]:
    """Give the test a result storage of its own."""
    with contextlib.ExitStack() as stack:
        if storage := _storage(request.node):
            stack.enter_context(storage.used_by(request.node))
        yield
