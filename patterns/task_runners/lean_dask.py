# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "prefect>=3.8,<3.10", "prefect-dask>=0.3.6,<0.4", "distributed>=2025.1,<2027",
#   "cloudpickle>=3,<4", "packaging>=24,<27"
# ]
# ///
"""Run tasks on Dask with what they share sent to a worker once, not with every task.

Problem:
    `DaskTaskRunner` dumps all settings and the flow for each task that is submitted, and each
    task run on a worker reads the settings again, makes an API client with certificates of its
    own and asks the API for the result storage. It costs many times what the task engine does.
    `LeanDaskTaskRunner` takes the same arguments and gives the same futures: settings, flow,
    client and result store reach a worker once in a flow run, and a task once.

Guarantees:
    same: values, states, attempts, events, logs, names and relationships of task runs are those
        of `DaskTaskRunner`.
    once: a worker sets up settings, client and flow once in a flow run, not in every task run.
    around: each task run has the tags and settings around its own submit.
    apart: flow runs that share a worker see their own flow run, settings and tags.
    closed: after a flow run its context and its clients are gone from the workers.
    joined: a worker that joins during a flow run takes part in it.
    died: a flow run goes on where a worker dies, also where no other one is left but a new one,
        and after a restart of all workers.
    waits: a submit never waits for a worker to be free.
    nested: a task that submits tasks is their parent, as with `DaskTaskRunner`.
    refused: with a Prefect whose private interface was not tried, its import fails in one line.

Not for:
    Workers that can't import this file: it must lie where the modules of your tasks do. Tasks that
    rely on a copy of their globals for each run: a task is unpickled once in a worker, so that its
    runs there share what it came with, as they share modules. Settings, and parameters of the flow
    run, that are changed in place after the first submit: tasks see them as they were then.

Costs:
    Rows `map` and `map-vs-baseline` of the report, under "What do the lean task runners save?":
    `lean-dask` beside `dask-processes`, and beside the pool that both stand on. What is left, and
    whose it is: rows `processor-time-flow`, `processor-time-workers` and `processor-time-server`.
    Rows `fan-out` and `memory`: 10,000 tasks at once, and a worker after 50 flow runs.

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
        f"lean_dask.py: it was tried with Prefect 3.8 and 3.9, not with {prefect.__version__};"
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
"""Task runs of a map that the scheduler is told of at once."""
SPREAD_SECONDS = 0.2
"""How long a submit waits for what is new to be on all workers; where they are busy, once."""
TASKS_KEPT = 128
"""Tasks of one flow run that are not sent again; of more, those last used."""


class Carried:
    """Something that is pickled by its owner and unpickled once in each worker that needs it."""

    def __init__(self, pickled: bytes) -> None:
        """Take what was pickled."""
        self.pickled = pickled
        self._lock = threading.Lock()
        self._unpickled: list[Any] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.pickled,)

    def get(self) -> Any:
        """Return it, the same object for all threads of a process."""
        with self._lock:
            if not self._unpickled:
                self._unpickled.append(self.unpickle())
            return self._unpickled[0]

    def unpickle(self) -> Any:
        """Make it of what was pickled."""
        return cloudpickle.loads(self.pickled)


Entered = tuple[tuple[contextvars.ContextVar[Any], Any], ...]


class SharedContext(Carried):
    """What the task runs of a flow run have in common, as context variables and their values.

    Dask keeps it in a worker as long as its flow run needs it; when it goes, its client is closed.
    """

    def unpickle(self) -> Entered:
        """Enter it, where that is no thread's business."""
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
    """What is a task run's own.

    Attributes:
        task_run_id: Its id.
        tags: Those of `with tags(...)` around the submit.
        assets: The assets that the task reads and makes, if it has some.
        parent: The task run that submits it, if one does.
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
    # Beside what Dask keeps there, such as the worker.
    state: State[Any] = contextvars.copy_context().run(_run, shared, call, engine)
    _forget_frames(getattr(state.data, "result", state.data))
    return state


def _forget_frames(failure: Any) -> None:
    """Take from an exception what it tells of where it was raised; none of it leaves a worker.

    Its frames hold all that the flow run shares here, for as long as Prefect holds the exception:
    always, if it is of the task run with which its services started.
    """
    if isinstance(failure, BaseException) and failure.__traceback__:
        failure.__traceback__ = None
        of_a_group = failure.exceptions if isinstance(failure, BaseExceptionGroup) else ()
        for each in (failure.__cause__, failure.__context__, *of_a_group):
            _forget_frames(each)


class Variable:
    """A context variable that a pickled script may refer to; elsewhere it is another one."""

    def __init__(self) -> None:
        """Start without a value."""
        self._variable: contextvars.ContextVar[Any] = contextvars.ContextVar("lean_dask")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()

    def get(self) -> Any:
        """Return its value here, None where it has none."""
        return self._variable.get(None)

    def set(self, value: Any) -> contextvars.Token[Any]:
        """Give it a value here."""
        return self._variable.set(value)

    def reset(self, token: contextvars.Token[Any]) -> None:
        """Give back the value that it had before it was set."""
        self._variable.reset(token)


MadeOf = tuple[FlowRunContext | None, SettingsContext | None]
_came = Variable()
"""In a task run: what came as shared context, and what it became here."""


def _run(shared: SharedContext, call: Call, engine: dict[str, Any]) -> Any:
    for variable, value in shared.get():
        variable.set(value)
    with ExitStack() as stack:
        if flow_run := FlowRunContext.get():
            assert flow_run.flow is not None
            # What tasks note in it, for the tasks that they call, is theirs alone.
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
    """What one task runner has sent to the workers, and keeps there."""

    def __init__(self, client: Client) -> None:
        """Send by a client."""
        self._client = client
        self._lock = threading.Lock()
        self._contexts: list[tuple[MadeOf, str, Future[Any]]] = []
        self._tasks: OrderedDict[tuple[str, bytes], Future[Any]] = OrderedDict()
        self._spreads = True
        self._arriving: list[Future[Any]] = []

    def send(self, task: Task[..., Any]) -> tuple[Future[Any], Future[Any]]:
        """Return the shared context and the task on the workers, sending those that are new."""
        # A function in a function may have changed what it encloses.
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
        # A restart of the workers takes all away from them.
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
        """Have something on the workers, and made again where it is lost.

        What two clients send alike, as a task does that submits others, is there once.
        """
        digest = hashlib.blake2b(of.encode() + carried.pickled, digest_size=16).hexdigest()
        name = f"{type(carried).__name__}-{digest}"
        # What `dask.annotate` says around a submit, of workers above all, is said of its task.
        future = contextvars.Context().run(
            self._client.submit, type(carried), carried.pickled, key=name, pure=False
        )
        if TaskRunContext.get() is None and self._spreads:
            self._spreads = contextvars.Context().run(self._spread, future)
        return name, future

    def _spread(self, future: Future[Any]) -> bool:
        """Have it on all workers, if they are not too busy to take it at once.

        Dask runs a task where what it needs is: were that one worker, all would be there, until
        others take some away. A task that submits others does not wait: it may hold the last free
        thread. Not by `Client.replicate`: what comes to a worker after the flow run would stay.
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
            # Workers went away meanwhile; whoever needs it there gets it from another one.
            return True
        return True


