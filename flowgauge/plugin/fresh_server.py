# SPDX-License-Identifier: Apache-2.0
"""The mark `fresh_server`: a test that has a server with an empty database to itself."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest

from flowgauge.compat.features import missing
from flowgauge.compat.names import FRESH_SERVER
from flowgauge.plugin.fixtures import ends_session
from flowgauge.plugin.preflight import check_runner_in_reach
from flowgauge.plugin.session import is_stock, lease_of, run_home
from flowgauge.plugin.timing import times

FRESH = "fresh_server"
_SERVER = "prefect_server"
_FIXTURES = pytest.StashKey[list[pytest.FixtureDef[object]]]()


def pytest_configure(config: pytest.Config) -> None:
    """Describe the mark."""
    config.addinivalue_line(
        "markers",
        f"{FRESH}: the test has a Prefect server with an empty database to itself",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Reject a mark that can't do what it says, before any test runs."""
    for item in items:
        for mark in item.iter_markers(FRESH):
            where = f"{item.nodeid}: mark {FRESH}"
            if mark.args or mark.kwargs:
                raise pytest.UsageError(f"{where} takes no arguments")
            if _SERVER not in getattr(item, "fixturenames", ()):
                raise pytest.UsageError(
                    f"{where} needs the fixture {_SERVER}, or one that uses it, such as task_runner"
                )
            if is_stock(config):
                raise pytest.UsageError(
                    f"{where} can't be combined with --flow-stock-harness, whose server can't be"
                    " forked"
                )


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Remember the server's fixture, and those that a project has put in its place."""
    if fixturedef.argname == _SERVER:
        request.config.stash.setdefault(_FIXTURES, []).append(fixturedef)
    return (yield)


@pytest.fixture(autouse=True)
def _fresh_server(request: pytest.FixtureRequest) -> Iterator[None]:
    """Give a test with the mark a server to itself."""
    if request.node.get_closest_marker(FRESH) is None:
        yield
        return
    if line := missing(FRESH_SERVER):
        pytest.fail(line, pytrace=False)
    from flowgauge.server.fresh import fresh_server
    from flowgauge.server.watch import ServerError

    check_runner_in_reach(request)
    config, start = request.config, time.perf_counter()
    usual = request.getfixturevalue(_SERVER)
    with contextlib.ExitStack() as stack:
        report = ends_session(request.session)
        try:
            url = stack.enter_context(fresh_server(run_home(config), lease_of(config), report))
        except ServerError as error:
            pytest.fail(str(error), pytrace=False)
        stack.enter_context(_in_place_of(usual, url, request))
        times(config).server += time.perf_counter() - start
        yield


@contextmanager
def _in_place_of(usual: str, url: str, request: pytest.FixtureRequest) -> Iterator[None]:
    """Let the test, its fixtures and the processes that it uses know the fresh server's address."""
    fixtures = [
        (fixture, fixture.cached_result)
        for fixture in request.config.stash[_FIXTURES]
        if fixture.cached_result is not None and fixture.cached_result[0] == usual
    ]
    _finish_sending(request)
    for fixture, (_, key, error) in fixtures:
        fixture.cached_result = (url, key, error)
    # Fixtures of wider scopes were filled in before.
    request.node.funcargs[_SERVER] = url
    try:
        yield
    finally:
        _finish_sending(request)
        for fixture, result in fixtures:
            fixture.cached_result = result


def _finish_sending(request: pytest.FixtureRequest) -> None:
    from flowgauge.server.fresh import finish_sending

    finish_sending()
    if "started_runners" in request.fixturenames:
        request.getfixturevalue("started_runners").finish_sending()
