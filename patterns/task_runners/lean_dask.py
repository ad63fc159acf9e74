# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "prefect>=3.8,<3.10", "prefect-dask>=0.3.6,<0.4", "distributed>=2025.1,<2027",
#   "cloudpickle>=3,<4", "packaging>=24,<27"
# ]
# ///
"""Run tasks on Dask, sending what they share to each worker once, not with every task.

Problem:
    `DaskTaskRunner` serialises all settings and the flow for each task that is submitted, and each
    task run on a worker reads the settings again, creates an API client that loads its own
    certificates and asks the API for the result storage. That costs many times as much as the task
    engine. `LeanDaskTaskRunner` takes the same arguments and returns the same futures, but
    settings, flow, client and result store reach a worker only once per flow run, and so does each
    task.

Guarantees:
    same: values, states, attempts, events, logs, names and relationships of task runs are the same
        as with `DaskTaskRunner`.
    once: a worker sets up settings, client and flow once per flow run, not once per task run.
    around: each task run has the tags and settings that were set around its own submit.
    apart: flow runs that share a worker each see their own flow run, settings and tags.
    closed: after a flow run its context and its clients are gone from the workers.
    joined: a worker that joins during a flow run takes part in it.
    died: a flow run continues when a worker dies or its host is cut off, even if the only one left
        is newly started, and after a restart of all workers.
    waits: a submit never waits for a worker to be free.
    nested: a task that submits tasks is their parent, as with `DaskTaskRunner`.
    refused: with a Prefect version whose private interface was not tried, importing this file fails
        with a one-line error.

Not for:
    Workers that can't import this file: put it where the modules of your tasks are. Tasks that rely
    on a copy of their globals for each run: a task is unpickled once per worker, so that its runs
    there share what was pickled with it, as they share modules. Settings, and parameters of the
    flow run, that are modified in place after the first submit: tasks see them as they were then.

Costs:
    Rows `map` and `map-vs-baseline` of the report, under "What do the lean task runners save?":
    `lean-dask` compared with `dask-processes`, and with the pool that both are built on. The costs
    that are left, and where they arise: rows `processor-time-flow`, `processor-time-workers` and
    `processor-time-server`. Row `memory`: a worker after 50 flow runs.

Sources:
    - https://docs.prefect.io/integrations/prefect-dask
    - https://distributed.dask.org/en/stable/locality.html
    - Prefect #18883 and #12252: the cost of a small task
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import operator
import threading
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Collection, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import cloudpickle
import prefect
from distributed import CancelledError, Client, Future, wait
from packaging.version import Version

# What is imported below is private.
if Version(prefect.__version__).release[:2] not in {(3, 8), (3, 9)}:
    raise ImportError(
        f"lean_dask.py: it was tested with Prefect 3.8 and 3.9, not with {prefect.__version__};"
        " use prefect_dask.DaskTaskRunner"
    )

from prefect import Task, flow, tags, task
from prefect._flow_run_suspension import FlowRunSuspensionRequest
from prefect.client.schemas.objects import RunInput, State
from prefect.context import (
    AssetContext,
    FlowRunContext,
    SettingsContext,
    SyncClientContext,
    TagsContext,
    TaskRunContext,
    hydrated_context,
    serialize_context,
)
from prefect.futures import PrefectFuture, PrefectFutureList
from prefect.results import default_cache
from prefect.task_engine import run_task_async, run_task_sync
from prefect.task_runners import TaskRunner
from prefect.utilities.annotations import BaseAnnotation, unmapped
from prefect.utilities.engine import collect_task_run_inputs_sync
from prefect_dask.task_runners import DaskTaskRunner, PrefectDaskFuture

BATCH = 100
"""How many task runs of a map are sent to the scheduler at once."""
SPREAD_SECONDS = 0.2
"""How long a submit waits for a new object to reach all workers; if they are busy, only once."""
TASKS_KEPT = 128
"""How many tasks of one flow run, the last used, stay on the workers and are not sent again."""


class Carried:
    """An object that is pickled by its owner and unpickled once in each worker that needs it."""

    def __init__(self, pickled: bytes) -> None:
        """Store the pickled object."""
        self.pickled = pickled
        self._lock = threading.Lock()
        self._unpickled: list[Any] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.pickled,)

    def get(self) -> Any:
        """Return the object, which is the same for all threads of a process."""
        with self._lock:
            if not self._unpickled:
                self._unpickled.append(self.unpickle())
            return self._unpickled[0]

    def unpickle(self) -> Any:
        """Unpickle the object."""
        return cloudpickle.loads(self.pickled)


Entered = tuple[tuple[contextvars.ContextVar[Any], Any], ...]


class SharedContext(Carried):
    """What the task runs of a flow run share, as context variables and their values.

    Dask keeps it on a worker as long as its flow run needs it; when it is released, its client is
    closed.
    """

    def unpickle(self) -> Entered:
        """Enter the context in a separate `contextvars.Context`, which no thread uses."""
        context, stack = contextvars.Context(), ExitStack()
        try:
            context.run(self._enter, stack)
        except BaseException:
            context.run(stack.close)
            raise
        weakref.finalize(self, context.run, stack.close).atexit = False
        return tuple(context.items())

    def _enter(self, stack: ExitStack) -> None:
        stack.enter_context(hydrated_context(super().unpickle()))
        stack.enter_context(SyncClientContext())


@dataclass(frozen=True)
class Call:
    """What belongs to a single task run.

    Attributes:
        task_run_id: Its id.
        tags: The tags that `with tags(...)` set around the submit.
        assets: The assets that the task reads and creates, if any.
        parent: The task run that submits it, if any.
    """

    task_run_id: uuid.UUID
    tags: frozenset[str]
    assets: dict[str, Any]
    parent: dict[str, Any]


def run_on_worker(
    call: Call,
    parameters: dict[str, Any],
    wait_for: Any,
    dependencies: dict[str, set[RunInput]],
    *,
    shared: SharedContext,
    carried: Carried,
) -> State[Any]:
    """Run a task in the context of its flow run, and return its final state."""
    engine = {
        "task": carried.get(),
        "task_run_id": call.task_run_id,
        "parameters": parameters,
        "wait_for": wait_for,
        "return_type": "state",
        "dependencies": dependencies,
    }
    # In a copy, which has what Dask keeps there, such as the worker.
    state: State[Any] = contextvars.copy_context().run(_run, shared, call, engine)
    _forget_frames(getattr(state.data, "result", state.data))
    return state


def _forget_frames(failure: Any) -> None:
    """Remove the traceback from an exception and its causes; it would not leave the worker anyway.

    Its frames keep alive all that the flow run shares here, for as long as Prefect holds the
    exception: forever, if it is from the task run during which Prefect's services started.

    Args:
        failure: The exception; anything else is ignored.
    """
    if isinstance(failure, BaseException) and failure.__traceback__:
        failure.__traceback__ = None
        of_a_group = failure.exceptions if isinstance(failure, BaseExceptionGroup) else ()
        for each in (failure.__cause__, failure.__context__, *of_a_group):
            _forget_frames(each)


class Variable:
    """A context variable that a pickled script may refer to; unpickled, it is another variable."""

    def __init__(self) -> None:
        """Start without a value."""
        self._variable: contextvars.ContextVar[Any] = contextvars.ContextVar("lean_dask")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()

    def get(self) -> Any:
        """Return its value in the current context, or None if it has none."""
        return self._variable.get(None)

    def set(self, value: Any) -> contextvars.Token[Any]:
        """Set its value in the current context."""
        return self._variable.set(value)

    def reset(self, token: contextvars.Token[Any]) -> None:
        """Restore the value that it had before it was set."""
        self._variable.reset(token)


MadeOf = tuple[FlowRunContext | None, SettingsContext | None]
_came = Variable()
"""In a task run: the contexts that the worker made of the shared context, and its pickled form."""


def _run(shared: SharedContext, call: Call, engine: dict[str, Any]) -> Any:
    for variable, value in shared.get():
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
            flow_run = stack.enter_context(flow_run.model_copy(update=own))
            _came.set(((flow_run, SettingsContext.get()), shared.pickled))
        if call.parent:
            client = SyncClientContext.get()
            assert client is not None
            stack.enter_context(TaskRunContext(**call.parent, client=client.client))
        stack.enter_context(tags(*call.tags))
        if call.assets:
            stack.enter_context(AssetContext(**call.assets))
        if engine["task"].isasync:
            return asyncio.run(run_task_async(**engine))
        return run_task_sync(**engine)


class Sent:
    """What one task runner has sent to the workers and keeps there."""

    def __init__(self, client: Client) -> None:
        """Send through a Dask client."""
        self._client = client
        self._lock = threading.Lock()
        self._contexts: list[tuple[MadeOf, str, Future[Any]]] = []
        self._tasks: OrderedDict[tuple[str, bytes], Future[Any]] = OrderedDict()
        self._spreads = True
        self._arriving: list[Future[Any]] = []

    def send(self, task: Task[..., Any]) -> tuple[Future[Any], Future[Any]]:
        """Return futures of the shared context and of the task, sending whichever is new."""
        # Pickled each time, as a nested function may have changed what it encloses.
        pickled = cloudpickle.dumps(task)
        with self._lock:
            name, context = self._context()
            key = name, hashlib.blake2b(pickled, digest_size=16).digest()
            if key not in self._tasks or self._tasks[key].cancelled():
                self._tasks[key] = self._keep(Carried(pickled), name)[1]
            self._tasks.move_to_end(key)
            while len(self._tasks) > TASKS_KEPT:
                self._tasks.popitem(last=False)
            return context, self._tasks[key]

    def _context(self) -> tuple[str, Future[Any]]:
        here = FlowRunContext.get(), SettingsContext.get()
        # After a restart the workers have lost everything.
        self._contexts = [each for each in self._contexts if not each[2].cancelled()]
        for made_of, name, future in self._contexts:
            if all(map(operator.is_, made_of, here)):
                return name, future
        came: tuple[MadeOf, bytes] | None = _came.get()
        if came and all(map(operator.is_, came[0], here)):
            pickled = came[1]
        else:
            own: dict[str, Any] = {"tags_context": {}, "task_run_context": {}}
            pickled = cloudpickle.dumps(serialize_context() | own)
        name, future = self._keep(SharedContext(pickled))
        self._contexts.append((here, name, future))
        return name, future

    def _keep(self, carried: Carried, of: str = "") -> tuple[str, Future[Any]]:
        """Keep an object on the workers, where Dask makes it again if it is lost.

        If two clients send the same, as happens in a task that submits others, it is there once.

        Args:
            carried: The object.
            of: The name of the shared context that it belongs to, if any.

        Returns:
            The object's name on the workers, and its future.
        """
        digest = hashlib.blake2b(of.encode() + carried.pickled, digest_size=16).hexdigest()
        name = f"{type(carried).__name__}-{digest}"
        # In an empty context: what `dask.annotate` says around a submit, above all of workers, is
        # meant for its task.
        future = contextvars.Context().run(
            self._client.submit, type(carried), carried.pickled, key=name, pure=False
        )
        if TaskRunContext.get() is None and self._spreads:
            self._spreads = contextvars.Context().run(self._spread, future)
        return name, future

    def _spread(self, future: Future[Any]) -> bool:
        """Copy an object to all workers, unless they are too busy to take it at once.

        Dask runs a task where its inputs are: if that were one worker, all tasks would be there
        until other workers steal some. A task that submits others does not wait: it may hold the
        last free thread. `Client.replicate` is not used, because what reaches a worker after the
        flow run would stay there.

        Args:
            future: The object.

        Returns:
            False if the workers were too busy, so that later objects are not copied.
        """
        try:
            self._arriving = [
                self._client.submit(arrived, future, workers=[worker], priority=1, pure=False)
                for worker in self._client.nthreads()  # type: ignore[no-untyped-call]
            ]
            with self._client.as_current():
                wait(self._arriving, SPREAD_SECONDS)
        except TimeoutError:
            return False
        except (CancelledError, OSError):
            # Workers left meanwhile; a task that needs the object gets it from another worker.
            return True
        return True


def arrived(carried: Carried) -> None:
    """Do nothing, on a worker to which Dask therefore copies the object."""


Submitted = tuple[PrefectDaskFuture[Any], tuple[Any, ...]]
_batch = Variable()
"""During a map: its task, and the task runs that were not sent to the scheduler yet."""


def listed(value: Any) -> Any:
    """Make a list of an iterator before a map reads it, because reading it may submit tasks."""
    if isinstance(value, BaseAnnotation) and not isinstance(value, unmapped):
        return value.rewrap(listed(value.unwrap()))
    return (
        list(value) if isinstance(value, Iterable) and not isinstance(value, Collection) else value
    )


class LeanDaskTaskRunner(DaskTaskRunner):
    """A `DaskTaskRunner` with the same arguments, at a fraction of its cost for each task."""

    _sent: Sent | None = None

    def submit(  # type: ignore[override]  # like `DaskTaskRunner.submit`
        self,
        task: Task[..., Any],
        parameters: dict[str, Any],
        wait_for: Iterable[PrefectDaskFuture[Any]] | None = None,
        dependencies: dict[str, set[RunInput]] | None = None,
    ) -> PrefectDaskFuture[Any]:
        """Submit a task.

        Args:
            task: The task.
            parameters: Its arguments by name; futures among them are waited for on the workers.
            wait_for: Futures that must have ended before the task runs.
            dependencies: Task runs it depends on, by parameter, in addition to those in parameters.

        Returns:
            A future of the task run.

        Raises:
            RuntimeError: If the runner is not started.
        """
        if not self._started:
            raise RuntimeError("The task runner must be started before submitting work.")
        parameters = self._optimize_futures(parameters)
        wait_for = self._optimize_futures(wait_for) if wait_for else None
        inputs = {
            name: collect_task_run_inputs_sync(value, future_cls=Future)
            | (dependencies or {}).get(name, set())
            for name, value in parameters.items()
        }
        task_run_id = uuid.uuid4()
        assets = AssetContext.from_task_and_inputs(
            task=task, task_run_id=task_run_id, task_inputs=inputs, copy_to_child_ctx=True
        )
        tags_here, parent = TagsContext.get(), TaskRunContext.get()
        call = Call(
            task_run_id,
            frozenset(tags_here.current_tags),
            assets.serialize(),
            parent.serialize() if parent else {},
        )
        # `_hand_over` sets its Dask future before the caller of `submit` or `map` sees it.
        future: PrefectDaskFuture[Any] = PrefectDaskFuture(task_run_id, None)  # type: ignore[arg-type]
        submitted = future, (call, parameters, wait_for, inputs)
        mapped: tuple[object, list[Submitted]] | None = _batch.get()
        if mapped is None or mapped[0] is not task:
            self._hand_over(task, [submitted])
            return future
        batch = mapped[1]
        batch.append(submitted)
        if len(batch) >= BATCH:
            self._hand_over(task, batch)
        return future

    def map(  # type: ignore[override]
        self,
        task: Task[..., Any],
        parameters: dict[str, Any],
        wait_for: Iterable[PrefectFuture[Any]] | None = None,
    ) -> PrefectFutureList[PrefectDaskFuture[Any]]:
        """Submit a task for each item, sending many at a time to the scheduler."""
        parameters = {name: listed(value) for name, value in parameters.items()}
        batch: list[Submitted] = []
        token = _batch.set((task, batch))
        try:
            return super().map(task, parameters, wait_for)  # type: ignore[no-any-return]
        finally:
            _batch.reset(token)
            self._hand_over(task, batch)

    def _hand_over(self, task: Task[..., Any], batch: list[Submitted]) -> None:
        """Send the task runs of a batch to the scheduler, and empty the batch."""
        if not batch:
            return
        if self._sent is None:
            self._sent = Sent(self.client)
        shared, carried = self._sent.send(task)
        futures = self.client.map(  # type: ignore[no-untyped-call]
            run_on_worker,
            *zip(*(arguments for _, arguments in batch), strict=True),
            key=[f"{task.name}-{future.task_run_id}" for future, _ in batch],
            pure=False,
            shared=shared,
            carried=carried,
        )
        for (future, _), wrapped in zip(batch, futures, strict=True):
            # Prefect reads it there to determine which task run depends on which.
            wrapped.task_run_id = future.task_run_id
            future._wrapped_future = wrapped
        batch.clear()


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
    """Weigh some parcels on a local cluster."""
    runner: TaskRunner[Any] = LeanDaskTaskRunner(
        cluster_kwargs={"n_workers": 2, "threads_per_worker": 1, "host": "127.0.0.1"}
    )
    print(weigh_parcels.with_options(task_runner=runner)(["book", "lamp", "chair"]), "in all")


if __name__ == "__main__":  # every worker process imports this file again
    main()
