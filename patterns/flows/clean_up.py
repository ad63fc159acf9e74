# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = ["prefect>=3.8,<4"]
# ///
"""Leave no files and no processes behind, however a run ends: also if it is cancelled or killed.

Problem:
    A flow makes a folder and its tasks start programs in it. Then the run is cancelled, or its
    process is killed because memory is short: no `finally` runs, and the programs continue. Hooks
    run afterwards, but in another process, which knows nothing of the run but its id.

Guarantees:
    ended: when the `with workspace()` block ends, because the flow completes, fails or returns
        early, its folder is gone and the programs that its tasks started are killed, with the
        processes that those have started in their session; their tasks fail.
    interrupted: so it is after SIGTERM and after Ctrl-C, and after a run that was triggered is
        cancelled.
    killed: if the run's process was killed by SIGKILL, the process that serves the flow does the
        same, in the hook.
    next-run: if that is gone, too, the next `with workspace()` on the machine does it.
    living: what belongs to runs that are still running, and files or folders of others in the same
        place, are left alone.
    own: a place for workspaces that belongs to somebody else, or that everybody can write to, is
        refused, and nothing in it is touched.
    late: a task that starts a program after the block has ended gets a FileNotFoundError, and no
        program runs.
    again: a retry of a flow begins with an empty folder; a second workspace in a run is refused
        while the first is in use.

Prefect:
    elsewhere (3.8, 3.9): the hooks of a served run that was cancelled or killed are called in the
        process that serves it: what the run has put into variables is not there.
    threads (3.8, 3.9): SIGTERM interrupts the body of the flow, but not its submitted tasks; the
        run's process waits for these.
    orphans (3.8, 3.9): a program outlives the run whose process was killed.
    still-running (3.8, 3.9): the task runs of a process that was killed stay Running.

Not for:
    Several machines: folder, programs and locks are on one, and hooks see them only if the worker
    is on the same. Programs that start a new session, as daemons do. Submitted tasks that block by
    themselves, without a program: a cancelled run waits for them, until it is killed after 30
    seconds. Programs that need SIGTERM to end well: they get SIGKILL. What costs money as long as
    it exists and must not wait for the next run: let it expire by itself. Windows, which has
    neither these locks nor sessions.

Costs:
    A shell for each program, which then becomes the program, and a file that it keeps locked. Each
    run looks at the locks of all others on the machine.

Sources:
    - https://docs.prefect.io/v3/how-to-guides/workflows/state-change-hooks
    - https://docs.prefect.io/v3/advanced/cancel-workflows
    - Prefect #10195, #12688, #15912 and #17259: cancelled runs that go on, or whose hook is missing
    - Prefect #16427 and #16436: hooks of runs that crashed or were killed
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Any, TextIO

from prefect import flow, task
from prefect.client.schemas.objects import FlowRun, State
from prefect.flows import Flow
from prefect.futures import as_completed
from prefect.runtime import flow_run as this_run

PLACE = Path(os.environ.get("WORKSPACES", f"{tempfile.gettempdir()}/workspaces-{os.getuid()}"))
"""Holds a folder for each run, named by the run's id, and a file that the run keeps locked."""


@contextmanager
def workspace() -> Iterator[Path]:
    """Make a folder for this run, and remove it with all programs that were started in it.

    Yields:
        The folder, for `run_program`; wait for all tasks that use it before the block ends.

    Raises:
        RuntimeError: If there is no flow run, or it is in a workspace already.
        PermissionError: If `PLACE` is not a folder of this user, or everybody can write to it.
    """
    if this_run.id is None:
        raise RuntimeError("workspace() finds what to remove by the flow run: call it in a flow")
    PLACE.mkdir(mode=0o700, parents=True, exist_ok=True)
    sweep()
    folder = PLACE / this_run.id
    if folder.exists():
        raise RuntimeError(f"{folder} is in use: a run has one workspace at a time")
    # Locked as long as this process lives, and before there is anything to remove.
    lock = open_locked(folder.with_suffix(".lock"), LOCK_EX)
    try:
        folder.mkdir()
        yield folder
    finally:
        remove(folder)
        os.close(lock)


