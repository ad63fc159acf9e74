# SPDX-License-Identifier: Apache-2.0
"""Replacement of Prefect's `now` by one that returns virtual time."""

from __future__ import annotations

import datetime
import types
from typing import Any

from flowgauge.clock.shared_time import SharedTime

_time: SharedTime | None = None
_real_now: types.FunctionType | None = None


def move_now(shared: SharedTime) -> None:
    """Make Prefect's `now` return virtual time in this process.

    Modules bind the function with `from ... import now` before it could be replaced, so the
    function's code object is swapped instead of its name.

    Args:
        shared: The offset of virtual time.
    """
    import prefect.types._datetime as prefect_datetime

    global _time, _real_now
    _time = shared
    if _real_now is None:
        now: Any = prefect_datetime.now
        _real_now = types.FunctionType(
            now.__code__, now.__globals__, "real_now", now.__defaults__, now.__closure__
        )
        now.__code__ = _now.__code__


def _now(tz: str | Any = "UTC") -> datetime.datetime:
    # This code runs with the globals of Prefect's module.
    from flowgauge.clock.prefect_time import moved_now

    return moved_now(tz)


def moved_now(tz: str | Any = "UTC") -> datetime.datetime:
    """Return virtual time in the form in which Prefect's `now` returns real time.

    Args:
        tz: A time zone, or its name.

    Returns:
        The virtual time, of the type that Prefect's `now` returns.
    """
    assert _real_now is not None
    assert _time is not None
    real: datetime.datetime = _real_now(tz)
    ahead = _time.ahead
    if not ahead:
        return real
    # In UTC: adding hours to a local time is wrong across a change to or from summer time.
    moved: datetime.datetime = _real_now("UTC") + datetime.timedelta(seconds=ahead)
    return moved if tz == "UTC" else moved.astimezone(real.tzinfo)
