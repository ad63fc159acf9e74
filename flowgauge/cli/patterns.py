# SPDX-License-Identifier: Apache-2.0
"""The commands about patterns: list, show, copy, diff and update."""

from __future__ import annotations

import shlex
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from flowgauge.catalogue import catalogue, copies
from flowgauge.catalogue.catalogue import CatalogueError, Pattern
from flowgauge.catalogue.word_search import search
from flowgauge.report.model.costs import figures, named_rows

if TYPE_CHECKING:
    from flowgauge.results.rows import Results

PatternName = Annotated[str, Parameter(help="Topic and name, such as retries/backoff.")]
Force = Annotated[bool, Parameter(negative=(), help="Overwrite existing files.")]


def add_to(app: App) -> None:
    """Add the commands to an app."""
    app.command(list_patterns, name="list")
    for command in (show, copy, diff, update):
        app.command(command)


def list_patterns(
    *words: Annotated[
        str, Parameter(name="WORDS", help="Words that describe a problem, to search for.")
    ],
) -> None:
    """List all patterns, or those that match some words; one per line when piped."""
    patterns = catalogue.load_catalogue(catalogue.catalogue_root())
    if words and not (patterns := search(patterns, " ".join(words))):
        raise CatalogueError(f'no pattern has the words "{" ".join(words)}": try other words')
    if sys.stdout.isatty():
        _print_table(patterns)
        return
    for pattern in patterns:
        print(pattern.name, pattern.summary, _guarantee_ids(pattern), sep="\t")


def show(
    name: PatternName,
    /,
    *,
    code: Annotated[bool, Parameter(negative=(), help="Print the pattern's code instead.")] = False,
) -> None:
    """Show what a pattern is for, what it guarantees, what it costs and what it needs."""
    pattern = catalogue.find_pattern(catalogue.catalogue_root(), name)
    if code:
        print(pattern.path.read_text(encoding="utf-8"), end="")
        return
    print(f"{pattern.name}: {pattern.summary}")
    _print_section("Problem", pattern.problem.split("\n\n"))
    _print_section("Guarantees", [f"{g.id}: {g.text}" for g in pattern.guarantees], "  ")
    if pattern.facts:
        facts = [f"{f.id} ({', '.join(f.versions)}): {f.text}" for f in pattern.facts]
        _print_section("Prefect", facts, "  ")
    _print_section("Not for", pattern.not_for.split("\n\n"))
    _print_section("Costs", pattern.costs.split("\n\n"))
    if named_rows(pattern.costs) and (reference := _reference_results()):
        _print_section(_measured_title(reference), [*figures(pattern.costs, reference.rows)], "  ")
    _print_section("Sources", pattern.sources, "  ")
    _print_section("Needs", [f"Python {pattern.requires_python}", *pattern.dependencies])
    if pattern.optional:
        _print_section("Can use", pattern.optional)
    files = [str(file) for file in (pattern.path, *pattern.companions)]
    _print_section("Files" if pattern.companions else "File", files)


def copy(
    name: Annotated[str, Parameter(name="NAME", help="Topic and name, such as retries/backoff.")],
    /,
    *more: Annotated[
        str,
        Parameter(
            name="MORE",
            help="More names, then a folder, or for a single pattern a file ending in .py.",
        ),
    ],
    force: Force = False,
) -> None:
    """Copy patterns into a project, where they work without flowgauge."""
    root = catalogue.catalogue_root()
    patterns = catalogue.load_catalogue(root)
    names, destination = _names_and_destination((name, *more), patterns)
    chosen = [catalogue.find_pattern(root, name) for name in dict.fromkeys(names)]
    if len(chosen) > 1 and destination.suffix == ".py" and not destination.is_dir():
        raise CatalogueError(f"{destination} can hold one pattern only: name a folder")
    for pattern in chosen:
        stem = copies.copied_stem(pattern, patterns)
        print(copies.copy(pattern, destination, stem, force))
    needed = sorted({package for pattern in chosen for package in pattern.dependencies})
    if needed:
        # On stderr, for people: stdout has only the copied files, for programs.
        print(f"install what they need: uv add {shlex.join(needed)}", file=sys.stderr)


