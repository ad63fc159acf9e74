# SPDX-License-Identifier: Apache-2.0
"""The state history of a flow run or task run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flowgauge.observe.runs import Patience, Reader, states_of
from flowgauge.observe.state_expression import after_any, may_end, next_names, parse_expression

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State


@dataclass(frozen=True)
class Step:
    """A state that a run was in.

    Attributes:
        name: For instance "AwaitingRetry".
        type: Prefect's type of it, for instance "SCHEDULED".
        time: When the run entered it; virtual if the test uses the virtual clock.
        message: Prefect's message about it, or "".
    """

    name: str
    type: str
    time: datetime
    message: str = ""


@dataclass(frozen=True)
class Match:
    """The result of matching a history against an expression: truthy, or it shows the difference.

    Attributes:
        history: The history.
        expression: The expression.
        matched: How many states match, counted from the first.
        expected: The states that could have come next.
        could_end: Whether the history could have ended after the states that match.
    """

    history: History
    expression: str
    matched: int
    expected: tuple[str, ...]
    could_end: bool

    def __bool__(self) -> bool:
        """Return whether the whole history matches."""
        return self.could_end and self.matched == len(self.history.steps)

    def __repr__(self) -> str:
        """Return one line, because pytest shows only one for a value."""
        if self:
            return f"match: {self._names()}"
        return f"no match: {self._names()}: {self._difference()}"

    def __str__(self) -> str:
        """Return the history, one state a line, marking where it differs."""
        verdict = "matches" if self else "does not match"
        lines = [f"{self.history.run} {verdict} {self.expression}"]
        width = max((len(step.name) for step in self.history.steps), default=0)
        for place, (step, seconds) in enumerate(
            zip(self.history.steps, self.history.times, strict=True)
        ):
            mark = ">" if place == self.matched else " "
            line = f"{mark} {seconds:8.3f} s  {step.name:{width}}  {step.message}"
            lines.append(line.rstrip()[:160])
            if place == self.matched:
                lines.append(f"{'':14}^ {self._difference()}")
        if not self and self.matched == len(self.history.steps):
            lines.append(f"> {'':12}{self._difference()}")
        return "\n".join(lines)

    def _names(self) -> str:
        return " ".join(step.name for step in self.history.steps) or "no states"

    def _difference(self) -> str:
        options = [*self.expected, *(["the end"] if self.could_end else [])]
        expected = " or ".join(options)
        if self.matched == len(self.history.steps):
            return f"the end, where {expected} was expected"
        name = self.history.steps[self.matched].name
        return f"state {self.matched + 1} is {name}, where {expected} was expected"


@dataclass(frozen=True)
class History:
    """The states of one run, first to last.

    Attributes:
        run: A readable description of the run.
        steps: The states.
    """

    run: str
    steps: tuple[Step, ...]

    @property
    def times(self) -> tuple[float, ...]:
        """When each state was entered: seconds since the first."""
        return tuple((step.time - self.steps[0].time).total_seconds() for step in self.steps)

    @property
    def attempts(self) -> int:
        """How many states of type RUNNING the run had: Running, Retrying, or custom names."""
        return sum(step.type == "RUNNING" for step in self.steps)

    def duration(self, name: str) -> float:
        """Return how long the run was in a state.

        Args:
            name: The name of the state, for instance "Running"; repeated stays add up.

        Returns:
            Seconds. The last state adds nothing, because nothing ends it.
        """
        return sum(
            (later.time - step.time).total_seconds()
            for step, later in zip(self.steps, self.steps[1:], strict=False)
            if step.name == name
        )

    def matches(self, expression: str) -> Match:
        """Match the whole history against an expression over the names of states.

        Args:
            expression: Names in order, with `?`, `*`, `+`, `{n}`, `{n,m}`, `|` and parentheses:
                `"Scheduled? Pending Running (AwaitingRetry Retrying)* Completed"`. A name with
                spaces needs double quotes.

        Returns:
            A result to `assert`: falsy if the history differs, and it says how.

        Raises:
            ExpressionError: If the expression can't be read.
        """
        rest = frozenset({parse_expression(expression)})
        matched = 0
        for step in self.steps:
            following = after_any(rest, step.name)
            if not following:
                break
            rest, matched = following, matched + 1
        names = sorted({name for part in rest for name in next_names(part)})
        return Match(self, expression, matched, tuple(names), any(map(may_end, rest)))

    def __repr__(self) -> str:
        """Return the names of the states, and the run."""
        return f"<History of {self.run}: {' '.join(step.name for step in self.steps)}>"


class HistoryError(LookupError):
    """A run without a history (yet); the one-line message says which and why."""


_READER = Reader("run_history", HistoryError, ", or read what there is so far with final=False")


def run_history(run: Any, *, final: bool = True, timeout: float | None = None) -> History:
    """Read the state history of a run from the API.

    Args:
        run: A flow run or task run, its id, one of its states, or a future.
        final: Whether to wait until the run has ended; task run states arrive up to a second late.
        timeout: Seconds to wait for that, or for the server to know the run at all; by default a
            minute, multiplied by the environment variable `FLOWGAUGE_PATIENCE` if it is set.

    Returns:
        The history.

    Raises:
        HistoryError: If `run` is not a run, or is unknown to the server or has not ended in time.
    """
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        found = states_of(client, run, _READER, Patience(timeout), final=final)
    return History(str(found), tuple(map(_step, found.states)))


def _step(state: State[Any]) -> Step:
    return Step(str(state.name), state.type.value, state.timestamp, state.message or "")
