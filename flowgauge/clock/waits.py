# SPDX-License-Identifier: Apache-2.0
"""The hooks of the virtual clock in the waits of Prefect's client; see `compat.waits`."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import math
import sys
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any, Literal
from unittest.mock import patch

from flowgauge.clock.process import ClockProcess
from flowgauge.compat.features import PrivateName, usable
from flowgauge.compat.names import SKIPPED_WATCHES, TOLD_WAITS
from flowgauge.compat.waits import (
    ASYNC_WATCHES,
    DEADLINES,
    POLLS,
    SLOTS,
    SYNC_WATCHES,
    TIMED_SLOTS,
    TOLD,
)

Kind = Literal["deadline", "poll", "slot", "told"]

TIME_NAME = "flowgauge: virtual time"
"""The name under which sync functions import `time` while the clock runs."""


def replace_waits(process: ClockProcess, stack: contextlib.ExitStack) -> None:
    """Make the waits of Prefect's client virtual, or report those that cannot be.

    Args:
        process: This process's side of the clock.
        stack: Restores what is replaced when it is closed.
    """
    kinds: dict[PrivateName, Kind] = dict.fromkeys(DEADLINES, "deadline")
    kinds |= dict.fromkeys(POLLS, "poll")
    kinds |= dict.fromkeys(SLOTS, "slot")
    if usable(SKIPPED_WATCHES, process.home):
        kinds |= dict.fromkeys(ASYNC_WATCHES, "poll")
        for name in SYNC_WATCHES:
            _import_virtual_time(process, stack, name)
        for module_name in {name.module for name in TIMED_SLOTS}:
            module = importlib.import_module(module_name)
            timeout = _limited_timeout(process, module.timeout_async)
            stack.enter_context(patch.object(module, "timeout_async", timeout))
    if usable(TOLD_WAITS, process.home):
        kinds |= dict.fromkeys(TOLD, "told")
    for (module_name, sleeper), functions in _by_sleeper(kinds).items():
        module = importlib.import_module(module_name)
        stock = getattr(module, sleeper)
        new: dict[str, Any] = {"sleep": _virtual_sleep(process, stock, functions)}
        for limit in ("move_on_after", "fail_after"):
            if hasattr(stock, limit):
                new[limit] = _limited_scope(process, getattr(stock, limit), functions)
        stack.enter_context(patch.object(module, sleeper, ModuleWith(stock, **new)))


def _by_sleeper(
    kinds: Mapping[PrivateName, Kind],
) -> dict[tuple[str, str], dict[str, Kind]]:
    """Return the waiting functions by module and the module whose `sleep` they call."""
    functions: dict[tuple[str, str], dict[str, Kind]] = {}
    for name, kind in kinds.items():
        functions.setdefault((name.module, name.uses[0]), {})[name.last] = kind
    return functions


class ModuleWith(types.ModuleType):
    """A module with some of its names replaced, as seen by a single importing module."""

    def __init__(self, stock: types.ModuleType, **names: Any) -> None:
        """Replace names.

        Args:
            stock: The module.
            **names: What replaces its names.
        """
        super().__init__(stock.__name__)
        self.__dict__.update(names)
        self._stock = stock

    def __getattr__(self, name: str) -> Any:
        """Return what is not replaced."""
        return getattr(self._stock, name)


def _virtual_sleep(
    process: ClockProcess, stock: types.ModuleType, functions: Mapping[str, Kind]
) -> Callable[[float], Any]:
    """Return a `sleep` that is virtual when called by some functions and stock otherwise."""
    is_async = stock.__name__ != "time"

    def sleep(seconds: float) -> Any:
        caller = sys._getframe(1)
        kind = functions.get(caller.f_code.co_name)
        if not process.time.running or kind is None or seconds <= 0:
            return stock.sleep(seconds)
        told = "for the Prefect server to answer" if kind == "told" else ""
        if caller.f_locals.get("mode") == "rate_limit":
            # The database gives its slots back in real time.
            told = "for a rate limit"
        if told:
            if seconds >= 1:
                process.tell(about="unskipped", sentence=f"a wait of {seconds:g} s {told}")
            return stock.sleep(seconds)
        poller = None if kind == "deadline" else id(caller)
        if is_async:
            return process.sleep_async(seconds, poller=poller, slot=kind == "slot")
        return process.sleep(seconds, poller=poller)

    return sleep


def _limited_scope(
    process: ClockProcess, stock: Any, functions: Iterable[str]
) -> Callable[..., AbstractContextManager[Any]]:
    """Return a time limit of anyio that also ends when virtual time has passed."""

    def limit(delay: float | None, *args: Any, **options: Any) -> AbstractContextManager[Any]:
        caller = sys._getframe(1)
        scope: AbstractContextManager[Any] = stock(delay, *args, **options)
        if not process.time.running or caller.f_code.co_name not in functions or delay is None:
            return scope
        return _limited(process, scope, delay, _awaited_run(caller))

    return limit


@contextlib.contextmanager
def _limited(
    process: ClockProcess, stock: AbstractContextManager[Any], seconds: float, run: str | None
) -> Iterator[Any]:
    loop = asyncio.get_running_loop()
    end = process.time.now() + seconds
    with stock as scope:

        def expire() -> None:
            # It is also called when the clock ends.
            if process.time.now() >= end:
                scope.deadline = loop.time()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(expire)

        with process.waiting(wake, end, gives_up=True, awaited_run=run):
            yield scope


def _limited_timeout(
    process: ClockProcess, stock: Any
) -> Callable[..., AbstractContextManager[None]]:
    """Return Prefect's `timeout_async` so that it also ends when virtual time has passed."""
    import anyio

    @contextlib.contextmanager
    def timeout_async(
        seconds: float | None = None, timeout_exc_type: type[TimeoutError] = TimeoutError
    ) -> Iterator[None]:
        if seconds is None or not process.time.running:
            with stock(seconds, timeout_exc_type):
                yield
            return
        try:
            with _limited(process, anyio.fail_after(seconds), seconds, None):
                yield
        except TimeoutError as error:
            raise timeout_exc_type(f"Scope timed out after {seconds} second(s).") from error

    return timeout_async


