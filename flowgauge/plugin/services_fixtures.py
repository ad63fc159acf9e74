# SPDX-License-Identifier: Apache-2.0
"""The fixtures that execute the flow runs of deployments: `serve` and `worker`."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from flowgauge.mistake import Mistake
from flowgauge.plugin.session import run_home

if TYPE_CHECKING:
    from flowgauge.services.deployed import Services
    from flowgauge.services.service import Service


@pytest.fixture
def _services(prefect_server: str, request: pytest.FixtureRequest) -> Iterator[Services]:
    """Hold the services of a test, and end them before the virtual clock ends."""
    from flowgauge.services.deployed import Services

    clock = None
    if "virtual_clock" in request.fixturenames:
        request.getfixturevalue("virtual_clock")
        clock = request.getfixturevalue("_clock_process")
    with contextlib.ExitStack() as stack:
        yield Services(
            run_home(request.config), clock, lambda service: stack.callback(_stop, service)
        )


def _stop(service: Service) -> None:
    from flowgauge.services.service import FailedRun

    try:
        failed = service.stop()
    except Mistake as mistake:
        pytest.fail(str(mistake), pytrace=False)
    for run in failed:
        reason = run.state.message if run.state else ""
        line = f"flow run {run.name!r} of {service.name!r} is {run.state_name}: {reason}"
        warnings.warn(FailedRun(line), stacklevel=1)


@pytest.fixture
def serve(_services: Services) -> Callable[..., Service]:
    """Return the function that deploys a flow and executes its runs; see `Services.serve`."""
    return _services.serve


@pytest.fixture
def worker(_services: Services) -> Callable[..., Service]:
    """Return the function that executes the runs of a work pool; see `Services.worker`."""
    return _services.worker
