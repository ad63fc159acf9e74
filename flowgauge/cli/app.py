# SPDX-License-Identifier: Apache-2.0
"""The `flowgauge` command: patterns, checks, reports, and the test server."""

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
from flowgauge.cli.check import check
from flowgauge.cli.matrix import matrix
from flowgauge.cli.trace import trace
from flowgauge.mistake import Mistake

app = App(
    name="flowgauge",
    help="Copy patterns for Prefect workflows, check projects, and report on benchmarks.",
    help_format="plaintext",
    result_action="return_value",
)

EXTRAS = {"numpy": "benchmark", "scipy": "benchmark", "altair": "report", "vl_convert": "report"}
"""Modules that only some commands need, and the extra that installs each."""

pattern_commands.add_to(app)
app.command(commands.app)
app.command(matrix)
app.command(advise)
app.command(trace)
app.command(check)


def main() -> None:
    """Run the command line and exit with its status."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command.

    Args:
        arguments: The words after `flowgauge`.

    Returns:
        The exit status: 0 for success, 1 if a command reports a difference or a failure, 2 for a
        mistake, which is reported in one line, and 141 if the reader closed the pipe.

    Raises:
        ModuleNotFoundError: If a module is missing that no extra installs.
    """
    try:
        status: Any = app(arguments, exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader closed the pipe (`| head`). Python would complain when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _report_mistake(where + (error.strerror or str(error)).lower())
    except CycloptsError as error:
        return _report_mistake(_usage_error(error))
    except Mistake as error:
        return _report_mistake(str(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        extra = f'"flowgauge[{EXTRAS[package]}]"'
        return _report_mistake(
            f"this needs {package}, which is missing: pip install {extra},"
            f" or uvx --from {extra} flowgauge ..."
        )
    return int(status or 0)


@app.command
def report(
    results: Annotated[
        tuple[Path, ...],
        Parameter(help="results.json of a benchmark run; several are joined in one report."),
    ],
    /,
    *,
    output: Annotated[
        Path, Parameter(name=["--output", "-o"], help="Folder to write the report to.")
    ],
    force: pattern_commands.Force = False,
) -> None:
    """Rebuild the report of a benchmark run from its results."""
    from flowgauge.results.joined import joined
    from flowgauge.results.rows import Results, ResultsError

    try:
        figures = joined([Results.load(file) for file in results])
    except ResultsError as error:
        raise Mistake(str(error)) from None
    if (page := output / "index.html").exists() and not force:
        raise Mistake(f"{page} exists: give another folder, or --force to overwrite it")
    from flowgauge.report import report_on, write_report

    source = results[0] if len(results) == 1 else None
    print(write_report(report_on(figures), output, source))


@app.command
def publish(
    results: Annotated[
        str, Parameter(help="results.json, a folder that has one, or a git commit.")
    ],
    /,
) -> None:
    """Publish the report of a benchmark run as artifacts in Prefect's UI.

    They go to the server that Prefect's settings point to (PREFECT_API_URL).
    """
    from flowgauge.report.render.artifacts import publish
    from flowgauge.results.rows import ResultsError
    from flowgauge.results.sources import find_results

    try:
        print("\n".join(publish(find_results(results))))
    except ResultsError as error:
        raise Mistake(str(error)) from None


@app.command
def compare(
    old: Annotated[str, Parameter(help="results.json, a folder that has one, or a git commit.")],
    new: Annotated[str, Parameter(help="The run to judge, given in the same way.")],
    /,
    *,
    fail_if_slower: Annotated[
        str | None,
        Parameter(
            help="Exit with status 1 if a row is clearly slower by more than this, such as 10%."
        ),
    ] = None,
    by_ratio: Annotated[
        bool,
        Parameter(negative=(), help="Compare each row's ratio to its own reference, not its time."),
    ] = False,
    everything: Annotated[
        bool, Parameter(name="--all", negative=(), help="Also show rows without a difference.")
    ] = False,
) -> int:
    """Compare two benchmark runs row by row."""
    from flowgauge.report.model.comparison import compare as compared
    from flowgauge.results.rows import ResultsError
    from flowgauge.results.sources import find_results

    tolerance = None if fail_if_slower is None else _share(fail_if_slower)
    try:
        comparison = compared(find_results(old), find_results(new), by_ratio=by_ratio)
    except ResultsError as error:
        raise Mistake(str(error)) from None
    from rich.console import Console

    from flowgauge.report.render.terminal_comparison import print_comparison

    print_comparison(comparison, Console(), everything=everything)
    return int(tolerance is not None and bool(comparison.slower_than(tolerance)))


def _share(text: str) -> float:
    """Parse a percentage such as `10%`."""
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = -1.0
    if not (text.endswith("%") and 0 <= share < float("inf")):
        raise Mistake(f"--fail-if-slower {text}: not a percentage; give one such as 10%")
    return share


def _report_mistake(message: str) -> int:
    """Print a mistake in one line to stderr, and return its exit status."""
    print(f"flowgauge: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _usage_error(error: CycloptsError) -> str:
    """Return what is wrong with the arguments, and how to get help."""
    message = str(error)
    if isinstance(error, UnusedCliTokensError):
        message = f"Too many arguments: {' '.join(error.unused_tokens or ())}."
    command = " ".join(("flowgauge", *(error.command_chain or ())))
    return f'{message} See "{command} --help".'