def _import_virtual_time(
    process: ClockProcess, stack: contextlib.ExitStack, name: PrivateName
) -> None:
    """Make a function that imports `time` in its own code import virtual time instead.

    Only the name that it imports is changed: others may hold the function itself, and patching the
    module `time` would change it for everybody.
    """
    owner: Any = importlib.import_module(name.module)
    for step in name.path.split("."):
        owner = getattr(owner, step)
    function: Any = inspect.unwrap(owner)
    code = function.__code__
    names = tuple(TIME_NAME if used == "time" else used for used in code.co_names)
    sys.modules[TIME_NAME] = ModuleWith(
        time,
        sleep=_limited_sleep(process),
        monotonic=lambda: time.monotonic() + process.time.ahead,
    )
    function.__code__ = code.replace(co_names=names)
    stack.callback(setattr, function, "__code__", code)


def _limited_sleep(process: ClockProcess) -> Callable[[float], None]:
    def sleep(seconds: float) -> None:
        caller = sys._getframe(1)
        if not process.time.running or seconds <= 0:
            time.sleep(seconds)
            return
        timeout = caller.f_locals.get(
            "timeout", getattr(caller.f_locals.get("self"), "timeout", None)
        )
        left = math.inf
        if timeout is not None:
            passed = time.monotonic() + process.time.ahead - caller.f_locals["start_time"]
            left = max(0.0, timeout - passed)
        process.sleep(
            seconds, poller=id(caller), gives_up_in=left, awaited_run=_awaited_run(caller)
        )

    return sleep


def _awaited_run(caller: FrameType) -> str | None:
    """Return the flow run that a function waits for, if it waits for one."""
    run = caller.f_locals.get("flow_run_id")
    return None if run is None else str(run)
