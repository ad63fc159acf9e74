# SPDX-License-Identifier: Apache-2.0
"""Minimum effective task granularity (METG): the shortest tasks that still run efficiently.

Source: Slaughter et al., Task Bench (SC'20, arXiv 1908.05790). The granularity of a run is
wall time x workers / tasks; its efficiency is the granularity that the work alone would have,
divided by its own; METG(50 %) is the smallest granularity whose efficiency is at least 50 %.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from flowgauge.results.interval import Interval

TARGETS = (0.5, 0.9)
_CLOSE = 0.05
"""A measured efficiency this near to a target ends the search for that target."""
_RESAMPLES = 1000
_FIRST_FACTOR = 2
"""The work of the first tasks tried, as a multiple of the granularity of tasks without work."""
_LARGEST_STEP = 8.0
"""The largest factor between the lengths measured so far and the next one to try."""
_APART = 1.5
"""The smallest ratio of two lengths for a line to be drawn through them."""
_FARTHEST = 3.0
"""Extrapolation limit: METG is read off the fitted line only up to this multiple of the longest
granularity measured."""
_BARELY = 0.02
"""A limit must exceed the target by this margin: with less, the length that reaches the target
would be practically infinite."""
_WELL_BEYOND = 2
"""How far beyond the length that would do if overhead were the only loss tasks must have been
tried, as a factor, before METG is reported as never reached."""


@dataclass(frozen=True)
class Sample:
    """One run of equal tasks, relative to the same work on a bare pool.

    Attributes:
        granularity: Wall seconds x workers / tasks.
        ideal: The granularity if only the work took time: that of the bare pool, and more where
            the shape leaves workers idle.
        depth: The number of tasks on the critical path. A loss that occurs once in a run weighs
            more in a shallow run, so runs of different depths have different limits.
    """

    granularity: float
    ideal: float
    depth: int = 1

    @property
    def efficiency(self) -> float:
        """The share of the workers' time that went into the work."""
        return self.ideal / self.granularity


Curve = Mapping[float, Sequence[Sample]]
"""For each amount of work in a task, in seconds, the runs that were measured."""


@dataclass(frozen=True)
class Metg:
    """The METG of one target.

    Attributes:
        target: The efficiency.
        seconds: The granularity that reaches it, with its 95 % bootstrap interval; None if
            none does.
        ceiling: The efficiency that infinitely long tasks would reach.
        best: The highest efficiency measured.
        longest: The longest granularity measured, in seconds.
        is_never: Whether no length would reach the target, rather than only none that was tried.
    """

    target: float
    seconds: Interval | None
    ceiling: float
    best: float
    longest: float
    is_never: bool = False


def measure_curve(
    measure: Callable[[float], Sequence[Sample]],
    targets: Sequence[float] = TARGETS,
    *,
    longest: float,
    probes: int = 3,
    rounded: Callable[[float], float] = float,
) -> dict[float, list[Sample]]:
    """Measure near the targets: a search that needs few runs.

    Args:
        measure: Runs tasks with the given seconds of work a few times.
        targets: Efficiencies to search for, in rising order.
        longest: The most work to try in one task, in seconds.
        probes: How many amounts of work are tried for the first target; one fewer for the others,
            for which the line through the first points is a good start.
        rounded: Returns the amount of work nearest to a given one that a task can do.

    Returns:
        The samples for each amount of work.
    """
    curve = {0.0: list(measure(0.0))}
    idle = statistics.median(sample.granularity for sample in curve[0.0])
    first = rounded(min(_FIRST_FACTOR * idle, longest))
    curve[first] = list(measure(first))
    for target in targets:
        for _ in range(probes if target == targets[0] else probes - 1):
            points = _points(curve)
            if any(abs(point.efficiency - target) <= _CLOSE for point in points):
                break
            seconds = rounded(min(_next(points, target), longest))
            if seconds in curve or _is_never(points, target):
                break
            curve[seconds] = list(measure(seconds))
    return curve


def metg(curve: Curve, target: float) -> Metg:
    """Read the METG of a target off a measured curve.

    Args:
        curve: Has at least one amount of work above zero.
        target: The efficiency.

    Returns:
        The METG, interpolated between the runs on both sides of the target or extrapolated a
        little beyond them, with the interval from resampling the runs.
    """
    import numpy as np

    points = _points(curve)
    seconds, ceiling = _crossing(points, target), min(_tail(points).limit, 1.0)
    best = max(point.efficiency for point in points)
    longest = points[-1].granularity
    if seconds is None:
        return Metg(target, None, ceiling, best, longest, _is_never(points, target))
    rng = np.random.default_rng(0)
    crossings = []
    for _ in range(_RESAMPLES):
        resampled = {
            work: [runs[index] for index in rng.integers(len(runs), size=len(runs))]
            for work, runs in curve.items()
        }
        crossings.append(_crossing(_points(resampled), target))
    reached = [crossing for crossing in crossings if crossing is not None] or [seconds]
    low, high = np.quantile(reached, (0.025, 0.975))
    interval = Interval(seconds, min(float(low), seconds), max(float(high), seconds))
    return Metg(target, interval, ceiling, best, longest)


