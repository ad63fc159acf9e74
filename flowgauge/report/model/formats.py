# SPDX-License-Identifier: Apache-2.0
"""Formats figures with units and a suitable number of digits."""

from __future__ import annotations

from flowgauge.results.rows import Unit

_SCALES = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9))


def quantity(value: float, unit: str) -> str:
    """Format a figure with its unit.

    Args:
        value: The figure.
        unit: Its unit; seconds get a suitable prefix, "share" and "busy" are written in percent,
            any other unit as it is.

    Returns:
        For example "4.1 ms", "850 µs" or "12 bytes".
    """
    if unit in (Unit.SHARE, Unit.BUSY):
        return f"{value * 100:.3g} %"
    return seconds(value) if unit == Unit.SECONDS else f"{number(value)} {unit}"


def seconds(value: float) -> str:
    """Format a time with the prefix that leaves the fewest digits.

    Args:
        value: The time (seconds).

    Returns:
        For example "1.2 s", "850 µs" or "0 s".
    """
    if value == 0:
        return "0 s"
    # 999.6 ms would be rounded to 1000 ms, so it gets the next prefix.
    fitting = (scale for scale in _SCALES if abs(value) >= scale[1] * 0.9995)
    symbol, size = next(fitting, _SCALES[-1])
    return f"{number(value / size)} {symbol}"


def duration(value: float) -> str:
    """Format a time that may be hours.

    Args:
        value: The time (seconds).

    Returns:
        For example "75 s", "28 min", "8.1 h" or "3.5 days"; below ten minutes like `seconds`.
    """
    for unit, size, least in (("days", 86400, 2), ("h", 3600, 2), ("min", 60, 10)):
        if value >= size * least:
            return f"{number(value / size)} {unit}"
    return seconds(value)


def ratio(value: float) -> str:
    """Format a ratio.

    Args:
        value: Candidate over reference (no unit).

    Returns:
        For example "×3.2", "×1,200" or "×0.83".
    """
    return f"×{number(value)}"


def mebibytes(value: float) -> str:
    """Format an amount of memory.

    Args:
        value: The amount (MiB).

    Returns:
        For example "68 MiB"; "< 1 MiB" for less, which is chance rather than need.
    """
    return f"{number(value)} MiB" if value >= 1 else "< 1 MiB"


def number(value: float) -> str:
    """Format a number with about two significant digits, at most three."""
    size = abs(value)
    if size == 0:
        return "0"
    if size < 0.0995:
        return f"{value:.2g}"
    if size < 1.05:
        # Near one the second decimal matters: ×1.04 must not read ×1.0.
        return f"{value:.2f}"
    if size < 9.95:
        return f"{value:.1f}"
    if size < 999.5:
        return f"{value:.0f}"
    return f"{float(f'{value:.2g}'):,.0f}"