def arrived(carried: Carried) -> None:
    """Do nothing on a worker, for which something must be there."""


Submitted = tuple[PrefectDaskFuture[Any], tuple[Any, ...]]
_batch = Variable()
"""While a map goes on: its task, and the task runs that the scheduler has not been told of."""


def listed(value: Any) -> Any:
    """Read what a map would read item by item, for reading it may submit tasks, too."""
    if isinstance(value, BaseAnnotation) and not isinstance(value, unmapped):
        return value.rewrap(listed(value.unwrap()))
    return (
        list(value) if isinstance(value, Iterable) and not isinstance(value, Collection) else value
    )


class LeanDaskTaskRunner(DaskTaskRunner):
    """`DaskTaskRunner`, with the same arguments, at a fraction of its cost for each task."""

    _sent: Sent | None = None

    def submit(  # type: ignore[override]  # as that of `DaskTaskRunner`
        self,
        task: Task[..., Any],
        parameters: dict[str, Any],
        wait_for: Iterable[PrefectDaskFuture[Any]] | None = None,
        dependencies: dict[str, set[RunInput]] | None = None,
    ) -> PrefectDaskFuture[Any]:
        """Submit a task.

        Args:
            task: The task.
            parameters: What it is called with; futures in it are waited for on the workers.
            wait_for: What must have ended before.
            dependencies: Task runs that it depends on, by parameter, beside those in parameters.

        Returns:
            A future of its final state.

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
        # `map` gives it what it waits for before anyone else sees it.
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
        """Submit a task for each item; the scheduler is told of many at a time."""
        parameters = {name: listed(value) for name, value in parameters.items()}
        batch: list[Submitted] = []
        token = _batch.set((task, batch))
        try:
            return super().map(task, parameters, wait_for)  # type: ignore[no-any-return]
        finally:
            _batch.reset(token)
            self._hand_over(task, batch)

    def _hand_over(self, task: Task[..., Any], batch: list[Submitted]) -> None:
        """Tell the scheduler of task runs, and empty the batch."""
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
            # Prefect looks for it there to find out what depends on what.
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
    """Weigh some on a cluster of this machine."""
    runner: TaskRunner[Any] = LeanDaskTaskRunner(
        cluster_kwargs={"n_workers": 2, "threads_per_worker": 1, "host": "127.0.0.1"}
    )
    print(weigh_parcels.with_options(task_runner=runner)(["book", "lamp", "chair"]), "in all")


if __name__ == "__main__":  # every worker process imports this file again
    main()
