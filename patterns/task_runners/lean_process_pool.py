# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<3.10", "cloudpickle>=3,<4", "packaging>=24,<27"]
# ///
"""Run tasks in a pool of fast-starting processes, sending what they share only once.

Problem:
    `ProcessPoolTaskRunner` spawns its workers, so that each imports Prefect and all that comes with
    it in every flow run. With each task it sends the settings, the flow, the task and the
    environment, and the worker sets all of it up again to run that one task.
    `LeanProcessPoolTaskRunner` takes the same arguments and returns the same futures, but workers
    are forked from a process that has Prefect imported, and what tasks share is set up once in each
    worker.

Guarantees:
    same: values, states, attempts, events, logs, names and relationships of task runs are the same
        as with `ProcessPoolTaskRunner`.
    around: each task run has the tags and settings that were set around its own submit.
    once: a worker sets up settings, client and flow once per flow run, not once per task run.
    start: a second flow run's workers are forked from the same process as the first ones; it has
        imported Prefect, and whatever was passed to `multiprocessing.set_forkserver_preload`
        before.
    fresh: each task run starts with the environment variables that the flow had at its first
        submit, in addition to those that an initializer set, whatever earlier task runs changed;
        functions registered with `atexit` in a worker are called at its end.
    apart: flow runs that use a task runner one after the other each see their own flow run and
        parameters.
    gone: after a flow run its workers and the folder with the data sent to them are gone.
    died: if a worker dies, its task and those that wait fail, as with `ProcessPoolTaskRunner`.
    refused: with a Prefect version whose private interface was not tried, importing this file fails
        with a one-line error.

Prefect:
    first-around (3.8): with `ProcessPoolTaskRunner` all task runs of a flow run have the tags and
        settings that were set around the first submit.
    main-again (3.8, 3.9): with Python 3.11 and 3.12 each worker of each flow run imports the main
        module anew, also with the task runner here (CPython gh-126631, fixed in later versions).

Not for:
    Tasks that rely on a copy of their globals for each run: a worker unpickles a task once, so that
    its runs there share what was pickled with it, as they share modules. Settings, and parameters
    of the flow run, that are modified in place after the first submit: tasks see them as they were
    then. Random numbers of NumPy without a seed, if the main module imports NumPy: forked workers
    start in the same random state. A flow's process that is killed: it leaves the folder behind,
    which only its user may read, with settings and environment variables in it. Environment
    variables that the flow's process had when its first worker started, but no longer has: workers
    still have them. Windows, where nothing can be forked: workers are spawned there.

Costs:
    Rows `map` and `map-vs-baseline` of the report, under "What do the lean task runners save?":
    `lean-processes` compared with `processes`, and with the pool that both are built on. The costs
    that are left, and where they arise: rows `processor-time-flow`, `processor-time-workers` and
    `processor-time-server`.

Sources:
    - https://docs.prefect.io/v3/how-to-guides/workflows/run-work-concurrently
    - https://docs.python.org/3/library/multiprocessing.html#contexts-and-start-methods
    - Prefect #18883 and #12252: the cost of a small task
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import functools
import hashlib
import multiprocessing
import operator
import os
import tempfile
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, Self

import cloudpickle
import prefect
from packaging.version import Version

# What is imported below is private.
if Version(prefect.__version__).release[:2] not in {(3, 8), (3, 9)}:
    raise ImportError(
        "lean_process_pool.py: it was tested with Prefect 3.8 and 3.9, not with"
        f" {prefect.__version__}; use prefect.task_runners.ProcessPoolTaskRunner"
    )

from prefect import Task, flow, tags, task
from prefect._flow_run_suspension import FlowRunSuspensionRequest
from prefect._internal.uuid7 import uuid7
from prefect.client.schemas.objects import RunInput, State
from prefect.context import (
    FlowRunContext,
    SettingsContext,
    SyncClientContext,
    TagsContext,
    TaskRunContext,
    hydrated_context,
    serialize_context,
)
from prefect.engine import handle_engine_signals
from prefect.events.worker import EventsWorker
from prefect.futures import PrefectConcurrentFuture, PrefectFuture, wait
from prefect.logging import get_logger, get_run_logger
from prefect.results import default_cache
from prefect.settings import get_current_settings
from prefect.task_engine import run_task_async, run_task_sync
from prefect.task_runners import (
    ProcessPoolTaskRunner,
    TaskRunner,
    _ChainedFuture,
    _initialize_process_pool_worker,
    _UnpicklingFuture,
)
from prefect.utilities.engine import resolve_inputs_sync

KEPT = 128
"""How many tasks, the last used, a worker keeps unpickled."""
PRELOADED = ["__main__", "prefect.engine", "prefect.task_engine", "prefect_dask", __name__]
"""Modules that the process from which workers are forked imports; missing ones are skipped.

`prefect_dask` is among them because Prefect imports installed integrations at the first task of a
process.
"""


def start_method() -> BaseContext:
    """Return a start method with Prefect preloaded, or spawn where the system has no forkserver."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # Multiprocessing has no public way to read the modules that were set before.
    earlier = getattr(forkserver._forkserver, "_preload_modules", [])
    context.set_forkserver_preload(list(dict.fromkeys([*earlier, *PRELOADED])))
    return context


