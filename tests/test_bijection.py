# SPDX-License-Identifier: Apache-2.0
"""Patterns, guarantees, tests and the rows of the README's table all match each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flowgauge.catalogue.catalogue import (
    Fact,
    Guarantee,
    Pattern,
    catalogue_root,
    guarantee_mismatches,
    load_catalogue,
    mirror_mismatches,
    problems,
    readme_mismatches,
)
from flowgauge.catalogue.mutants import mutant_mismatches
from flowgauge.report.model.costs import named_rows
from flowgauge.results.rows import Results

ROOT = catalogue_root(Path(__file__).parent)
TESTS = ROOT.parent / "tests" / "patterns"

ONE = Pattern(
    name="retries/backoff",
    path=Path("patterns/retries/backoff.py"),
    summary="Retry.",
    problem="Down.",
    guarantees=(Guarantee("attempts", "four."), Guarantee("delays", "grow.")),
    not_for="None.",
    costs="None.",
    sources=("Prefect #14745",),
    dependencies=("prefect<4",),
    requires_python=">=3.11",
)
OTHER = replace(ONE, name="tasks/basics", guarantees=(Guarantee("name", "is given."),))


def test_every_pattern_keeps_the_rules() -> None:
    """Every pattern of the catalogue has its header and can be copied alone."""
    assert problems(ROOT) == []


def test_every_guarantee_is_proved_and_every_proof_is_of_a_guarantee() -> None:
    """The guarantees and facts in the headers are exactly those that the tests prove."""
    assert guarantee_mismatches(load_catalogue(ROOT), TESTS) == []


def test_every_guarantee_has_a_mutant_and_every_mutant_can_be_made() -> None:
    """Each guarantee has a mutant next to its tests, and every mutant can be made."""
    assert mutant_mismatches(load_catalogue(ROOT), TESTS) == []


def test_every_pattern_has_a_row_in_the_readme_and_every_row_a_pattern() -> None:
    """The README's table lists exactly the patterns of the catalogue."""
    assert readme_mismatches(load_catalogue(ROOT), ROOT.parent / "README.md") == []


def test_every_pattern_has_its_test_file_and_every_test_file_its_pattern() -> None:
    """tests/patterns mirrors patterns/."""
    assert mirror_mismatches(load_catalogue(ROOT), TESTS) == []


def test_the_costs_of_a_pattern_are_rows_of_the_report() -> None:
    """A row that a pattern's "Costs" names is in the reference run, or a benchmark measures it."""
    reference = Results.load(ROOT.parent / "reports" / "reference" / "results.json")
    measured = {row.id for row in reference.rows}
    written = "".join(file.read_text() for file in (ROOT.parent / "benchmarks").glob("test_*.py"))
    for pattern in load_catalogue(ROOT):
        for row in named_rows(pattern.costs):
            # Not measured yet, if newer than the last reference run, which takes most of an hour.
            assert row in measured or f'"{row}"' in written, f"{pattern.name}: {row}"


@pytest.fixture
def tests_root(tmp_path: Path) -> Path:
    """Return a folder of tests that prove all that the two patterns promise."""
    for file, names in {
        "retries/test_backoff.py": (("retries/backoff", "attempts"), ("retries/backoff", "delays")),
        "tasks/test_basics.py": (("tasks/basics", "name"),),
    }.items():
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).write_text(
            "".join(
                f"@pytest.mark.guarantee{name}\ndef test_{i}(): ...\n"
                for i, name in enumerate(names)
            )
        )
    return tmp_path


@pytest.fixture
def readme(tmp_path: Path) -> Path:
    """Return a README whose table has a row for each of the two patterns."""
    file = tmp_path / "README.md"
    file.write_text(
        "See [retries](patterns/retries).\n\n"
        "| problem | pattern |\n| --- | --- |\n| **First steps** | |\n"
        "| A call fails. | [retries/backoff](patterns/retries/backoff.py) |\n"
        "| [Begin](https://docs.prefect.io). | [`tasks/basics`](patterns/tasks/basics.py) |\n"
    )
    return file


