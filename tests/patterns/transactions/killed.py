# SPDX-License-Identifier: Apache-2.0
"""Kills a process just before each of its writes, and lets another one continue.

`python -m tests.patterns.transactions.killed MODULE RUN FOLDER WHICH NAMED` calls `RUN(folder)` of
the module in a fresh copy of the folder for each point, kills it there, and calls
`RUN_again(folder)`. What that returns is written to FOLDER.json, by point. WHICH is a slice of the
points, and of these only those are taken whose name begins with NAMED.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# Imported before the forks, so that no killed process has to.
import prefect.main
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    temporary_settings,
)

from flowgauge.waiting import patience

assert prefect.main
PACKAGE = "tests.patterns.transactions"
WRITES = ("os.link", "os.rename", "os.remove", "os.mkdir", "os.symlink", "os.truncate")


class Points:
    """The writes of this process to files in one folder, and to SQLite."""

    def __init__(self, folder: Path, kill_at: int | None) -> None:
        """Watch the folder from now on, and kill this process at one of its writes."""
        self.folder, self.kill_at, self.seen = str(folder), kill_at, list[str]()
        sys.addaudithook(self._audit)
        connect: Any = sqlite3.connect
        sqlite3.connect = lambda *a, **k: connect(*a, **{"factory": self._connection(), **k})

    def reach(self, point: str) -> None:
        """Note a point, or die there."""
        if len(self.seen) == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen.append(point)

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        writes = event in WRITES or (
            event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if writes and str(args[0]).startswith(self.folder):
            self.reach(f"{event} {Path(str(args[0])).name}")

    def _connection(self) -> type[sqlite3.Connection]:
        points = self

        class Watched(sqlite3.Connection):
            def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
                if not sql.lstrip().upper().startswith("SELECT"):
                    points.reach(f"before {sql.split()[0]}")
                return super().execute(sql, *args)

            def __exit__(self, *args: Any) -> Any:
                if self.in_transaction:
                    points.reach("before commit")
                exited = super().__exit__(*args)
                points.reach("after commit")
                return exited

        return Watched


def fork(body: Callable[[], Any]) -> Any:
    """Return what a forked process returns, or None if it is killed."""
    assert threading.active_count() == 1
    reader, writer = os.pipe()
    if not (child := os.fork()):
        try:
            os.write(writer, json.dumps(body()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return json.loads(said) if said else None


def main(module: str, name: str, folder: Path, which: slice, named: str) -> None:
    """Kill the run at each point, and print what happened."""
    runs = importlib.import_module(module)
    run, again = getattr(runs, name), getattr(runs, f"{name}_again")

    def points(copy: Path, kill_at: int | None) -> list[str]:
        seen = Points(copy, kill_at).seen
        run(copy)
        return seen

    def first(copy: Path) -> tuple[list[str], list[str]]:
        return points(copy, None), [each for each in sys.modules if each.startswith("prefect.")]

    def copy(number: int) -> Path:
        return Path(shutil.copytree(folder, folder.parent / f"{folder.name}-{number}"))

    names, loaded = fork(partial(first, copy(-1)))
    for each in loaded:
        # Otherwise each process would import what Prefect needs for a flow run.
        with contextlib.suppress(Exception):
            importlib.import_module(each)
    outcomes = {}
    for number in (each for each in range(len(names))[which] if names[each].startswith(named)):
        there = copy(number)
        assert fork(partial(points, there, number)) is None
        outcomes[f"{number} {names[number]}"] = fork(partial(again, there))
    folder.with_suffix(".json").write_text(json.dumps(outcomes))


def kill_at_points(
    name: str, folder: Path, which: tuple[int | None, ...] = (None,), named: str = ""
) -> Any:
    """Kill a run at each point, or at some of them.

    Args:
        name: The test module and the function in it, such as `test_saga:book`; the module of
            another folder has its full name.
        folder: What is there before the run; the folder itself is not changed.
        which: The arguments of a slice of the points.
        named: How the names of the points begin.

    Returns:
        For each point, what the run after it returned.
    """
    module, run = name.split(":")
    module = module if "." in module else f"{PACKAGE}.{module}"
    command = [sys.executable, "-m", f"{PACKAGE}.killed", module, run, str(folder)]
    subprocess.run(
        [*command, json.dumps(which), named],
        env={**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value() or ""},
        check=True,
        timeout=patience(),
    )
    return json.loads(folder.with_suffix(".json").read_text())


if __name__ == "__main__":
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        which = slice(*json.loads(sys.argv[4]))
        main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), which, sys.argv[5])
