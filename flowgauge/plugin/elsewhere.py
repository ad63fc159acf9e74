# SPDX-License-Identifier: Apache-2.0
"""Tests on a server and workers that exist: checked first, and told what can't work there."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from flowgauge.mistake import Mistake
from flowgauge.plugin.session import existing_api, run_home, runs_nothing

if TYPE_CHECKING:
    from flowgauge.runners.existing_cluster import Worker

_SKIPPED = {
    "virtual_clock": "time is real on a server that pytest did not start (--flow-prefect-api)",
    "serve": "the deployments of tests would stay on a server that pytest did not start"
    " (--flow-prefect-api)",
    "worker": "the work pools of tests would stay on a server that pytest did not start"
    " (--flow-prefect-api)",
}
"""Why tests with these fixtures are skipped on an existing server."""
_FRESH = (
    "a server that pytest did not start has no empty database for one test (--flow-prefect-api)"
)
_OUT_OF_REACH = (
    "skipped where their tasks run there: tests with faults, effect_ledger, run_logs or run_events;"
    " what they note is in pytest's files"
)
_OWN = "flowgauge.plugin."


@dataclass(frozen=True)
class Elsewhere:
    """The server and the workers of a pytest run that existed before.

    Attributes:
        api: The API of the server; empty if the run starts one.
        version: The server's version of Prefect.
        address: The address of the Dask scheduler; empty if the run starts one.
        workers: The workers of its cluster, if the server existed, too.
    """

    api: str
    version: str
    address: str
    workers: tuple[Worker, ...]

    @property
    def fingerprint(self) -> dict[str, str]:
        """What the report says about where figures were measured."""
        said = {}
        if self.api:
            said["prefect_server"] = f"existing, at {self.api}"
        if self.address:
            said["dask_workers"] = f"existing, at {self.address}"
        if self.workers:
            said["dask_workers"] = f"{_number(self.workers)}, at {self.address}"
        return said

    def header(self) -> Iterator[str]:
        """Yield lines for the start of the run: what is used, and what can't work there."""
        if not self.api:
            return
        yield (
            f"tests use the Prefect {self.version} server at {self.api}; what they make there stays"
        )
        for name, reason in _SKIPPED.items():
            yield f"skipped: tests with {name}; {reason}"
        yield f"skipped: tests with the mark fresh_server; {_FRESH}"
        if not self.workers:
            return
        shares = all(worker.shares for worker in self.workers)
        yield (
            f"tests use {_number(self.workers)} at {self.address},"
            f" {'which share' if shares else 'not all of which share'} pytest's files, memory and"
            " process ids"
        )
        if not shares:
            yield _OUT_OF_REACH
            yield (
                "stored results (caches, persisted results) stay on the worker's host, and other"
                " hosts don't find them"
            )
        if any(worker.elsewhere for worker in self.workers):
            yield "not seen: processes, connections and files that tests leave on other hosts"


_ELSEWHERE = pytest.StashKey[Elsewhere]()


def _number(workers: tuple[Worker, ...]) -> str:
    hosts = {worker.address.rpartition(":")[0] for worker in workers if worker.elsewhere}
    number = f"{len(workers)} Dask worker{'s' if len(workers) > 1 else ''}"
    if not hosts:
        return f"{number} on this host"
    on = f"{len(hosts)} other host{'s' if len(hosts) > 1 else ''}"
    far = sum(worker.elsewhere for worker in workers)
    return f"{number} on {on}" if far == len(workers) else f"{number}, {far} of them on {on},"


def check_elsewhere(config: pytest.Config) -> int:
    """Check the server and the cluster that the options name, before anything is run.

    Args:
        config: The configuration of the pytest run.

    Returns:
        How many tasks the cluster can run at once; 0 if none is named or nothing was checked.

    Raises:
        Mistake: If one of them can't be used; one line.
    """
    api, address = existing_api(config), config.getoption("flow_dask_address") or ""
    if config.getoption("flow_prefect_api") is not None:
        for other in ("flow_stock_harness", "flow_keep_server"):
            if config.getoption(other):
                raise Mistake(
                    f"--flow-prefect-api and --{other.replace('_', '-')} can't be combined;"
                    " use one of them"
                )
    # The processes of pytest-xdist need not check again.
    if hasattr(config, "workerinput"):
        return 0
    places, version = 0, ""
    workers: tuple[Worker, ...] = ()
    if address:
        from flowgauge.runners.existing_cluster import check_dask_address

        places = check_dask_address(address)
    if api is not None and not runs_nothing(config):
        from flowgauge.server.existing import check_existing_server

        home = run_home(config)
        version = check_existing_server(api)
        if address:
            from flowgauge.runners.existing_cluster import check_workers

            workers = check_workers(address, api, home, existing=True)
    config.stash[_ELSEWHERE] = Elsewhere(api or "", version, address, workers)
    return places


def elsewhere(config: pytest.Config) -> Elsewhere:
    """Return what the run uses that existed before."""
    return config.stash[_ELSEWHERE]


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say at the start what is used, and what can't work there."""
    found = config.stash.get(_ELSEWHERE, None)
    return [f"flowgauge: {line}" for line in found.header()] if found and found.version else []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the tests that need a server of their own."""
    if not existing_api(config):
        return
    for item in items:
        reasons = [
            reason
            for name, reason in _SKIPPED.items()
            if name in getattr(item, "fixturenames", ()) and _is_own(item, name)
        ]
        if item.get_closest_marker("fresh_server"):
            reasons.append(_FRESH)
        if reasons:
            item.add_marker(pytest.mark.skip(reason=reasons[0]))


def _is_own(item: pytest.Item, name: str) -> bool:
    """Return whether a test's fixture of a name is Flowgauge's."""
    found = item.session._fixturemanager.getfixturedefs(name, item)
    return found is not None and _defines(found[-1])


def _defines(fixturedef: pytest.FixtureDef[object]) -> bool:
    return fixturedef.func.__module__.startswith(_OWN)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Skip a test that asks for such a fixture while it runs."""
    reason = _SKIPPED.get(fixturedef.argname)
    if reason and existing_api(request.config) and _defines(fixturedef):
        pytest.skip(reason)
    return (yield)