def open_locked(path: Path, how: int) -> int:
    """Open and lock a file that others may remove or create at the same time."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        kept = False
        try:
            flock(lock, how)
            with suppress(FileNotFoundError):
                kept = os.path.samestat(os.fstat(lock), path.stat())
        finally:
            if not kept:
                os.close(lock)
        if kept:
            return lock


def run_program(folder: Path, *command: str) -> None:
    """Run a program in a workspace and wait for it, in a task or in the flow.

    Args:
        folder: The workspace.
        *command: The program and its arguments.

    Raises:
        FileNotFoundError: If the workspace is gone.
        CalledProcessError: If the program fails, or is killed because the workspace ends.
    """
    handle, name = tempfile.mkstemp(dir=folder, suffix=".program")
    flock(handle, LOCK_EX)
    # The program keeps the lock as long as it lives. It is recorded before it is started, by its
    # own process: otherwise a kill between the two would leave a program that nobody knows.
    recorded = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', name, *command]
    try:
        program = subprocess.Popen(recorded, cwd=folder, pass_fds=[handle], start_new_session=True)
    finally:
        os.close(handle)
    if status := program.wait():
        raise subprocess.CalledProcessError(status, command)


def remove(folder: Path) -> None:
    """Kill the programs of a workspace, then remove it."""
    ending = folder.with_suffix(".ending")
    for each in (ending, folder):  # the first may be left of a removal that was killed
        if each.exists():
            # Under another name, nobody starts another program in it.
            each.rename(ending)
            for program in ending.glob("*.program"):
                kill(program)
            shutil.rmtree(ending)
    folder.with_suffix(".lock").unlink(missing_ok=True)


def kill(program: Path) -> None:
    """Kill a program and the processes of its session, and wait until they are gone."""
    number = ""
    # A daemon that it has started may keep the lock when nothing is left of its session.
    with program.open("r+") as record, suppress(ProcessLookupError):
        while is_locked(record):
            # As long as it lives, no other process can have got its number.
            if number := number or record.read():
                os.killpg(int(number), signal.SIGKILL)
            time.sleep(0.01)


def is_locked(record: TextIO) -> bool:
    """Return whether a program keeps its record locked; it may not yet have written its number."""
    try:
        flock(record, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        return True
    return False


def sweep(run_id: str = "*") -> None:
    """Remove the workspaces of runs whose process is gone, or that of one run."""
    if PLACE.exists() and not is_own(PLACE):
        raise PermissionError(f"{PLACE} is not yours alone: set WORKSPACES to a folder of your own")
    for path in PLACE.glob(f"{run_id}.lock"):
        # Its run lives, another sweep is at it, or it can't be removed: the next run tries again.
        with suppress(OSError):
            lock = open_locked(path, LOCK_EX | LOCK_NB)
            try:
                remove(path.with_suffix(""))
            finally:
                os.close(lock)


def is_own(place: Path) -> bool:
    """Return whether nobody else can have written what is killed and removed there."""
    found = place.lstat()  # a link may lead to what somebody else has chosen
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o002


def clean_up(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Remove what a run left: a hook, called in the process that serves the flow."""
    sweep(str(flow_run.id))


@task
def render(folder: Path, scene: str, seconds: int) -> str:
    """Render a scene with a program."""
    run_program(folder, "sh", "-c", f"sleep {seconds}; echo {scene} > {scene}.film")
    return (folder / f"{scene}.film").read_text().strip()


@flow(on_cancellation=[clean_up], on_crashed=[clean_up])
def render_first(scenes: dict[str, int]) -> str:
    """Render scenes side by side, and return the one that is ready first."""
    with workspace() as folder:
        films = [render.submit(folder, scene, seconds) for scene, seconds in scenes.items()]
        return next(film.result() for film in as_completed(films))


def main() -> None:
    """Show that nothing is left of the scenes that nobody waits for."""
    print(render_first({"storm": 3600, "sunrise": 0}))
    print("left:", [each.name for each in PLACE.iterdir()])


if __name__ == "__main__":
    main()
