# SPDX-License-Identifier: Apache-2.0
"""A difference is claimed only where one was seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgauge.report.model.verdicts import noise_bands, verdict, verdict_text, warnings, widest
from flowgauge.results.interval import Interval
from flowgauge.results.rows import Results, Row

MakeRow = Callable[..., Row]
ratios = st.floats(0.01, 100)


def paired(make_row: MakeRow, low: float, ratio: float, high: float, **more: object) -> Row:
    """Return a row with this ratio and interval."""
    return replace(make_row("retry", 1.0, ratio, **more), ratio=Interval(ratio, low, high))


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        ((3.1, 3.2, 3.3), "×3.2 slower"),
        ((0.70, 0.714, 0.73), "×1.4 faster"),
        ((0.98, 1.2, 1.3), "no difference seen"),
        ((1.0, 1.2, 1.3), "no difference seen"),
    ],
)
def test_without_noise(make_row: MakeRow, interval: tuple[float, float, float], text: str) -> None:
    """An interval that contains 1 is no difference; one above 1 is slower, and one below faster."""
    assert verdict_text(paired(make_row, *interval), {}) == text


def test_inside_the_band(make_row: MakeRow) -> None:
    """A ratio within the noise of its runner is not a difference, but on another runner it is."""
    bands = noise_bands([paired(make_row, 1.01, 1.05, 1.2, group="noise", runner="threads")])
    here = paired(make_row, 1.05, 1.1, 1.15, runner="threads")
    elsewhere = paired(make_row, 1.05, 1.1, 1.15, runner="processes")
    assert verdict(here, bands) == "no difference seen"
    assert verdict(elsewhere, bands) == "slower"


def test_each_group_has_its_own_noise(make_row: MakeRow) -> None:
    """A row is judged by the noise of its group, or if it has none by the widest of its runner."""
    quiet, loud = (
        paired(make_row, 0.99, 1.0, high, group="noise", params={"of": of})
        for of, high in (("features", 1.02), ("patterns", 1.3))
    )
    bands = noise_bands([quiet, loud])
    found = {
        group: verdict(paired(make_row, 1.05, 1.1, 1.15, group=group), bands)
        for group in ("features", "patterns", "startup")
    }
    assert found == {
        "features": "slower",
        "patterns": "no difference seen",
        "startup": "no difference seen",
    }


def test_beyond_the_band(make_row: MakeRow) -> None:
    """A ratio beyond the band is a difference; if only its interval extends beyond, it is not."""
    bands = noise_bands([paired(make_row, 0.9, 1.05, 1.2, group="noise")])
    assert verdict(paired(make_row, 1.1, 1.21, 1.3), bands) == "slower"
    assert verdict(paired(make_row, 1.1, 1.19, 1.3), bands) == "no difference seen"
    assert verdict(paired(make_row, 0.7, 0.8, 0.95), bands) == "faster"


def test_band_holds_one_and_is_the_widest(make_row: MakeRow) -> None:
    """Several noise rows of a runner make one band, which always holds 1."""
    noise = [
        paired(make_row, 0.90, 0.95, 0.98, group="noise"),
        paired(make_row, 1.01, 1.05, 1.10, group="noise"),
        paired(make_row, 1.02, 1.03, 1.04, group="noise", runner="processes"),
    ]
    bands = noise_bands(noise)
    assert bands == {(None, "threads"): (0.90, 1.10), (None, "processes"): (1.0, 1.04)}
    assert bands == widest([noise_bands(noise[:1]), noise_bands(noise[1:])])


def test_unpaired(make_row: MakeRow) -> None:
    """A row without a reference gets no verdict."""
    assert verdict(make_row("server", 8.0), {}) == "unpaired"
    assert verdict_text(make_row("server", 8.0), {}) == ""


def test_what_was_computed_gets_no_verdict(make_row: MakeRow) -> None:
    """Only what was measured relative to its reference is slower or faster."""
    computed = make_row("all-stored", 9000.0, 1.5, group="limits", rounds=0)
    assert verdict_text(computed, {}) == ""
    assert verdict_text(replace(computed, rounds=3), {}) == "×1.5 slower"


@given(
    ends=st.tuples(ratios, ratios, ratios).map(sorted), band=st.tuples(ratios, ratios).map(sorted)
)
def test_a_difference_is_never_inside_noise(
    make_row: MakeRow, ends: list[float], band: list[float]
) -> None:
    """The interval of a claimed difference excludes 1, and its ratio is beyond the noise band."""
    row = paired(make_row, *ends)
    low, high = min(band[0], 1.0), max(band[1], 1.0)
    found = verdict(row, {("features", "threads"): (low, high)})
    if found == "slower":
        assert ends[0] > 1
        assert ends[1] > high
    elif found == "faster":
        assert ends[2] < 1
        assert ends[1] < low
    else:
        assert ends[0] <= 1 <= ends[2] or low <= ends[1] <= high


def test_doubtful_figures_give_warnings(make_row: MakeRow) -> None:
    """Wide intervals, other programs, stolen time and throttling give a sentence each."""
    base = replace(make_row("x", 1.0), relative_iqr=0.3, rounds=9)
    wide, narrow = (replace(base, value=Interval(1.0, 0.96, high)) for high in (1.06, 1.04))
    once = replace(base, value=Interval.exact(1.0), rounds=1)
    unknown = replace(wide, relative_iqr=None)
    quiet = {"others_percent": 4.0, "stolen_percent": 0.0, "throttled_seconds": 0.0}
    assert warnings(Results(quiet, (narrow, unknown))) == ()
    assert warnings(Results({}, (wide, narrow, once, unknown))) == (
        "1 of 2 rows are less precise than ± 5%: measure again on a quiet machine, or for longer"
        " (--benchmark-max-time).",
    )
    busy = {"others_percent": 31.6, "stolen_percent": 5.2, "throttled_seconds": 1.25}
    assert warnings(Results(busy, ())) == (
        "Other programs used 32 % of the processors during this run.",
        "The host withheld 5 % of the processors' time.",
        "A limit on processor time stopped this run for 1.2 s.",
    )
