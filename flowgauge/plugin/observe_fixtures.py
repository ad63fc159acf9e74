# SPDX-License-Identifier: Apache-2.0
"""The fixtures that observe what a flow run did: `effect_ledger` and `run_history`."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import pytest

from flowgauge.observe.ledger import EffectLedger

if TYPE_CHECKING:
    from flowgauge.observe.history import History, Match


@pytest.fixture
def effect_ledger(tmp_path: Path) -> EffectLedger:
    """Return an empty ledger in which tasks record their actual effects; see `EffectLedger`."""
    return EffectLedger(tmp_path / "effects.jsonl")


@pytest.fixture
def run_history(prefect_server: str) -> Callable[..., History]:
    """Return the function that reads which states a run went through; see `History`."""
    from flowgauge.observe.history import run_history

    return run_history


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show where a history differs, because pytest truncates its line for a failed `assert`."""
    report = yield
    if call.excinfo is not None and call.excinfo.errisinstance(AssertionError):
        for match in _failed_matches(call.excinfo.tb):
            report.sections.append(("run history", str(match)))
    return report


def _failed_matches(traceback: TracebackType) -> list[Match]:
    """Return the failed matches in the frame of the assertion; pytest keeps them as locals."""
    from flowgauge.observe.history import Match

    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    values = traceback.tb_frame.f_locals.values()
    failed = {id(value): value for value in values if isinstance(value, Match) and not value}
    return list(failed.values())