def test_matching_trees_have_no_mismatch(tests_root: Path, readme: Path) -> None:
    """If everything has its counterpart, no mismatch is found."""
    assert guarantee_mismatches((ONE, OTHER), tests_root) == []
    assert readme_mismatches((ONE, OTHER), readme) == []
    assert mirror_mismatches((ONE, OTHER), tests_root) == []


def test_a_guarantee_without_a_test_is_found(tests_root: Path) -> None:
    """A guarantee that no test proves is reported."""
    promising = replace(OTHER, guarantees=(*OTHER.guarantees, Guarantee("tags", "are kept.")))
    found = guarantee_mismatches((ONE, promising), tests_root)
    assert found == ['tasks/basics: no test proves "tags"']


def test_a_proof_without_a_guarantee_is_found(tests_root: Path) -> None:
    """A test that proves something that no header promises is reported."""
    modest = replace(ONE, guarantees=ONE.guarantees[:1])
    found = guarantee_mismatches((modest, OTHER), tests_root)
    assert found == ['retries/backoff: a test proves "delays", which is not a guarantee']


def test_a_fact_needs_a_test_marked_as_one(tests_root: Path) -> None:
    """A fact about Prefect is proved by a test marked `fact`, not by one marked `guarantee`."""
    stated = replace(OTHER, guarantees=(), facts=(Fact("name", ("3.8",), "is given."),))
    assert guarantee_mismatches((ONE, stated), tests_root) == [
        'tasks/basics: no test proves "name"',
        'tasks/basics: a test proves "name", which is not a guarantee',
    ]
    file = tests_root / "tasks" / "test_basics.py"
    file.write_text(file.read_text().replace("mark.guarantee", "mark.fact"))
    assert guarantee_mismatches((ONE, stated), tests_root) == []


def test_a_pattern_without_a_row_is_found(readme: Path) -> None:
    """A pattern that the README's table lacks is reported."""
    found = readme_mismatches((ONE, OTHER, replace(ONE, name="flows/basics")), readme)
    assert found == ["flows/basics: no row [flows/basics](patterns/flows/basics.py) in README.md"]


def test_a_row_without_a_pattern_is_found(readme: Path) -> None:
    """A row of a pattern that does not exist is reported."""
    found = readme_mismatches((ONE,), readme)
    assert found == ["README.md: row [tasks/basics](patterns/tasks/basics.py) has no pattern"]


def test_a_row_that_links_to_another_pattern_is_found(readme: Path) -> None:
    """A row whose link leads to a different file than its name says is a mismatch."""
    readme.write_text(readme.read_text().replace("tasks/basics.py", "tasks/other.py"))
    assert readme_mismatches((ONE, OTHER), readme) == [
        "tasks/basics: no row [tasks/basics](patterns/tasks/basics.py) in README.md",
        "README.md: row [tasks/basics](patterns/tasks/other.py) has no pattern",
    ]


def test_a_link_in_another_table_is_not_a_row(readme: Path) -> None:
    """Other tables may link to patterns under any text, and a row may link to a folder."""
    folder = replace(ONE, name="tasks/two_ways", path=Path("patterns/tasks/two_ways/two_ways.py"))
    readme.write_text(
        readme.read_text()
        + "| Two files. | [tasks/two_ways](patterns/tasks/two_ways) |\n"
        + "| pull | [a worker](patterns/tasks/two_ways/two_ways.py) | [b](patterns/tasks/b.py) |\n"
    )
    assert readme_mismatches((ONE, OTHER, folder), readme) == []


def test_a_pattern_without_a_test_file_is_found(tests_root: Path) -> None:
    """A pattern without its test file is reported, with the path of that file."""
    (tests_root / "tasks" / "test_basics.py").unlink()
    found = mirror_mismatches((ONE, OTHER), tests_root)
    assert found == ["tasks/basics: no tests in tasks/test_basics.py"]


def test_a_test_file_without_a_pattern_is_found(tests_root: Path) -> None:
    """A test file that mirrors no pattern is reported."""
    assert mirror_mismatches((ONE,), tests_root) == ["tasks/test_basics.py: tests of no pattern"]
