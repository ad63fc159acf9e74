# SPDX-License-Identifier: Apache-2.0
"""What is installed does all that a checkout does for people who copy patterns."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from flowgauge.waiting import patience

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with what the wheel holds, as an installation has it."""
    folder = tmp_path_factory.mktemp("wheel")
    build = ["uv", "build", "--wheel", "--quiet", "--out-dir", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, timeout=patience())
    (wheel,) = folder.glob("*.whl")
    with ZipFile(wheel) as content:
        content.extractall(folder / "package")
    return folder / "package"


@pytest.mark.e2e
def test_every_command_about_patterns_works_without_a_checkout(
    package: Path, tmp_path: Path
) -> None:
    """In a project that is not ours, patterns are found, shown with figures, copied and renewed."""

    def flowgauge(*words: str, status: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "flowgauge", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(package), "COLUMNS": "1000"},
            capture_output=True,
            text=True,
            timeout=patience(),
        )
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    assert flowgauge("list").count("\n") > 20
    assert "caching/scope\t" in flowgauge("list", "never", "hits", "the", "cache")
    shown = flowgauge("show", "retries/backoff")
    assert re.search(r"retries/backoff: time per flow run: sequential [\d.]+ m?s", shown)
    assert str(package) in shown
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
    advice = flowgauge("advise", "--task-ms", "40", "--tasks", "2000")
    assert "\nrecommended: " in advice
