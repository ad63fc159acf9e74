# SPDX-License-Identifier: Apache-2.0
"""Prefect's `now`, moved ahead."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prefect.types._datetime import now

from flowgauge.clock.prefect_time import move_now
from flowgauge.clock.shared_time import SharedTime

OF_THE_SAME_TYPE = type(now("UTC"))


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[SharedTime]:
    """Yield a separate shared time that Prefect's `now` follows."""
    time = SharedTime(tmp_path)
    move_now(time)
    yield time
    time.ahead = 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ahead=st.floats(0, 3e8),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"]),
)
def test_now_is_ahead_in_every_zone(shared: SharedTime, ahead: float, zone: str) -> None:
    """A `now` imported before the clock moves it returns moved time, in any zone and across DST."""
    shared.ahead = ahead
    before = datetime.datetime.now(datetime.UTC)
    moved = now(zone)
    assert isinstance(moved, OF_THE_SAME_TYPE)
    assert moved.utcoffset() == moved.astimezone(ZoneInfo(zone)).utcoffset()
    took = (datetime.datetime.now(datetime.UTC) - before).total_seconds()
    lead = (moved.astimezone(datetime.UTC) - before).total_seconds() - ahead
    assert -1e-4 <= lead <= took + 1e-4


def test_processes_share_the_time(tmp_path: Path) -> None:
    """What is written to one shared time is read from another at once, to the microsecond."""
    one, other = SharedTime(tmp_path), SharedTime(tmp_path)
    one.ahead, one.running = 86_400.000_001, True
    assert other.ahead == pytest.approx(86_400.000_001, abs=1e-7)
    assert other.running
    assert not other.skips_sleep


def test_sleep_is_skipped_only_while_a_test_has_the_clock(tmp_path: Path) -> None:
    """A request to skip `sleep` has no effect once the clock is given back."""
    time = SharedTime(tmp_path)
    time.running = time.skips_sleep = True
    assert time.skips_sleep
    time.running = False
    assert not time.skips_sleep
