# SPDX-License-Identifier: Apache-2.0
"""What runs in place of a task's own code, called by Prefect's engine as that code would be."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import pickle
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NoReturn

from prefect.context import TaskRunContext

from flowgauge.faults.plan import Fault, Return
from flowgauge.faults.points import Points

Code = Callable[..., Any]


def stubbed(points: Points, stock: Any) -> Any:
    """Return `SyncTaskRunEngine.call_task_fn`, extended by stubs."""

    def call_task_fn(self: Any, transaction: Any) -> Any:
        with _stub_of_attempt(points, self, transaction):
            return stock(self, transaction)

    return call_task_fn


def stubbed_async(points: Points, stock: Any) -> Any:
    """Return `AsyncTaskRunEngine.call_task_fn`, extended by stubs."""

    async def call_task_fn(self: Any, transaction: Any) -> Any:
        with _stub_of_attempt(points, self, transaction):
            return await stock(self, transaction)

    return call_task_fn


def stubbed_generator(points: Points, stock: Any) -> Any:
    """Return a function of Prefect's engine that runs a generator task, extended by stubs.

    It takes the code of all attempts from its argument, not from the engine.
    """

    def run_generator_task(task: Any, *args: Any, **kwargs: Any) -> Any:
        def code(*its_args: Any, **its_kwargs: Any) -> Any:
            return _code(points, TaskRunContext.get(), task)(*its_args, **its_kwargs)

        plan = points.process.plan
        faults = plan.faults if plan else ()
        if any(isinstance(each.effect, Return) and each.concerns(task.name) for each in faults):
            return stock(_with_code(task, code), *args, **kwargs)
        return stock(task, *args, **kwargs)

    return run_generator_task


@contextlib.contextmanager
def _stub_of_attempt(points: Points, engine: Any, transaction: Any) -> Iterator[None]:
    """Give the engine other code if a fault replaces the task's own and the result is not cached.

    The engine gets a copy of the task, since other threads may run the task as well.
    """
    task = engine.task
    if not transaction.is_committed():
        code = _code(points, engine, task)
        engine.task = task if code is task.fn else _with_code(task, code)
    try:
        yield
    finally:
        engine.task = task


def _with_code(task: Any, code: Code) -> Any:
    copied = copy.copy(task)
    # Prefect reads the signature from what is wrapped.
    copied.fn = functools.wraps(task.fn)(code)
    return copied


def _code(points: Points, run: Any, task: Any) -> Code:
    """Return the code that a task runs in this attempt.

    Args:
        points: This process's faults.
        run: The engine or the context of the task run.
        task: The task with its own code.

    Returns:
        The code: its own unless a fault replaces it.
    """
    due = points.due(run, "in place of the body")
    if not due:
        own: Code = task.fn
        return own
    kinds = {
        (False, False): _plain,
        (False, True): _awaited,
        (True, False): _generated,
        (True, True): _generated_async,
    }
    return kinds[task.isgenerator, task.isasync](_Stub(points, due[0], task))


class _Stub:
    """The value or function that a test wants in place of a task's code."""

    def __init__(self, points: Points, fault: Fault, task: Any) -> None:
        assert isinstance(fault.effect, Return)
        self._points, self._fault, self._task = points, fault, task
        # A new copy for each attempt, as if each ran in a process of its own.
        self._content = pickle.loads(fault.effect.content)

    def result(self, args: Any, kwargs: Any) -> Any:
        """Return the value, or what the function returns for the arguments of the task."""
        if not callable(self._content):
            return self._content
        # How Prefect divides arguments into positional and named ones differs between releases.
        own = inspect.signature(self._task.fn)
        bound = own.bind(*args, **kwargs)
        try:
            _signature(self._content).bind(*bound.args, **bound.kwargs)
        except TypeError as error:
            names = ", ".join(own.parameters)
            self.refuse(f"has the parameters {names}, which the function does not take ({error})")
        return self._content(*bound.args, **bound.kwargs)

    def items(self, result: Any) -> Iterator[Any]:
        """Return the items that a generator task yields."""
        try:
            return iter(result)
        except TypeError:
            self.refuse("is a generator task; give what it yields, such as a list")

    def refuse(self, why: str) -> NoReturn:
        """End the task run with one line."""
        self._points.refuse(f"{self._fault.call}: {self._task.name!r} {why}")


def _signature(function: Code) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except ValueError:
        # Some functions that are not written in Python have none.
        return inspect.signature(lambda *args, **kwargs: None)


def _plain(stub: _Stub) -> Code:
    def code(*args: Any, **kwargs: Any) -> Any:
        result = stub.result(args, kwargs)
        if inspect.iscoroutine(result):
            result.close()
            stub.refuse("is not async; give a function that is not async either")
        return result

    return code


def _awaited(stub: _Stub) -> Code:
    async def code(*args: Any, **kwargs: Any) -> Any:
        result = stub.result(args, kwargs)
        return await result if inspect.isawaitable(result) else result

    return code


def _generated(stub: _Stub) -> Code:
    def code(*args: Any, **kwargs: Any) -> Any:
        return (yield from stub.items(stub.result(args, kwargs)))

    return code


def _generated_async(stub: _Stub) -> Code:
    async def code(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        result = stub.result(args, kwargs)
        if inspect.isawaitable(result):
            result = await result
        if hasattr(result, "__aiter__"):
            async for item in result:
                yield item
        else:
            for item in stub.items(result):
                yield item

    return code
