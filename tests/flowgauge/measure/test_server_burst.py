# SPDX-License-Identifier: Apache-2.0
"""How fast a server stores a burst of task runs, and what it loses, is read from what it has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgauge.measure.server_burst import Burst, burst_rows, stored_rates


@given(st.floats(1, 1e3), st.integers(20, 300))
def test_the_rate_of_storing_is_that_of_each_part(rate: float, number: int) -> None:
    """States that are stored at a steady rate have it in each tenth but the first."""
    steady = [index / rate for index in range(number)]
    assert stored_rates(steady) == pytest.approx([rate] * 9)
    paused = [*steady, *(2 * steady[-1] + moment for moment in steady)]
    assert min(stored_rates(paused)) < rate


@pytest.mark.parametrize("moments", [[], [1.0], [2.0] * 50])
def test_what_is_stored_at_one_moment_has_no_rate(moments: list[float]) -> None:
    """Nothing, a single state, or one batch shows no rate."""
    assert stored_rates(moments) == ()


def test_what_was_lost_is_told_apart() -> None:
    """States, events and logs that are missing have a row each; so has the rate of storing."""
    burst = Burst(number=100, sent=80.0, seconds=5.0, stored=(19.0, 20.0, 22.0), lost=(7, 30, 1))
    rows = {row.id: row.value.median for row in burst_rows(burst, "SQLite")}
    assert rows == {"lost-states": 7, "lost-events": 30, "lost-logs": 1, "stored": 20.0}
