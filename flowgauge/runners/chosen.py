# SPDX-License-Identifier: Apache-2.0
"""The choice of task runners for a pytest run and for a test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from flowgauge.runners.starts import RunnerError
from flowgauge.runners.table import RUNNERS, names_where


def default_workers() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def chosen_runners(text: str | None, *, lean: bool = True) -> tuple[str, ...]:
    """Parse the value of `--flow-runners`.

    Args:
        text: Comma-separated names, or None for those that are installed and used by default.
        lean: Whether None includes the lean task runners.

    Returns:
        The names without duplicates, in the order given; for None, in the order of the table.

    Raises:
        RunnerError: If a name doesn't exist or its packages are not installed.
    """
    if text is None:
        return tuple(name for name in _default() if lean or not RUNNERS[name].lean)
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise RunnerError(f"--flow-runners: no task runner given; choose from {', '.join(RUNNERS)}")
    for name in names:
        _check_known(name, "--flow-runners")
        if not (runner := RUNNERS[name]).installed:
            raise RunnerError(
                f"--flow-runners: {name} needs {runner.package};"
                f' pip install "flowgauge[{runner.extra}]"'
            )
    return names


def narrowed(chosen: Iterable[str], marked: Iterable[str]) -> tuple[str, ...]:
    """Return the chosen task runners that a test's `runners` mark allows.

    Args:
        chosen: The names for this pytest run.
        marked: The names in the mark.

    Returns:
        The names in both, in the order of `chosen`.

    Raises:
        RunnerError: If the mark names a runner that doesn't exist.
    """
    marked = tuple(marked)
    for name in marked:
        _check_known(name, "mark runners")
    return tuple(name for name in chosen if name in marked)


_of_this_run: list[tuple[tuple[str, ...], bool]] = []
"""The task runners of the pytest run and whether they were asked for; a nested run adds its own."""


def begin_run(chosen: tuple[str, ...], *, asked: bool) -> Callable[[], None]:
    """Note the task runners of a pytest run, for code that has no access to its options.

    Args:
        chosen: The names.
        asked: Whether the user chose them.

    Returns:
        A function to call at the end of the run.
    """
    _of_this_run.append((chosen, asked))
    return lambda: _of_this_run.remove((chosen, asked))


def of_this_run(marked: Iterable[str] | None = None) -> tuple[str, ...]:
    """Return the task runners of the pytest run for a test.

    Args:
        marked: The names in the test's mark, None if it has none.

    Returns:
        The names. A mark may name lean ones, which are not in the default selection.

    Raises:
        RunnerError: If the mark names a runner that doesn't exist.
    """
    chosen, asked = _of_this_run[-1] if _of_this_run else (chosen_runners(None, lean=False), False)
    if marked is None:
        return chosen
    return narrowed(chosen if asked else _default(), marked)


def _default() -> tuple[str, ...]:
    return names_where(lambda runner: runner.installed and runner.by_default)


def _check_known(name: str, where: str) -> None:
    if name not in RUNNERS:
        raise RunnerError(
            f"{where}: there is no task runner {name!r}; choose from {', '.join(RUNNERS)}"
        )
