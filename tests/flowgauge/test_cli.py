# SPDX-License-Identifier: Apache-2.0
"""The command line: what it prints, and one line for what a person got wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from flowgauge import copies
from flowgauge.catalogue import catalogue_root, find, load
from flowgauge.cli import run
from flowgauge.measure.results import Results
from tests.flowgauge.report.conftest import row

NAME = "retries/backoff"
ROOT = catalogue_root()

Captured = pytest.CaptureFixture[str]


def command(*arguments: str, before: str = "pass") -> list[str]:
    """Return a command that runs the entry point in a Python of its own."""
    code = f"import sys; {before}; from flowgauge.cli import main; main()"
    return [sys.executable, "-c", code, *arguments]


def test_list_prints_a_line_for_each_pattern_into_a_pipe(capsys: Captured) -> None:
    """Into a pipe, a pattern is a line of name, summary and guarantees with tabs between."""
    assert run(["list"]) == 0
    assert [line.split("\t") for line in capsys.readouterr().out.splitlines()] == [
        [p.name, p.summary, ", ".join(g.id for g in p.guarantees)] for p in load(ROOT)
    ]


def test_list_draws_a_table_on_a_terminal(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal, the patterns are a table with a head."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.setenv("TERM", "xterm")
    assert run(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("pattern" in line and "guarantees" in line for line in lines)
    assert any(NAME in line and find(ROOT, NAME).summary in line for line in lines)


def test_show_prints_the_whole_header(capsys: Captured) -> None:
    """All that the header says is shown, whatever the width of the terminal."""
    assert run(["show", NAME]) == 0
    words = " ".join(capsys.readouterr().out.split())
    pattern = find(ROOT, NAME)
    for text in (
        f"{NAME}: {pattern.summary}",
        " ".join(pattern.problem.split()),
        *(f"{guarantee.id}: {guarantee.text}" for guarantee in pattern.guarantees),
        " ".join(pattern.not_for.split()),
        " ".join(pattern.costs.split()),
        *pattern.sources,
        *pattern.dependencies,
        str(pattern.path),
    ):
        assert text in words


def test_copy_prints_the_file_it_made(
    capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a destination the copy is made in the folder that the command runs in."""
    monkeypatch.chdir(tmp_path)
    assert run(["copy", NAME]) == 0
    assert capsys.readouterr().out == "backoff.py\n"
    assert (tmp_path / "backoff.py").read_bytes() == find(ROOT, NAME).path.read_bytes()


def test_copy_overwrites_when_forced(capsys: Captured, tmp_path: Path) -> None:
    """A file that is there is one line and status 2, and is overwritten with --force."""
    target = tmp_path / "mine.py"
    target.write_text("mine")
    assert run(["copy", NAME, str(target)]) == 2
    assert target.read_text() == "mine"
    assert run(["copy", NAME, str(target), "--force"]) == 0
    assert target.read_bytes() == find(ROOT, NAME).path.read_bytes()
    assert capsys.readouterr().err.count("\n") == 1


def test_diff_tells_by_its_status_whether_a_copy_differs(capsys: Captured, tmp_path: Path) -> None:
    """The status is 0 and nothing is printed for a fresh copy, 1 with a diff for a changed one."""
    file = copies.copy(find(ROOT, NAME), tmp_path)
    assert run(["diff", NAME, str(file)]) == 0
    assert capsys.readouterr().out == ""
    file.write_text(file.read_text() + "# mine\n")
    assert run(["diff", NAME, str(file)]) == 1
    assert "\n+# mine\n" in capsys.readouterr().out


