# SPDX-License-Identifier: Apache-2.0
"""The command line: what it prints, and its one line for a user's mistake."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from flowgauge.catalogue import copies
from flowgauge.catalogue.catalogue import catalogue_root, find_pattern, load_catalogue
from flowgauge.catalogue.stamp import Stamp, stamped, unstamped
from flowgauge.cli.app import run
from flowgauge.results.rows import Results
from tests.flowgauge.report.conftest import row

NAME = "retries/backoff"
ROOT = catalogue_root()

Captured = pytest.CaptureFixture[str]


def command(*arguments: str, before: str = "pass") -> list[str]:
    """Return a command that runs the entry point in a separate Python process."""
    code = f"import sys; {before}; from flowgauge.cli.app import main; main()"
    return [sys.executable, "-c", code, *arguments]


def test_list_prints_a_line_for_each_pattern_into_a_pipe(capsys: Captured) -> None:
    """Into a pipe, each pattern is a line of name, summary and guarantees, separated by tabs."""
    assert run(["list"]) == 0
    assert [line.split("\t") for line in capsys.readouterr().out.splitlines()] == [
        [p.name, p.summary, ", ".join(g.id for g in p.guarantees)] for p in load_catalogue(ROOT)
    ]


def test_list_draws_a_table_on_a_terminal(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal, the patterns are a table with a header row."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.setenv("TERM", "xterm")
    assert run(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("pattern" in line and "guarantees" in line for line in lines)
    assert any(NAME in line and find_pattern(ROOT, NAME).summary in line for line in lines)


def test_list_finds_patterns_by_the_words_of_a_problem(capsys: Captured) -> None:
    """Words after `list` narrow it to matching patterns, the best ones first."""
    assert run(["list", "never", "hits", "the", "cache"]) == 0
    names = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
    assert "caching/scope" in names[:3]
    assert len(names) < len(load_catalogue(ROOT))


def test_show_prints_the_whole_header(capsys: Captured) -> None:
    """Everything that the header says is shown."""
    for pattern in load_catalogue(ROOT):
        assert run(["show", pattern.name]) == 0
        words = " ".join(capsys.readouterr().out.split())
        for text in (
            f"{pattern.name}: {pattern.summary}",
            " ".join(pattern.problem.split()),
            *(f"{guarantee.id}: {guarantee.text}" for guarantee in pattern.guarantees),
            *(f"{fact.id} ({', '.join(fact.versions)}): {fact.text}" for fact in pattern.facts),
            " ".join(pattern.not_for.split()),
            " ".join(pattern.costs.split()),
            *pattern.sources,
            *pattern.dependencies,
            str(pattern.path),
        ):
            assert text in words


def test_show_prints_the_figures_of_the_reference_run(capsys: Captured) -> None:
    """The rows that "Costs" names are shown with the figures measured for each runner."""
    assert run(["show", NAME]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert re.search(r"Measured in the reference run, on \d+ cores of ", words)
    assert re.search(rf"{NAME}: time per flow run: sequential [\d.]+ m?s, threads ", words)


def test_show_prints_the_code_alone(capsys: Captured) -> None:
    """With --code the file itself is printed, and nothing else."""
    assert run(["show", NAME, "--code"]) == 0
    assert capsys.readouterr().out == find_pattern(ROOT, NAME).path.read_text()


def test_copy_prints_the_file_it_made_and_what_it_needs(
    capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a destination the copy goes into the current folder; what to install is printed."""
    monkeypatch.chdir(tmp_path)
    assert run(["copy", NAME]) == 0
    out, err = capsys.readouterr()
    assert out == "backoff.py\n"
    needed = shlex.join(sorted(find_pattern(ROOT, NAME).dependencies))
    assert err == f"install what they need: uv add {needed}\n"
    assert (
        unstamped((tmp_path / "backoff.py").read_text())
        == find_pattern(ROOT, NAME).path.read_text()
    )


def test_copy_takes_several_patterns(capsys: Captured, tmp_path: Path) -> None:
    """Several patterns are copied into one folder, even if two of them have the same name."""
    assert run(["copy", "tasks/basics", "flows/basics", NAME, str(tmp_path / "new")]) == 0
    copies = [tmp_path / "new" / f for f in ("tasks_basics.py", "flows_basics.py", "backoff.py")]
    assert capsys.readouterr().out.split() == [str(file) for file in copies]
    assert unstamped(copies[1].read_text()) == find_pattern(ROOT, "flows/basics").path.read_text()


