# SPDX-License-Identifier: Apache-2.0
"""The line that says what a run spent its time on."""

from __future__ import annotations

import pytest


def test_a_run_without_flows_has_no_line(pytester: pytest.Pytester) -> None:
    """If no test uses the server, the line is not printed."""
    pytester.makepyfile("def test_plain(): pass")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*flowgauge: start-up*")
