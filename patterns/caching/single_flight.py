# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4", "psycopg[binary]>=3.2,<4"]
# ///
"""Compute once what several processes or machines ask for at once.

Problem:
    A cache only helps those who ask after the result is stored. Runs that ask at once all compute
    it. Prefect can lock a key while a task computes it, but its own locks outlive a killed process:
    after that, everyone who asks waits for ever.

Guarantees:
    once: equal calls at once, in a flow run or in several processes, are computed once.
    server: with `PostgresLocks` the same holds for those who share a database, not a lock folder.
    keys: calls with different arguments don't wait for each other.
    failed: if the computation fails, its caller gets the error, and the next one computes.
    killed: if the process that computes is killed, its lock ends, and the next one computes.
    nested: a locked computation may call tasks. One that is called twice with the same arguments,
        there or in a `with transaction()`, is executed twice, as Prefect stores results at the end
        of these. One that has the computation's own key is an error, not a wait for ever.
    async: the same holds for async tasks, and waiting does not block their event loop.

Prefect:
    together (3.8, 3.9): without locks, equal calls at once in two processes are all computed.
    outlived (3.8, 3.9): the lock of a killed process stays, if it is a `FileSystemLockManager`'s.
    empty (3.8, 3.9): its lock file is created before it is filled; a process that reads it
        in between gets a ValueError.
    itself (3.8, 3.9): a task that is called twice with the same arguments in a locked computation
        waits for its own lock, even if it has the default cache policy.

Not for:
    Calls without a key, such as those of a task without arguments with `INPUTS` alone. A folder on
    a network disk without `flock`. Windows. Computations that must not be repeated: if PostgreSQL
    restarts, or a machine is cut off from it, its locks end, and another one may compute, too.
    Processes that are forked in the computation, without `exec`: they keep a file lock until they
    end.

Costs:
    A task that waits keeps its place in the task runner and tries again five times a second; with
    PostgreSQL each try is a connection. Each key leaves an empty file in the folder of `FileLocks`.

Sources:
    - https://docs.prefect.io/v3/advanced/caching
    - Prefect #18600: a task in a locked task; #15503: locks in transactions
"""

from __future__ import annotations

import asyncio
import fcntl
import math
import os
import shutil
import tempfile
import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

from prefect import flow, task
from prefect.cache_policies import INPUTS, TASK_SOURCE, CachePolicy
from prefect.locking.protocol import LockManager
from prefect.task_runners import ProcessPoolTaskRunner
from prefect.transactions import get_transaction

Seconds = float | None
PAUSE = 0.2
"""Seconds between two tries to get a lock."""


def computation(key: str) -> object:
    """Return the outermost transaction around this call: tasks are some, and those they call."""
    outermost, around = None, get_transaction()
    while around:
        if around.key == key:
            raise RuntimeError("a task has the same key as the task it is called in: it would wait")
        outermost, around = around, around.get_parent()
    return outermost


@dataclass
class Held:
    """A lock, and who in one computation holds it."""

    computation: object
    holders: set[str]
    unlock: Callable[[], None]


