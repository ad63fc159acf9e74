# SPDX-License-Identifier: Apache-2.0
"""What a results file says about how its figures were measured."""

from __future__ import annotations

import pytest

from flowgauge.results.fingerprint import command_line


@pytest.mark.parametrize(
    "place",
    [[], ["--flow-report-dir", "/home/somebody/my report"], ["--flow-report-dir=reports/mine"]],
)
def test_the_recorded_command_leaves_out_the_report_folder(place: list[str]) -> None:
    """The recorded command does not name the folder that the report was written to."""
    told = command_line(["benchmarks", *place, "--benchmark-only", "-k", "map or flow"])
    assert told == "pytest benchmarks --benchmark-only -k 'map or flow'"
