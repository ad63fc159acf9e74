# SPDX-License-Identifier: Apache-2.0
"""A long run shows its progress."""

from __future__ import annotations

import io
import re
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from flowgauge.plugin.progress import RunProgress

WIDTH = 80


def drawn(progress: RunProgress, name: str) -> str:
    """Return what is written to show a benchmark, without the escape codes of the terminal."""
    terminal = io.StringIO()
    progress._bar = None
    progress.show(name, terminal)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    progress.hide()
    return text.strip()


@pytest.fixture(autouse=True)
def _of_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the terminal eighty columns wide."""
    monkeypatch.setenv("COLUMNS", str(WIDTH))


def test_the_bar_names_the_benchmark() -> None:
    """The bar shows the elapsed time and the current benchmark; brackets are not markup."""
    line = drawn(RunProgress(40), "test_a[threads]")
    assert re.fullmatch(r".{20} 0:00:00 · test_a\[threads\]", line)


def test_the_duration_is_estimated_from_what_this_run_has_measured() -> None:
    """If 5 of 35 benchmarks take a minute, all take about seven; earlier ones are not counted."""
    progress = RunProgress(40, done=5, earlier=5)
    progress.show("first", io.StringIO())
    assert progress._bar is not None
    (bar, _), start = progress._bar, time.monotonic()
    bar.tasks[0].start_time, bar.tasks[0]._get_time = start, lambda: start + 60
    progress.done += 5
    progress.show("next", io.StringIO())
    assert bar.tasks[0].description == "of about 420 s · next"
    assert bar.tasks[0].percentage == 25
    progress.hide()


@given(st.integers(0, 30), st.integers(0, 30), st.text(max_size=200), st.integers(40, 200))
def test_the_bar_is_one_line(done: int, total: int, name: str, columns: int) -> None:
    """However long a name is, the bar is no wider than the terminal."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(columns))
        line = drawn(RunProgress(max(total, done), done), name)
    assert "\n" not in line
    assert cell_len(line) <= columns


def test_nothing_is_redrawn_while_a_benchmark_runs() -> None:
    """No thread is started, which would disturb measurements; hiding the bar erases its line."""
    terminal, progress = io.StringIO(), RunProgress(2)
    threads = threading.active_count()
    progress.show("test_a", terminal)
    assert threading.active_count() == threads
    progress.hide()
    assert terminal.getvalue().endswith("\x1b[2K")
    shown = terminal.getvalue()
    progress.hide()
    assert terminal.getvalue() == shown
