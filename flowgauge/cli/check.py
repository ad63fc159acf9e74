# SPDX-License-Identifier: Apache-2.0
"""`flowgauge check`: whether all flows and deployments of a project load."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from flowgauge.check.problem import Problem

_NARROWEST = 40


def check(
    path: Annotated[
        Path, Parameter(name="PATH", help="A project's folder, or one Python file.")
    ] = Path(),
    /,
    *,
    seconds: Annotated[float, Parameter(help="How long the import of each file may take.")] = 60,
) -> int:
    """Check that all flows and deployments of a project load, without a Prefect server.

    Each problem is a line with its file and line, and the exit status is then 1.
    """
    from flowgauge.check.start import check_project

    report = check_project(path, seconds)
    _print_problems(report.problems)
    counted = f"{_count(report.flows, 'flow')} and {_count(report.deployments, 'deployment')}"
    if not report.problems:
        print(counted, "load")
        return 0
    print(f"{_count(len(report.problems), 'problem')}; {counted} found")
    return 1


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)


def _print_problems(problems: Sequence[Problem]) -> None:
    """Print a line for each problem; on a terminal, in two columns."""
    if not sys.stdout.isatty():
        for problem in problems:
            print(f"{problem.place}: {problem.text}")
        return
    places = max((len(problem.place) for problem in problems), default=0) + 2
    width = max(shutil.get_terminal_size().columns - places, _NARROWEST)
    for problem in problems:
        lines = textwrap.wrap(problem.text, width, break_long_words=False, break_on_hyphens=False)
        print(f"{problem.place}:".ljust(places) + f"\n{' ' * places}".join(lines))