@dataclass(frozen=True)
class Call:
    """What belongs to a single task run.

    Attributes:
        engine: Arguments of the task engine, except the task.
        tags: The tags that `with tags(...)` set around the submit.
        parent: The task run that submits it, if any.
    """

    engine: dict[str, Any]
    tags: frozenset[str]
    parent: dict[str, Any]


def run_in_worker(context: str, task: str, pickled: bytes) -> bytes:
    """Run a task in a worker.

    Args:
        context: The file with what the task runs of this flow run share.
        task: The file with the task.
        pickled: The pickled `Call`.

    Returns:
        The pickled final state of the task run.
    """
    call: Call = cloudpickle.loads(pickled)
    engine = call.engine | {"task": _unpickled(task)}
    environment, entered = _entered(context)
    # An earlier task may have changed it.
    if dict(os.environ) != environment:
        os.environ.clear()
        os.environ.update(environment)
    # In a copy, which has what an initializer keeps there.
    state: State[Any] = contextvars.copy_context().run(_run, entered, call, engine)
    return cloudpickle.dumps(state)  # type: ignore[no-any-return]


@functools.lru_cache(maxsize=KEPT)
def _unpickled(file: str) -> Any:
    return cloudpickle.loads(Path(file).read_bytes())


Entered = tuple[tuple[contextvars.ContextVar[Any], Any], ...]


@functools.cache
def _entered(file: str) -> tuple[dict[str, str], Entered]:
    """Enter a shared context until the worker ends; return its environment and its variables."""
    environment, context = cloudpickle.loads(Path(file).read_bytes())
    environment = _environment_of_worker() | environment
    os.environ.update(environment)
    entered, stack = contextvars.Context(), ExitStack()
    entered.run(_enter, stack, context)
    Finalize(None, entered.run, (stack.close,), exitpriority=0)
    _heed_atexit()
    return environment, tuple(entered.items())


@functools.cache
def _environment_of_worker() -> dict[str, str]:
    """Return the environment that the worker was started with; call it before any task runs."""
    return dict(os.environ)


@functools.cache
def _heed_atexit() -> None:
    """Have this worker call its `atexit` functions at its end, which forked ones don't do."""
    # The first to be registered is the last to be called, after the threads that send logs.
    threading._register_atexit(atexit._run_exitfuncs)  # type: ignore[attr-defined]


def _enter(stack: ExitStack, context: dict[str, Any]) -> None:
    stack.enter_context(hydrated_context(context))
    # Created in the settings that were just entered, which say where the server is.
    stack.enter_context(SyncClientContext())


def _run(entered: Entered, call: Call, engine: dict[str, Any]) -> Any:
    for variable, value in entered:
        variable.set(value)
    with ExitStack() as stack:
        if flow_run := FlowRunContext.get():
            assert flow_run.flow is not None
            # What a task records in it, for the tasks that it calls, belongs to that task alone.
            own = {
                "task_runner": stack.enter_context(flow_run.flow.task_runner.duplicate()),
                "run_results": {},
                "task_run_assets": {},
                "task_run_dynamic_keys": {},
                "observed_flow_pauses": {},
                "flow_run_suspension_request": FlowRunSuspensionRequest(),
                "result_store": flow_run.result_store.model_copy(update={"cache": default_cache()}),
            }
            stack.enter_context(flow_run.model_copy(update=own))
        if call.parent:
            client = SyncClientContext.get()
            assert client is not None
            stack.enter_context(TaskRunContext(**call.parent, client=client.client))
        stack.enter_context(tags(*call.tags))
        stack.enter_context(handle_engine_signals(engine["task_run_id"]))
        if engine["task"].isasync:
            state = asyncio.run(run_task_async(**engine))
        else:
            state = run_task_sync(**engine)
        # A worker may be ended as soon as its last task is done.
        if EventsWorker._instances:  # type: ignore[misc]
            try:
                EventsWorker.instance().wait_until_empty()
            except Exception:
                get_logger("task_runner").debug("Events may be lost", exc_info=True)
        return state


MadeOf = tuple[FlowRunContext | None, SettingsContext | None]


