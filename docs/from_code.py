# SPDX-License-Identifier: Apache-2.0
"""Pages that are written from the code: one per pattern, and what pytest says of the plugin."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from flowgauge.catalogue.catalogue import Pattern, load_catalogue
from flowgauge.report.model.costs import figures
from flowgauge.results.rows import Results

ROOT = Path(__file__).parents[1]
_PRISTINE = ("-p", "no:cacheprovider")


def setup(app: Sphinx) -> dict[str, bool]:
    """Let Sphinx write these pages before it reads any."""
    app.connect("builder-inited", lambda app: write_catalogue(Path(app.srcdir) / "catalogue"))
    for name, entries in (("options", options), ("fixtures", fixtures), ("marks", marks)):
        app.add_directive(f"pytest-{name}", _directive(entries))
    return {"parallel_read_safe": True}


def write_catalogue(folder: Path) -> None:
    """Write a page for each pattern, and one that lists them by topic.

    Args:
        folder: Where the pages go; what has not changed is not written again.
    """
    rows = Results.load(ROOT / "reports" / "reference" / "results.json").rows
    patterns = load_catalogue(ROOT / "patterns")
    index = ["# The catalogue", "", *_INTRODUCTION]
    for topic, listed in groupby(patterns, lambda pattern: pattern.name.partition("/")[0]):
        names = []
        index += ["", f"## {topic.replace('_', ' ').capitalize()}", ""]
        for pattern in listed:
            names.append(pattern.name)
            index.append(f"- [{pattern.name}]({pattern.name}.md): {pattern.summary}")
            _write(folder / f"{pattern.name}.md", _page(pattern, [*figures(pattern.costs, rows)]))
        index += ["", "```{toctree}", ":hidden:", "", *names, "```"]
    _write(folder / "index.md", index)


_INTRODUCTION = (
    "Each page shows what a pattern is for, what it guarantees, which behaviour of Prefect it"
    " answers, and the file itself. Every guarantee and every fact has a test.",
)


def _page(pattern: Pattern, costs: Sequence[str]) -> Iterator[str]:
    """Write the page of a pattern, in Markdown."""
    yield from (f"# {pattern.name}", "", pattern.summary, "", pattern.problem)
    yield from ("", "    uvx --from flowgauge flowgauge copy " + pattern.name + " my_project/")
    yield from ("", "## What it guarantees", "")
    yield from (f"- **{each.id}**: {each.text}" for each in pattern.guarantees)
    if pattern.facts:
        yield from ("", "## What Prefect does", "")
        yield from (
            f"- **{each.id}** (seen in {', '.join(each.versions)}): {each.text}"
            for each in pattern.facts
        )
    yield from ("", "## What it is not for", "", pattern.not_for)
    yield from ("", "## What it costs", "", pattern.costs, "")
    yield from (f"- {line}" for line in costs)
    yield from ("", "## Sources", "")
    yield from (f"- {source}" for source in pattern.sources)
    yield from ("", "## The code", "")
    yield f"It needs Python {pattern.requires_python} and {', '.join(pattern.dependencies)}."
    for path in (pattern.path, *pattern.companions):
        if path.suffix in (".py", ".yaml", ".toml", ".sh"):
            yield from ("", f"`{path.relative_to(ROOT)}`:", "", f"````{path.suffix[1:]}")
            yield from (
                _without_header(path) if path == pattern.path else path.read_text().rstrip(),
            )
            yield "````"


def _without_header(path: Path) -> str:
    """Return the code of a pattern after its docstring, which the page has said already."""
    source = path.read_text(encoding="utf-8")
    docstring = ast.parse(source).body[0]
    return "\n".join(source.splitlines()[docstring.end_lineno :]).strip("\n")


def _write(path: Path, lines: Sequence[str] | Iterator[str]) -> None:
    """Write a page, unless it holds just that already: Sphinx reads what is newer."""
    text = "\n".join(lines) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


@functools.cache
def said(*options: str) -> str:
    """Return what pytest prints where only its plugins are there, and no tests.

    Args:
        *options: For instance `--help`.

    Returns:
        Its output.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pytest", *_PRISTINE, *options]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout


def options() -> Iterator[tuple[str, str]]:
    """Yield each option of the plugin with its help."""
    yield from re.findall(r"^  (--flow-\S+)(.*(?:\n {10,}.*)*)", said("--help"), re.MULTILINE)


def fixtures() -> Iterator[tuple[str, str]]:
    """Yield each fixture of the plugin with its docstring."""
    for part in said("--fixtures", "-v").split("fixtures defined from ")[1:]:
        if part.startswith("flowgauge."):
            for name, scope, text in re.findall(
                r"^([a-z]\w+)( \[\w+ scope\])? -- .*((?:\n    .*|\n(?=\n? {4}))+)",
                part,
                re.MULTILINE,
            ):
                yield name + scope.replace("[", "(").replace("]", ")"), text


def marks() -> Iterator[tuple[str, str]]:
    """Yield each mark of the plugin with what it says."""
    yield from re.findall(
        r"^@pytest\.mark\.((?:runners|leaves|guarantee|fact)\(.*?\)): (.*)",
        said("--markers"),
        re.MULTILINE,
    )


def _directive(entries: Callable[[], Iterator[tuple[str, str]]]) -> type[SphinxDirective]:
    """Return a directive that lists names with what is said of each."""

    class Entries(SphinxDirective):
        """A definition list."""

        def run(self) -> list[nodes.Node]:
            listed = nodes.definition_list()
            for name, text in entries():
                term = nodes.term("", "", nodes.literal("", name))
                paragraph = nodes.paragraph("", "", *self.parse_inline(" ".join(text.split()))[0])
                listed += nodes.definition_list_item("", term, nodes.definition("", paragraph))
            if not len(listed):
                raise self.error(f"pytest says nothing of {entries.__name__}")
            return [listed]

    return Entries