@pytest.mark.parametrize("here", [[], ["."], ["./"], [""]])
def test_copy_takes_several_patterns_to_the_current_folder(
    capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: list[str]
) -> None:
    """Without a folder after them, or with a dot or "", patterns are copied to the current one."""
    monkeypatch.chdir(tmp_path)
    assert run(["copy", NAME, "retries/only_on", *here]) == 0
    assert capsys.readouterr().out.split() == ["backoff.py", "only_on.py"]


def test_copy_overwrites_when_forced(capsys: Captured, tmp_path: Path) -> None:
    """An existing file gives one line and status 2, and is overwritten with --force."""
    target = tmp_path / "mine.py"
    target.write_text("mine")
    assert run(["copy", NAME, str(target)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert target.read_text() == "mine"
    assert run(["copy", NAME, str(target), "--force"]) == 0
    assert unstamped(target.read_text()) == find_pattern(ROOT, NAME).path.read_text()


@pytest.mark.parametrize("named", [True, False], ids=["with a name", "by its stamp"])
def test_the_status_of_diff_says_whether_a_copy_differs(
    capsys: Captured, tmp_path: Path, named: bool
) -> None:
    """The status is 0 and nothing is printed for a fresh copy, 1 with a diff for an edited one."""
    file = copies.copy(find_pattern(ROOT, NAME), tmp_path, "backoff")
    command = ["diff", *[NAME] * named, str(file)]
    assert run(command) == 0
    assert capsys.readouterr() == ("", "")
    file.write_text(file.read_text() + "# mine\n")
    assert run(command) == 1
    out, err = capsys.readouterr()
    assert "\n+# mine\n" in out
    assert err == f"{file}: changed: the copy\n"


def test_update_keeps_copies_that_were_edited(capsys: Captured, tmp_path: Path) -> None:
    """A copy from an older version is updated; one that was edited is kept unless forced."""
    names = ("backoff", "only_on")
    old, mine = (copies.copy(find_pattern(ROOT, f"retries/{n}"), tmp_path, n) for n in names)
    assert run(["update", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{old} is up to date\n{mine} is up to date\n"
    # As an older version would have copied it.
    text = find_pattern(ROOT, NAME).path.read_text().replace("50", "40")
    old.write_text(stamped(text, replace(Stamp.of(NAME, {"": text}), version="0.0.1")))
    mine.write_text(mine.read_text() + "# mine\n")
    assert run(["diff", str(old)]) == 1
    assert capsys.readouterr().err == f"{old}: changed: the pattern, since version 0.0.1\n"
    assert run(["update", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == f"{old} updated\n"
    assert err.startswith(f"flowgauge: {mine} was edited: ")
    assert err.count("\n") == 1
    assert unstamped(old.read_text()) == find_pattern(ROOT, NAME).path.read_text()
    assert mine.read_text().endswith("# mine\n")
    assert run(["update", str(mine), "--force"]) == 0
    assert not mine.read_text().endswith("# mine\n")


ADVISE = ("advise", "--task-ms", "1", "--tasks", "2")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["show", "retires/backoff"], 'did you mean "retries/backoff"?'),
        (["copy", "zzz"], 'no pattern "zzz"'),
        (["copy", NAME, "retries/onlyon"], 'did you mean "retries/only_on"?'),
        (["copy", NAME, "retries/only_on", "one.py"], "one.py can hold one pattern only"),
        (["copy", NAME, "notes.txt"], "notes.txt: name a file ending in .py, or a folder"),
        (["list", "zzyzx", "quux"], 'no pattern has the words "zzyzx quux"'),
        (["diff", str(ROOT / "retries")], "no file in it says which pattern"),
        (["diff", NAME], f"{NAME} is a pattern: name its copy, alone or after the pattern"),
        (["update", "missing.py"], "missing.py cannot be read: no such file"),
        (["copy", NAME, "/dev/null/x"], "/dev/null/x: not a directory"),
        (["diff", NAME, "missing.py"], "missing.py cannot be read: no such file"),
        (["lits"], 'Did you mean "list"?'),
        (["list", "--all"], 'Unknown option: --all. See "flowgauge list --help".'),
        (["show"], '"flowgauge show --help"'),
        (["show", NAME, "more"], "Too many arguments: more."),
        (["report", "results.json"], "--output"),
        (["report", "missing.json", "-o", "out"], "missing.json cannot be read"),
        (["compare", "missing.json", "HEAD"], "missing.json cannot be read"),
        (["compare", "HEAD", "HEAD", "--fail-if-slower", "ten"], "ten: not a percentage"),
        (["compare", "HEAD", "HEAD", "--fail-if-slower", "inf%"], "inf%: not a percentage"),
        (["matrix", "--prefect", "3.5"], "3.5 is not at least 3.6 and below 4"),
        (["matrix", "--prefect", "3.7,latest"], '"latest" is not a version'),
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
    """A user's mistake gives one line on stderr, nothing on stdout, and status 2."""
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("flowgauge: ")
    assert err.count("\n") == 1
    assert told in err


def test_no_arguments_show_the_help(capsys: Captured) -> None:
    """The program without arguments shows its commands."""
    assert run([]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("list", "show", "copy", "diff", "report"))


def test_the_version_is_that_of_the_distribution(capsys: Captured) -> None:
    """--version prints the installed version and nothing else."""
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == version("flowgauge")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Return the results file of a run that measured nothing."""
    Results({}, ()).save(tmp_path / "results.json")
    return tmp_path / "results.json"


def test_report_makes_a_page(capsys: Captured, results: Path, tmp_path: Path) -> None:
    """A report is made from results, and is overwritten only with --force."""
    made = ["report", str(results), "-o", str(tmp_path / "out")]
    assert run(made) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / "index.html")
    assert run(made) == 2
    assert "index.html exists" in capsys.readouterr().err
    assert run([*made, "--force"]) == 0


def test_a_report_joins_several_runs(capsys: Captured, tmp_path: Path) -> None:
    """Rows of all runs are in one report and its results; runs that differ are told in one line."""
    files = [str(tmp_path / f"{name}.json") for name in ("one", "other")]
    rows = row("submit", 0.005), row("taken", 52.0, group="load", unit="task runs/s")
    for file, measured in zip(files, rows, strict=True):
        Results({"cores": 2}, (measured,)).save(Path(file))
    assert run(["report", *files, "-o", str(tmp_path / "out")]) == 0
    assert Results.load(tmp_path / "out" / "results.json").rows == rows
    assert "52 task runs/s" in (tmp_path / "out" / "report.md").read_text()
    capsys.readouterr()
    Results({"cores": 4096}, rows[1:]).save(Path(files[1]))
    assert run(["report", *files, "-o", str(tmp_path / "new")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "can't be joined: cores is 2 in one and 4096 in another" in said
    assert not (tmp_path / "new").exists()


def test_the_status_of_compare_says_whether_a_row_is_slower(
    capsys: Captured, tmp_path: Path
) -> None:
    """The status is 1 if a row is slower by more than was allowed, otherwise 0."""
    for name, seconds in (("old", 1.0), ("new", 1.5)):
        slow = row("submit", seconds, runner="threads")
        Results({}, (slow,)).save(tmp_path / f"{name}.json")
    runs = [str(tmp_path / "old.json"), str(tmp_path / "new.json")]
    assert run(["compare", *runs]) == 0
    assert run(["compare", *runs, "--fail-if-slower", "10%"]) == 1
    assert run(["compare", *runs, "--fail-if-slower", "60%"]) == 0
    assert run(["compare", *reversed(runs), "--fail-if-slower", "0%"]) == 0
    assert "1 slower" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "module", "extra"),
    [
        (["report", "RESULTS", "-o", "report"], "altair", "report"),
        (["advise", "--task-ms", "40", "--tasks", "2000"], "numpy", "benchmark"),
        (["advise", "--task-ms", "40", "--tasks", "2000"], "scipy", "benchmark"),
    ],
    ids=["charts", "arrays", "fits"],
)
def test_a_command_without_its_packages_says_what_to_install(
    results: Path, tmp_path: Path, words: list[str], module: str, extra: str
) -> None:
    """If a package that a command needs is missing, one line says which extra installs it."""
    words = [str(results) if word == "RESULTS" else word for word in words]
    made = subprocess.run(
        command(*words, before=f"sys.modules[{module!r}] = None"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (made.returncode, made.stdout) == (2, "")
    assert made.stderr == (
        f'flowgauge: this needs {module}, which is missing: pip install "flowgauge[{extra}]",'
        f' or uvx --from "flowgauge[{extra}]" flowgauge ...\n'
    )


def test_a_reader_that_stops_reading_is_not_an_error() -> None:
    """A closed pipe, as in `flowgauge list | head -1`, gives status 141 and no error message."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(command("list"), stdout=writer, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_the_entry_point_exits_with_the_status() -> None:
    """In a separate process, a mistake gives one line without a traceback, and status 2."""
    done = subprocess.run(command("show", "zzz"), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == 'flowgauge: no pattern "zzz": see "flowgauge list"\n'
