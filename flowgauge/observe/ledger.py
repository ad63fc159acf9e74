# SPDX-License-Identifier: Apache-2.0
"""The effect ledger: a record, outside Prefect, of what tasks really did."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class LedgerError(ValueError):
    """An effect that can't be recorded or named; one line says why and what to do."""


@dataclass(frozen=True)
class Effect:
    """Something that a task did.

    Attributes:
        name: What was done, for instance "charged".
        data: To what, as it stands in the ledger: JSON values.
        sequence: A number that grows by one with each record of its process.
        pid: The process that did it.
        thread: The name of the thread that did it.
        monotonic: When, in real seconds that only grow, on the clock that this machine's
            processes share.
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
    """A file that any number of processes append to; it may travel to them as an argument.

    A record is on the disk when `record` returns. Whoever dies while recording leaves a torn
    line, which is no effect; `torn` shows it.

    Attributes:
        path: The file, one JSON object a line; it need not exist.
    """

    path: Path

    def record(self, name: str, /, **data: Any) -> None:
        """Write down that something was done.

        Args:
            name: What was done, for instance "charged".
            data: To what, for instance `order=17`: JSON values.

        Raises:
            LedgerError: If a value has no JSON form.
            OSError: If the file can't be written.
        """
        line = {"effect": name, "data": _as_json(name, data), "pid": os.getpid()}
        line |= {"thread": threading.current_thread().name, "sequence": next(_sequence)}
        with self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Inside the lock, so that times grow from line to line.
            line |= {"monotonic": time.monotonic(), "time": time.time()}
            if not _ends_a_line(file.fileno()):
                file.write(b"\n")
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def effects(self, name: str | None = None, /, **where: Any) -> tuple[Effect, ...]:
        """Return what was done, in the order in which it was recorded.

        Args:
            name: Only effects of this name; None for all.
            where: Only effects whose data have these values; they may have more.

        Returns:
            The effects.
        """
        wanted = {key: _key(value) for key, value in _as_json(str(name), where).items()}
        return tuple(
            effect
            for effect in self._read()[0]
            if name in {None, effect.name}
            and wanted == {key: _key(effect.data[key]) for key in wanted if key in effect.data}
        )

    def count(self, name: str | None = None, /, **where: Any) -> int:
        """Return how many effects there are; see `effects`."""
        return len(self.effects(name, **where))

    @property
    def torn(self) -> tuple[str, ...]:
        """The lines that a process died over: what it was about to record is not known."""
        return self._read()[1]

    def assert_exactly_once(self, name: str, /, **where: Any) -> None:
        """Fail unless something was done once, neither more nor less.

        Args:
            name: The effect.
            where: Its data, or part of them. Without, every effect of that name counts: there
                is one at least, and no two have the same data.

        Raises:
            AssertionError: With all that was recorded.
        """
        __tracebackhide__ = True
        found = self.effects(name, **where)
        groups = [found] if where else _by_data(found)
        for group in groups or [()]:
            if len(group) != 1:
                what = group[0] if group and not where else _call(name, where)
                times = f"recorded {len(group)} times" if group else "never recorded"
                self._fail(f"{what} was {times}, not exactly once", group)

    def assert_at_least_once(self, name: str, /, **where: Any) -> None:
        """Fail unless something was done; see `assert_exactly_once`."""
        __tracebackhide__ = True
        if not self.effects(name, **where):
            self._fail(f"{_call(name, where)} was never recorded", ())

    def assert_order(self, *steps: str | tuple[str, Mapping[str, Any]], **where: Any) -> None:
        """Fail unless things were done in this order: all of a step before all of the next.

        Args:
            steps: Names of effects, or names with data:
                `assert_order(("charged", {"order": 1}), ("charged", {"order": 2}))`.
            where: Data that the effects of all steps have.

        Raises:
            AssertionError: If a step was never recorded, or one was before its turn.
            LedgerError: If there are not two steps.
        """
        __tracebackhide__ = True
        if len(steps) < 2:
            raise LedgerError("assert_order: an order has two steps at least; name the effects")
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
        shown = [effect for n, effect in enumerate(effects) if n < _SHOWN or effect in concerned]
        for effect in shown:
            mark = ">" if effect in concerned else " "
            after = effect.monotonic - effects[0].monotonic
            lines.append(f"{mark} {after:8.3f} s  {effect}  (pid {effect.pid}, {effect.thread})")
        if len(shown) < len(effects):
            lines.append(f"  and {len(effects) - len(shown)} more")
        lines += [f"  torn, as a process died while it recorded: {line}" for line in torn]
        raise AssertionError("\n".join(lines))


_sequence = itertools.count()
_SHOWN = 50
"""Effects that a failed assertion lists, besides those that it is about."""


def _as_json(name: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return data as they come back from the file: tuples are lists, and so on."""
    kept = {}
    for key, value in data.items():
        try:
            kept[key] = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise LedgerError(
                f"effect {name!r}: {key}={value!r} has no JSON form ({error}); give text,"
                " numbers, lists or dicts"
            ) from None
    return kept


def _key(value: Any) -> str:
    """Return a text that two values share only if they are the same in JSON (1 is not True)."""
    return json.dumps(value, sort_keys=True)


def _effect(line: bytes) -> Effect | None:
    """Read a line; None for a torn one, which can't be whole JSON as it lacks the last brace."""
    try:
        fields = json.loads(line)
        return Effect(name=fields.pop("effect"), **fields)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _ends_a_line(file: int) -> bool:
    """Say whether what is appended begins a line: whoever wrote last may have been killed."""
    size = os.fstat(file).st_size
    return size == 0 or os.pread(file, 1, size - 1) == b"\n"


def _by_data(effects: Iterable[Effect]) -> list[list[Effect]]:
    groups: dict[str, list[Effect]] = {}
    for effect in effects:
        groups.setdefault(_key(effect.data), []).append(effect)
    return list(groups.values())


def _call(name: str, data: Mapping[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in data.items())})"