@dataclass(frozen=True)
class _Point:
    """All runs of one amount of work.

    Attributes:
        work: The seconds of work in a task.
        ideal: The median of the ideal granularities.
        efficiency: The median of the efficiencies; averaged with those of neighbouring points
            where by chance longer tasks were less efficient.
        best: The highest efficiency.
        depth: The number of tasks on the critical path.
    """

    work: float
    ideal: float
    efficiency: float
    best: float
    depth: int

    @property
    def granularity(self) -> float:
        """Wall seconds x workers / tasks."""
        return self.ideal / self.efficiency


@dataclass(frozen=True)
class _Line:
    """1 / efficiency over 1 / ideal: straight where each task has the same overhead.

    With `granularity = (ideal + overhead) / limit`, and efficiency `ideal / granularity`.
    """

    limit: float
    overhead: float

    def granularity(self, target: float) -> float | None:
        """Return the granularity at which it reaches the target, or None if it never does."""
        if self.limit <= target or self.overhead <= 0:
            return None
        return self.overhead / (self.limit - target)


def _points(curve: Curve) -> list[_Point]:
    """Return a point for each amount of work above zero, shortest first.

    Efficiencies are made to never fall with longer tasks (isotonic regression), because a fall is
    chance.
    """
    from scipy.optimize import isotonic_regression

    worked = [(work, runs) for work, runs in sorted(curve.items()) if work]
    shares = [statistics.median(run.efficiency for run in runs) for _, runs in worked]
    rising = isotonic_regression(shares, weights=[len(runs) for _, runs in worked]).x
    return [
        _Point(
            work,
            statistics.median(run.ideal for run in runs),
            float(share),
            max(run.efficiency for run in runs),
            max(run.depth for run in runs),
        )
        for (work, runs), share in zip(worked, rising, strict=True)
    ]


def _line(points: Sequence[_Point]) -> _Line:
    """Return the line through the first and the last point.

    If they are too near each other to show more than chance, or the line would end above full
    efficiency, it is the line through the last point that ends at full efficiency.
    """
    first, last = points[0], points[-1]
    if last.ideal >= _APART * first.ideal:
        rise = 1 / first.efficiency - 1 / last.efficiency
        slope = max(rise, 0.0) / (1 / first.ideal - 1 / last.ideal)
        end = 1 / last.efficiency - slope / last.ideal
        if end >= 1:
            return _Line(1 / end, slope / end)
    return _Line(1.0, last.granularity - last.ideal)


def _between(points: Sequence[_Point], target: float) -> float | None:
    """Return the granularity that reaches the target between two measured ones, if any."""
    for low, high in pairwise(points):
        if low.efficiency < target <= high.efficiency:
            part = (1 / low.efficiency - 1 / target) / (1 / low.efficiency - 1 / high.efficiency)
            return 1 / ((1 - part) / low.ideal + part / high.ideal) / target
    return None


def _next(points: Sequence[_Point], target: float) -> float:
    """Return the work to try next."""
    last = points[-1]
    granularity = _between(points, target) or _line(_end(points, target)).granularity(target)
    longest, shortest = last.work * _LARGEST_STEP, points[0].work / _LARGEST_STEP
    if granularity is None:
        enough = last.work * 1.1 * _enough(points, target) / last.granularity
        return max(last.work * 2, min(enough, longest))
    near = min(points, key=lambda point: abs(point.efficiency - target))
    # On a busy machine a second of work takes longer than a second.
    pace = near.work / max(near.granularity * near.efficiency, near.work / _LARGEST_STEP)
    seconds = min(max(target * granularity * pace, shortest), longest)
    # Far enough beyond the longest to show whether infinitely long tasks would do.
    return max(seconds, last.work * 1.5) if last.efficiency < target else seconds


def _end(points: Sequence[_Point], target: float) -> Sequence[_Point]:
    """Return the points at the end of the curve that a target outside it is nearest to."""
    return points[:1] if points[0].efficiency >= target else points[-2:]


def _tail(points: Sequence[_Point]) -> _Line:
    """Return the line that longer tasks would follow.

    It spans the last three points if there are three: with two, noise alone may decide its slope.
    """
    return _line((points[-3], points[-1]) if len(points) > 2 else points[-2:])


def _enough(points: Sequence[_Point], target: float) -> float:
    """Return the granularity that would do, with a margin, if overhead were the only loss."""
    return _WELL_BEYOND * (_line(points[:1]).granularity(target) or 0.0)


def _is_never(points: Sequence[_Point], target: float) -> bool:
    """Return whether longer tasks would not reach the target either.

    This is decided by the best runs of at least three lengths of equal depth, which must reach far
    enough: the curve of efficiency over length may flatten at first and rise again.
    """
    equally_deep = [
        replace(point, efficiency=point.best) for point in points if point.depth == points[0].depth
    ]
    if len(equally_deep) < 3 or max(point.best for point in points) >= target:
        return False
    if equally_deep[-1].granularity < _enough(points, target):
        return False
    return _tail(equally_deep).limit < target + _BARELY


def _crossing(points: Sequence[_Point], target: float) -> float | None:
    """Return the granularity at which efficiency reaches the target, or None if unknown."""
    if points[0].efficiency >= target:
        # Shorter tasks were not measured, so this is an upper bound.
        return _line(points[:1]).granularity(target) or points[0].granularity
    if interpolated := _between(points, target):
        return interpolated
    tail = _tail(points)
    if _is_never(points, target) or tail.limit < target + _BARELY:
        return None
    extrapolated = tail.granularity(target)
    is_near = extrapolated and extrapolated <= _FARTHEST * points[-1].granularity
    return extrapolated if is_near else None
