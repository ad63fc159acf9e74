# SPDX-License-Identifier: Apache-2.0
"""The installed wheel does all that a checkout does for people who copy patterns."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from flowgauge.waiting import patience

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of an environment with the wheel and its requirements, without extras."""
    folder = tmp_path_factory.mktemp("wheel")
    found = folder / "environment" / "bin" / "python"

    def uv(*words: str | Path) -> None:
        subprocess.run(["uv", *words], cwd=ROOT, check=True, timeout=patience())

    uv("build", "--wheel", "--quiet", "--out-dir", folder)
    (wheel,) = folder.glob("*.whl")
    uv("venv", "--quiet", "--python", sys.executable, folder / "environment")
    uv("pip", "install", "--quiet", "--python", found, wheel, f"prefect=={version('prefect')}")
    return found


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
