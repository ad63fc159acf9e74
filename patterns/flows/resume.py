# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4"]
# ///
"""Run a failed flow again without repeating the steps that had finished.

Problem:
    A flow fails at step 7 of 9. Somebody mends the cause and runs it again, and Prefect begins at
    step 1: results are not persisted, and if they are, the cache key contains the id of the run.
    Keys without that id reuse too much: tomorrow's run gets the results of today.

Guarantees:
    resumed: a new run of the flow with the same parameters makes only the calls that had not
        completed, and gets the stored results of the others; sync or async, called, submitted or
        mapped.
    retried: so does a retry of the same run, by `retries=` or by `prefect flow-run retry`.
    killed: after SIGKILL, a new process, even with another `PREFECT_HOME`, does the same if it uses
        the same result storage. The call that was cut short is made again, with its side effects.
    fresh: a run with another `edition`, or any other parameter that differs, makes every call, and
        resumes only itself.
    typed: calls share a result only if their arguments are equal and of the same types.
    mended: a task whose source was changed is run again, and so are those that get a different
        result from it.
    left-out: with `SAME_RUN - "client"` the argument or flow parameter of that name does not count.
    unkept: a call is made again, and the log says so, if its arguments, its result or a parameter
        of its flow can't be pickled, or if nothing says which run it belongs to: outside flows, and
        in a flow without parameters.
    equal: of equal calls in a run, one after the other, only the first is made; one that must be
        made each time gets an argument that differs, or `cache_policy=NO_CACHE`.

Prefect:
    default (3.8, 3.9): with `persist_result=True` alone a new run repeats everything.
    retry (3.8, 3.9): without persisted results a retry of the same run does so, too.
    json (3.8, 3.9): `INPUTS` compares arguments as JSON: `[1, 2]` gets the result of `(1, 2)`.
    generator (3.8, 3.9): of a task that yields nothing is kept if its flow fails before the task
        is exhausted: return a list of the items, and make one call for each item.
    refresh (3.8, 3.9): if a run with `PREFECT_TASKS_REFRESH_CACHE=true` fails, the next run without
        it mixes new results with older ones of the steps that come after the failure.
    transaction (3.8, 3.9): in `with transaction():` nothing is stored before the block ends.
    storage (3.8, 3.9): a run with another result storage repeats everything.

Not for:
    Side effects that must not happen twice: a result is stored after the task has returned, so give
    each effect a key that its receiver knows. Flows whose parameters do not say what they work on,
    such as `day=None` for today: pass the day to each task. Two runs with the same parameters at
    once: both make the calls. Changes in what a finished task only uses (functions, globals, the
    data that it reads) or encloses: use another `edition`. Two tasks of one flow with the same name
    and source. Arguments that pickle differently each time, such as dicts in another order or
    functions: their calls are made again. Subflows: they run again, and their tasks are kept under
    the subflow's own parameters, so pass it the edition.

Costs:
    Rows `cache-miss`, `cache-hit` and `persisted-result` of the report. Results stay in storage
    until somebody deletes them; on several machines that is a shared folder, named by
    `PREFECT_LOCAL_STORAGE_PATH`, or a bucket, by `PREFECT_DEFAULT_RESULT_STORAGE_BLOCK`.

Sources:
    - https://docs.prefect.io/v3/concepts/caching
    - https://docs.prefect.io/v3/advanced/results
    - Prefect #9814, #7440, #16059, #15751 and #15658: a retry repeats tasks that had completed
    - Prefect #15559, #18161 and #21727: a new run repeats them, too
    - Prefect #10749: continue a flow after what failed has been mended
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any
from uuid import uuid4

from prefect import flow, task
from prefect.cache_policies import TASK_SOURCE, CachePolicy
from prefect.client.schemas.objects import State
from prefect.context import TaskRunContext
from prefect.runtime import flow_run


class StablePickler(pickle.Pickler):
    """A pickler for which equal values have equal bytes in every process."""

    def __init__(self, file: io.BytesIO, module: str) -> None:
        super().__init__(file, protocol=5)
        # Otherwise one string twice in a list would pickle differently from the string and a copy.
        self.fast = True
        self.module = module

    def persistent_id(self, value: Any) -> object:
        """Return the substitute for a value, if any; pickle calls this for each object it meets."""
        if isinstance(value, set | frozenset):  # their order differs from process to process
            return type(value), sorted(stable_bytes(each, self.module) for each in value)
        # The flow's file is one module as a script, and another one in a worker.
        if isinstance(value, type) and value.__module__ == self.module:
            return value.__qualname__
        return None


def stable_bytes(value: object, module: str) -> bytes:
    """Pickle a value; a class of the named module is represented by its name alone."""
    pickled = io.BytesIO()
    StablePickler(pickled, module).dump(value)
    return pickled.getvalue()


@dataclass
class SameRun(CachePolicy):
    """A cache policy keyed on the flow and its parameters, and on the task and its arguments."""

    left_out: frozenset[str] = frozenset()

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,
    ) -> str:
        """Return the key; if this raises, Prefect logs it, makes the call and stores nothing."""
        run = {name: each for name, each in flow_parameters.items() if name not in self.left_out}
        call = {name: each for name, each in inputs.items() if name not in self.left_out}
        if not run:
            raise ValueError("nothing says which run this is: give its flow a parameter")
        # Not `task_key`, which changes when a line of the file changes.
        source = TASK_SOURCE.compute_key(task_ctx, inputs, flow_parameters)
        made_by = flow_run.flow_name, task_ctx.task.name, source
        key = (*made_by, sorted(run.items()), sorted(call.items()))
        return sha256(stable_bytes(key, task_ctx.task.fn.__module__)).hexdigest()

    def __sub__(self, other: str) -> SameRun:
        """Return a policy for which the argument or flow parameter of this name does not count."""
        return replace(self, left_out=self.left_out | {other})


SAME_RUN = SameRun()
"""For `@task(cache_policy=SAME_RUN)`, which also stores the results."""

missing_pages: set[int] = set()  # what somebody has to mend


@task(cache_policy=SAME_RUN)
def list_pages(book: str) -> list[int]:
    """List the pages of a book."""
    print(f"listing the pages of {book}")
    return [1, 2, 3, 4]


@task(cache_policy=SAME_RUN)
def scan_page(book: str, page: int) -> str:
    """Scan one page, which takes long; a call for each page, so that each is kept."""
    if page in missing_pages:
        raise FileNotFoundError(f"page {page} is missing")
    print(f"scanning page {page}")
    return f"page {page} of {book}"


@flow
def scan_book(book: str, edition: str = "first") -> list[str]:
    """Scan a book page by page.

    Args:
        book: The title.
        edition: Another one starts over.

    Returns:
        The pages.
    """
    return [scan_page(book, page) for page in list_pages(book)]


def main() -> None:
    """Show that the second run continues where the first one failed."""
    # Another one each time this is run: else the second time there would be nothing to do.
    edition = uuid4().hex
    missing_pages.add(3)
    failed: State[Any] = scan_book("Emma", edition, return_state=True)  # type: ignore[assignment]
    print(f"the first run is {failed.name}: {failed.message}")
    missing_pages.clear()
    print("the second run returns", scan_book("Emma", edition))


if __name__ == "__main__":
    main()
