# SPDX-License-Identifier: Apache-2.0
"""Prefect's idea of now, moved to virtual time."""

from __future__ import annotations

import datetime
import types
from typing import Any

from flowgauge.clock.shared_time import SharedTime

_time: SharedTime | None = None
_real_now: types.FunctionType | None = None


def move_now(shared: SharedTime) -> None:
    """Let Prefect's `now` tell virtual time in this process.

    Modules bind the function with `from ... import now` before anyone could replace it, so its
    code is exchanged and not its name.

    Args:
        shared: How far virtual time is ahead.
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
    # Runs with the globals of Prefect's module.
    from flowgauge.clock.prefect_time import moved_now

    return moved_now(tz)


def moved_now(tz: str | Any = "UTC") -> datetime.datetime:
    """Return virtual time as Prefect's `now` returns real time.

    Args:
        tz: A time zone or its name.

    Returns:
        A date and time of the same type.
    """
    assert _real_now is not None
    assert _time is not None
    real: datetime.datetime = _real_now(tz)
    ahead = _time.ahead
    if not ahead:
        return real
    # In UTC: adding hours to a local time is wrong where summer time begins or ends.
    moved: datetime.datetime = _real_now("UTC") + datetime.timedelta(seconds=ahead)
    return moved if tz == "UTC" else moved.astimezone(real.tzinfo)
