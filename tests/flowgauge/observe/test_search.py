# SPDX-License-Identifier: Apache-2.0
"""The search among the lines of a run."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from flowgauge import LogLine, Logs

TEXTS = st.text("ab\n", max_size=4)
LEVELS = st.sampled_from(["INFO", "WARNING"])
TASKS = st.sampled_from(["", "load", "send"])
LINES = st.builds(
    LogLine,
    time=st.just(datetime(2026, 1, 1, tzinfo=UTC)),
    level=LEVELS,
    message=TEXTS,
    logger=st.just("prefect.task_runs"),
    task=TASKS,
    flow=st.just("nightly"),
    run_id=st.just(UUID(int=1)),
)


@given(st.lists(LINES, max_size=6), TEXTS, st.none() | LEVELS, st.none() | TASKS, st.booleans())
def test_a_search_finds_exactly_what_is_there(
    lines: list[LogLine], text: str, level: str | None, task: str | None, as_pattern: bool
) -> None:
    """A search is true if and only if one line has the text and all that was asked for.

    Either way it is one line as a value, and shows every line.
    """

    def fits(line: LogLine) -> bool:
        return text in line.message and level in {None, line.level} and task in {None, line.task}

    wanted = re.compile(re.escape(text)) if as_pattern else text
    search = Logs("flow run 1", tuple(lines)).contains(wanted, level=level, task=task)
    assert bool(search) == any(map(fits, lines))
    assert len(repr(search).splitlines()) == 1
    marked = [line for line in str(search).splitlines() if line.startswith("> ")]
    assert len(marked) == (1 if lines else 0)
    if search:
        assert search.closest is not None
        assert fits(lines[search.closest])
    assert len(str(search).splitlines()) == 1 + len(lines) + (bool(lines) and not search)


def line(message: str, level: str = "INFO", task: str = "load") -> LogLine:
    """Return a line."""
    return LogLine(datetime(2026, 1, 1, tzinfo=UTC), level, message, "x", task, "f", UUID(int=1))


def test_the_closest_line() -> None:
    """The closest line is the one with most of what was asked for, then with the closest text."""
    logs = Logs("flow run 1", (line("dropped 3 rows"), line("began"), line("dropped 33 rows")))
    assert logs.contains("dropped 4 rows").closest == 0
    assert logs.contains("dropped 333 rows").closest == 2
    assert logs.contains("bega", level="ERROR").closest == 1
    search = logs.contains("dropped 3 rows", level="ERROR", task="send")
    assert search.closest == 0
    assert search.difference == "its level and task differ"


def test_only_the_last_lines_are_shown() -> None:
    """Of very many lines, the last hundred and the closest are shown, each cut to a width."""
    logs = Logs("flow run 1", (line("the one"), *(line("x" * 500) for _ in range(300))))
    shown = str(logs.contains("the two")).splitlines()
    assert shown[1] == "> INFO     load: the one"
    assert len(shown) == 1 + 2 + 100
    assert max(map(len, shown)) < 170
    assert len(str(logs).splitlines()) == 301