class EndingLocks(LockManager):
    """Locks that end with the process that holds them, however it ends."""

    def __init__(self) -> None:
        self._held: dict[str, Held] = {}

    @abstractmethod
    def lock(self, key: str) -> Callable[[], None] | None:
        """Lock a key and return the function that unlocks it, or None if it is locked."""

    def __getstate__(self) -> dict[str, Any]:
        """Leave the locks here when a task is sent to another process."""
        return self.__dict__ | {"_held": {}}

    def _try(self, key: str, holder: str) -> bool:
        here = computation(key)
        held = self._held.get(key)
        if held and here and held.computation is here:
            # Prefect unlocks this one at the end of the computation: to wait would be for ever.
            held.holders.add(holder)
        elif not (held and holder in held.holders):
            unlock = self.lock(key)
            if unlock is None:
                return False
            self._held[key] = Held(here, {holder}, unlock)
        return True

    def acquire_lock(
        self, key: str, holder: str, acquire_timeout: Seconds = None, hold_timeout: Seconds = None
    ) -> bool:
        """Wait until the key is locked for this holder; Prefect passes no `hold_timeout`."""
        end = math.inf if acquire_timeout is None else time.monotonic() + acquire_timeout
        while not (locked := self._try(key, holder)) and time.monotonic() < end:
            time.sleep(PAUSE)
        return locked

    async def aacquire_lock(
        self, key: str, holder: str, acquire_timeout: Seconds = None, hold_timeout: Seconds = None
    ) -> bool:
        """Do what `acquire_lock` does, and let the event loop run meanwhile."""
        end = math.inf if acquire_timeout is None else time.monotonic() + acquire_timeout
        while not (locked := self._try(key, holder)) and time.monotonic() < end:
            await asyncio.sleep(PAUSE)
        return locked

    def release_lock(self, key: str, holder: str) -> None:
        """Unlock the key if this is its last holder."""
        if self.is_lock_holder(key, holder):
            self._held[key].holders.remove(holder)
            if not self._held[key].holders:
                self._held.pop(key).unlock()

    def is_lock_holder(self, key: str, holder: str) -> bool:
        """Return whether this holder has locked the key."""
        held = self._held.get(key)
        return held is not None and holder in held.holders

    def is_locked(self, key: str) -> bool:
        """Return whether anyone has locked the key."""
        unlock = self.lock(key)
        if unlock:
            unlock()
        return not unlock

    def wait_for_lock(self, key: str, timeout: Seconds = None) -> bool:
        """Wait until nobody else has locked the key; return whether that is so."""
        waiting = uuid4().hex
        free = self.acquire_lock(key, waiting, timeout)
        self.release_lock(key, waiting)
        return free

    async def await_for_lock(self, key: str, timeout: Seconds = None) -> bool:
        """Do what `wait_for_lock` does, and let the event loop run meanwhile."""
        return await asyncio.to_thread(self.wait_for_lock, key, timeout)


class FileLocks(EndingLocks):
    """Locks in a folder, for the processes of a machine; the kernel ends those of a process."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def lock(self, key: str) -> Callable[[], None] | None:
        """Lock a file that is named after the key."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = (self.folder / sha256(key.encode()).hexdigest()).open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        return file.close


class PostgresLocks(EndingLocks):
    """Locks in a PostgreSQL database, for machines; the server ends those of a lost connection."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url

    def lock(self, key: str) -> Callable[[], None] | None:
        """Lock a number that is computed from the key, for as long as a connection is open."""
        import psycopg  # not needed for FileLocks

        number = int.from_bytes(sha256(key.encode()).digest()[:8], signed=True)
        connection = psycopg.connect(self.url, autocommit=True)
        locked = connection.execute("SELECT pg_try_advisory_lock(%s)", [number]).fetchone()
        if locked != (True,):
            connection.close()
            return None
        return connection.close


def single_flight(policy: CachePolicy, locks: LockManager, results: Path | str) -> dict[str, Any]:
    """Return options for `@task` that let one caller compute and the others wait.

    Args:
        policy: What makes two calls equal.
        locks: Locks that all callers reach.
        results: A folder, or the name of a saved block, that all callers reach, too.

    Returns:
        Options to be used as `@task(**single_flight(...))`.
    """
    locked = policy.configure(isolation_level="SERIALIZABLE", lock_manager=locks)
    return {"cache_policy": locked, "persist_result": True, "result_storage": results}


# A folder that all processes share.
MAPS = Path(os.environ.get("MAPS", tempfile.gettempdir())) / "maps"


@task(**single_flight(INPUTS + TASK_SOURCE, FileLocks(MAPS / "locks"), MAPS / "results"))
def draw_map(region: str) -> str:
    """Draw a map, which takes long."""
    time.sleep(1)
    return f"map of {region}, drawn by process {os.getpid()}"


@flow
def publish(regions: list[str]) -> list[str]:
    """Publish maps, some of which others may publish at the same moment."""
    return draw_map.map(regions).result()


def main() -> None:
    """Show that two processes that ask at once get the same map."""
    processes: Any = ProcessPoolTaskRunner(max_workers=2)
    print(*publish.with_options(task_runner=processes)(["Alps", "Alps", "Jura"]), sep="\n")
    shutil.rmtree(MAPS)


if __name__ == "__main__":
    main()
