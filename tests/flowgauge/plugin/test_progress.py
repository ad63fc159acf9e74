# SPDX-License-Identifier: Apache-2.0
"""A long run shows its progress, and how long it will still take."""

from __future__ import annotations

import io
import random
import re
import threading
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from flowgauge.plugin.progress import RunProgress

WIDTH = 80


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now


def progress_of(number: int, earlier: int = 0) -> RunProgress:
    """Return the progress of a run with a number of benchmarks."""
    return RunProgress({f"test_{n}": f"test_{n}" for n in range(number)}, earlier)


def drawn(progress: RunProgress, test: str) -> str:
    """Return what is written to show a benchmark, without the escape codes of the terminal."""
    terminal = io.StringIO()
    progress._bar = None
    progress.show(test, terminal)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    progress.hide()
    return text.strip()


@pytest.fixture(autouse=True)
def _of_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the terminal eighty columns wide."""
    monkeypatch.setenv("COLUMNS", str(WIDTH))


def test_the_bar_names_the_benchmark() -> None:
    """The bar shows the elapsed time and the current benchmark; brackets are not markup."""
    line = drawn(RunProgress({"file::test": "test_a[threads]"}), "file::test")
    assert re.fullmatch(r".{20} 0:00:00 · test_a\[threads\]", line)


def measured(
    took: Mapping[str, float], expected: Mapping[str, float]
) -> tuple[RunProgress, dict[str, tuple[str, float]]]:
    """Measure benchmarks that take given times.

    Returns:
        The progress, and for each benchmark the line of the bar and the time that was left.
    """
    clock = Clock()
    progress = RunProgress(dict(zip(took, took, strict=True)), expected=expected, clock=clock)
    lines, left = {}, sum(took.values())
    for test, seconds in took.items():
        progress.begin(test)
        lines[test] = drawn(progress, test), left
        clock.now += seconds
        left -= seconds
        progress.end(test)
    return progress, lines


def test_what_is_left_is_estimated_from_what_has_ended() -> None:
    """If one of four benchmarks takes a minute and nothing else is known, three are left."""
    _, lines = measured({"a": 60, "b": 60, "c": 60, "d": 60}, {})
    assert lines["a"][0].endswith("0:00:00 · a")
    assert lines["b"][0].endswith("about 180 s left · b")
    assert lines["d"][0].endswith("about 60 s left · d")


def test_what_is_left_is_estimated_from_an_earlier_run() -> None:
    """Each takes as long as in an earlier run, times what this run is slower."""
    expected = {"a": 200.0, "b": 1000.0, "c": 600.0}
    _, lines = measured({"a": 400, "b": 2000, "c": 1200}, expected)
    assert lines["a"][0].endswith("about 30 min left · a"), "nothing says yet that it is slower"
    # A hundredth of 1800 s as before, then 400 for 200.
    assert lines["b"][0].endswith("about 51 min left · b")
    assert lines["c"][0].endswith("about 20 min left · c")


def test_what_was_not_measured_before_is_taken_to_be_average() -> None:
    """A benchmark that is new takes as long as those that are known do on average."""
    _, lines = measured({"a": 100, "new": 200, "c": 300}, {"a": 100.0, "c": 300.0})
    assert lines["a"][0].endswith("about 10 min left · a")
    assert lines["c"][0].endswith("about 300 s left · c")


@given(
    st.lists(st.floats(1, 100), min_size=40, max_size=80),
    st.floats(0.5, 2),
    st.integers(0, 1000),
)
def test_the_estimate_after_a_quarter_is_good(
    seconds: list[float], slower: float, seed: int
) -> None:
    """After a quarter of a run, what is left is told within 20 %, whatever the speed.

    Benchmarks take between 0.8 and 1.2 times what they took, and the whole run is faster or slower.
    """
    draw = random.Random(seed)
    expected = {f"test_{n}": each for n, each in enumerate(seconds)}
    took = {test: each * slower * (0.8 + 0.4 * draw.random()) for test, each in expected.items()}
    progress, _ = measured(took, expected)
    estimate = progress.after_a_quarter()
    assert estimate["estimated_seconds_left"] == pytest.approx(estimate["seconds_left"], rel=0.2)


def test_what_an_earlier_part_has_measured_counts_as_done() -> None:
    """If a run is resumed, the bar begins where the earlier part has ended."""
    progress = progress_of(30, earlier=10)
    progress.begin("test_0")
    progress.show("test_0", io.StringIO())
    assert progress._bar is not None
    assert progress._bar[0].tasks[0].percentage == 25
    progress.hide()
    progress.end("test_0")
    assert (progress.done, progress.total) == (11, 40)


@given(st.text(max_size=200), st.integers(40, 200), st.floats(0, 1e6))
def test_the_bar_is_one_line(name: str, columns: int, seconds: float) -> None:
    """However long a name is, the bar is no wider than the terminal."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(columns))
        progress = RunProgress({"test": name}, expected={"test": seconds})
        progress.begin("test")
        line = drawn(progress, "test")
    assert "\n" not in line
    assert cell_len(line) <= columns


def test_nothing_is_redrawn_while_a_benchmark_runs() -> None:
    """No thread is started, which would disturb measurements; hiding the bar erases its line."""
    terminal, progress = io.StringIO(), progress_of(2)
    threads = threading.active_count()
    progress.show("test_0", terminal)
    assert threading.active_count() == threads
    progress.hide()
    assert terminal.getvalue().endswith("\x1b[2K")
    shown = terminal.getvalue()
    progress.hide()
    assert terminal.getvalue() == shown
