# SPDX-License-Identifier: Apache-2.0
"""The command line: patterns, reports, and the server that was left running."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError

from flowgauge import catalogue, copies
from flowgauge.advise_command import AdviseError, advise
from flowgauge.catalogue import CatalogueError, Pattern
from flowgauge.matrix_command import matrix
from flowgauge.measure.prefect_versions import VersionError
from flowgauge.server import commands
from flowgauge.server.kept import KeptError

app = App(
    name="flowgauge",
    help="Patterns for Prefect workflows to copy, reports of benchmarks, and the test server.",
    help_format="plaintext",
    result_action="return_value",
)

app.command(commands.app)
app.command(matrix)
app.command(advise)

PatternName = Annotated[str, Parameter(help="Topic and name: retries/backoff.")]
Force = Annotated[bool, Parameter(negative=(), help="Overwrite what is there.")]


class Mistake(Exception):
    """What a person can mend; the message is one line."""


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
    except (AdviseError, CatalogueError, KeptError, Mistake, VersionError) as error:
        return _told(str(error))
    return int(status or 0)


@app.command(name="list")
def list_patterns() -> None:
    """List the patterns of the catalogue, one a line where the output is not a terminal."""
    patterns = catalogue.load(catalogue.catalogue_root())
    if sys.stdout.isatty():
        _print_table(patterns)
        return
    for pattern in patterns:
        print(pattern.name, pattern.summary, _ids(pattern), sep="\t")


@app.command
def show(name: PatternName, /) -> None:
    """Show what a pattern is for, what it guarantees and what it needs."""
    pattern = catalogue.find(catalogue.catalogue_root(), name)
    print(f"{pattern.name}: {pattern.summary}")
    _print_section("Problem", pattern.problem.split("\n\n"))
    _print_section("Guarantees", [f"{g.id}: {g.text}" for g in pattern.guarantees], "  ")
    _print_section("Not for", pattern.not_for.split("\n\n"))
    _print_section("Costs", pattern.costs.split("\n\n"))
    _print_section("Sources", pattern.sources, "  ")
    _print_section("Needs", [f"Python {pattern.requires_python}", *pattern.dependencies])
    if pattern.optional:
        _print_section("Can use", pattern.optional)
    files = [str(file) for file in (pattern.path, *pattern.companions)]
    _print_section("Files" if pattern.companions else "File", files)


@app.command
def copy(
    name: PatternName,
    destination: Annotated[
        Path, Parameter(name="DEST", help="A folder, or a file name that ends in .py.")
    ] = Path(),
    /,
    *,
    force: Force = False,
) -> None:
    """Copy a pattern into a project; it needs nothing else."""
    pattern = catalogue.find(catalogue.catalogue_root(), name)
    print(copies.copy(pattern, destination, force))


@app.command
def diff(
    name: PatternName,
    file: Annotated[Path, Parameter(help="The copy, or the folder it lies in.")],
    /,
) -> int:
    """Compare a copy with its pattern; the exit status is 1 if they differ."""
    pattern = catalogue.find(catalogue.catalogue_root(), name)
    difference = copies.diff(pattern, file)
    print(difference, end="")
    return int(bool(difference))


@app.command
def report(
    results: Annotated[Path, Parameter(help="The results.json of a benchmark run.")],
    /,
    *,
    output: Annotated[
        Path, Parameter(name=["--output", "-o"], help="The folder that the report goes to.")
    ],
    force: Force = False,
) -> None:
    """Make the report of a benchmark run again from its results."""
    from flowgauge.measure.results import Results, ResultsError

    try:
        figures = Results.load(results)
    except ResultsError as error:
        raise Mistake(str(error)) from None
    if (page := output / "index.html").exists() and not force:
        raise Mistake(f"{page} exists: give another folder, or --force to overwrite it")
    try:
        from flowgauge.report import write_report

        print(write_report(figures, output, results))
    except ModuleNotFoundError as error:
        raise Mistake(
            f'a report needs {error.name}, which is missing: pip install "flowgauge[report]"'
        ) from None


@app.command
def publish(
    results: Annotated[str, Parameter(help="A results.json, a folder with one, or a git commit.")],
    /,
) -> None:
    """Show the report of a benchmark run in Prefect's pages, as artifacts.

    They go to the server that Prefect's settings name (PREFECT_API_URL).
    """
    from flowgauge.measure.results import ResultsError
    from flowgauge.measure.sources import find_results
    from flowgauge.report.artifacts import PublishError, publish

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
    from flowgauge.measure.results import ResultsError
    from flowgauge.measure.sources import find_results
    from flowgauge.report.comparison import compare as compared

    most = None if fail_if_slower is None else _share(fail_if_slower)
    try:
        found = compared(find_results(old), find_results(new), by_ratio=by_ratio)
    except ResultsError as error:
        raise Mistake(str(error)) from None
    from rich.console import Console

    from flowgauge.report.compared import print_comparison

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


def _ids(pattern: Pattern) -> str:
    return ", ".join(guarantee.id for guarantee in pattern.guarantees)


def _print_table(patterns: Sequence[Pattern]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("pattern", no_wrap=True)
    table.add_column("summary")
    table.add_column("guarantees")
    for pattern in patterns:
        # As plain text: brackets in a summary are no markup.
        table.add_row(*map(Text, (pattern.name, pattern.summary, _ids(pattern))))
    Console().print(table)


def _print_section(title: str, paragraphs: Sequence[str], hang: str = "") -> None:
    """Print paragraphs under a title; `hang` indents their lines from the second on."""
    print(f"\n{title}")
    width = min(shutil.get_terminal_size().columns, 100)
    for paragraph in paragraphs:
        print(
            textwrap.fill(
                paragraph,
                width,
                initial_indent="  ",
                subsequent_indent="  " + hang,
                # A link that is broken in two can't be followed.
                break_long_words=False,
                break_on_hyphens=False,
            )
        )