def diff(
    place: Annotated[
        str, Parameter(name="PATH", help="A copy, a folder of copies, or a pattern before COPY.")
    ],
    copied: Annotated[
        str | None, Parameter(name="COPY", help="The copy, if PATH is a pattern.")
    ] = None,
    /,
) -> int:
    """Compare copies with their patterns; the exit status is 1 if any differs."""
    differences = {c: difference for c in _copies_at(place, copied) if (difference := c.diff())}
    for copy, difference in differences.items():
        print(difference, end="")
        if copy.stamp is not None:
            print(f"{copy.path}: {_change(copy)}", file=sys.stderr)
    return int(bool(differences))


def update(
    place: Annotated[
        str, Parameter(name="PATH", help="A copy, a folder of copies, or a pattern before COPY.")
    ],
    copied: Annotated[
        str | None, Parameter(name="COPY", help="The copy, if PATH is a pattern.")
    ] = None,
    /,
    *,
    force: Force = False,
) -> int:
    """Update copies of changed patterns; an edited copy is kept, and the exit status is 1."""
    kept = 0
    for copy in _copies_at(place, copied):
        try:
            print(copy.path, "updated" if copies.update(copy, force) else "is up to date")
        except CatalogueError as error:
            print(f"flowgauge: {error}", file=sys.stderr)
            kept += 1
    return int(bool(kept))


def _names_and_destination(
    words: Sequence[str], patterns: Sequence[Pattern]
) -> tuple[Sequence[str], Path]:
    """Split the words into pattern names and the destination, if the last one is that."""
    *names, last = words
    known = {pattern.name for pattern in patterns}
    if not names or last in known:
        return words, Path()
    destination = Path(last)
    topics = {name.partition("/")[0] for name in known}
    is_place = destination.exists() or last.endswith(("/", ".py"))
    if last.partition("/")[0] in topics and not is_place:
        # More likely a misspelt name than a new folder.
        catalogue.find_pattern(catalogue.catalogue_root(), last)
    if destination.suffix not in ("", ".py") and not (destination.is_dir() or last.endswith("/")):
        raise CatalogueError(f"{last}: name a file ending in .py, or a folder, such as {last}/")
    return names, destination


def _copies_at(place: str, copied: str | None) -> tuple[copies.Copy, ...]:
    root = catalogue.catalogue_root()
    patterns = catalogue.load_catalogue(root)
    if copied is None:
        if place in {pattern.name for pattern in patterns} and not Path(place).exists():
            raise CatalogueError(f"{place} is a pattern: name its copy, alone or after the pattern")
        return copies.find_copies(root, Path(place))
    pattern = catalogue.find_pattern(root, place)
    stem = copies.copied_stem(pattern, patterns)
    return (copies.named_copy(pattern, Path(copied), stem),)


def _change(copy: copies.Copy) -> str:
    """Return what changed: the copy, the pattern or both."""
    since = f"the pattern, since version {copy.stamp.version}" if copy.stamp else ""
    if copy.is_changed and copy.is_outdated:
        return f"changed: the copy, and {since}"
    return f"changed: {since if copy.is_outdated else 'the copy'}"


def _reference_results() -> Results | None:
    """Return the results of the reference run, None where it is missing."""
    from flowgauge.results.sources import find_results, reference_file

    file = reference_file()
    return find_results(str(file)) if file is not None else None


def _measured_title(reference: Results) -> str:
    origin = reference.fingerprint
    processor = origin.get("cpu_model", "an unknown processor")
    cores = f"{origin.get('cores', '?')} cores of {processor}"
    return f"Measured in the reference run, on {cores}"


def _guarantee_ids(pattern: Pattern) -> str:
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
        # As plain text: brackets in a summary are not markup.
        table.add_row(*map(Text, (pattern.name, pattern.summary, _guarantee_ids(pattern))))
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
                # A link that wraps can't be followed.
                break_long_words=False,
                break_on_hyphens=False,
            )
        )
