# SPDX-License-Identifier: Apache-2.0
"""Import one file as Prefect does, in a process of its own, and describe what is in it."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType, ModuleType
from typing import NoReturn

from pydantic import TypeAdapter

from flowgauge.check.blocked import RunBlocked, blocked
from flowgauge.check.described import describe
from flowgauge.check.failures import (
    caused_by,
    hang_failure,
    import_failure,
    run_failure,
)
from flowgauge.check.forked import Send, run_forked
from flowgauge.check.loaded import Failure, Loaded, Target

_DATA = TypeAdapter(Loaded)


def load(target: Target, objects: tuple[str, ...], base: Path, seconds: float) -> Loaded:
    """Import a target in a fork of this process.

    Args:
        target: What to import.
        objects: The objects in it that entrypoints name.
        base: The folder of the project.
        seconds: How long the import may take.

    Returns:
        What is in it, and why it does not load.
    """
    file = target.name if target.is_file else ""

    def work(send: Send) -> None:
        def give_up(_: int, frame: FrameType | None) -> NoReturn:
            send(_DATA.dump_json(Loaded((hang_failure(seconds, frame, file, base),))))

        signal.signal(signal.SIGALRM, give_up)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        loaded = load_here(target, objects, base)
        signal.setitimer(signal.ITIMER_REAL, 0)
        send(_DATA.dump_json(loaded))

    outcome = run_forked(work, seconds)
    if isinstance(outcome, bytes):
        return _DATA.validate_json(outcome)
    if outcome is None:
        return Loaded((hang_failure(seconds, None, file, base),))
    how = f"signal {-outcome}" if outcome < 0 else f"status {outcome}"
    what = f"ends the Python process that imports it, with {how}"
    return Loaded((Failure(1, "", what, "import it with Python to see where"),))


def load_here(target: Target, objects: tuple[str, ...], base: Path) -> Loaded:
    """Import a target in this process, whose working directory and modules change.

    Args:
        target: What to import.
        objects: The objects in it that entrypoints name.
        base: The folder of the project.

    Returns:
        What is in it, and why it does not load.
    """
    file = target.name if target.is_file else ""
    runs: list[Failure] = []

    def note(error: RunBlocked) -> None:
        runs.append(run_failure(error, sys._getframe(2), file, base))

    os.chdir(target.folder)
    sys.argv = [target.name]
    with blocked(note):
        try:
            module = _imported(target)
            described = describe(module, objects, base)
        except BaseException as error:
            # A run that was blocked is why it failed, and is told.
            told = runs and caused_by(error, RunBlocked)
            failures = [] if told else [import_failure(error, file, base)]
            return Loaded((*runs, *failures))
    # Prefect gives a script the name of its file.
    is_part = target.is_file and "." in module.__name__
    return replace(described, failures=tuple(runs), package_name=module.__name__ if is_part else "")


def _imported(target: Target) -> ModuleType:
    from prefect.exceptions import ScriptError
    from prefect.utilities.importtools import load_module, load_script_as_module

    if not target.is_file:
        return load_module(target.name)
    try:
        return load_script_as_module(target.name)
    except ScriptError as error:
        cause = error.user_exc
        package = _package(Path(target.name))
        if not (package and isinstance(cause, ImportError) and "relative import" in str(cause)):
            raise cause from None
    # Prefect would not load this file as a script, but code that imports its package does.
    folder, name = package
    sys.path.insert(0, folder)
    return importlib.import_module(name)


def _package(file: Path) -> tuple[str, str] | None:
    """Return the folder above a file's package, and its name in it; None if it is in none."""
    names = [file.stem] if file.stem != "__init__" else []
    folder = file.parent
    while (folder / "__init__.py").exists():
        names.insert(0, folder.name)
        folder = folder.parent
    return (str(folder), ".".join(names)) if folder != file.parent else None
