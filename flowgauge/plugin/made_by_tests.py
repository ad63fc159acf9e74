# SPDX-License-Identifier: Apache-2.0
"""Removes what a test makes on the server by name: blocks, variables, limits and others."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator

import pytest

from flowgauge.plugin.fresh_server import FRESH
from flowgauge.plugin.session import run_home
from flowgauge.plugin.slots_left import give_back_or_tell
from flowgauge.server.made import MadeThings, Things, put_back

_THINGS = pytest.StashKey[MadeThings]()
_BEFORE = pytest.StashKey[Things]()
"""What was on the server before the running test, and what fixtures of wider scopes made since."""


def _things(config: pytest.Config) -> MadeThings:
    if _THINGS not in config.stash:
        things = config.stash[_THINGS] = MadeThings(run_home(config))
        config.add_cleanup(things.close)
    return config.stash[_THINGS]


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Keep what a wider-scoped fixture makes that a test asks for while it runs."""
    stash = request.config.stash
    if fixturedef.scope == "function" or _BEFORE not in stash:
        return (yield)
    things = _things(request.config)
    before = things.now()
    value = yield
    now, kept = things.now(), stash[_BEFORE]
    for thing in before.keys() - now.keys():
        kept.pop(thing, None)
    kept.update(now.items() - before.items())
    return value


@pytest.fixture(autouse=True)
def _nothing_made_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """Remove what the test makes on the server, and set variables back that it changes."""
    by_itself = request.node.get_closest_marker(FRESH) is not None
    if by_itself or "prefect_server" not in request.fixturenames:
        yield
        return
    config = request.config
    things = _things(config)
    config.stash[_BEFORE] = things.now()
    since = time.time()
    yield
    before = config.stash[_BEFORE]
    del config.stash[_BEFORE]
    put_back(before, things.now())
    give_back_or_tell(request.node, run_home(config), since, before, things.now)
