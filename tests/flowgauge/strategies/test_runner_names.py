# SPDX-License-Identifier: Apache-2.0
"""Drawn task runners."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from flowgauge.runners.chosen import begin_run, of_this_run
from flowgauge.strategies import runner_names


def drawn(*names: str) -> set[str]:
    """Return all names that are drawn."""
    seen: set[str] = set()
    settings(max_examples=60)(given(name=runner_names(*names))(lambda name: seen.add(name)))()
    return seen


def test_the_runners_of_the_run_are_drawn() -> None:
    """All task runners of the pytest run are drawn, and of those that are named only these."""
    assert drawn() == set(of_this_run())
    end = begin_run(("threads", "sequential"), asked=True)
    try:
        assert drawn() == {"threads", "sequential"}
        assert drawn("threads", "processes") == {"threads"}
        with pytest.raises(pytest.skip.Exception, match="excludes all task runners of this test"):
            drawn("processes")
    finally:
        end()
    end = begin_run(("threads",), asked=False)
    try:
        assert drawn("lean-processes") == {"lean-processes"}
    finally:
        end()


def test_a_name_that_is_wrong_is_one_line() -> None:
    """A task runner that does not exist is one line."""
    with pytest.raises(pytest.fail.Exception, match=r"^runner_names\('thread'\): there is no task"):
        drawn("thread")
