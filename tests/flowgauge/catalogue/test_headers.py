# SPDX-License-Identifier: Apache-2.0
"""A pattern's header is read as it was meant, and one that can't be read is reported."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgauge.catalogue.catalogue import load_catalogue, problems
from flowgauge.catalogue.headers import CatalogueError, Fact, Guarantee, Pattern

PATTERN = '''\
# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "prefect>=3.8,<4",
#     "PyYAML<7",
# ]
# ///
"""Retry a flaky call.

Problem:
    A service is down
    for a while.

    It comes back.

Guarantees:
    attempts: the call is tried
        at most four times: not more.

    last-error2: the last error is raised.

Not for:
    Errors that stay.

Costs:
    Row `retries/backoff`.

Sources:
    - https://docs.prefect.io/v3
    - Prefect #14745:
      conditions
"""

import json
from os import path

import yaml
from prefect import flow


async def main() -> None:
    print(json, path, yaml, flow)


if __name__ == "__main__":
    import asyncio

    asyncio.run(main())
'''


def placed(root: Path, text: str = PATTERN, name: str = "retries/backoff") -> Path:
    """Write a pattern file into a catalogue, and return the catalogue."""
    file = root / f"{name}.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a catalogue of one pattern."""
    return placed(tmp_path / "patterns")


def test_a_header_is_read_without_its_line_breaks(root: Path) -> None:
    """Every part of a header is read, and each paragraph and each item is joined into one line."""
    (pattern,) = load_catalogue(root)
    assert pattern == Pattern(
        name="retries/backoff",
        path=root / "retries" / "backoff.py",
        summary="Retry a flaky call.",
        problem="A service is down for a while.\n\nIt comes back.",
        guarantees=(
            Guarantee("attempts", "the call is tried at most four times: not more."),
            Guarantee("last-error2", "the last error is raised."),
        ),
        not_for="Errors that stay.",
        costs="Row `retries/backoff`.",
        sources=("https://docs.prefect.io/v3", "Prefect #14745: conditions"),
        dependencies=("prefect>=3.8,<4", "PyYAML<7"),
        requires_python=">=3.11",
    )


FACTS = """\
Prefect:
    dropped (3.8, 3.9): tasks that still wait
        when the flow ends are not run: (never).
    late (3.9): a late run starts.

Not for:"""


def test_facts_are_read_with_their_versions(root: Path) -> None:
    """A header may say what Prefect does, and in which versions that was seen."""
    (pattern,) = load_catalogue(placed(root, PATTERN.replace("Not for:", FACTS)))
    assert pattern.facts == (
        Fact(
            "dropped",
            ("3.8", "3.9"),
            "tasks that still wait when the flow ends are not run: (never).",
        ),
        Fact("late", ("3.9",), "a late run starts."),
    )


@pytest.mark.parametrize(
    ("fact", "fault"),
    [
        ("late: a late run starts.", 'is not written as "id (3.8, 3.9): what Prefect does"'),
        ("late (3): a late run starts.", 'is not written as "id (3.8, 3.9): what Prefect does"'),
        ("late (3.8):", 'is not written as "id (3.8, 3.9): what Prefect does"'),
        ("Late (3.8): a late run starts.", 'is not written as "id (3.8, 3.9)'),
        ("attempts (3.8): four.", 'fact "attempts" has an id that is already used'),
        ("late (3.8): yes.\n    late (3.9): no.", 'fact "late" has an id that is already used'),
        ("", 'section "Prefect:" is empty'),
    ],
)
def test_a_fact_that_cannot_be_read_is_reported(root: Path, fact: str, fault: str) -> None:
    """A malformed fact, an id that is already used and an empty section are one problem each."""
    section = f"Prefect:\n    {fact}\n\nNot for:"
    (found,) = problems(placed(root, PATTERN.replace("Not for:", section)))
    assert found.startswith("patterns/retries/backoff.py: ")
    assert fault in found


words = st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1)
sentences = st.lists(words, min_size=1, max_size=12).map(" ".join)
paragraphs = st.lists(sentences, min_size=1, max_size=3).map("\n\n".join)
ids = st.from_regex(r"[a-z][a-z0-9-]{0,9}", fullmatch=True)


