# SPDX-License-Identifier: Apache-2.0
"""How fast a server stores a burst of task runs, and what it loses, is read from what it has."""

from __future__ import annotations

from flowgauge.measure.server_burst import Burst, burst_rows


def test_what_was_lost_is_told_apart() -> None:
    """States, events and logs that are missing have a row each; so has the rate of storing."""
    burst = Burst(number=107, sent=80.0, seconds=5.0, lost=(7, 30, 1))
    rows = {row.id: row.value.median for row in burst_rows(burst, "SQLite")}
    assert rows == {"lost-states": 7, "lost-events": 30, "lost-logs": 1, "stored": 20.0}
