# SPDX-License-Identifier: Apache-2.0
"""Says whether a figure differs from what it was measured beside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from flowgauge.report.model.formats import ratio
from flowgauge.results.interval import Interval
from flowgauge.results.rows import Group, Results, Row

Verdict = Literal["slower", "faster", "no difference seen", "unpaired"]
WIDE_SPREAD = 0.10
"""A spread of the rounds of a row from which on it is doubtful."""
BUSY_PERCENT = 10
STOLEN_PERCENT = 2
Bands = Mapping[tuple[str | None, str | None], tuple[float, float]]
"""The ratios (low, high) that the same thing reaches against itself, by group and runner.

Those of a runner in any group stand under None.
"""


def noise_bands(rows: Iterable[Row]) -> Bands:
    """Find the A/A band of each group on each runner.

    Args:
        rows: All rows of a run; those of the group `noise` are used.

    Returns:
        The widest interval that noise rows of a group reach on a runner, made to hold 1.
    """
    return widest(
        {(of, row.runner): (row.ratio.low, row.ratio.high)}
        for row in rows
        if row.group == Group.NOISE and row.ratio is not None
        for of in {None, row.params.get("of")}
    )


def widest(found: Iterable[Bands]) -> Bands:
    """Merge bands to the widest of each group and runner, all of which hold 1."""
    bands: dict[tuple[str | None, str | None], tuple[float, float]] = {}
    for key, (low, high) in (item for each in found for item in each.items()):
        least, most = bands.get(key, (1.0, 1.0))
        bands[key] = (min(least, low), max(most, high))
    return bands


def band(row: Row, bands: Bands) -> tuple[float, float]:
    """Return the ratios that are noise for a row: of its group, or else of any on its runner."""
    of_runner = bands.get((None, row.runner), (1.0, 1.0))
    return bands.get((row.group, row.runner), of_runner)


def warnings(results: Results) -> tuple[str, ...]:
    """Say what makes the figures of a run doubtful.

    Args:
        results: The figures.

    Returns:
        A sentence for each: rounds that differ much, and a machine that did other things, too.
    """
    measured = [row.relative_iqr for row in results.rows if row.relative_iqr is not None]
    wide = sum(each > WIDE_SPREAD for each in measured)
    found = []
    if wide:
        found.append(
            f"{wide} of {len(measured)} rows have rounds that spread by more than"
            f" {WIDE_SPREAD:.0%}: measure again on a quiet machine, or with more rounds."
        )
    others = results.fingerprint.get("others_percent")
    if isinstance(others, int | float) and others > BUSY_PERCENT:
        found.append(f"Other programs used {others:.0f} % of the processors while this measured.")
    stolen = results.fingerprint.get("stolen_percent")
    if isinstance(stolen, int | float) and stolen > STOLEN_PERCENT:
        found.append(f"The host withheld {stolen:.0f} % of the processors' time.")
    throttled = results.fingerprint.get("throttled_seconds")
    if isinstance(throttled, int | float) and throttled > 0:
        found.append(f"A limit on processor time stopped this run for {throttled:.1f} s.")
    return tuple(found)


def verdict(row: Row, bands: Bands) -> Verdict:
    """Judge a row by its ratio's interval.

    Args:
        row: The row.
        bands: What `noise_bands` found in the same run.

    Returns:
        "no difference seen" where the interval holds 1 or the ratio lies inside its A/A band.
    """
    return "unpaired" if row.ratio is None else judged(row.ratio, band(row, bands))


def judged(
    found: Interval, noise: tuple[float, float]
) -> Literal["slower", "faster", "no difference seen"]:
    """Judge a ratio by its interval, and by what the same thing reaches against itself.

    An interval of 95 % alone finds a difference in 5 % of pairs that have none and more, for
    rounds are not independent. `benchmarks/noise_experiments.py` measures both rates.

    Args:
        found: The ratio.
        noise: Low and high end of the A/A band.
    """
    if found.low <= 1 <= found.high or noise[0] <= found.median <= noise[1]:
        return "no difference seen"
    return "slower" if found.low > 1 else "faster"


def verdict_text(row: Row, bands: Bands) -> str:
    """Write a row's verdict, for example "×3.2 slower"; empty where it has no pair."""
    found = verdict(row, bands)
    if row.ratio is None or found == "unpaired":
        return ""
    if found == "no difference seen":
        return found
    # A candidate that takes no time at all cannot be said to be any number of times faster.
    times = row.ratio.median
    if times <= 0:
        return found
    return f"{ratio(times if found == 'slower' else 1 / times)} {found}"
