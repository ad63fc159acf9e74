# SPDX-License-Identifier: Apache-2.0
"""Logs that any number of processes append to."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgauge.append_log import end_of, locked, values_from, write_value

VALUES = st.lists(
    st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text(), max_size=2),
    max_size=5,
)


def write(path: Path, *values: Any) -> None:
    """Append values, locking the log for each of them."""
    for value in values:
        with locked(path) as file:
            write_value(file, value)


@given(VALUES, VALUES)
def test_each_value_is_read_once(first: list[Any], then: list[Any]) -> None:
    """A read returns what was written since the last read, in order, whatever the values are."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.jsonl"
        assert values_from(log, end_of(log)) == ([], 0)
        write(log, *first)
        values, position = values_from(log, 0)
        assert values == first
        write(log, *then)
        values, position = values_from(log, position)
        assert values == then
        assert values_from(log, position) == ([], position)
        assert end_of(log) == position


@given(VALUES, st.floats(0, 1))
def test_a_log_that_was_cut_anywhere_stays_usable(values: list[Any], share: float) -> None:
    """If a writer is killed in mid-line, only that line is lost, and no later one."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.jsonl"
        write(log, *values)
        whole = log.read_bytes() if values else b""
        log.write_bytes(whole[: round(share * len(whole))])
        left, position = values_from(log, 0)
        assert left == values[: len(left)]
        assert len(left) == log.read_bytes().count(b"\n")
        write(log, "after")
        # A line that lacks only its newline is read too.
        later, _ = values_from(log, position)
        assert later[-1] == "after"
        assert len(later) <= 2


def test_a_value_that_is_not_json_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    """An error while a value is written damages no line."""
    log = tmp_path / "log.jsonl"
    write(log, 1)
    with pytest.raises(TypeError), locked(log) as file:
        write_value(file, object())
    write(log, 2)
    assert values_from(log, 0)[0] == [1, 2]
