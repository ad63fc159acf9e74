# SPDX-License-Identifier: Apache-2.0
"""Keeps the test files of a run apart: results, the environment and limits of threads."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

from flowgauge.plugin.session import run_home
from flowgauge.server.isolation import put_back

_WIDER = ("session", "package")


class _Environment:
    """The environment as a test file found it, with what wider fixtures set meanwhile."""

    found: dict[str, str] | None = None


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> Generator[None, object, object]:
    """Take for the run's what a fixture for more than one file does to the environment."""
    found = _Environment.found
    if found is None or fixturedef.scope not in _WIDER:
        return (yield)
    before = dict(os.environ)
    try:
        return (yield)
    finally:
        for name in before.keys() - os.environ.keys():
            found.pop(name, None)
        found.update({name: text for name, text in os.environ.items() if before.get(name) != text})


@pytest.fixture(scope="module", autouse=True)
def _files_share_no_state(request: pytest.FixtureRequest) -> Iterator[None]:
    """Give each test file results of its own, and leave the environment as it was found."""
    with contextlib.ExitStack() as stack:
        if request.config.getini("flowgauge"):
            stack.enter_context(_environment_of_a_file())
            stack.enter_context(thread_limits_kept())
        if _uses_server(request):
            # Before anything of the file's is set up: settings end in the order they came.
            request.getfixturevalue("prefect_server")
            stack.enter_context(_storage_of_its_own(request))
        yield


def _uses_server(request: pytest.FixtureRequest) -> bool:
    return any(
        "prefect_server" in getattr(item, "fixturenames", ())
        for item in request.session.items
        if item.getparent(pytest.Module) is request.node
    )


@contextmanager
def _storage_of_its_own(request: pytest.FixtureRequest) -> Iterator[None]:
    """Keep results in a folder that no other file's tests read: an equal call is not cached."""
    from unittest.mock import patch

    from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

    storage = run_home(request.config) / "storage"
    number = len(list(storage.iterdir())) if storage.is_dir() else 0
    folder = storage / f"{number}-{request.path.stem}"
    folder.mkdir(parents=True)
    setting = PREFECT_LOCAL_STORAGE_PATH
    # In the environment, too, for processes that tests start.
    with (
        patch.dict(os.environ, {setting.name: str(folder)}),
        temporary_settings({setting: folder}),
    ):
        yield


@contextmanager
def _environment_of_a_file() -> Iterator[None]:
    found = _Environment.found = dict(os.environ)
    try:
        yield
    finally:
        _Environment.found = None
        put_back(found)


@contextmanager
def thread_limits_kept() -> Iterator[None]:
    """Put back how many threads linear algebra uses, in libraries that are loaded by now."""
    if find_spec("threadpoolctl") is None:
        yield
        return
    from threadpoolctl import ThreadpoolController

    with ThreadpoolController().limit(limits=None):
        yield
