# SPDX-License-Identifier: Apache-2.0
"""The front page is short, its figures are correct, its links work, and its code runs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from flowgauge.catalogue.marks import Proof, proofs
from flowgauge.catalogue.stamp import unstamped
from flowgauge.waiting import patience
from tests.code_blocks import ROOT, arguments, blocks

README = (ROOT / "README.md").read_text()
SLOW = {"e2e", "nightly"}
RUNNERS = {"task_runner", "runner_name"}


def test_the_readme_is_short() -> None:
    """The README has fewer than 100 lines, apart from the table with a row for each pattern."""
    _, catalogue = README.split("\n## The catalogue\n")
    table = [line for line in catalogue.partition("\n## ")[0].splitlines() if line[:1] == "|"]
    assert len(README.splitlines()) - len(table) < 100


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/index.md"])
def test_links_within_the_repository_lead_somewhere(page: str) -> None:
    """Each relative link leads to a file or folder; only the catalogue's index is built later."""
    linked = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text())
    folder = (ROOT / page).parent
    missing = {link for link in linked if not (folder / link).exists()}
    assert missing <= {"catalogue/index.md"}


def test_every_command_is_run_by_a_test_or_by_ci() -> None:
    """The README's commands are those of `.ci/run` and those to list, show and copy a pattern."""
    benchmarks, tests, copying = blocks("console", "README.md")
    assert (benchmarks, tests) == (
        "pip install uv && uv run pytest --benchmark-only\n",
        "pip install uv && uv run pytest\n",
    )
    assert "The two commands" in (ROOT / ".ci" / "run").read_text()
    assert {line.split()[3] for line in copying.splitlines()} == {"list", "show", "copy"}


def test_a_pattern_is_listed_shown_and_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands to copy a pattern work in the order in which they are written."""
    monkeypatch.chdir(tmp_path)
    for command in blocks("console", "README.md")[2].splitlines():
        subprocess.run(arguments(command), check=True, capture_output=True, timeout=patience())
    copied = unstamped((tmp_path / "my_project" / "backoff.py").read_text())
    assert copied == (ROOT / "patterns" / "retries" / "backoff.py").read_text()


def counted(tests: Path) -> str:
    """Return the sentence on how many guarantees and facts are proved by which suite."""
    proved: dict[tuple[str, str, str], list[Proof]] = {}
    for proof in proofs(tests):
        proved.setdefault((proof.kind, proof.pattern, proof.id), []).append(proof)
    guarantees = [tests for (kind, *_), tests in proved.items() if kind == "guarantee"]
    plain = [[p for p in tests if not p.marks & SLOW] for tests in guarantees]
    on_all = [any(p.fixtures & RUNNERS and "runners" not in p.marks for p in ps) for ps in plain]
    e2e = [
        not ps and any("nightly" not in p.marks for p in tests)
        for ps, tests in zip(plain, guarantees, strict=True)
    ]
    in_plain = sum(map(bool, plain))
    facts = [tests for (kind, *_), tests in proved.items() if kind == "fact"]
    # tests/conftest.py leaves a test to the nightly suite if it proves nothing but a fact.
    early = sum(any("guarantee" in p.marks and not p.marks & SLOW for p in ps) for ps in facts)
    slow = sum(all("e2e" in p.marks for p in ps) for ps in facts)
    later = len(guarantees) - in_plain - sum(e2e)
    return (
        f"Of its {len(guarantees)} guarantees `pytest` proves {in_plain}, {sum(on_all)} of them on"
        f" each of five task runners; {sum(e2e)} need real servers and workers (`pytest -m e2e`)"
        f"{f', {later} take long' if later else ''}. In addition,"
        f" {len(facts)} facts about Prefect have tests: {early} in `pytest`,"
        f" {len(facts) - early - slow} in `pytest -m nightly`, {slow} in `pytest -m e2e`."
    )


def test_the_readme_counts_what_is_proved_where() -> None:
    """The README's counts of guarantees, per suite and on all runners, and of facts are right."""
    assert counted(ROOT / "tests" / "patterns") in README


@pytest.mark.e2e
def test_ones_own_flows(pytester: pytest.Pytester) -> None:
    """The README's example test passes as written, in a project without settings."""
    (example,) = blocks("python", "README.md")
    pytester.makepyfile(test_example=example)
    result = pytester.runpytest_subprocess("--flow-runners", "sequential,threads,processes")
    result.assert_outcomes(passed=3)
    result.stdout.re_match_lines([r"flowgauge: start-up .*, skipped \d\.\d h.*"])
