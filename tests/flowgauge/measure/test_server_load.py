# SPDX-License-Identifier: Apache-2.0
"""A server is offered more and more task runs, until it stores their states too late."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgauge.measure import server_load
from flowgauge.measure.server_limit import LATEST, Step, find_limit, limit_row
from flowgauge.measure.server_load import LOGS, STATES, Clients, LoadError
from flowgauge.results.interval import Interval


class Server:
    """A server that takes task runs up to a rate; beyond it, each second adds to the delay."""

    def __init__(self, rate: float, sent: float = math.inf, loses_from: float = math.inf) -> None:
        self.rate, self.sent, self.loses_from = rate, sent, loses_from

    def offer(self, rate: float) -> Step:
        """Return what this server does with an offered rate."""
        sent = min(rate, self.sent)
        delay = 0.1 if sent <= self.rate else 0.1 + LATEST * sent / self.rate
        return Step(rate, sent, delay, lost=int(sent >= self.loses_from))


@given(st.floats(10, 1e4))
def test_the_limit_is_between_two_rates_that_are_near(rate: float) -> None:
    """The highest rate that was taken and the lowest that was not are a fifth apart at most."""
    limit = find_limit(Server(rate).offer, first=10.0)
    assert limit.taken <= rate < limit.refused
    assert limit.refused / limit.taken <= 2**0.25 * 1.0001
    assert len(limit.steps) <= 14


@given(st.floats(20, 1e4), st.floats(1, 0.5e4))
def test_clients_that_are_too_slow_leave_the_limit_open(rate: float, clients: float) -> None:
    """If the clients can't send more, the server takes at least what they sent."""
    limit = find_limit(Server(rate, clients).offer, first=10.0)
    assert limit.taken <= min(rate, clients) * 1.0001
    if clients <= rate:
        assert limit.refused == math.inf
        assert limit.taken == pytest.approx(clients)


def test_a_server_that_takes_nothing_has_no_limit() -> None:
    """If even the first rate is too much, nothing else is tried."""
    limit = find_limit(Server(5.0).offer, first=10.0)
    assert (limit.taken, limit.refused, len(limit.steps)) == (0.0, 10.0, 1)


def test_what_is_lost_is_not_taken() -> None:
    """A server that loses something does not take that rate, however quick it is."""
    limit = find_limit(Server(1e4, loses_from=30.0).offer, first=10.0)
    assert limit.taken < 30 <= limit.refused


@pytest.mark.e2e
def test_all_that_clients_send_is_counted(
    prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Task runs, events of states and logs are found on the server; what is missing is lost."""
    assert (STATES, LOGS) == (3, 1)
    with Clients(prefect_server, tmp_path, 2) as clients:
        step = clients.offer(10.0, 1.0)
        assert step.lost == 0
        assert step.sent > 0
        assert 0 <= step.delay < math.inf
        monkeypatch.setattr(server_load, "_GIVE_UP", 0.2)
        monkeypatch.setattr(server_load, "LOGS", 2)
        more = clients.offer(4.0, 0.5)
        assert more.lost > 0, "each task run logs only once"
        assert not more.is_taken


def test_a_limit_that_clients_did_not_reach_is_a_lower_bound() -> None:
    """The row says so, and has no interval; otherwise it is between the two rates."""
    found = limit_row(find_limit(Server(40.0).offer, first=10.0), "SQLite", 2)
    assert (found.id, found.params) == ("taken", {"database": "SQLite", "clients": 2})
    assert found.value.low <= 40 < found.value.high
    open_ended = limit_row(find_limit(Server(1e4, sent=30.0).offer, first=10.0), "SQLite", 2)
    assert (open_ended.id, open_ended.value) == ("at-least", Interval.exact(30.0))


@pytest.mark.e2e
def test_a_burst_is_stored_and_counted(
    prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All clients start their task runs, and all that they sent is looked for."""
    with Clients(prefect_server, tmp_path, 2) as clients:
        burst = clients.burst(30)
        assert (burst.number, burst.lost) == (60, (0, 0, 0))
        assert burst.seconds > 0
        monkeypatch.setattr(server_load, "_GIVE_UP", 0.2)
        monkeypatch.setattr(server_load, "STATES", 5)
        _, events, _ = clients.burst(2).lost
        assert events >= 8, "a task run has three events of states"


@pytest.mark.e2e
def test_a_client_that_ends_is_reported(
    prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a client ends, the error has the end of its log."""
    monkeypatch.setattr(server_load, "CLIENT", "raise SystemExit('no rooms left')")
    with pytest.raises(LoadError, match="no rooms left"), Clients(prefect_server, tmp_path, 1):
        pass
