# SPDX-License-Identifier: Apache-2.0
"""The command line: patterns, reports, and the server that was left running."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError

from flowgauge.cli import patterns as pattern_commands
from flowgauge.cli import server as commands
from flowgauge.cli.advise import advise
from flowgauge.cli.matrix import matrix
from flowgauge.mistake import Mistake

app = App(
    name="flowgauge",
    help="Patterns for Prefect workflows to copy, reports of benchmarks, and the test server.",
    help_format="plaintext",
    result_action="return_value",
)

EXTRAS = {"numpy": "benchmark", "scipy": "benchmark", "altair": "report", "vl_convert": "report"}
"""Which extra brings a module that only some commands need."""

pattern_commands.add_to(app)
app.command(commands.app)
app.command(matrix)
app.command(advise)


def main() -> None:
    """Run the command line and exit with its status."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command.

    Args:
        arguments: What stands after `flowgauge`.

    Returns:
        The exit status: 0, 1 for a difference found, 2 for a mistake, told in one line.
    """
    try:
        status: Any = app(arguments, exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has enough (`| head`). Python would complain when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _told(where + (error.strerror or str(error)).lower())
    except CycloptsError as error:
        return _told(_misread(error))
    except Mistake as error:
        return _told(str(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        extra = f'"flowgauge[{EXTRAS[package]}]"'
        return _told(
            f"this needs {package}, which is missing: pip install {extra},"
            f" or uvx --from {extra} flowgauge ..."
        )
    return int(status or 0)


@app.command
def report(
    results: Annotated[Path, Parameter(help="The results.json of a benchmark run.")],
    /,
    *,
    output: Annotated[
        Path, Parameter(name=["--output", "-o"], help="The folder that the report goes to.")
    ],
    force: pattern_commands.Force = False,
) -> None:
    """Make the report of a benchmark run again from its results."""
    from flowgauge.results.rows import Results, ResultsError

    try:
        figures = Results.load(results)
    except ResultsError as error:
        raise Mistake(str(error)) from None
    if (page := output / "index.html").exists() and not force:
        raise Mistake(f"{page} exists: give another folder, or --force to overwrite it")
    from flowgauge.report import report_on, write_report

    print(write_report(report_on(figures), output, results))


@app.command
def publish(
    results: Annotated[str, Parameter(help="A results.json, a folder with one, or a git commit.")],
    /,
) -> None:
    """Show the report of a benchmark run in Prefect's pages, as artifacts.

    They go to the server that Prefect's settings name (PREFECT_API_URL).
    """
    from flowgauge.report.render.artifacts import PublishError, publish
    from flowgauge.results.rows import ResultsError
    from flowgauge.results.sources import find_results

    try:
        print("\n".join(publish(find_results(results))))
    except (ResultsError, PublishError) as error:
        raise Mistake(str(error)) from None


@app.command
def compare(
    old: Annotated[str, Parameter(help="A results.json, a folder with one, or a git commit.")],
    new: Annotated[str, Parameter(help="The same of the run to be judged.")],
    /,
    *,
    fail_if_slower: Annotated[
        str | None, Parameter(help="Exit with status 1 if a row surely is, by more: 10%.")
    ] = None,
    by_ratio: Annotated[
        bool, Parameter(negative=(), help="Compare ratios to rows' own references, not times.")
    ] = False,
    everything: Annotated[
        bool, Parameter(name="--all", negative=(), help="Also rows without a difference.")
    ] = False,
) -> int:
    """Compare two benchmark runs row by row."""
    from flowgauge.report.model.comparison import compare as compared
    from flowgauge.results.rows import ResultsError
    from flowgauge.results.sources import find_results

    most = None if fail_if_slower is None else _share(fail_if_slower)
    try:
        found = compared(find_results(old), find_results(new), by_ratio=by_ratio)
    except ResultsError as error:
        raise Mistake(str(error)) from None
    from rich.console import Console

    from flowgauge.report.render.terminal_comparison import print_comparison

    print_comparison(found, Console(), everything=everything)
    return int(most is not None and bool(found.slower_than(most)))


def _share(text: str) -> float:
    """Read a share such as `10%`."""
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = -1.0
    if not (text.endswith("%") and 0 <= share < float("inf")):
        raise Mistake(f"--fail-if-slower {text}: not a percentage; give one such as 10%")
    return share


def _told(message: str) -> int:
    """Tell a person of a mistake in one line, and return the exit status for it."""
    print(f"flowgauge: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _misread(error: CycloptsError) -> str:
    """Return what is wrong with a command line, and where its help is."""
    wrong = str(error)
    if isinstance(error, UnusedCliTokensError):
        wrong = f"Too many arguments: {' '.join(error.unused_tokens or ())}."
    command = " ".join(("flowgauge", *(error.command_chain or ())))
    return f'{wrong} "{command} --help" shows how it is used.'
