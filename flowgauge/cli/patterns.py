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

PatternName = Annotated[str, Parameter(help="Topic and name: retries/backoff.")]
Force = Annotated[bool, Parameter(negative=(), help="Overwrite what is there.")]


def add_to(app: App) -> None:
    """Add the commands to a command line."""
    app.command(list_patterns, name="list")
    for command in (show, copy, diff, update):
        app.command(command)


def list_patterns(
    *words: Annotated[str, Parameter(name="WORDS", help="Words of a problem to search by.")],
) -> None:
    """List the patterns, or those with some words, one a line where it is no terminal."""
    patterns = catalogue.load_catalogue(catalogue.catalogue_root())
    if words and not (patterns := search(patterns, " ".join(words))):
        raise CatalogueError(f'no pattern has the words "{" ".join(words)}": try others')
    if sys.stdout.isatty():
        _print_table(patterns)
        return
    for pattern in patterns:
        print(pattern.name, pattern.summary, _ids(pattern), sep="\t")


def show(
    name: PatternName,
    /,
    *,
    code: Annotated[bool, Parameter(negative=(), help="Print the file instead.")] = False,
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
    if named_rows(pattern.costs) and (reference := _reference()):
        _print_section(_measured(reference), [*figures(pattern.costs, reference.rows)], "  ")
    _print_section("Sources", pattern.sources, "  ")
    _print_section("Needs", [f"Python {pattern.requires_python}", *pattern.dependencies])
    if pattern.optional:
        _print_section("Can use", pattern.optional)
    files = [str(file) for file in (pattern.path, *pattern.companions)]
    _print_section("Files" if pattern.companions else "File", files)


def copy(
    name: Annotated[str, Parameter(name="NAME", help="Topic and name: retries/backoff.")],
    /,
    *more: Annotated[
        str,
        Parameter(
            name="MORE",
            help="More names, and at the end a folder, or for one pattern a file ending in .py.",
        ),
    ],
    force: Force = False,
) -> None:
    """Copy patterns into a project; they need nothing else of this one."""
    root = catalogue.catalogue_root()
    patterns = catalogue.load_catalogue(root)
    names, destination = _asked((name, *more), patterns)
    wanted = [catalogue.find_pattern(root, each) for each in dict.fromkeys(names)]
    if len(wanted) > 1 and destination.suffix == ".py" and not destination.is_dir():
        raise CatalogueError(f"{destination} can be one pattern only: name a folder")
    for pattern in wanted:
        stem = copies.copied_stem(pattern, patterns)
        print(copies.copy(pattern, destination, stem, force))
    needed = sorted({each for pattern in wanted for each in pattern.dependencies})
    if needed:
        # For people: what a program reads is the files.
        print(f"they need: uv add {shlex.join(needed)}", file=sys.stderr)


def diff(
    place: Annotated[
        str, Parameter(name="PATH", help="A copy, or a folder; or a name and then the copy.")
    ],
    copied: Annotated[str | None, Parameter(name="COPY", help="The copy of what is named.")] = None,
    /,
) -> int:
    """Compare copies with their patterns; the exit status is 1 if one differs."""
    found = _copies(place, copied)
    differences = {each: difference for each in found if (difference := each.diff())}
    for each, difference in differences.items():
        print(difference, end="")
        if each.stamp is not None:
            print(f"{each.path}: {_changed(each)}", file=sys.stderr)
    return int(bool(differences))


def update(
    place: Annotated[
        str, Parameter(name="PATH", help="A copy, or a folder; or a name and then the copy.")
    ],
    copied: Annotated[str | None, Parameter(name="COPY", help="The copy of what is named.")] = None,
    /,
    *,
    force: Force = False,
) -> int:
    """Renew copies whose patterns changed; one that was changed here is kept, with status 1."""
    kept = 0
    for each in _copies(place, copied):
        try:
            print(each.path, "updated" if copies.update(each, force) else "is up to date")
        except CatalogueError as error:
            print(f"flowgauge: {error}", file=sys.stderr)
            kept += 1
    return int(bool(kept))


def _asked(words: Sequence[str], patterns: Sequence[Pattern]) -> tuple[Sequence[str], Path]:
    """Tell the names of patterns from the destination behind them."""
    *names, last = words
    known = {pattern.name for pattern in patterns}
    if not names or last in known:
        return words, Path()
    destination = Path(last)
    topics = {name.partition("/")[0] for name in known}
    is_place = destination.exists() or last.endswith(("/", ".py"))
    if last.partition("/")[0] in topics and not is_place:
        # Rather a name with a mistake in it than a folder.
        catalogue.find_pattern(catalogue.catalogue_root(), last)
    if destination.suffix not in ("", ".py") and not (destination.is_dir() or last.endswith("/")):
        raise CatalogueError(f"{last}: name a folder, or a file ending in .py; {last}/ is a folder")
    return names, destination


def _copies(place: str, copied: str | None) -> tuple[copies.Copy, ...]:
    root = catalogue.catalogue_root()
    patterns = catalogue.load_catalogue(root)
    if copied is None:
        if place in {pattern.name for pattern in patterns} and not Path(place).exists():
            raise CatalogueError(f"{place} is a pattern: name its copy, alone or behind it")
        return copies.find_copies(root, Path(place))
    pattern = catalogue.find_pattern(root, place)
    stem = copies.copied_stem(pattern, patterns)
    return (copies.named_copy(pattern, Path(copied), stem),)


def _changed(copy: copies.Copy) -> str:
    """Say who changed: the copy, the pattern or both."""
    since = f"the pattern, since version {copy.stamp.version}" if copy.stamp else ""
    if copy.is_changed and copy.is_outdated:
        return f"both changed: the copy, and {since}"
    return f"changed: {since if copy.is_outdated else 'the copy'}"


def _reference() -> Results | None:
    """Return the run whose figures are shown."""
    from flowgauge.results.sources import find_results, reference_file

    file = reference_file()
    return find_results(str(file)) if file is not None else None


def _measured(reference: Results) -> str:
    marks = reference.fingerprint
    cores = f"{marks.get('cores', '?')} cores of {marks.get('cpu_model', 'an unknown processor')}"
    return f"Measured in the reference run, on {cores}"


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
