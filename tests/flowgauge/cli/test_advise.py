# SPDX-License-Identifier: Apache-2.0
"""`flowgauge advise` predicts from the results of a run, and says which ones."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from flowgauge.cli.app import run
from flowgauge.predict.simulation import Machine
from flowgauge.runners.table import RUNNERS, names_where
from flowgauge.workflows.shapes import shape
from flowgauge.workflows.wfformat import dump_workflow
from tests.flowgauge.predict.simulated_rows import TRUE, WORKERS, results, rows_of

Captured = pytest.CaptureFixture[str]
FAST = replace(TRUE, submit=0.0005, task=0.002, dependency_latency=0.0005)


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with results of two task runners, which is the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    machine = Machine(WORKERS, 2.0)
    rows = (*rows_of("threads", FAST, machine), *rows_of("processes", TRUE, machine))
    marks = {"when": "2026-11-20T10:00:00+00:00", "cpu_model": "Example CPU"}
    folder = tmp_path / "reports" / "latest"
    folder.mkdir(parents=True)
    results(*rows, **marks).save(folder / "results.json")
    return tmp_path


def advised(capsys: Captured, *words: str) -> list[str]:
    """Return the lines that the command prints."""
    assert run(["advise", *words]) == 0
    return capsys.readouterr().out.splitlines()


def makespans(lines: list[str]) -> dict[str, float]:
    """Return the seconds of each runner's makespan, in the order of the table."""
    words = [line.split() for line in lines]
    found = [each for each in words if each[:1] in (["threads"], ["processes"])]
    assert {unit for _, _, unit, *_ in found} == {"s"}
    return {name: float(value) for name, value, *_ in found}


def test_processes_are_recommended_for_long_work_that_holds_the_lock(
    measured: Path, capsys: Captured
) -> None:
    """Each runner has a line, the quickest first: processes, in about the time computed by hand."""
    lines = advised(capsys, "--task-ms", "200", "--tasks", "100", "--kernel", "python")
    assert lines[0].startswith("costs from reports/latest/results.json, measured 2026-11-20 on")
    assert lines[1] == "task runners measured: threads, processes"
    assert lines[2].startswith("this machine differs: ")
    assert any(line.startswith("recommended: processes") for line in lines)
    found = makespans(lines)
    assert list(found) == ["processes", "threads"]
    # Two workers share the tasks; each takes 200 ms of work and costs 30 ms.
    assert found["processes"] == pytest.approx(100 * (0.2 + 0.03) / 2, rel=0.1)


def test_short_work_is_batched(measured: Path, capsys: Captured) -> None:
    """For many short calls it says how many to batch in a task run, and up to what length."""
    lines = advised(capsys, "--task-ms", "1", "--tasks", "1000", "--payload", "2kB")
    (said,) = (line for line in lines if line.startswith("recommended: "))
    assert "calls in one task run" in said
    (edge,) = (line for line in lines if ", batch calls shorter than " in line)
    assert re.fullmatch(r"on \S+, .* than .*: at .* each, at least \d+ in one task run", edge)


@pytest.mark.parametrize("runner", names_where(lambda runner: bool(runner.pattern)))
def test_a_runner_of_the_catalogue_is_recommended_with_its_copy_command(
    measured: Path, capsys: Captured, runner: str
) -> None:
    """A runner that Prefect does not include is recommended with the command that copies it."""
    rows = rows_of(runner, FAST, Machine(WORKERS, 2.0))
    results(*rows).save(measured / "results.json")
    words = ["--task-ms", "200", "--tasks", "100", "--results", "results.json"]
    lines = advised(capsys, *words)
    assert any(line.startswith(f"recommended: {runner}") for line in lines)
    (command,) = (line.partition("a pattern: ")[2] for line in lines if "a pattern: " in line)
    assert run(command.split()[1:]) == 0
    (copied,) = measured.glob("my_project/*.py")
    # The runner itself is made from the same entry of the table.
    assert copied.stem == Path(RUNNERS[runner].pattern).name
    assert re.search(r"^class \w+TaskRunner\(", copied.read_text(), re.MULTILINE)