@given(
    summary=sentences,
    guarantees=st.dictionaries(ids, sentences, min_size=1, max_size=5),
    sources=st.lists(sentences, min_size=1, max_size=3),
    prose=st.tuples(paragraphs, paragraphs, paragraphs),
    width=st.integers(20, 100),
)
def test_any_header_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    summary: str,
    guarantees: dict[str, str],
    sources: list[str],
    prose: tuple[str, str, str],
    width: int,
) -> None:
    """Whatever its words and wherever its lines break, a header is read as it was meant."""

    def wrapped(text: str, hang: str = "") -> str:
        filled = textwrap.TextWrapper(
            width, subsequent_indent=hang, break_long_words=False, break_on_hyphens=False
        )
        return "\n\n".join(
            textwrap.indent(filled.fill(paragraph), "    ") for paragraph in text.split("\n\n")
        )

    sections = {
        "Problem": wrapped(prose[0]),
        "Guarantees": "\n".join(wrapped(f"{k}: {v}", "    ") for k, v in guarantees.items()),
        "Not for": wrapped(prose[1]),
        "Costs": wrapped(prose[2]),
        "Sources": "\n".join(wrapped(f"- {source}", "  ") for source in sources),
    }
    docstring = "\n\n".join((summary, *(f"{title}:\n{body}" for title, body in sections.items())))
    head = "".join(PATTERN.partition("# ///\n")[:2])
    root = placed(tmp_path_factory.getbasetemp() / "generated", f"{head}{docstring + chr(10)!r}")

    (pattern,) = load_catalogue(root)

    assert pattern.summary == summary
    assert pattern.guarantees == tuple(Guarantee(k, v) for k, v in guarantees.items())
    assert pattern.sources == tuple(sources)
    assert (pattern.problem, pattern.not_for, pattern.costs) == prose


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("# SPDX-License-Identifier: 0BSD\n", "", 'line 1 is not "# SPDX'),
        ("# /// script\n", "", 'line 2 is not "# /// script"'),
        ("# ///\n", "", "has no end"),
        ("# ]\n", "", "is not TOML"),
        ('# requires-python = ">=3.11"\n', "", "no requires-python"),
        ("# dependencies =", "# wants =", "no dependencies"),
        ('"""Retry a flaky call.\n\n', '"""\n', "one line followed by a blank line"),
        ("Retry a flaky call.\n\n", "Retry a flaky call.\n", "one line followed by a blank line"),
        ("Problem:\n", "", '"A service is down" is in no section'),
        ("Problem:\n", "Trouble:\n", 'unknown section "Trouble:"'),
        ("    A service", "A service", '"A service is down" is in no section: indent'),
        ("Not for:\n", "Problem:\n", '"Problem:" appears twice'),
        ("    Errors that stay.\n", "", 'section "Not for:" is empty'),
        ("Costs:\n    Row `retries/backoff`.\n", "", 'section "Costs:" is missing'),
        ("    last-error2:", "    attempts:", '"attempts" appears twice'),
        ("    last-error2:", "    Last error:", 'id "Last error"'),
        ("    last-error2:", "    2nd:", 'id "2nd"'),
        ("    last-error2:", "   ", 'not written as "id: what holds"'),
        (" the last error is raised.", "", 'not written as "id: what holds"'),
        ("    attempts:", "     attempts:", "continues no item"),
        ("    - https:", "    https:", 'does not begin with "- "'),
        ("async def main() -> None:", "async def main() -> None", "is not Python"),
        ("import json", "import \0json", "is not Python"),
    ],
)
def test_a_broken_header_is_reported_in_one_line(
    root: Path, old: str, new: str, fault: str
) -> None:
    """What is wrong with a header is reported in one line, with the name of the file."""
    assert old in PATTERN
    placed(root, PATTERN.replace(old, new, 1))
    with pytest.raises(CatalogueError) as error:
        load_catalogue(root)
    assert str(error.value).startswith("patterns/retries/backoff.py: ")
    assert fault in str(error.value)
    assert "\n" not in str(error.value)
    assert problems(root) == [str(error.value)]


def test_sections_have_a_fixed_order(root: Path) -> None:
    """Sections in another order are reported."""
    costs = "Costs:\n    Row `retries/backoff`.\n\n"
    text = PATTERN.replace(costs, "").replace("Not for:\n", f"{costs}Not for:\n")
    assert "not in the order" in problems(placed(root, text))[0]


def test_a_file_that_is_not_text_is_reported_in_one_line(root: Path) -> None:
    """A file that is not UTF-8 is reported as a problem and does not raise a decoding error."""
    (root / "retries" / "backoff.py").write_bytes(b"\xff\xfe")
    assert problems(root) == ["patterns/retries/backoff.py: is not UTF-8 text"]


@pytest.mark.parametrize("name", ["backoff", "retries/more/backoff"])
def test_a_pattern_is_in_a_topic_folder(root: Path, name: str) -> None:
    """A file next to the topic folders, or too deep inside one, is reported, not overlooked."""
    (found,) = problems(placed(root, name=name))
    assert found == f"patterns/{name}.py: is not in a topic folder: move it to patterns/<topic>/"


def test_a_folder_of_files_is_one_pattern(root: Path) -> None:
    """The file named after its folder has the header; the others, except caches, belong to it."""
    placed(root, name="flows/two_ways/two_ways")
    placed(root, "STEPS = 2", name="flows/two_ways/steps")
    (root / "flows" / "two_ways" / "prefect.yaml").touch()
    (root / "flows" / "two_ways" / ".hidden").touch()
    (root / "flows" / "two_ways" / "__pycache__").mkdir()
    pattern, _ = load_catalogue(root)
    assert pattern.name == "flows/two_ways"
    assert pattern.is_folder
    assert [file.name for file in pattern.companions] == ["prefect.yaml", "steps.py"]
