# SPDX-License-Identifier: Apache-2.0
"""Judges whether a figure differs from its reference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from flowgauge.report.model.formats import ratio
from flowgauge.results.interval import Interval
from flowgauge.results.rows import PRECISION, Group, Results, Row

Verdict = Literal["slower", "faster", "no difference seen", "unpaired"]
BUSY_PERCENT = 10
STOLEN_PERCENT = 2
Bands = Mapping[tuple[str | None, str | None], tuple[float, float]]
"""The ratios (low, high) of the same thing compared with itself, by group and runner.

Those of a runner in any group have the key None.
"""


def noise_bands(rows: Iterable[Row]) -> Bands:
    """Return the A/A band of each group on each runner.

    Args:
        rows: All rows of a run; those of the group `noise` are used.

    Returns:
        The widest interval of the noise rows of a group on a runner, extended to contain 1.
    """
    return widest(
        {(of, row.runner): (row.ratio.low, row.ratio.high)}
        for row in rows
        if row.group == Group.NOISE and row.ratio is not None
        for of in {None, row.params.get("of")}
    )


def widest(all_bands: Iterable[Bands]) -> Bands:
    """Merge bands to the widest of each group and runner, all of which contain 1."""
    merged: dict[tuple[str | None, str | None], tuple[float, float]] = {}
    for key, (low, high) in (item for bands in all_bands for item in bands.items()):
        least, most = merged.get(key, (1.0, 1.0))
        merged[key] = (min(least, low), max(most, high))
    return merged


def band(row: Row, bands: Bands) -> tuple[float, float]:
    """Return the A/A band of a row: that of its group, or else of any group, on its runner."""
    of_runner = bands.get((None, row.runner), (1.0, 1.0))
    return bands.get((row.group, row.runner), of_runner)


def warnings(results: Results) -> tuple[str, ...]:
    """Return the reasons to doubt the figures of a run.

    Args:
        results: The figures.

    Returns:
        A sentence for each: figures that are not precise, and a machine that was busy with other
        things.
    """
    in_rounds = [r for r in results.rows if r.relative_iqr is not None and r.rounds > 1]
    wide = sum(not row.is_precise for row in in_rounds)
    sentences = []
    if wide:
        sentences.append(
            f"{wide} of {len(in_rounds)} rows are less precise than ± {PRECISION:.0%}: measure"
            " again on a quiet machine, or for longer (--benchmark-max-time)."
        )
    others = results.fingerprint.get("others_percent")
    if isinstance(others, int | float) and others > BUSY_PERCENT:
        sentences.append(f"Other programs used {others:.0f} % of the processors during this run.")
    stolen = results.fingerprint.get("stolen_percent")
    if isinstance(stolen, int | float) and stolen > STOLEN_PERCENT:
        sentences.append(f"The host withheld {stolen:.0f} % of the processors' time.")
    throttled = results.fingerprint.get("throttled_seconds")
    if isinstance(throttled, int | float) and throttled > 0:
        sentences.append(f"A limit on processor time stopped this run for {throttled:.1f} s.")
    return tuple(sentences)


def verdict(row: Row, bands: Bands) -> Verdict:
    """Judge a row by its ratio's interval.

    Args:
        row: The row.
        bands: The result of `noise_bands` for the same run.

    Returns:
        The verdict; "no difference seen" if the interval contains 1 or the ratio lies inside the
        row's A/A band. A computed row has none.
    """
    if row.ratio is None or row.is_computed:
        return "unpaired"
    return judged(row.ratio, band(row, bands))


def judged(
    measured: Interval, noise: tuple[float, float]
) -> Literal["slower", "faster", "no difference seen"]:
    """Judge a ratio by its interval and the A/A band.

    A 95 % interval alone would see a difference in 5 % of pairs without one, and in more because
    rounds are not independent. `benchmarks/noise_experiments.py` measures both rates.

    Args:
        measured: The ratio.
        noise: The low and high end of the A/A band.

    Returns:
        The verdict.
    """
    if measured.low <= 1 <= measured.high or noise[0] <= measured.median <= noise[1]:
        return "no difference seen"
    return "slower" if measured.low > 1 else "faster"


def verdict_text(row: Row, bands: Bands) -> str:
    """Return a row's verdict as text, for example "×3.2 slower"; empty if it is unpaired."""
    judgement = verdict(row, bands)
    if row.ratio is None or judgement == "unpaired":
        return ""
    if judgement == "no difference seen":
        return judgement
    # If the candidate took no time, there is no factor.
    times = row.ratio.median
    if times <= 0:
        return judgement
    return f"{ratio(times if judgement == 'slower' else 1 / times)} {judgement}"
