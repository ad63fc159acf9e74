# SPDX-License-Identifier: Apache-2.0
"""Plans of faults: which task fails how often, in which run and at which point."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from flowgauge.faults.checks import is_count, refuse, selected
from flowgauge.faults.errors import InjectedFault
from flowgauge.faults.faults import Error, Faults, FaultsOn
from flowgauge.faults.plan import FaultPoint

if TYPE_CHECKING:
    from prefect.tasks import Task


@dataclass(frozen=True, repr=False)
class PlannedFault:
    """One fault of a plan: a call of a method of `faults.on(...)`, which `on` describes.

    Attributes:
        task: The name of the task, or a pattern of names.
        at: The point in its runs; None for the default of the kind of fault.
        kind: The name of the method, such as "fail_times".
        arguments: Its arguments without names.
        options: Its arguments by name.
    """

    task: str
    at: FaultPoint | None
    kind: str
    arguments: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return the call that describes it."""
        where = f", at={self.at!r}" if self.at else ""
        given = [_shown(value) for value in self.arguments]
        given += [f"{name}={_shown(value)}" for name, value in self.options.items()]
        return f"on({self.task!r}{where}).{self.kind}({', '.join(given)})"


@dataclass(frozen=True)
class PlannedOn:
    """Tasks and a point; each method of `FaultsOn` is here, too, and returns a `PlannedFault`."""

    task: str
    at: FaultPoint | None

    def __getattr__(self, kind: str) -> Callable[..., PlannedFault]:
        if kind.startswith("_") or not callable(getattr(FaultsOn, kind, None)):
            raise AttributeError(f"there is no kind of fault {kind!r}")
        return lambda *arguments, **options: PlannedFault(
            self.task, self.at, kind, arguments, options
        )


def on(task: str | Task[..., Any], *, at: FaultPoint | None = None) -> PlannedOn:
    """Describe a fault for a plan, as `faults.on` places it: `on("fetch").fail_times(2)`.

    Args:
        task: A task or its name, or a pattern of names.
        at: The point in the task run.

    Returns:
        An object with one method for each kind of fault, which returns the described fault.
    """
    return PlannedOn(selected("on", task, at), at)


class FaultPlan:
    """Faults for one run of a test; its `repr` is the code that makes it again.

    A plan can be iterated over, and two of the same faults are equal.
    """

    def __init__(self, *faults: PlannedFault) -> None:
        """Plan some faults, described with `on`; none is a plan, too."""
        self.faults = faults

    def apply(self, faults: Faults) -> None:
        """Place the faults; the fixture removes them when the example of `@given` has ended.

        That a fault does not strike in some example is no failure; that no task of its name runs
        in any example is.

        Args:
            faults: The `faults` fixture of the test.
        """
        for fault in self.faults:
            selecting = replace(faults.on(fault.task, at=fault.at), drawn=True)
            getattr(selecting, fault.kind)(*fault.arguments, **fault.options)

    def __iter__(self) -> Iterator[PlannedFault]:
        return iter(self.faults)

    def __len__(self) -> int:
        return len(self.faults)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FaultPlan) and self.faults == other.faults

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        return f"FaultPlan({', '.join(map(repr, self.faults))})"


def fault_plans(
    *tasks: str | Task[..., Any],
    times: int = 3,
    runs: int = 0,
    at: FaultPoint | Sequence[FaultPoint] = "before the body",
    errors: Error | Sequence[Error] = InjectedFault,
    others: SearchStrategy[PlannedFault] | None = None,
    at_most: int | None = None,
) -> SearchStrategy[FaultPlan]:
    """Draw which tasks fail, how often, in which task run and at which point.

    The simplest plan has no faults. There is at most one failure of a task at each point.

    Args:
        *tasks: The tasks that may fail, or their names.
        times: The most attempts of a task run that fail, 1 or more.
        runs: If 1 or more, failures may be limited to one task run, among the first so many of
            the task.
        at: The points at which tasks may fail.
        errors: The exceptions or their classes that they may fail with.
        others: Further faults, for instance `st.just(on("load").crash_process())`.
        at_most: The most faults of a plan; by default one for each task and point, and one of the
            others.

    Returns:
        A strategy for plans, which `plan.apply(faults)` puts into effect.
    """
    if not is_count(times):
        refuse(f"fault_plans(times={times!r}): give a number of attempts, 1 or more")
    points = (at,) if isinstance(at, str) else tuple(at)
    raised = tuple(errors) if isinstance(errors, Sequence) else (errors,)
    named = [selected("on", task, point) for task in tasks for point in points]
    if not named and others is None:
        refuse("fault_plans(): name the tasks that may fail")

    def failure(
        task: str, point: FaultPoint, count: int, error: Error, run: int | None
    ) -> PlannedFault:
        arguments = (count,) if error is InjectedFault else (count, error)
        options = {} if run is None else {"in_run": run}
        where = None if point == "before the body" else point
        return PlannedFault(task, where, "fail_times", arguments, options)

    kinds = []
    if named:
        run = st.none() | st.integers(1, runs) if runs else st.none()
        names, counts = st.sampled_from(list(dict.fromkeys(named))), st.integers(1, times)
        where, which = st.sampled_from(points), st.sampled_from(raised)
        kinds.append(st.builds(failure, names, where, counts, which, run))
    if others is not None:
        kinds.append(others)
    size = len(set(named)) * len(points) + (others is not None) if at_most is None else at_most
    return st.lists(
        st.one_of(kinds), max_size=size, unique_by=lambda fault: (fault.task, fault.at, fault.kind)
    ).map(lambda faults: FaultPlan(*faults))


def _shown(value: object) -> str:
    return value.__name__ if isinstance(value, type) else repr(value)
