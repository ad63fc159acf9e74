# SPDX-License-Identifier: Apache-2.0
"""Which faults of a test were never met, over all examples that Hypothesis made of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from flowgauge.faults.journal import Journal
from flowgauge.faults.plan import Fault, Plan, Return


@dataclass
class Examples:
    """What became of faults; a test without Hypothesis is one example.

    Attributes:
        tasks: Names of the tasks that ran.
        refused: Faults that could not strike where the task ran, and why.
    """

    tasks: set[str] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)
    _placed: dict[tuple[object, ...], Fault] = field(default_factory=dict)
    _met: set[tuple[object, ...]] = field(default_factory=set)

    def add(self, plan: Plan, journal: Journal) -> None:
        """Add an example.

        Args:
            plan: The faults.
            journal: What they did, with all that was recorded so far.
        """
        self.tasks |= journal.tasks
        self.refused += journal.refused
        alike: Counter[tuple[object, ...]] = Counter()
        for fault in plan.faults:
            # In another example, its counts may differ.
            kind = (fault.task, fault.at, type(fault.effect))
            key = (*kind, alike[kind])
            alike[kind] += 1
            self._placed.setdefault(key, fault)
            if journal.reached[fault.number] or (
                fault.drawn and any(map(fault.concerns, journal.tasks))
            ):
                self._met.add(key)

    def unmet(self) -> list[str]:
        """Return one line for each fault whose task never reached its point.

        For one that was drawn it is enough that its task ran, in any example.
        """
        return [
            line
            for key, fault in self._placed.items()
            if key not in self._met and (line := self._why(fault))
        ]

    def _why(self, fault: Fault) -> str:
        names = sorted(self.tasks)
        matching = [name for name in names if fault.concerns(name)]
        if not names:
            return f"{fault.call}: no task ran at all"
        if not matching:
            listed = ", ".join(map(repr, names))
            return f"{fault.call}: no task of that name ran; those that ran are {listed}"
        if fault.drawn:
            return ""
        who = " and ".join(map(repr, matching))
        if isinstance(fault.effect, Return):
            return f"{fault.call}: {who} ran, but from the cache or failed before its own code"
        if "stored" in fault.at:
            return f"{fault.call}: {who} ran but stored no result; persist_result=True stores it"
        return f"{fault.call}: {who} ran but never reached the point {fault.at!r}"
