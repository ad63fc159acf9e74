# SPDX-License-Identifier: Apache-2.0
"""The installed wheel does all that a checkout does for people who copy patterns."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from flowgauge.predict.fitting import predictors
from flowgauge.predict.this_machine import MARK
from flowgauge.results.rows import Results
from flowgauge.runners.table import RUNNERS
from flowgauge.waiting import patience
from tests.code_blocks import blocks

ROOT = Path(__file__).parents[1]


def uv(*words: str | Path) -> None:
    """Run a command of uv."""
    subprocess.run(["uv", *words], cwd=ROOT, check=True, timeout=patience())


def installed(folder: Path, *packages: str) -> Path:
    """Return the Python of a new environment with some packages and their requirements."""
    found = folder / "bin" / "python"
    uv("venv", "--quiet", "--python", sys.executable, folder)
    prefect = f"prefect=={version('prefect')}"
    uv("pip", "install", "--quiet", "--python", found, *packages, prefect)
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    uv("build", "--wheel", "--quiet", "--out-dir", folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def python(wheel: Path) -> Path:
    """Return the Python of an environment with the wheel and its requirements, without extras."""
    return installed(wheel.parent / "plain", str(wheel))


@pytest.fixture(scope="module")
def python_with_extras(wheel: Path) -> Path:
    """Return the Python of an environment with the wheel, its extras, and a plugin for async."""
    extras = "dask,benchmark,report,hypothesis"
    return installed(wheel.parent / "extras", f"{wheel}[{extras}]", "pytest-asyncio")


def command(
    python: Path, folder: Path, *words: str, status: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run a command of Flowgauge in a folder, with nothing of this checkout."""
    done = subprocess.run(
        [python, "-P", "-m", "flowgauge", *words],
        cwd=folder,
        env={**os.environ, "COLUMNS": "1000"},
        capture_output=True,
        text=True,
        timeout=4 * patience(),
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.e2e
def test_every_command_about_patterns_works_without_a_checkout(
    python: Path, tmp_path: Path
) -> None:
    """Without a checkout, patterns are found, shown with figures, copied, compared and updated."""
    said = ""

    def flowgauge(*words: str, status: int = 0) -> str:
        nonlocal said
        done = command(python, tmp_path, *words, status=status)
        said = done.stderr
        return done.stdout

    assert flowgauge("list").count("\n") > 20
    assert "caching/scope\t" in flowgauge("list", "never", "hits", "the", "cache")
    shown = flowgauge("show", "retries/backoff")
    assert re.search(r"retries/backoff: time per flow run: sequential [\d.]+ m?s", shown)
    assert str(python.parents[1]) in shown
    code = flowgauge("show", "retries/backoff", "--code")
    names = ("tasks/basics", "flows/basics", "retries/backoff", "deployments/two_environments")
    copies = flowgauge("copy", *names, "mine").split()
    assert copies == [
        "mine/tasks_basics.py",
        "mine/flows_basics.py",
        "mine/backoff.py",
        "mine/two_environments/two_environments.py",
    ]
    assert flowgauge("diff", "mine") == ""
    backoff = tmp_path / "mine" / "backoff.py"
    backoff.write_text(backoff.read_text() + "# mine\n")
    assert "+# mine" in flowgauge("diff", "mine/backoff.py", status=1)
    assert flowgauge("update", "mine", status=1).count(" is up to date\n") == 3
    flowgauge("update", "mine/backoff.py", "--force")
    assert flowgauge("diff", "retries/backoff", "mine/backoff.py") == ""
    assert len(backoff.read_text().splitlines()) - len(code.splitlines()) == 5
    # Fits need SciPy, which is too large a dependency for people who only copy a file.
    flowgauge("advise", "--task-ms", "40", "--tasks", "2000", status=2)
    assert 'pip install "flowgauge[benchmark]"' in said


def pytest_run(python: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the tests of a project in a folder, with nothing of this checkout."""
    return subprocess.run(
        [python, "-P", "-m", "pytest", *words],
        cwd=folder,
        env={name: text for name, text in os.environ.items() if "XDIST" not in name},
        capture_output=True,
        text=True,
        timeout=patience(),
    )


MISTAKE = """
def test_mistake(paired, prefect_server):
    paired(lambda: pipeline(), check=bool, id="x", group="our pipelines", figure="time")
"""


@pytest.mark.e2e
def test_a_project_measures_its_own_async_flow(tmp_path: Path, python_with_extras: Path) -> None:
    """The page's benchmark of an async flow is measured and reported; a mistake is one line."""
    (block,) = blocks("python", "docs/how_to/measure_and_compare.md")
    (tmp_path / "test_own.py").write_text(block + MISTAKE)
    (tmp_path / "pytest.ini").write_text("[pytest]\nflowgauge = true\n")
    done = pytest_run(python_with_extras, tmp_path, "--benchmark-only", "--benchmark-min-rounds=3")
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    # The summary repeats the line, whole where pytest sees a CI.
    failures = done.stdout.partition("short test summary")[0]
    assert failures.count("paired: the candidate returns 'coroutine' that nobody awaits") == 1
    results = json.loads((tmp_path / "reports" / "latest" / "results.json").read_text())
    (row,) = (row for row in results["rows"] if row["group"] == "our pipelines")
    assert row["rounds"] >= 3
    # A task run makes requests to a server, and the reference adds ten numbers.
    assert row["ratio"]["low"] > 10
    if sys.platform == "linux":
        # The reference, which adds ten numbers, runs first; a flow run loads modules.
        assert row["memory"]["reference"] < 1 < row["memory"]["candidate"]
    assert "our pipelines" in (tmp_path / "reports" / "latest" / "index.html").read_text()


@pytest.mark.e2e
def test_advice_needs_no_checkout(
    tmp_path: Path, python_with_extras: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Advice is from the reference run in the wheel, or from this machine if it was measured.

    Every installed task runner is measured, with a line each, and can be advised.
    """
    for name in os.environ:
        if name.startswith(("PREFECT_", "PYTEST_", "FLOWGAUGE_ZYGOTE")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = ("advise", "--task-ms", "100", "--tasks", "20", "--payload", "1MB")
    of_reference = command(python_with_extras, tmp_path, *words).stdout
    assert "reference" in of_reference.splitlines()[0]
    measured = command(python_with_extras, tmp_path, *words, "--measure")
    installed = {name for name, runner in RUNNERS.items() if runner.installed}
    lines = [line.split() for line in measured.stderr.splitlines() if line.startswith(MARK)]
    assert {line[1] for line in lines} == installed
    kept = Results.load(tmp_path / "cache" / "flowgauge" / "advise" / "results.json")
    found = predictors(kept)
    assert {each.runner for each in found} == installed
    assert all(each.knows_edges and each.most_bytes == 10**7 for each in found)
    assert all(each.start for each in found)
    later = command(python_with_extras, tmp_path, *words).stdout
    assert later == measured.stdout
    assert later.startswith("costs from this machine (")
    assert "not measured" not in later
    assert "recommended: " in later


ANSWERS = (
    "task_runners/first_answer",
    "flows/final_state",
    "flows/resume",
    "caching/scope",
    "caching/large_results",
)
"""What `nine_cases.py` imports."""


@pytest.mark.e2e
def test_a_project_tests_what_people_reported(tmp_path: Path, python_with_extras: Path) -> None:
    """Nine reported cases are tested outside the checkout: the patterns pass, Prefect alone fails.

    Those of them that wait for an hour pass only if it is skipped.
    """
    shutil.copy(ROOT / "tests" / "nine_cases.py", tmp_path / "test_nine_cases.py")
    (tmp_path / "pytest.ini").write_text("[pytest]\nflowgauge = true\n")
    command(python_with_extras, tmp_path, "copy", *ANSWERS, "copied")
    done = pytest_run(python_with_extras, tmp_path, "--flow-runners", "threads,dask-processes")
    assert "18 passed, 6 xfailed" in done.stdout, done.stdout + done.stderr
    assert re.search(r"skipped \d\.\d days", done.stdout)


HANGS = (
    "deadlock in ThreadPoolTaskRunner: its only place is taken by tasks that wait for tasks",
    "deadlock of concurrency limits: task 'move' holds 'safe' and waits for 'till' (",
    "is waited for (test_hangs.py:62), but nobody executes it: start one of the fixtures",
)
"""What is said of each test of `own_project/hangs.py`."""


@pytest.mark.e2e
def test_a_project_uses_what_helps_it(tmp_path: Path, python_with_extras: Path) -> None:
    """Outside the checkout, a project is checked, and tested in all ways that the docs show.

    Its definitions load; its tests share nothing, are async, draw parameters and faults, survive
    killed workers and trace a run; and what would hang ends with one line for each test.
    """
    for name in ("orders.py", "prefect.yaml"):
        shutil.copy(ROOT / "tests" / "own_project" / name, tmp_path)
    (loads,) = command(python_with_extras, tmp_path, "check").stdout.splitlines()
    assert "4 flows and 1 deployment" in loads
    deployments = tmp_path / "prefect.yaml"
    deployments.write_text(deployments.read_text().replace("0 6 * * *", "0 26 * * *"))
    problem, count = command(python_with_extras, tmp_path, "check", status=1).stdout.splitlines()
    assert problem.startswith("prefect.yaml:6: ")
    assert count.startswith("1 problem")

    for name in ("checks", "hangs"):
        shutil.copy(ROOT / "tests" / "own_project" / f"{name}.py", tmp_path / f"test_{name}.py")
    (tmp_path / "pytest.ini").write_text("[pytest]\nflowgauge = true\npythonpath = .\n")
    done = pytest_run(python_with_extras, tmp_path, "test_checks.py")
    assert "6 passed" in done.stdout, done.stdout + done.stderr
    done = pytest_run(python_with_extras, tmp_path, "test_hangs.py")
    assert "3 failed" in done.stdout, done.stdout + done.stderr
    failures = done.stdout.partition("short test summary")[0]
    for line in HANGS:
        assert failures.count(line) == 1, done.stdout
