# SPDX-License-Identifier: Apache-2.0
"""`flowgauge check` as a user runs it, in a project of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flowgauge.check.problem import Problem, Report
from flowgauge.cli import check as command
from flowgauge.cli.app import run
from flowgauge.waiting import patience

Captured = pytest.CaptureFixture[str]
FLOWS = """
from prefect import flow

@flow
def etl(day: str): ...
"""
DEPLOYMENTS = """
deployments:
- name: nightly
  entrypoint: flows/etl.py:etl
  work_pool: {name: pool}
  parameters: {day: today}
  schedules: [{cron: "0 6 * * *"}]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a project, which is the working directory."""
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "etl.py").write_text(FLOWS)
    (tmp_path / "prefect.yaml").write_text(DEPLOYMENTS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_project_that_loads_has_one_line_and_status_0(project: Path, capfd: Captured) -> None:
    """The line says how much was checked; nothing is added to the project but compiled code."""
    before = sorted(project.rglob("*"))
    assert run(["check"]) == 0
    assert capfd.readouterr() == ("1 flow and 1 deployment load\n", "")
    assert [path for path in sorted(project.rglob("*")) if "__pycache__" not in str(path)] == before


def test_a_problem_is_a_line_with_its_place_and_status_1(project: Path) -> None:
    """In another process and a pipe, each problem is one line, and the last one counts them."""
    (project / "flows" / "etl.py").write_text("import no_such_module\n" + FLOWS)
    done = subprocess.run(
        [sys.executable, "-m", "flowgauge", "check", "flows", "--seconds", str(patience())],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == (
        "flows/etl.py:1: can't be imported: ModuleNotFoundError: No module named 'no_such_module';"
        " install it here, or correct the name\n"
        "1 problem; 0 flows and 0 deployments found\n"
    )


def test_on_a_terminal_problems_are_in_two_columns(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Places are on the left, and what is wrong is beside them and never below them."""
    long = " ".join(f"word{n}" for n in range(30))
    problems = (
        Problem("a.py", 1, "flow 'x'", long, "mend it"),
        Problem("flows/b.py", 120, "", "is short", "mend it"),
    )
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr("flowgauge.check.start.check_project", lambda *_: Report(problems, 2, 1))
    assert run(["check"]) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == "2 problems; 2 flows and 1 deployment found"
    edge = len("flows/b.py:120: ")
    assert all(len(line) <= 70 for line in lines)
    assert [line[:edge].rstrip() for line in lines if line[:edge].strip()] == [
        "a.py:1:",
        "flows/b.py:120:",
    ]
    assert [" ".join(lines[n][edge:] for n in range(len(lines) - 1)), lines[-1][edge:]] == [
        problem.text for problem in problems
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["missing"], "missing: no such file or folder"),
        (["prefect.yaml"], "prefect.yaml: give a project's folder, or a file ending in .py"),
        (["--seconds", "0"], "--seconds 0: give more than zero"),
        (["--seconds", "x"], "--seconds"),
        (["a", "b"], "Too many arguments: b."),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    project: Path, capsys: Captured, arguments: list[str], told: str
) -> None:
    """A user's mistake gives one line on stderr, and nothing is checked."""
    assert run(["check", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("flowgauge: ")
    assert told in err


@pytest.mark.parametrize(
    ("flows", "deployments", "told"),
    [(1, 0, "1 flow and 0 deployments load"), (12, 3, "12 flows and 3 deployments load")],
)
def test_the_closing_line_is_a_sentence(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, flows: int, deployments: int, told: str
) -> None:
    """Nouns have the number that they need."""
    report = Report((), flows, deployments)
    monkeypatch.setattr("flowgauge.check.start.check_project", lambda *_: report)
    assert command.check() == 0
    assert capsys.readouterr().out == f"{told}\n"