def test_a_runner_that_prefect_includes_needs_no_copying(measured: Path, capsys: Captured) -> None:
    """No copy command is printed where a runner that Prefect includes is best."""
    lines = advised(capsys, "--task-ms", "200", "--tasks", "100", "--kernel", "python")
    assert not any("flowgauge copy" in line for line in lines)


def test_more_workers_than_were_measured(measured: Path, capsys: Captured) -> None:
    """A prediction for more workers than were measured says so, and counts on all of them."""
    words = ("--task-ms", "200", "--tasks", "64", "--kernel", "native")
    two, eight = (advised(capsys, *words, *more) for more in ((), ("--workers", "8")))
    assert makespans(two)["processes"] > 3 * makespans(eight)["processes"]
    assert any(line.startswith("measured with 2 workers, predicted for 8: ") for line in eight)
    assert not any(line.startswith("measured with") for line in two)


def test_what_was_not_measured_is_reported(measured: Path, capsys: Captured) -> None:
    """Payloads and dependencies that were not measured are reported, and so is a busy machine."""
    machine = Machine(WORKERS, 1.0)
    rows = [
        row for row in rows_of("threads", FAST, machine) if row.params.get("shape") == "trivial"
    ]
    results(*rows).save(measured / "few.json")
    trace = measured / "trace.json"
    dump_workflow(shape("chain", 4, 5, seconds=4.0), trace)
    told = (
        "nothing to recommend: dependent tasks were not measured on any task runner",
        "other programs kept that machine busy: work ran at 50% of its usual pace",
    )
    for file, times in (("few.json", 1), ("reports/latest", 0)):
        lines = advised(capsys, "--workflow", str(trace), "--results", file)
        assert [sum(line.startswith(said) for line in lines) for said in told] == [times] * 2
        assert any(line.startswith("recommended: ") for line in lines) is (not times)


def test_payloads_far_beyond_what_was_measured_are_not_predicted(
    measured: Path, capsys: Captured
) -> None:
    """For results of 1 GB, where 10 MB were measured, the only line of advice says so."""
    lines = advised(capsys, "--task-ms", "100", "--tasks", "20", "--payload", "1GB")
    assert lines[-1] == (
        "nothing to recommend: such payloads were not measured on any task runner: "
        "10 MB were, and predictions reach 100 MB"
    )
    assert not any(word in line for line in lines for word in ("recommended: ", "95 %"))


def test_the_simplest_of_equals_is_recommended(measured: Path, capsys: Captured) -> None:
    """Where both runners only wait for the work, threads are named, though processes are as quick.

    The interval does not reach below the work divided between two workers.
    """
    rows = [
        row for name in ("processes", "threads") for row in rows_of(name, FAST, Machine(2, 2.0))
    ]
    results(*rows).save(measured / "equal.json")
    words = ("--task-ms", "2000", "--tasks", "50", "--kernel", "wait", "--results", "equal.json")
    lines = advised(capsys, *words)
    assert any(line.startswith("recommended: threads: about 5") for line in lines)
    assert "no difference seen from processes: threads is the simplest" in lines
    (ends,) = (line.split("50 s – ")[1].split()[:2] for line in lines if "threads    " in line)
    assert (float(ends[0]) < 52, ends[1]) == (True, "s")


def test_a_workflow_is_read_and_scaled(measured: Path, capsys: Captured) -> None:
    """A trace's runtimes are scaled: with half of them, its makespan is about half."""
    trace = measured / "trace.json"
    dump_workflow(shape("stencil", 4, 5, seconds=4.0), trace)
    whole, half = (
        makespans(advised(capsys, "--workflow", str(trace), "--time-scale", scale))["processes"]
        for scale in ("1", "0.5")
    )
    assert whole / half == pytest.approx(2, rel=0.1)


def test_results_without_the_needed_rows_are_reported(measured: Path, capsys: Captured) -> None:
    """Results without the needed rows are reported in one line, with what to measure."""
    file = measured / "other.json"
    document = json.loads((measured / "reports" / "latest" / "results.json").read_text())
    file.write_text(json.dumps(document | {"rows": []}))
    assert run(["advise", "--task-ms", "1", "--tasks", "2", "--results", str(file)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"flowgauge: --results {file}: no rows to predict from: measure with")
    assert err.count("\n") == 1
