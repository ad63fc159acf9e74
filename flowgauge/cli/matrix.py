# SPDX-License-Identifier: Apache-2.0
"""`flowgauge matrix`: run the same benchmarks under several versions of Prefect."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from flowgauge.measure.prefect_versions import (
    Measured,
    Place,
    VersionError,
    find_project,
    find_uv,
    make_environment,
    measure,
    read_versions,
)

if TYPE_CHECKING:
    from rich.table import Table

    from flowgauge.report.model.trend import TrendLine

_COLOURS = {"slower": "red", "faster": "green"}


def matrix(
    *,
    prefect: Annotated[str, Parameter(help="Versions, oldest first, such as 3.8,3.9.")],
    only: Annotated[
        str | None, Parameter(help="Run only these benchmarks: an expression for pytest's -k.")
    ] = None,
    output: Annotated[
        Path, Parameter(name=["--output", "-o"], help="Folder for the environments and reports.")
    ] = Path("reports/latest/matrix"),
) -> int:
    """Run this project's benchmarks under several versions of Prefect, and compare them.

    The exit status is 1 if a version could not be measured completely.
    """
    versions = read_versions(prefect)
    project, uv = find_project(Path()), find_uv()
    outcomes = []
    for version in versions:
        place = Place(version, output.resolve() / version)
        _print_progress(f"Prefect {version}: creating its environment ({place.log})")
        failure = make_environment(uv, project, place)
        if failure is None:
            _print_progress(f"Prefect {version}: measuring")
        outcome = Measured(place, None, failure) if failure else measure(project, place, only)
        if outcome.failure:
            _print_progress(outcome.failure)
        outcomes.append(outcome)
    return show(outcomes, output)


def show(outcomes: Sequence[Measured], output: Path) -> int:
    """Print the results as a table, and write a page with charts.

    Args:
        outcomes: The outcome for each version.
        output: The folder for the page.

    Returns:
        The exit status: 1 if a version could not be measured completely, otherwise 0.

    Raises:
        VersionError: If no version could be measured; the message is one line.
    """
    from rich.console import Console

    from flowgauge.report.model.trend import titles, trend

    runs = {o.place.version: o.results for o in outcomes if o.results}
    failures = [o.failure for o in outcomes if o.failure]
    if not runs:
        raise VersionError(f"nothing was measured: {'; '.join(failures)}")
    from flowgauge.report.render.trend import write_trend

    lines, versions = trend(runs), titles(runs.items())
    Console().print(_table(lines, versions))
    print(write_trend(lines, versions, failures, output))
    return int(bool(failures))


def _table(lines: Sequence[TrendLine], versions: Sequence[str]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("measured", overflow="fold")
    table.add_column("runner", no_wrap=True)
    for version in versions:
        table.add_column(version, justify="right")
    for line in lines:
        cells = [Text(point.text, _COLOURS.get(point.verdict, "")) for point in line.points]
        table.add_row(Text(line.label), Text(line.runner), *cells)
    return table


def _print_progress(message: str) -> None:
    """Report progress on stderr, because stdout is for the table alone."""
    print(message, file=sys.stderr, flush=True)
