# SPDX-License-Identifier: Apache-2.0
"""The fixtures that observe what a flow run did: its effects, states, logs and events."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import pytest

from flowgauge.compat.features import missing
from flowgauge.compat.names import SENT
from flowgauge.observe.ledger import EffectLedger
from flowgauge.plugin.preflight import check_runner_in_reach
from flowgauge.plugin.session import run_home

if TYPE_CHECKING:
    from flowgauge.observe.events import Events
    from flowgauge.observe.history import History, Match
    from flowgauge.observe.logs import Logs
    from flowgauge.observe.search import Search
    from flowgauge.observe.sent import Sent


@pytest.fixture
def effect_ledger(tmp_path: Path, request: pytest.FixtureRequest) -> EffectLedger:
    """Return an empty ledger in which tasks record their actual effects; see `EffectLedger`."""
    check_runner_in_reach(request)
    return EffectLedger(tmp_path / "effects.jsonl")


@pytest.fixture
def run_history(prefect_server: str) -> Callable[..., History]:
    """Return the function that reads which states a run went through; see `History`."""
    from flowgauge.observe.history import run_history

    return run_history


# Until the end of the run, and before fixtures of modules, so that what those run is noted too.
@pytest.fixture(scope="session")
def _sent(prefect_server: str, pytestconfig: pytest.Config) -> Iterator[Sent]:
    if line := missing(SENT):
        pytest.fail(line, pytrace=False)
    from flowgauge.observe.sending import sending_hooks
    from flowgauge.observe.sent import Sent

    sent = Sent(run_home(pytestconfig))
    with sent.noting(), sending_hooks(sent):
        yield sent


@pytest.fixture
def run_logs(_sent: Sent, request: pytest.FixtureRequest) -> Callable[..., Logs]:
    """Return the function that reads what was logged in a run, on any runner; see `Logs`."""
    from flowgauge.observe.logs import read_logs

    check_runner_in_reach(request)
    return partial(read_logs, sent=_sent)


@pytest.fixture
def run_events(_sent: Sent, request: pytest.FixtureRequest) -> Callable[..., Events]:
    """Return the function that reads the events of a run, on any runner; see `Events`."""
    from flowgauge.observe.events import read_events

    check_runner_in_reach(request)
    return partial(read_events, sent=_sent)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show where a history differs or what was searched, because pytest truncates its line."""
    report = yield
    if call.excinfo is not None and call.excinfo.errisinstance(AssertionError):
        for title, result in _failed_results(call.excinfo.tb):
            report.sections.append((title, str(result)))
    return report


def _failed_results(traceback: TracebackType) -> list[tuple[str, Match | Search]]:
    """Return the falsy results in the frame of the assertion; pytest keeps them as locals."""
    from flowgauge.observe.history import Match
    from flowgauge.observe.search import Search

    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    values = traceback.tb_frame.f_locals.values()
    failed = {id(v): v for v in values if isinstance(v, Match | Search) and not v}
    return [
        ("run history" if isinstance(result, Match) else f"run {result.kind}", result)
        for result in failed.values()
    ]
