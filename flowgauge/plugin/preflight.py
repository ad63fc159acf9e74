# SPDX-License-Identifier: Apache-2.0
"""Preflight checks: conditions that would silently invalidate a test run."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest

from flowgauge.plugin.session import existing_api

if TYPE_CHECKING:
    from flowgauge.runners.started import StartedRunners


class UntestedPrefectWarning(UserWarning):
    """The installed Prefect is not among those that Flowgauge was tested with."""


def warn_of_untested_prefect() -> None:
    """Warn where the installed Prefect is outside the tested range."""
    from flowgauge.compat.tested_prefect import TESTED_PREFECT, installed_prefect, is_tested

    installed = installed_prefect()
    if not is_tested(installed):
        warnings.warn(
            UntestedPrefectWarning(
                f"flowgauge was tested with Prefect {TESTED_PREFECT}, but {installed} is installed:"
                " a failure may be the harness's fault; pin Prefect or upgrade flowgauge"
            ),
            stacklevel=2,
        )


def check_server_in_use(url: str) -> None:
    """Fail if flows don't use the server of this pytest run.

    Args:
        url: The API of the server that the pytest run started.

    Raises:
        pytest.fail.Exception: If Prefect is pointed at another server.
    """
    from prefect.settings import PREFECT_API_URL

    used = PREFECT_API_URL.value()
    if used != url:
        pytest.fail(
            f"flows use the Prefect server at {used or 'no address'}, not the one of the"
            " prefect_server fixture, so its time can't be skipped: remove the other"
            " prefect_test_harness or PREFECT_API_URL",
            pytrace=False,
        )


def check_runner_in_reach(request: pytest.FixtureRequest) -> None:
    """Fail if the clock and faults can't reach the workers of the test's task runner.

    With `--flow-prefect-api`, where workers are on other hosts on purpose, skip the test instead.

    Args:
        request: The request of a fixture of the test.

    Raises:
        pytest.fail.Exception: If the workers belong to a cluster that this run does not own.
        pytest.skip.Exception: If that cluster uses a server that this run does not own, either.
    """
    if "task_runner" not in request.fixturenames:
        return
    started: StartedRunners = request.getfixturevalue("started_runners")
    # Where the workers are is known once the task runner has been created.
    request.getfixturevalue("task_runner")
    if reason := started.out_of_reach_of(request.getfixturevalue("runner_name")):
        if existing_api(request.config):
            pytest.skip(reason)
        pytest.fail(reason, pytrace=False)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Reject pytest-timeout's signal method for tests that run flows."""
    if not config.pluginmanager.has_plugin("timeout"):
        return
    for item in items:
        if "prefect_server" not in getattr(item, "fixturenames", ()):
            continue
        if _times_out_by_signal(config, item):
            raise pytest.UsageError(
                f"{item.nodeid}: pytest-timeout's signal method takes over the alarm that Prefect's"
                " own timeouts need, so they would not interrupt anything; set"
                " `timeout_method = thread` in pytest's ini file"
            )


def _times_out_by_signal(config: pytest.Config, item: pytest.Item) -> bool:
    defaults: Any = config
    seconds, method = defaults._env_timeout, defaults._env_timeout_method
    mark = item.get_closest_marker("timeout")
    if mark is not None:
        seconds = mark.args[0] if mark.args else mark.kwargs.get("timeout", seconds)
        method = mark.args[1] if len(mark.args) > 1 else mark.kwargs.get("method", method)
    return bool(seconds) and method == "signal"
