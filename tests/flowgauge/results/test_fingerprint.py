# SPDX-License-Identifier: Apache-2.0
"""What a results file says of how its figures were made."""

from __future__ import annotations

import pytest

from flowgauge.results.fingerprint import command_line


@pytest.mark.parametrize(
    "place",
    [[], ["--flow-report-dir", "/home/somebody/my report"], ["--flow-report-dir=reports/mine"]],
)
def test_a_command_is_told_without_the_place_of_its_report(place: list[str]) -> None:
    """The command makes the same figures anywhere: it holds no folder of whoever measured."""
    told = command_line(["benchmarks", *place, "--benchmark-only", "-k", "map or flow"])
    assert told == "pytest benchmarks --benchmark-only -k 'map or flow'"
