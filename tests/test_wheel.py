# SPDX-License-Identifier: Apache-2.0
"""The installed wheel does all that a checkout does for people who copy patterns."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from flowgauge.waiting import patience
from tests.code_blocks import blocks

ROOT = Path(__file__).parents[1]


def installed(folder: Path, extras: str = "") -> Path:
    """Return the Python of a new environment with the wheel and its requirements."""
    found = folder / "environment" / "bin" / "python"

    def uv(*words: str | Path) -> None:
        subprocess.run(["uv", *words], cwd=ROOT, check=True, timeout=patience())

    uv("build", "--wheel", "--quiet", "--out-dir", folder)
    (wheel,) = folder.glob("*.whl")
    uv("venv", "--quiet", "--python", sys.executable, folder / "environment")
    prefect = f"prefect=={version('prefect')}"
    uv("pip", "install", "--quiet", "--python", found, f"{wheel}{extras}", prefect)
    return found


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of an environment with the wheel and its requirements, without extras."""
    return installed(tmp_path_factory.mktemp("wheel"))


@pytest.mark.e2e
def test_every_command_about_patterns_works_without_a_checkout(
    python: Path, tmp_path: Path
) -> None:
    """Without a checkout, patterns are found, shown with figures, copied, compared and updated."""
    said = ""

    def flowgauge(*words: str, status: int = 0) -> str:
        nonlocal said
        done = subprocess.run(
            [python, "-P", "-m", "flowgauge", *words],
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "1000"},
            capture_output=True,
            text=True,
            timeout=patience(),
        )
        said = done.stderr
        assert done.returncode == status, said
        assert "Traceback" not in said
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


MISTAKE = """
def test_mistake(paired, prefect_server):
    paired(lambda: pipeline(), check=bool, id="x", group="our pipelines", figure="time")
"""


@pytest.mark.e2e
def test_a_project_measures_its_own_async_flow(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The page's benchmark of an async flow is measured and reported; a mistake is one line."""
    (block,) = blocks("python", "docs/how_to/measure_and_compare.md")
    (tmp_path / "test_own.py").write_text(block + MISTAKE)
    (tmp_path / "pytest.ini").write_text("[pytest]\nflowgauge = true\n")
    python = installed(tmp_path_factory.mktemp("measures"), "[benchmark,report]")
    done = subprocess.run(
        [python, "-P", "-m", "pytest", "--benchmark-only", "--benchmark-min-rounds=3"],
        cwd=tmp_path,
        env={name: text for name, text in os.environ.items() if "XDIST" not in name},
        capture_output=True,
        text=True,
        timeout=patience(),
    )
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
