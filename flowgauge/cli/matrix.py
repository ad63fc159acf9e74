# SPDX-License-Identifier: Apache-2.0
"""`flowgauge matrix`: what the same benchmarks cost under several versions of Prefect."""

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
    prefect: Annotated[str, Parameter(help="The versions, the oldest first: 3.7,3.8.")],
    only: Annotated[
        str | None, Parameter(help="Which benchmarks, as an expression for pytest's -k.")
    ] = None,
    output: Annotated[
        Path, Parameter(name=["--output", "-o"], help="The folder for environments and reports.")
    ] = Path("reports/latest/matrix"),
) -> int:
    """Run the benchmarks of this folder under several versions of Prefect, and compare them.

    The exit status is 1 if a version could not be measured whole.
    """
    versions = read_versions(prefect)
    project, uv = find_project(Path()), find_uv()
    found = []
    for version in versions:
        place = Place(version, output.resolve() / version)
        _tell(f"Prefect {version}: making its environment ({place.log})")
        failure = make_environment(uv, project, place)
        if failure is None:
            _tell(f"Prefect {version}: measuring")
        each = Measured(place, None, failure) if failure else measure(project, place, only)
        if each.failure:
            _tell(each.failure)
        found.append(each)
    return show(found, output)


def show(found: Sequence[Measured], output: Path) -> int:
    """Print what was measured as a table, and write it as a page with charts.

    Args:
        found: What came of each version.
        output: The folder of the page.

    Returns:
        The exit status: 1 if a version could not be measured whole, otherwise 0.

    Raises:
        VersionError: If none could be; one line says so.
    """
    from rich.console import Console

    from flowgauge.report.model.trend import titles, trend

    runs = {each.place.version: each.results for each in found if each.results}
    failures = [each.failure for each in found if each.failure]
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


def _tell(said: str) -> None:
    """Say how far it is; to stderr, for the table alone goes to stdout."""
    print(said, file=sys.stderr, flush=True)