class LeanProcessPoolTaskRunner(ProcessPoolTaskRunner):
    """A `ProcessPoolTaskRunner` with the same arguments, at a fraction of its cost."""

    _folder: tempfile.TemporaryDirectory[str] | None = None
    """Holds what was sent: the shared context and each task, each pickled in a separate file."""

    def __enter__(self) -> Self:
        """Start without the pool, which the first task starts: most task runs never submit one."""
        TaskRunner.__enter__(self)
        self._lock = threading.Lock()
        self._contexts: list[tuple[MadeOf, str]] = []
        return self

    def submit(
        self,
        task: Task[..., Any],
        parameters: dict[str, Any],
        wait_for: Iterable[PrefectFuture[Any]] | None = None,
        dependencies: dict[str, set[RunInput]] | None = None,
    ) -> PrefectConcurrentFuture[Any]:
        """Submit a task.

        Args:
            task: The task.
            parameters: Its arguments by name; futures among them are waited for.
            wait_for: Futures that must have ended before the task runs.
            dependencies: Task runs it depends on, by parameter, in addition to those in parameters.

        Returns:
            A future of the task run.

        Raises:
            RuntimeError: If the runner is not started.
        """
        if not self._started:
            raise RuntimeError("Task runner is not started")
        with self._lock:
            if self._folder is None:
                self._start()
        # A cancelled task runner still has a folder but no pool, and accepts nothing.
        if self._resolver_executor is None:
            raise RuntimeError("Task runner is not started")
        run, parent, tags_here = FlowRunContext.get(), TaskRunContext.get(), TagsContext.get()
        logger = get_run_logger(run) if run else self.logger
        logger.debug(f"Submitting task {task.name} to process pool executor...")
        task_run_id = uuid7()
        engine = {
            "task_run_id": task_run_id,
            "parameters": parameters,
            "wait_for": wait_for,
            "return_type": "state",
            "dependencies": dependencies,
        }
        call = Call(engine, frozenset(tags_here.current_tags), parent.serialize() if parent else {})
        resolved = self._resolver_executor.submit(
            self._resolve_and_submit, task, call, self._send_context()
        )
        return PrefectConcurrentFuture(
            task_run_id=task_run_id, wrapped_future=_UnpicklingFuture(_ChainedFuture(resolved))
        )

    def _start(self) -> None:
        """Start the pool, and the thread that forwards its workers' events and logs."""
        start = start_method()
        with ExitStack() as undo:
            undo.callback(self.cancel_all)
            self._folder = tempfile.TemporaryDirectory(prefix="lean-process-pool-")
            undo.callback(self._folder.cleanup)
            self._subprocess_message_queue = start.Queue()
            self._message_forwarding_thread = threading.Thread(
                target=self._forward_subprocess_messages, name="lean process pool", daemon=True
            )
            self._message_forwarding_thread.start()
            self._resolver_executor = ThreadPoolExecutor(self._max_workers)
            self._executor = ProcessPoolExecutor(
                self._max_workers,
                mp_context=start,
                initializer=_initialize_process_pool_worker,
                initargs=(self._subprocess_message_queue, self._initializer, self._initargs),
            )
            undo.pop_all()

    def __exit__(self, *args: Any) -> None:
        """Stop the pool, and delete what was sent."""
        try:
            super().__exit__(*args)
        finally:
            if self._folder is not None:
                self._folder.cleanup()
                self._folder = None
            # So that a used task runner can be pickled, like an unused one.
            del self._lock, self._contexts

    def _resolve_and_submit(self, task: Task[..., Any], call: Call, context: str) -> Future[bytes]:
        """Wait for a task's inputs, and submit it to the pool by the file of its shared context."""
        upstream = list(call.engine["wait_for"] or ())
        wait(upstream)
        given = {
            "parameters": resolve_inputs_sync(
                call.engine["parameters"], return_data=True, max_depth=-1
            ),
            "wait_for": [future.state for future in upstream] or None,
        }
        assert self._executor is not None
        return self._executor.submit(
            run_in_worker,
            context,
            # Pickled each time, as a nested function may have changed what it encloses.
            self._send(cloudpickle.dumps(task)),
            cloudpickle.dumps(replace(call, engine=call.engine | given)),
        )

    def _send_context(self) -> str:
        """Return the file with what all task runs of a flow run in these settings share."""
        made_of = FlowRunContext.get(), SettingsContext.get()
        with self._lock:
            for known, file in self._contexts:
                if all(map(operator.is_, known, made_of)):
                    return file
            own: dict[str, Any] = {"tags_context": {}, "task_run_context": {}}
            environment = get_current_settings().to_environment_variables(exclude_unset=True)
            context = serialize_context() | own
            file = self._send(cloudpickle.dumps((environment | os.environ, context)))
            self._contexts.append((made_of, file))
            return file

    def _send(self, pickled: bytes) -> str:
        """Return the file with a pickled object, writing it unless the same was sent before."""
        assert self._folder is not None
        file = Path(self._folder.name) / hashlib.blake2b(pickled, digest_size=16).hexdigest()
        if not file.exists():
            # Renamed when complete: a worker may be reading the same file, sent by another thread.
            unfinished = file.with_suffix(f".{threading.get_ident()}")
            unfinished.write_bytes(pickled)
            unfinished.replace(file)
        return str(file)


@task
def weigh(parcel: str) -> int:
    """Weigh a parcel."""
    if not parcel:
        raise ValueError("there is nothing to weigh")
    return len(parcel)


@flow
def weigh_parcels(parcels: list[str]) -> int:
    """Weigh parcels side by side and return their sum."""
    return sum(weigh.map(parcels).result())


def main() -> None:
    """Weigh some parcels."""
    runner: TaskRunner[Any] = LeanProcessPoolTaskRunner(max_workers=2)
    print(weigh_parcels.with_options(task_runner=runner)(["book", "lamp", "chair"]), "in all")


if __name__ == "__main__":  # every worker process imports this file again
    main()
