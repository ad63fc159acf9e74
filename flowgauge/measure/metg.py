# SPDX-License-Identifier: Apache-2.0
"""METG: how long tasks must be, at least, for a share of the machine to do their work.

Source: Slaughter et al., Task Bench (SC'20, arXiv 1908.05790). The granularity of a run is
wall time x workers / tasks; its efficiency is the granularity that the work alone would have,
over its own; METG(50 %) is the smallest granularity whose efficiency is 50 % at least.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from flowgauge.results.interval import Interval

TARGETS = (0.5, 0.9)
_CLOSE = 0.05
"""How near to a target an efficiency must be, to interpolate from there."""
_RESAMPLES = 1000
_FIRST_FACTOR = 2
_LARGEST_STEP = 8.0
_APART = 1.5
"""How many times as long as another one a length must be, for the two to make a line."""
_FARTHEST = 3.0
"""How many times as long as what was measured tasks may be, to be told from the line."""
_BARELY = 0.02
"""An end this little above a target is not told from one below: getting there takes for ever."""
_WELL_BEYOND = 2
"""How many times as long as would do if overhead were all tasks must be, to say that none do."""


@dataclass(frozen=True)
class Sample:
    """One run of equal tasks, beside the same work on a bare pool.

    Attributes:
        granularity: Wall seconds x workers / tasks.
        ideal: What it would be if nothing but the work took time: that of the bare pool, and
            more where the shape leaves workers idle.
        depth: How many of its tasks followed each other. What is lost once in a run weighs more
            in a shallow one, so that its end is not that of a deep one.
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
        seconds: The granularity that reaches it, with its 95 % bootstrap interval; None where
            none does.
        ceiling: The efficiency that endless tasks would reach.
        best: The highest that was seen.
        is_never: Whether no length would do, and not only none that was tried.
    """

    target: float
    seconds: Interval | None
    ceiling: float
    best: float
    is_never: bool = False


def measure_curve(
    measure: Callable[[float], Sequence[Sample]],
    targets: Sequence[float] = TARGETS,
    *,
    longest: float,
    probes: int = 3,
) -> dict[float, list[Sample]]:
    """Measure where the targets are likely to be: few runs, each near one of them.

    Args:
        measure: Runs tasks of so many seconds of work, a few times.
        targets: Efficiencies to look for, in rising order.
        longest: Seconds of work in a task, more than which is not tried.
        probes: How many amounts of work are tried for the first target; for the others, which
            the line through those points leads to, one less.

    Returns:
        What was measured.
    """
    curve = {0.0: list(measure(0.0))}
    idle = statistics.median(sample.granularity for sample in curve[0.0])
    first = min(_FIRST_FACTOR * idle, longest)
    curve[first] = list(measure(first))
    for target in targets:
        for _ in range(probes if target == targets[0] else probes - 1):
            points = _points(curve)
            if any(abs(point.efficiency - target) <= _CLOSE for point in points):
                break
            seconds = min(_next(points, target), longest)
            if seconds in curve or _is_never(points, target):
                break
            curve[seconds] = list(measure(seconds))
    return curve


def metg(curve: Curve, target: float) -> Metg:
    """Read a METG from what was measured.

    Args:
        curve: One amount of work or more, not counting none.
        target: The efficiency.

    Returns:
        It, interpolated between the runs on both sides of the target, or told from their line a
        little beyond them, with the interval that drawing the runs again gives.
    """
    import numpy as np

    points = _points(curve)
    seconds, ceiling = _crossing(points, target), min(_tail(points).limit, 1.0)
    best = max(point.efficiency for point in points)
    if seconds is None:
        return Metg(target, None, ceiling, best, _is_never(points, target))
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(_RESAMPLES):
        again = {
            work: [runs[index] for index in rng.integers(len(runs), size=len(runs))]
            for work, runs in curve.items()
        }
        drawn.append(_crossing(_points(again), target))
    found = [each for each in drawn if each is not None] or [seconds]
    low, high = np.quantile(found, (0.025, 0.975))
    interval = Interval(seconds, min(float(low), seconds), max(float(high), seconds))
    return Metg(target, interval, ceiling, best)


@dataclass(frozen=True)
class _Point:
    """All runs of one amount of work.

    Attributes:
        work: Its seconds.
        ideal: The median of what a run would take if nothing but the work took time.
        efficiency: The median of theirs; where chance made longer tasks the worse, their mean.
        best: The highest.
        depth: How many tasks followed each other.
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
        """Return where it comes to the target, None where it never does."""
        if self.limit <= target or self.overhead <= 0:
            return None
        return self.overhead / (self.limit - target)


def _points(curve: Curve) -> list[_Point]:
    """Return what was measured of each amount of work, shortest first, without that of none.

    Longer tasks keep workers no less busy, whatever chance says (isotonic regression).
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
    """Return the line through two points, or through one if endless tasks had no overhead.

    Two that are near each other tell chance rather than a direction.
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
    """Return the granularity that comes to the target between two that were measured, if any."""
    for low, high in pairwise(points):
        if low.efficiency < target <= high.efficiency:
            way = (1 / low.efficiency - 1 / target) / (1 / low.efficiency - 1 / high.efficiency)
            return 1 / ((1 - way) / low.ideal + way / high.ideal) / target
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
    # On a busy machine more time passes than the work has seconds.
    pace = near.work / max(near.granularity * near.efficiency, near.work / _LARGEST_STEP)
    seconds = min(max(target * granularity * pace, shortest), longest)
    # Beyond the longest by enough to tell whether endless tasks would do.
    return max(seconds, last.work * 1.5) if last.efficiency < target else seconds


def _end(points: Sequence[_Point], target: float) -> Sequence[_Point]:
    """Return those at the end that is nearest to a target that lies beyond it."""
    return points[:1] if points[0].efficiency >= target else points[-2:]


def _tail(points: Sequence[_Point]) -> _Line:
    """Return the line that longer tasks would follow.

    Of the last three, where there are: of two, noise alone may make the longer one the worse.
    """
    return _line((points[-3], points[-1]) if len(points) > 2 else points[-2:])


def _enough(points: Sequence[_Point], target: float) -> float:
    """Return the granularity that would do, with a margin, if overhead were all that is lost."""
    return _WELL_BEYOND * (_line(points[:1]).granularity(target) or 0.0)


def _is_never(points: Sequence[_Point], target: float) -> bool:
    """Say whether longer tasks would not help, as far as the best runs of three lengths can tell.

    Efficiency over the length of tasks may bend at first, and go on afterwards.
    """
    alike = [
        replace(point, efficiency=point.best) for point in points if point.depth == points[0].depth
    ]
    if len(alike) < 3 or max(point.best for point in points) >= target:
        return False
    if alike[-1].granularity < _enough(points, target):
        return False
    return _tail(alike).limit < target + _BARELY


def _crossing(points: Sequence[_Point], target: float) -> float | None:
    """Return the granularity at which efficiency comes to the target."""
    if points[0].efficiency >= target:
        # What is shorter was not measured: it is no longer than this.
        return _line(points[:1]).granularity(target) or points[0].granularity
    if found := _between(points, target):
        return found
    tail = _tail(points)
    if _is_never(points, target) or tail.limit < target + _BARELY:
        return None
    found = tail.granularity(target)
    return found if found and found <= _FARTHEST * points[-1].granularity else None
