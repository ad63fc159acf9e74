# SPDX-License-Identifier: Apache-2.0
"""Checks of what a test asks of its faults; a mistake fails the test there, in one line."""

from __future__ import annotations

import glob
import pickle
import re
from typing import TYPE_CHECKING, NoReturn

import pytest

from flowgauge.faults.plan import FAULT_POINTS

if TYPE_CHECKING:
    from typing import Any

_SHOWN = 60
"""Characters of an argument in messages; a table or a page would hide the rest."""


def selected(method: str, task: Any, at: object) -> str:
    """Return the pattern of the names of tasks that a call selects.

    Args:
        method: The method of `Faults` that is called.
        task: A task, its name, or a pattern of names.
        at: A point in its runs, or None.

    Returns:
        The pattern.
    """
    from prefect.tasks import Task

    name = glob.escape(task.name) if isinstance(task, Task) else task
    if not isinstance(name, str):
        refuse(f"faults.{method}({shown(task)}): that is no task; give a task or its name")
    if at is not None and at not in FAULT_POINTS:
        points = ", ".join(f'"{point}"' for point in FAULT_POINTS)
        refuse(f"{called(method, name, at)}: there is no such point; choose from {points}")
    return name


def called(method: str, task: str, at: object) -> str:
    """Return a call that selects tasks and a point, as the test wrote it, for messages."""
    where = "" if at is None else f", at={at!r}"
    return f"faults.{method}({task!r}{where})"


def is_count(value: object) -> bool:
    """Return whether a value is a whole number from 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def is_number(value: object) -> bool:
    """Return whether a value is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def packed_error(call: str, error: Any) -> bytes:
    """Return an exception pickled for other processes, after checking that it can be unpickled.

    Args:
        call: How the test asked for it, for messages.
        error: The exception or its class.

    Returns:
        The pickled exception.
    """
    packed, unpickled = _packed(call, error, lambda: error() if isinstance(error, type) else error)
    if not isinstance(unpickled, Exception):
        refuse(f"{call}: {error!r} is not an exception; give one, or its class")
    return packed


def packed_value(call: str, value: Any) -> bytes:
    """Return a value or function pickled for other processes, after the same check.

    Args:
        call: How the test asked for it, for messages.
        value: The value or function.

    Returns:
        The pickled value.
    """
    return _packed(call, value, lambda: value)[0]


def _packed(call: str, given: Any, value: Any) -> tuple[bytes, Any]:
    import cloudpickle

    try:
        packed: bytes = cloudpickle.dumps(value())
        return packed, pickle.loads(packed)
    except Exception as cause:
        refuse(
            f"{call}: {shown(given)} can't be sent to other processes"
            f" ({type(cause).__name__}: {' '.join(str(cause).split())})"
        )


def shown(value: object) -> str:
    """Return a value as part of a line."""
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", " ".join(repr(value).split()))
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def refuse(line: str) -> NoReturn:
    """Fail the test with one line."""
    pytest.fail(line, pytrace=False)
