# SPDX-License-Identifier: Apache-2.0
"""The effect ledger: a record, outside Prefect, of what tasks really did."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowgauge.append_log import locked, write_value


class LedgerError(ValueError):
    """An effect that can't be recorded or named; the one-line message says why and what to do."""


@dataclass(frozen=True)
class Effect:
    """Something that a task did.

    Attributes:
        name: What was done, for instance "charged".
        data: Its details, as recorded in the ledger: JSON values.
        sequence: A number that increases by one with each record of its process.
        pid: The process that did it.
        thread: The name of the thread that did it.
        monotonic: When, in real seconds on the monotonic clock that this machine's processes
            share.
        time: When, in real seconds since the epoch.
    """

    name: str
    data: Mapping[str, Any]
    sequence: int
    pid: int
    thread: str
    monotonic: float
    time: float

    def __str__(self) -> str:
        """Return the effect as the call that recorded it."""
        return _call(self.name, self.data)


@dataclass(frozen=True)
class EffectLedger:
    """A file that any number of processes append to; it can be passed to tasks as an argument.

    A record is on disk when `record` returns. A process that dies while recording leaves a torn
    line, which does not count as an effect; `torn` returns it.

    Attributes:
        path: The file, with one JSON object per line; it need not exist.
    """

    path: Path

    def record(self, name: str, /, **data: Any) -> None:
        """Record that something was done.

        Args:
            name: What was done, for instance "charged".
            **data: Its details, for instance `order=17`: JSON values.

        Raises:
            LedgerError: If a value can't be written as JSON.
            OSError: If the file can't be written.
        """
        line = {"effect": name, "data": _as_json(name, data), "pid": os.getpid()}
        line |= {"thread": threading.current_thread().name, "sequence": next(_sequence)}
        with locked(self.path) as file:
            # Inside the lock, so that times increase from line to line.
            line |= {"monotonic": time.monotonic(), "time": time.time()}
            write_value(file, line, durable=True)

    def begin_example(self) -> None:
        """Begin with an example of Hypothesis: forget what earlier ones recorded."""
        self.path.unlink(missing_ok=True)

    def effects(self, name: str | None = None, /, **where: Any) -> tuple[Effect, ...]:
        """Return what was done, in the order in which it was recorded.

        Args:
            name: Only effects of this name; None for all.
            **where: Only effects whose data have these values, possibly among others.

        Returns:
            The effects.
        """
        criteria = {key: _key(value) for key, value in _as_json(str(name), where).items()}
        return tuple(
            effect
            for effect in self._read()[0]
            if name in {None, effect.name}
            and criteria == {key: _key(effect.data[key]) for key in criteria if key in effect.data}
        )

    def count(self, name: str | None = None, /, **where: Any) -> int:
        """Return the number of effects.

        Args:
            name: Count only effects of this name; None counts all.
            **where: Count only effects whose data have these values.

        Returns:
            How many `effects` would return.
        """
        return len(self.effects(name, **where))

    @property
    def torn(self) -> tuple[str, ...]:
        """The incomplete lines of processes that died while recording; the effects are unknown."""
        return self._read()[1]

    def assert_exactly_once(self, name: str, /, **where: Any) -> None:
        """Fail unless something was done exactly once.

        Args:
            name: The effect.
            **where: Its data, or part of them. Without them, every effect of that name is checked:
                there must be at least one, and no two may have the same data.

        Raises:
            AssertionError: If it was not; the message lists what was recorded.
        """
        __tracebackhide__ = True
        effects = self.effects(name, **where)
        groups = [effects] if where else _by_data(effects)
        for group in groups or [()]:
            if len(group) != 1:
                what = group[0] if group and not where else _call(name, where)
                times = f"recorded {len(group)} times" if group else "never recorded"
                self._fail(f"{what} was {times}, not exactly once", group)

    def assert_at_least_once(self, name: str, /, **where: Any) -> None:
        """Fail unless something was done at least once.

        Args:
            name: The effect.
            **where: Its data, or part of them.

        Raises:
            AssertionError: With all that was recorded.
        """
        __tracebackhide__ = True
        if not self.effects(name, **where):
            self._fail(f"{_call(name, where)} was never recorded", ())

    def assert_order(self, *steps: str | tuple[str, Mapping[str, Any]], **where: Any) -> None:
        """Fail unless steps were done in this order: every effect of one before any of the next.

        Args:
            *steps: Names of effects, or names with data:
                `assert_order(("charged", {"order": 1}), ("charged", {"order": 2}))`.
            **where: Data that the effects of all steps have.

        Raises:
            AssertionError: If a step was never recorded, or was recorded too early.
            LedgerError: If there are fewer than two steps.
        """
        __tracebackhide__ = True
        if len(steps) < 2:
            raise LedgerError("assert_order: an order needs at least two steps; name the effects")
        named = [(step, {}) if isinstance(step, str) else step for step in steps]
        for name, data in named:
            self.assert_at_least_once(name, **{**where, **data})
        everything = self.effects()
        for (early, its_data), (late, other_data) in itertools.pairwise(named):
            last = self.effects(early, **{**where, **its_data})[-1]
            first = self.effects(late, **{**where, **other_data})[0]
            if everything.index(first) <= everything.index(last):
                self._fail(f"{first} was recorded before {last}", (first, last))

    def _read(self) -> tuple[tuple[Effect, ...], tuple[str, ...]]:
        effects, torn = [], []
        text = self.path.read_bytes() if self.path.exists() else b""
        for line in filter(None, text.split(b"\n")):
            effect = _effect(line)
            if effect is None:
                torn.append(line.decode(errors="replace"))
            else:
                effects.append(effect)
        return tuple(effects), tuple(torn)

    def _fail(self, what: str, concerned: Sequence[Effect]) -> None:
        __tracebackhide__ = True
        effects, torn = self._read()
        lines = [f"{what}; the ledger holds {len(effects)}:"]
        listed = [
            effect for n, effect in enumerate(effects) if n < _MAX_LISTED or effect in concerned
        ]
        for effect in listed:
            mark = ">" if effect in concerned else " "
            after = effect.monotonic - effects[0].monotonic
            lines.append(f"{mark} {after:8.3f} s  {effect}  (pid {effect.pid}, {effect.thread})")
        if len(listed) < len(effects):
            lines.append(f"  and {len(effects) - len(listed)} more")
        lines += [f"  torn, as a process died while it recorded: {line}" for line in torn]
        raise AssertionError("\n".join(lines))


_sequence = itertools.count()
_MAX_LISTED = 50
"""The number of effects that a failed assertion lists, in addition to those that it is about."""


def _as_json(name: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return data as they are read back from the file: tuples as lists, and so on."""
    converted = {}
    for key, value in data.items():
        try:
            converted[key] = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise LedgerError(
                f"effect {name!r}: {key}={value!r} can't be written as JSON ({error}); give text,"
                " numbers, lists or dicts"
            ) from None
    return converted


def _key(value: Any) -> str:
    """Return a string equal for two values only if they are the same in JSON (1 is not True)."""
    return json.dumps(value, sort_keys=True)


def _effect(line: bytes) -> Effect | None:
    """Parse a line; None for a torn one, which is never valid JSON as it lacks the last brace."""
    try:
        fields = json.loads(line)
        return Effect(name=fields.pop("effect"), **fields)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _by_data(effects: Iterable[Effect]) -> list[list[Effect]]:
    groups: dict[str, list[Effect]] = {}
    for effect in effects:
        groups.setdefault(_key(effect.data), []).append(effect)
    return list(groups.values())


def _call(name: str, data: Mapping[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in data.items())})"
