# SPDX-License-Identifier: Apache-2.0
"""Logarithmic axes with ticks at round numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import altair as alt

SECONDS = (
    "datum.value >= 0.9995 ? format(datum.value, ',~r') + ' s'"
    " : datum.value >= 0.9995e-3 ? format(datum.value * 1e3, '~r') + ' ms'"
    " : datum.value >= 0.9995e-6 ? format(datum.value * 1e6, '~r') + ' µs'"
    " : format(datum.value * 1e9, '~r') + ' ns'"
)
RATIOS = "'×' + format(datum.value, ',~r')"
NUMBERS = "format(datum.value, ',~r')"
_STEPS: tuple[tuple[float, tuple[float, ...]], ...] = (
    (4, (1,)),
    (2, (1, 3)),
    (1, (1, 2, 5)),
    (0, (1, 1.2, 1.5, 2, 3, 4, 5, 6, 8)),
)
"""The ticks within a decade, for an axis of at least a number of decades."""


RUNNER_SHOWN = "runner_shown == '' || datum.runner == runner_shown"
"""The filter for the runner that is selected in the page, or for all if none is."""


def runner_shown() -> alt.Parameter:
    """Return the parameter that the page sets to draw one runner only; a file shows all."""
    return alt.param(name="runner_shown", value="")


def log_axis(values: Sequence[float], label: str, title: str | None = None) -> alt.X:
    """Return a logarithmic axis that includes all values, with ticks at round numbers.

    Args:
        values: The values to draw, above zero.
        label: The expression that formats a tick: `SECONDS`, `RATIOS` or `NUMBERS`.
        title: The title of the axis.

    Returns:
        The axis of the field `value`.
    """
    scale, axis = _logarithmic(values, label)
    return alt.X("value:Q", title=title, scale=scale, axis=axis)


def log_height(values: Sequence[float], label: str, field: str) -> alt.Y:
    """Return a logarithmic axis upwards, as `log_axis` returns one to the right.

    Args:
        values: The values to draw, above zero.
        label: The expression that formats a tick.
        field: What is drawn.

    Returns:
        The axis, without a title.
    """
    scale, axis = _logarithmic(values, label)
    return alt.Y(f"{field}:Q", title=None, scale=scale, axis=axis)


def _logarithmic(values: Sequence[float], label: str) -> tuple[alt.Scale, alt.Axis]:
    """Return the scale of an axis, and how its ticks look."""
    low, high = min(values) / 1.4, max(values) * 1.4
    ticks = _ticks(low, high)
    return (
        alt.Scale(type="log", domain=[low, high], nice=False),
        alt.Axis(values=ticks, labelExpr=label, labelOverlap="greedy", labelSeparation=6),
    )


def _ticks(low: float, high: float) -> list[float]:
    """Return the powers of ten between two values, with steps between them if there are few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    span = math.log10(high / low)
    steps = next(steps for least, steps in _STEPS if span >= least)
    ticks = [float(f"{step}e{decade}") for decade in decades for step in steps]
    return [tick for tick in ticks if low <= tick <= high]
