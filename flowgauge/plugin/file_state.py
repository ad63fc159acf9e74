# SPDX-License-Identifier: Apache-2.0
"""Isolates test files from each other: environment variables and thread limits."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

from flowgauge.server.isolation import put_back

_WIDER_SCOPES = ("session", "package")


class _Environment:
    """The environment at the start of a test file, plus what wider-scoped fixtures set since."""

    at_start: dict[str, str] | None = None


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> Generator[None, object, object]:
    """Keep what a wider-scoped fixture does to the environment beyond the test file."""
    at_start = _Environment.at_start
    if at_start is None or fixturedef.scope not in _WIDER_SCOPES:
        return (yield)
    before = dict(os.environ)
    try:
        return (yield)
    finally:
        for name in before.keys() - os.environ.keys():
            at_start.pop(name, None)
        at_start.update({k: text for k, text in os.environ.items() if before.get(k) != text})


@pytest.fixture(scope="module", autouse=True)
def _files_share_no_state(request: pytest.FixtureRequest) -> Iterator[None]:
    """Restore the environment and thread limits after each test file."""
    with contextlib.ExitStack() as stack:
        if request.config.getini("flowgauge"):
            stack.enter_context(_environment_restored())
            stack.enter_context(thread_limits_kept())
        if _uses_server(request):
            # Before the file's own fixtures, because settings must be undone in reverse order.
            request.getfixturevalue("prefect_server")
        yield


def _uses_server(request: pytest.FixtureRequest) -> bool:
    return any(
        "prefect_server" in getattr(item, "fixturenames", ())
        for item in request.session.items
        if item.getparent(pytest.Module) is request.node
    )


@contextmanager
def _environment_restored() -> Iterator[None]:
    at_start = _Environment.at_start = dict(os.environ)
    try:
        yield
    finally:
        _Environment.at_start = None
        put_back(at_start)


@contextmanager
def thread_limits_kept() -> Iterator[None]:
    """Restore the thread limits of the linear algebra libraries that are loaded at the start."""
    if find_spec("threadpoolctl") is None:
        yield
        return
    from threadpoolctl import ThreadpoolController

    with ThreadpoolController().limit(limits=None):
        yield
