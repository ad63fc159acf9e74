# SPDX-License-Identifier: Apache-2.0
"""A long run says how far it is."""

from __future__ import annotations

import io
import re
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgauge.plugin.progress import RunProgress

WIDTH = 80


def drawn(progress: RunProgress, name: str) -> str:
    """Return what is written to show a benchmark, without the codes of colours."""
    terminal = io.StringIO()
    progress._bar = None
    progress.show(name, terminal)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    progress.hide()
    return text.strip()


@pytest.fixture(autouse=True)
def _of_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the terminal have eighty columns."""
    monkeypatch.setenv("COLUMNS", str(WIDTH))


def test_the_bar_names_the_benchmark() -> None:
    """The bar says how long the run has taken and what runs now; brackets are no markup."""
    assert re.fullmatch(
        r".{20} 0:00:00 and about .* more · test_a\[threads\]",
        drawn(RunProgress(40), "test_a[threads]"),
    )


def test_the_time_that_is_left_is_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a benchmark every ten seconds thirty more take about five minutes."""
    now = [0.0]
    progress = RunProgress(40, done=5, earlier=5)
    terminal = io.StringIO()
    progress.show("first", terminal)
    assert progress._bar is not None
    bar, _ = progress._bar
    monkeypatch.setattr(bar, "get_time", lambda: now[0])
    for task in bar.tasks:
        task._get_time = bar.get_time
    for _ in range(5):
        now[0] += 10
        progress.done += 1
        progress.show("next", terminal)
    assert bar.tasks[0].time_remaining == pytest.approx(300)
    progress.hide()


@given(st.integers(0, 30), st.integers(0, 30), st.text(max_size=200))
def test_the_bar_is_one_line(done: int, total: int, name: str) -> None:
    """However long a name is, the bar is no wider than the terminal."""
    line = drawn(RunProgress(max(total, done), done), name)
    assert "\n" not in line
    assert len(line) <= WIDTH


def test_nothing_is_redrawn_while_a_benchmark_runs() -> None:
    """No thread is started, which would disturb what is measured; hiding erases the line."""
    terminal, progress = io.StringIO(), RunProgress(2)
    threads = threading.active_count()
    progress.show("test_a", terminal)
    assert threading.active_count() == threads
    progress.hide()
    assert terminal.getvalue().endswith("\x1b[2K")
    shown = terminal.getvalue()
    progress.hide()
    assert terminal.getvalue() == shown
