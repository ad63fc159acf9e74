# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4"]
# ///
"""Keep the effects of several tasks together, or undo them all.

Problem:
    `with transaction():` calls the `on_rollback` hooks of its tasks when one of them fails. But it
    does so at the first failed attempt. If that attempt is retried, or its error is caught, the
    tasks after it are kept and the ones before it are not, and the flow is Completed. A hook that
    fails is only logged. Nothing is undone when the process is killed.

Guarantees:
    undone: if the body raises, every task that was called in it is undone, the last one first, and
        the error is raised.
    caught: if an attempt of a task failed, but was retried or its error was caught, then all is
        undone at the end of the body, and `NotKept` is raised.
    hook-failed: an `on_rollback` hook that fails does not stop those of other tasks, and is called
        a second time; if it fails again, `NotKept` names it.
    commit-failed: if an `on_commit` hook fails, `NotKept` names the task's `on_rollback` hook: this
        task is undone, the others are kept.
    terminated: SIGTERM, which is how a worker cancels a flow run, undoes all before the process
        ends.
    killed: whenever `publish` is killed, its next run first puts back each file of a run that had
        not replaced all of them, so the shop has only old or only new ones.
    async: `all_or_nothing_async` keeps the first three promises for async tasks.

Prefect:
    retried (3.8, 3.9): a failed attempt rolls back the tasks before it, even if a retry succeeds;
        the flow is Completed, and the tasks after it are kept.
    own (3.8, 3.9): a task's own `on_rollback` hook does not run if that task raises.
    handed (3.8, 3.9): a hook receives the transaction of its own task run, where it finds what that
        task set on `get_transaction()`, and not what was set on one that the task opened itself.
    half-committed (3.8, 3.9): if an `on_commit` hook fails, only that task is rolled back; the flow
        is Completed.
    submitted (3.8, 3.9): a task submitted to another process or to Dask commits by itself when it
        ends, and is not rolled back. On threads of the flow it is.

Not for:
    Submitted tasks: call them. A task that fails after its effect, so let the effect be its last
    line, and a single one. Effects within one database: use its own transaction. Readers that must
    not see new files beside old ones in the meantime. Two runs of `publish` at once for one shop,
    files that the shop doesn't have yet, and power cuts. A block within a task: its hooks run when
    that task ends, so an `on_commit` hook that fails then is only logged. A hook of a task that is
    called by another task, or in a block within the block: if it fails, it is not called again.

Costs:
    No request beyond those of the tasks. `publish` creates one more name for each file, and removes
    it at the end.

Sources:
    - https://docs.prefect.io/v3/advanced/transactions
    - Prefect #17864, #15309 and #15593: what a hook finds in its transaction
    - Prefect PR 14721: the state of a task that was rolled back
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.transactions import (
    AsyncTransaction,
    BaseTransaction,
    Transaction,
    atransaction,
    get_transaction,
    transaction,
)


class NotKept(RuntimeError):
    """The effects of a transaction are undone although its body did not raise, or only partly."""


@contextmanager
def all_or_nothing() -> Iterator[Transaction]:
    """Keep what the tasks that are called in the body do, or undo it all.

    Yields:
        The transaction around all tasks.

    Raises:
        NotKept: If a caught or retried failure undid the tasks, or if a hook failed.
    """
    with transaction() as whole:
        try:
            yield whole
            _check_not_rolled_back(whole)
        except BaseException as error:
            whole.rollback()
            # Prefect's own rollback left out tasks that ran after it, and hooks that failed.
            for step in reversed(whole.children):
                step.rollback()
            _check(whole, error)
            raise
    _check(whole)


@asynccontextmanager
async def all_or_nothing_async() -> AsyncIterator[AsyncTransaction]:
    """Keep what the async tasks in the body do, or undo it all; the twin of `all_or_nothing`.

    Yields:
        The transaction around all tasks.

    Raises:
        NotKept: If a caught or retried failure undid the tasks, or if a hook failed.
    """
    async with atransaction() as whole:
        try:
            yield whole
            _check_not_rolled_back(whole)
        except BaseException as error:
            await whole.rollback()
            for step in reversed(whole.children):
                if isinstance(step, AsyncTransaction):
                    await step.rollback()
                else:
                    step.rollback()
            _check(whole, error)
            raise
    _check(whole)


def _check_not_rolled_back(whole: BaseTransaction) -> None:
    # In an async flow, a sync task that fails rolls back itself only, so ask each.
    if any(each.is_rolled_back() for each in (whole, *whole.children)):
        raise NotKept("an attempt of a task failed, so all is undone; retry the whole instead")


def _check(whole: BaseTransaction, error: BaseException | None = None) -> None:
    """Raise if a step is not committed or rolled back, as the transaction around it is."""
    if whole.is_active():
        return  # Within another transaction, which commits later.
    steps, hooks = list(whole.children), []
    for step in steps:
        steps.extend(step.children)
        if step.state != whole.state:
            hooks += [getattr(hook, "__name__", "") for hook in step.on_rollback_hooks]
    names = ", ".join(filter(None, hooks)) or "tasks without a hook"
    if hooks and error is None:
        raise NotKept(f"undone, while the others are kept: {names}; the log says why")
    if hooks and isinstance(error, Exception):
        raise NotKept(f"not undone: {names}; the log says why") from error
    if hooks and error:
        error.add_note(f"not undone: {names}; the log says why")


# A cached task would not run, and so not be undone.
@task(cache_policy=NO_CACHE)
def replace_file(new: Path, shop: Path) -> None:
    """Replace a file of the shop; the old one stays beside it under another name."""
    live = shop / new.name
    # On the transaction of this task run, which its hooks receive.
    get_transaction().set("live", live)  # type: ignore[union-attr]
    fresh = shutil.copy(new, f"{live}.fresh")
    os.link(live, f"{live}.before")
    os.replace(fresh, live)  # The effect is one step, and the last.


@replace_file.on_rollback
def put_back(txn: Transaction) -> None:
    """Put the old file back."""
    put_back_file(txn.get("live"))


@replace_file.on_commit
def tell(txn: Transaction) -> None:
    """Say what is new."""
    print(f"{txn.get('live').name} is new")


def put_back_file(live: Path) -> None:
    """Put an old file back, if there is one; a second call does no harm."""
    before = Path(f"{live}.before")
    if before.exists():
        os.replace(before, live)
        # Replacing a file by another name of itself leaves both.
        before.unlink(missing_ok=True)


@task(cache_policy=NO_CACHE)
def check_shop(shop: Path) -> None:
    """Raise if the shop has no price for something in stock."""
    prices, stock = ((shop / name).read_text().split() for name in ("prices.txt", "stock.txt"))
    if missing := set(stock) - set(prices):
        raise ValueError(f"no price for {missing}")


@flow
def publish(drop: Path, shop: Path) -> None:
    """Replace files of the shop by those in another folder: all of them, or none."""
    clean_up(shop)  # What a killed run left.
    (shop / "UNFINISHED").touch()
    with all_or_nothing():
        for new in sorted(drop.iterdir()):
            replace_file(new, shop)
        check_shop(shop)
    # One step decides between all and nothing. Hooks can't: a kill may come between two of them.
    (shop / "UNFINISHED").unlink()
    clean_up(shop)


def clean_up(shop: Path) -> None:
    """Put back the old files of a run that did not finish, or remove those of one that did."""
    for before in shop.glob("*.before"):
        if (shop / "UNFINISHED").exists():
            put_back_file(shop / before.stem)
        else:
            before.unlink()


def main() -> None:
    """Publish a new stock without a price for it, and then with the price."""
    with tempfile.TemporaryDirectory() as folder:
        shop, drop = Path(folder, "shop"), Path(folder, "drop")
        for each in (shop, drop):
            each.mkdir()
        for name in ("prices.txt", "stock.txt"):
            (shop / name).write_text("lamp")
            (drop / name).write_text("lamp")
        (drop / "stock.txt").write_text("lamp chair")
        print(publish(drop, shop, return_state=True).message)
        print("in stock:", (shop / "stock.txt").read_text())
        (drop / "prices.txt").write_text("lamp chair")
        publish(drop, shop)
        print("in stock:", (shop / "stock.txt").read_text())


if __name__ == "__main__":
    main()
