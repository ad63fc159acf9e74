# SPDX-License-Identifier: Apache-2.0
"""Says whether a figure differs from what it was measured beside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from flowgauge.measure.results import Row
from flowgauge.report.numbers import ratio

Verdict = Literal["slower", "faster", "no difference seen", "unpaired"]
Bands = Mapping[str | None, tuple[float, float]]
"""For each runner, the ratios (low, high) that the same thing reaches against itself."""


def noise_bands(rows: Iterable[Row]) -> Bands:
    """Find the A/A band of each runner.

    Args:
        rows: All rows of a run; those of the group `noise` are used.

    Returns:
        The widest interval that a runner's noise rows reach, made to hold 1.
    """
    bands: dict[str | None, tuple[float, float]] = {}
    for row in rows:
        if row.group == "noise" and row.ratio_low is not None and row.ratio_high is not None:
            low, high = bands.get(row.runner, (1.0, 1.0))
            bands[row.runner] = (min(low, row.ratio_low), max(high, row.ratio_high))
    return bands


def verdict(row: Row, bands: Bands) -> Verdict:
    """Judge a row by its ratio's interval.

    Args:
        row: The row.
        bands: What `noise_bands` found in the same run.

    Returns:
        "no difference seen" where the interval holds 1 or lies inside the runner's A/A band.
    """
    if row.ratio_low is None or row.ratio_high is None:
        return "unpaired"
    low, high = bands.get(row.runner, (1.0, 1.0))
    holds_one = row.ratio_low <= 1 <= row.ratio_high
    within_noise = low <= row.ratio_low and row.ratio_high <= high
    if holds_one or within_noise:
        return "no difference seen"
    return "slower" if row.ratio_low > 1 else "faster"


def verdict_text(row: Row, bands: Bands) -> str:
    """Write a row's verdict, for example "×3.2 slower"; empty where it has no pair."""
    found = verdict(row, bands)
    if row.ratio is None or found == "unpaired":
        return ""
    if found == "no difference seen":
        return found
    # A candidate that takes no time at all cannot be said to be any number of times faster.
    if row.ratio <= 0:
        return found
    return f"{ratio(row.ratio if found == 'slower' else 1 / row.ratio)} {found}"