ADVISE = ("advise", "--task-ms", "1", "--tasks", "2")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["show", "retires/backoff"], 'did you mean "retries/backoff"?'),
        (["copy", "zzz"], 'no pattern "zzz"'),
        (["copy", NAME, "/dev/null/x"], "/dev/null/x: not a directory"),
        (["diff", NAME, "missing.py"], "missing.py cannot be read: no such file"),
        (["lits"], 'Did you mean "list"?'),
        (["list", "--all"], 'Unknown option: --all. "flowgauge list --help"'),
        (["show"], '"flowgauge show --help"'),
        (["show", NAME, "more"], "Too many arguments: more."),
        (["report", "results.json"], "--output"),
        (["report", "missing.json", "-o", "out"], "missing.json cannot be read"),
        (["compare", "missing.json", "HEAD"], "missing.json cannot be read"),
        (["compare", "HEAD", "HEAD", "--fail-if-slower", "ten"], "ten: not a percentage"),
        (["compare", "HEAD", "HEAD", "--fail-if-slower", "inf%"], "inf%: not a percentage"),
        (["matrix", "--prefect", "3.5"], "3.5 is not at least 3.6 and below 4"),
        (["matrix", "--prefect", "3.7,latest"], '"latest" is no version'),
        (["matrix"], '"flowgauge matrix --help"'),
        (["advise"], "give --task-ms and --tasks, or --workflow FILE.json"),
        (["advise", "--task-ms", "-1", "--tasks", "2"], "--task-ms -1: give zero or more"),
        (["advise", "--task-ms", "nan", "--tasks", "2"], "--task-ms nan: give zero or more"),
        (["advise", "--task-ms", "1", "--tasks", "0"], "--tasks 0: give 1 or more"),
        ([*ADVISE, "--kernel", "gpu"], 'Invalid value "gpu" for --kernel'),
        ([*ADVISE, "--payload", "1XB"], "--payload 1XB: not a size; give one such as 0B"),
        ([*ADVISE, "--workers", "0"], "--workers 0: give 1 to 256"),
        ([*ADVISE, "--workers", "257"], "--workers 257: give 1 to 256"),
        ([*ADVISE, "--time-scale", "2"], "--time-scale is for a workflow"),
        ([*ADVISE, "--workflow", "trace.json"], "leave out --task-ms, --tasks and --payload"),
        ([*ADVISE, "--results", "missing.json"], "missing.json cannot be read"),
        (["advise", "--workflow", "missing.json"], "missing.json"),
        (["advise", "--workflow", "missing.json", "--time-scale", "-1"], "--time-scale -1: give"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    capsys: Captured, arguments: list[str], told: str
) -> None:
    """What a person got wrong is one line on stderr, nothing on stdout, and status 2."""
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("flowgauge: ")
    assert err.count("\n") == 1
    assert told in err


def test_nothing_at_all_shows_the_help(capsys: Captured) -> None:
    """The name of the program alone shows its commands."""
    assert run([]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("list", "show", "copy", "diff", "report"))


def test_the_version_is_that_of_the_distribution(capsys: Captured) -> None:
    """--version prints the installed version and nothing else."""
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == version("flowgauge")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Give the results of a run that measured nothing."""
    Results({}, ()).save(tmp_path / "results.json")
    return tmp_path / "results.json"


def test_report_makes_a_page(capsys: Captured, results: Path, tmp_path: Path) -> None:
    """A report is made from results, and made over only with --force."""
    made = ["report", str(results), "-o", str(tmp_path / "out")]
    assert run(made) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / "index.html")
    assert run(made) == 2
    assert "index.html exists" in capsys.readouterr().err
    assert run([*made, "--force"]) == 0


def test_compare_tells_by_its_status_whether_a_row_is_slower(
    capsys: Captured, tmp_path: Path
) -> None:
    """The status is 1 where a row surely is slower by more than was allowed, otherwise 0."""
    for name, seconds in (("old", 1.0), ("new", 1.5)):
        slow = row("submit", seconds, runner="threads")
        Results({}, (slow,)).save(tmp_path / f"{name}.json")
    runs = [str(tmp_path / "old.json"), str(tmp_path / "new.json")]
    assert run(["compare", *runs]) == 0
    assert run(["compare", *runs, "--fail-if-slower", "10%"]) == 1
    assert run(["compare", *runs, "--fail-if-slower", "60%"]) == 0
    assert run(["compare", *reversed(runs), "--fail-if-slower", "0%"]) == 0
    assert "1 slower" in capsys.readouterr().out


def test_a_report_without_its_packages_says_what_to_install(results: Path, tmp_path: Path) -> None:
    """Where the charts' package is missing, one line gives the command that installs it."""
    made = subprocess.run(
        command("report", str(results), "-o", str(tmp_path), before="sys.modules['altair'] = None"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (made.returncode, made.stdout) == (2, "")
    assert made.stderr == (
        'flowgauge: a report needs altair, which is missing: pip install "flowgauge[report]"\n'
    )


def test_a_reader_that_has_enough_is_no_error() -> None:
    """`flowgauge list | head -1` ends in silence."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(command("list"), stdout=writer, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_the_entry_point_exits_with_the_status() -> None:
    """As a process, a mistake is one line without a traceback, and status 2."""
    done = subprocess.run(command("show", "zzz"), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == 'flowgauge: no pattern "zzz": flowgauge list names them all\n'
